"""How sure answers are: the largest share of a row of class scores, counted into ten buckets.

A model that drifts, or that is sent other inputs than it was judged on, shows it in how sure it is long before anybody
has labels. What is counted in a build is what a gateway counts of live answers, so both can be compared.
"""

from __future__ import annotations

from typing import Literal

from mmdeploy.core.artifact import Array

#: Upper bounds of the buckets, each included; the last is whatever a share can be.
BUCKETS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
Kind = Literal["logits", "probabilities"]
_SLACK = 1e-3


def are_shares(scores: Array) -> bool:
    """Say whether each row of ``scores`` [samples, classes] is shares of one."""
    import numpy as np

    inside = (scores >= -_SLACK) & (scores <= 1 + _SLACK)
    return bool(len(scores)) and bool(inside.all()) and bool(np.allclose(scores.sum(axis=1), 1.0, atol=_SLACK))


def confidence(scores: Array, kind: Kind) -> Array:
    """Return the largest share of each row of ``scores`` [samples, classes], in (0, 1]; of logits after a softmax."""
    import numpy as np

    if kind == "probabilities":
        found: Array = np.clip(scores.max(axis=1).astype(np.float64), 0.0, 1.0)
        return found
    apart = scores.astype(np.float64) - scores.max(axis=1, keepdims=True)
    largest: Array = 1.0 / np.exp(apart).sum(axis=1)  # exp(0) over the sum
    return largest


def counts(values: Array) -> list[int]:
    """Return how many values lie in each of the buckets."""
    import numpy as np

    # A float32 of 0.3 lies a hair above 0.3, and belongs to that bucket.
    places = np.searchsorted(BUCKETS, np.asarray(values, np.float64) - 1e-7, side="left")
    found: list[int] = np.bincount(np.minimum(places, len(BUCKETS) - 1), minlength=len(BUCKETS)).tolist()
    return found
