"""Who gets a ticket: the rule that is served as a step of the ensemble."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

QUEUES = ("self_service", "support", "billing", "engineers", "on_call")


def route_of(intent: int, sentiment: int, urgency: int) -> int:
    """Give the index of the queue: of `data.INTENTS`, `data.SENTIMENTS` and `data.URGENCIES`.

    What is urgent and broken, or locks people out, wakes somebody. Whoever is unhappy is answered by a person.
    """
    billing, bug, access, _ = range(4)
    if urgency == 2 and intent in (bug, access):
        return QUEUES.index("on_call")
    if intent == billing:
        return QUEUES.index("billing")
    if intent == bug:
        return QUEUES.index("engineers")
    return QUEUES.index("support" if sentiment == 0 or urgency == 2 else "self_service")


def route(
    intent: NDArray[np.float32], sentiment: NDArray[np.float32], urgency: NDArray[np.float32]
) -> dict[str, NDArray[np.generic]]:
    """Route by the likeliest of each: scores FP32 [4], [3], [3]. Returns `queue`, INT32 [1]."""
    queue = route_of(int(np.argmax(intent)), int(np.argmax(sentiment)), int(np.argmax(urgency)))
    return {"queue": np.array([queue], np.int32)}
