"""Was the scene among those that were found?"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray


def found(outputs: Mapping[str, NDArray[np.integer]], labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return 1 for each query whose label, a row of the gallery, is among ``rows`` [queries, k]."""
    return np.asarray((outputs["rows"] == labels[:, None]).any(axis=1), dtype=np.float64)


found.larger_is_better = True
found.range = (0.0, 1.0)
