"""What a platform does with a post: the rule that is served as a step of the ensemble."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

APPROVE, REVIEW, REJECT = range(3)


def decide(probabilities: NDArray[np.float32], review: float, reject: float) -> dict[str, NDArray[np.generic]]:
    """Give the risk of a post, and approve, review or reject it.

    Args:
        probabilities: Of fine, doubtful and harmful [3].
        review: Risk from which a person looks at it.
        reject: Risk from which it is taken down.

    Returns:
        `risk`, FP32 [1]: harmful counts 1, doubtful a half. `decision`, INT32 [1]: 0 approve, 1 review, 2 reject.
    """
    risk = float(probabilities[2] + 0.5 * probabilities[1])
    decision = REJECT if risk >= reject else REVIEW if risk >= review else APPROVE
    return {"risk": np.array([risk], np.float32), "decision": np.array([decision], np.int32)}
