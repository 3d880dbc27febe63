"""Accuracy of the questions about one object, and of the relational ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray


def accuracy(
    outputs: Mapping[str, NDArray[np.floating]],
    labels: Mapping[str, NDArray[np.integer]],
    *,
    of: Literal["one_object", "relational"],
) -> float:
    """Return the share of questions of a group whose answer scores highest.

    Args:
        outputs: ``logits`` [questions, 10].
        labels: ``answer``, a class a question, and ``relational``, 1 where it is.
        of: The group.
    """
    if of not in ("one_object", "relational"):
        raise ValueError(f"of is {of!r}: one_object or relational")
    rows = labels["relational"] == (of == "relational")
    return float(np.mean(outputs["logits"].argmax(axis=1)[rows] == labels["answer"][rows]))


accuracy.larger_is_better = True
accuracy.range = (0.0, 1.0)
