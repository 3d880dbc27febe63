"""Each sample's score, kept small in a report, so that a later build can be compared with it sample by sample."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mmdeploy.scoring.comparison import are_counts

if TYPE_CHECKING:
    from mmdeploy.scoring.metrics import FloatArray

#: Key of a gate's details.
KEPT = "kept_scores"


def kept(scores: FloatArray) -> dict[str, Any]:
    """Return scores as JSON values: right and wrong answers a bit each, others in FP32; compressed."""
    import numpy as np

    bits = are_counts(scores)
    raw = np.packbits(scores.astype(bool)).tobytes() if bits else scores.astype("<f4").tobytes()
    packed = base64.b64encode(zlib.compress(raw, 9)).decode("ascii")
    return {"count": len(scores), "type": "bits" if bits else "float32", "zlib": packed}


def scores_in(details: Mapping[str, Any]) -> FloatArray | None:
    """Return the scores that the details of a gate keep, as float64; None where they keep none that can be read."""
    import numpy as np

    found = details.get(KEPT)
    if not isinstance(found, Mapping):
        return None
    try:
        raw = zlib.decompress(base64.b64decode(found["zlib"], validate=True))
        if found["type"] == "bits":  # NumPy would fill up with zeros
            whole = len(raw) == -(-found["count"] // 8)
            scores = np.unpackbits(np.frombuffer(raw, np.uint8), count=found["count"] if whole else None)
        else:
            scores = np.frombuffer(raw, "<f4")
    except (KeyError, ValueError, TypeError, zlib.error):
        return None
    return scores.astype(np.float64) if len(scores) == found["count"] else None
