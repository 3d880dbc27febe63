"""A sample in chunks: how it is cut, sent as a sequence, and its answers put together again.

Triton's sequence extension of the KServe v2 protocol: requests of one sequence carry one ``sequence_id``, the first
``sequence_start`` and the last ``sequence_end``. Triton gives them to one instance in the order in which they come, so
a client waits for the answer to a chunk before it sends the next.
"""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mmdeploy.core.artifact import TensorSpec
from mmdeploy.core.contracts import Array, FeedDict
from mmdeploy.core.errors import InferenceError, ServerError

#: Key of a model's ``parameters`` under which clients of mmdeploy find how samples are cut.
STREAM_PARAMETER = "mmdeploy.stream"

#: Parameters of a request that is a sequence by itself: a whole sample. `Chunks` takes lower numbers.
ALONE: Mapping[str, Any] = {"sequence_id": 2**62 + 1, "sequence_start": True, "sequence_end": True}

#: Asks a request with the parameters of its sequence.
Ask = Callable[[FeedDict, Mapping[str, Any]], dict[str, Array]]


@dataclass(frozen=True)
class Cut:
    """How whole samples are cut into chunks.

    Attributes:
        chunk: Length of a chunk.
        least: Shortest length that a model takes: a shorter rest is added to the chunk before.
        inputs: Axis that is cut, the batch left out, by input; others go with every chunk.
        outputs: Axis along which answers are joined, by output; of others, that of the last chunk counts.
    """

    chunk: int
    least: int
    inputs: Mapping[str, int]
    outputs: Mapping[str, int]

    @classmethod
    def of(cls, over: str, chunk: int, least: int, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> Cut:
        """Find the axes of a size, and in outputs those that are made of it."""
        sides = [
            {
                spec.name: next(axis for axis, size in enumerate(spec.sizes) if size and over in size.origins)
                for spec in side
                if any(size and over in size.origins for size in spec.sizes)
            }
            for side in (inputs, outputs)
        ]
        return cls(chunk, least, *sides)

    @classmethod
    def from_parameter(cls, text: str) -> Cut | None:
        """Read what `to_parameter` wrote; None of an empty text."""
        return cls(**json.loads(text)) if text else None

    def to_parameter(self) -> str:
        """Write it as a parameter of config.pbtxt."""
        return json.dumps(asdict(self), sort_keys=True)

    def pieces(self, length: int) -> list[slice]:
        """Cut a length; a rest that is too short is added to the last chunk."""
        starts = list(range(0, length, self.chunk)) or [0]
        if len(starts) > 1 and length - starts[-1] < self.least:
            starts.pop()
        return [slice(start, end) for start, end in zip(starts, [*starts[1:], length], strict=True)]

    def part(self, feed_dict: FeedDict, piece: slice) -> FeedDict:
        """Take a piece of what is cut; what is not goes with it whole."""
        return {
            name: array[(slice(None),) * (1 + self.inputs[name]) + (piece,)] if name in self.inputs else array
            for name, array in feed_dict.items()
        }

    def chunks(self, feed_dict: FeedDict, model: str) -> list[FeedDict]:
        """Cut a sample of one row into the requests of its sequence.

        Raises:
            InferenceError: If it lacks the axis that is cut, or what is cut has several lengths.
        """
        sent = {name: axis for name, axis in self.inputs.items() if name in feed_dict}
        if flat := next((name for name, axis in sent.items() if feed_dict[name].ndim < axis + 2), None):
            raise InferenceError(f"{model}: {flat} is cut along axis {sent[flat] + 1}, which it does not have")
        lengths = {name: feed_dict[name].shape[1 + axis] for name, axis in sent.items()}
        if len({*lengths.values()}) > 1:
            told = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise InferenceError(f"{model}: what is sent in chunks has one length, found {told}")
        return [self.part(feed_dict, piece) for piece in self.pieces(next(iter(lengths.values()), 1))]

    def whole(self, feed_dict: FeedDict, ask: Ask, model: str) -> dict[str, Array]:
        """Send each row as a sequence of its own, in chunks; return what they come to.

        Raises:
            InferenceError: If a row is refused, inputs have other numbers of rows, or what is cut has several lengths.
        """
        import numpy as np

        counts = {name: len(array) if array.ndim else 0 for name, array in feed_dict.items()}
        if len({*counts.values()}) != 1 or 0 in counts.values():
            told = ", ".join(f"{name} {count}" for name, count in counts.items()) or "no input"
            raise InferenceError(f"{model}: inputs have the same number of rows each, 1 or more; found {told}")
        rows = [self._row(row, ask, model) for row in _rows(feed_dict)]
        return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}

    def _row(self, feed_dict: FeedDict, ask: Ask, model: str) -> dict[str, Array]:
        import numpy as np

        *before, last = self.chunks(feed_dict, model)
        with Chunks(ask, self) as sequence:
            answers = [*map(sequence.infer, before), sequence.infer(last, end=True)]
        return {
            name: np.concatenate([one[name] for one in answers], axis=1 + self.outputs[name])
            if name in self.outputs
            else answer
            for name, answer in answers[-1].items()
        }


def _rows(feed_dict: FeedDict) -> Iterator[FeedDict]:
    count = len(next(iter(feed_dict.values())))
    for row in range(count):
        yield {name: array[row : row + 1] for name, array in feed_dict.items()}


class Chunks:
    """One sequence; its chunks are sent one after the other, each of one row.

    A context manager: what was not ended is ended when it is left, and the server has room for another sequence.
    """

    def __init__(self, ask: Ask, cut: Cut | None = None) -> None:
        """Begin a sequence under a number that nobody else has.

        Args:
            ask: Asks the server.
            cut: How the model's samples are cut, by which `close` sends the least that there is.
        """
        self._ask, self._cut = ask, cut
        self._id = 1 + secrets.randbelow(2**62)
        self._begun, self._over = False, ""
        self._last: FeedDict | None = None

    def __enter__(self) -> Chunks:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def infer(self, feed_dict: FeedDict, *, end: bool = False) -> dict[str, Array]:
        """Send the next chunk.

        Args:
            feed_dict: An array for each input, axis 0 of length 1.
            end: Whether it is the last one: the server forgets the sequence.

        Returns:
            What the model answers after this chunk.

        Raises:
            InferenceError: If the server refuses it, such as after it was idle for too long; or if the sequence is
                over. It is over behind a chunk that failed, too: a part of the model may have seen that.
            ServerError: If the server does not answer.
        """
        if self._over:
            raise InferenceError(f"this sequence {self._over}", hint="begin another one, from the first chunk on")
        self._over = "is over: a chunk of it failed"
        self._last = self._last if self._begun else feed_dict  # of two, the one that was answered
        answer = self._ask(feed_dict, self._marks(end=end))
        self._begun, self._over = True, "has ended" if end else ""
        self._last = None if end else feed_dict
        return answer

    def close(self) -> None:
        """End the sequence, if it is not: the server forgets it now and not when it was idle for long.

        A sequence ends with a request, so the beginning of the last chunk that was answered is sent again, and what is
        answered is dropped. Where the server refuses that or does not answer, it forgets the sequence in time.
        """
        last, self._last = self._last, None
        if last is None:
            return
        if self._cut is not None:
            last = self._cut.part(last, slice(self._cut.least))
        self._over = self._over or "was closed"
        with contextlib.suppress(InferenceError, ServerError):
            self._ask(last, self._marks(end=True))

    def _marks(self, *, end: bool) -> Mapping[str, Any]:
        return {"sequence_id": self._id, "sequence_start": not self._begun, "sequence_end": end}
