"""States of sequences, for the Python-based backends: what a native one leaves to Triton (implicit state management).

Triton gives the python backend a state as an input, the first one of a sequence always, and takes none back. So what
comes back is kept here, by the number of the sequence: Triton sends all requests of a sequence to the same instance,
one at a time, and refuses one that does not begin. A request that fails leaves the state as it was, unless it begins or
ends its sequence: then none is left.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import triton_python_backend_utils as pb_utils

from mmdeploy.triton.backends.batch import Array, BatchedModel, Feed

#: TRITONSERVER_REQUEST_FLAG_SEQUENCE_START and _END.
_START, _END = 1, 2


def keeps_state(config: Mapping[str, Any]) -> bool:
    """Say whether a model's config has states."""
    return bool(config.get("sequence_batching", {}).get("state"))


class StreamModel(BatchedModel):
    """Answers batches of requests of several sequences, each with its own state."""

    def __init__(self, config: Mapping[str, Any], run: Callable[[Feed], list[Array]]) -> None:
        """Read the model's config; the engine takes and gives states behind the inputs and outputs."""
        super().__init__(config, run)
        states = config["sequence_batching"]["state"]
        self._answers = list(self.outputs)
        self._states = [state["input_name"] for state in states]
        self.inputs += self._states
        self.outputs += [state["output_name"] for state in states]
        self._idle_s = int(config["sequence_batching"].get("max_sequence_idle_microseconds", 0)) / 1e6 or 1.0
        self._kept: dict[int | str, tuple[float, list[Array]]] = {}

    def _feed(self, request: Any) -> Feed:
        feed, sequence, flags = super()._feed(request), request.correlation_id(), request.flags()
        # Behind an end or another start under its number nothing of a sequence is left, even if the request fails.
        kept = self._kept.pop(sequence, None) if flags & (_START | _END) else self._kept.get(sequence)
        if kept is not None and not flags & _START:
            feed |= dict(zip(self._states, kept[1], strict=True))
        return feed

    def _response(self, request: Any, arrays: Sequence[Array]) -> Any:
        count, sequence, now = len(self._answers), request.correlation_id(), time.monotonic()
        if request.flags() & _START:
            self._forget(now)
        if not request.flags() & _END:
            # A copy: rows of a batch are views that would keep all of it.
            self._kept[sequence] = now, [array.copy() for array in arrays[count:]]
        tensors = [pb_utils.Tensor(name, array) for name, array in zip(self._answers, arrays[:count], strict=True)]
        return pb_utils.InferenceResponse(tensors)

    def _forget(self, now: float) -> None:
        """Drop what Triton has forgotten by now: it would refuse the next request of such a sequence."""
        for sequence in [key for key, (used, _) in self._kept.items() if now - used > 2 * self._idle_s]:
            del self._kept[sequence]
