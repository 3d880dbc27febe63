"""What engines are asked that are built from a graph, and what the graph as it is written answers to it.

ONNX Runtime without optimizations is slow on graphs with Q/DQ pairs. The step that writes a graph runs it so anyway, to
hold ONNX Runtime's optimizer against it: it asks the same and keeps the answers beside the graph, and no engine that is
built from it asks again. What is not known to be the answer to just these arrays is not used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmdeploy.core.contracts import Array, StepContext
from mmdeploy.core.sessions import AS_WRITTEN, SessionRunner, open_session
from mmdeploy.core.sizes import Lengths

FILENAME = "own-answers.npz"
#: Samples that are asked together; the first of them is asked alone, too.
_SAMPLES = 4
#: Samples that are asked at each length of sizes that vary, and which of the lengths: the smallest and the largest.
_SAMPLES_AT_A_LENGTH = 2
_ENDS = (0, -1)
#: Answers beyond it are not kept.
_MOST_BYTES = 16 * 2**20
_QUESTION, _QUANTIZED = "question", "quantized"


@dataclass(frozen=True)
class Asked:
    """Batches of a component's inputs.

    Attributes:
        feeds: The first is the one with the most samples.
        lengths: Lengths of sizes that vary among them, in words.
    """

    feeds: Sequence[Mapping[str, Array]]
    lengths: str = ""


@dataclass(frozen=True)
class Kept:
    """What is known of a graph.

    Attributes:
        answers: What it answers as it is written, a batch each.
        quantized: Whether it computes anything in INT8.
    """

    answers: Sequence[Mapping[str, Array]]
    quantized: bool


def asked_of(context: StepContext, largest: int | None = None) -> Asked:
    """Return what engines of a component are asked.

    Args:
        context: Of a step on it.
        largest: Largest batch that an engine takes; that of the context where it is not given.
    """
    largest = context.max_batch_size if largest is None else largest
    together = context.examples(min(_SAMPLES, largest or _SAMPLES))
    alone = {name: array[:1] for name, array in together.items()}
    feeds = [together] if len(next(iter(together.values()), ())) == 1 else [together, alone]
    at_lengths = [*context.at_lengths(min(_SAMPLES_AT_A_LENGTH, largest or _SAMPLES_AT_A_LENGTH))]
    ends = at_lengths if len(at_lengths) < len(_ENDS) else [at_lengths[place] for place in _ENDS]
    said = ", at " + "; ".join(_told(at) for at, _ in ends) if ends else ""
    return Asked([*feeds, *(feed for _, feed in ends)], said)


def answers_of(graph: Path, feeds: Sequence[Mapping[str, Array]], *, threads: int) -> list[dict[str, Array]]:
    """Return what a graph answers without any optimization.

    Raises:
        EngineError: If ONNX Runtime does not load it.
        InferenceError: If it fails on one of the batches.
    """
    session = SessionRunner(open_session(graph, {"intra_op_thread_count": str(threads)}, graph_level=AS_WRITTEN))
    try:
        return [session.infer(feed) for feed in feeds]
    finally:
        session.close()


def keep(
    graph: Path, feeds: Sequence[Mapping[str, Array]], answers: Sequence[Mapping[str, Array]], *, quantized: bool
) -> None:
    """Write beside a graph, which is not changed any more, what it answers as it is written; unless that is a lot.

    Args:
        graph: Its file.
        feeds: What it was asked.
        answers: What it answered.
        quantized: Whether it computes anything in INT8.
    """
    import numpy as np

    path = graph.with_name(FILENAME)
    path.unlink(missing_ok=True)  # what an earlier form of the graph answered
    if sum(array.nbytes for answer in answers for array in answer.values()) > _MOST_BYTES:
        return
    arrays = {f"{place}/{name}": array for place, answer in enumerate(answers) for name, array in answer.items()}
    np.savez(path, **{_QUESTION: np.array(_digest(feeds)), _QUANTIZED: np.array(quantized)}, **arrays)


def kept(graph: Path, feeds: Sequence[Mapping[str, Array]]) -> Kept | None:
    """Return what `keep` wrote beside a graph, if it was asked the same, of the same ONNX Runtime; None otherwise."""
    import numpy as np

    path = graph.with_name(FILENAME)
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as file:
        if str(file[_QUESTION]) != _digest(feeds):
            return None
        answers: list[dict[str, Array]] = [{} for _ in feeds]
        for key in file.files:
            place, _, name = key.partition("/")
            if name:
                answers[int(place)][name] = file[key]
        return Kept(answers, bool(file[_QUANTIZED]))


def _digest(feeds: Sequence[Mapping[str, Array]]) -> str:
    """Return a digest of batches, with their names, types and shapes, and of who answers."""
    import numpy as np
    import onnxruntime

    whole = hashlib.sha256(f"onnxruntime {onnxruntime.__version__}".encode())
    for feed in feeds:
        for name, array in sorted(feed.items()):
            whole.update(f"|{name} {array.dtype.str} {array.shape}|".encode())
            whole.update(np.ascontiguousarray(array).tobytes())
        whole.update(b"||")
    return whole.hexdigest()


def _told(lengths: Lengths) -> str:
    return ", ".join(f"{name} {length}" for name, length in lengths.items())
