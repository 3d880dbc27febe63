"""What every graph that leaves a step must be: valid ONNX, in order, and the same thing to another implementation.

ONNX Runtime takes graphs that nothing else does: unsorted ones, for one. So each ONNX file that a step leaves is
checked in full by ``onnx.checker``, and a small one is run by ``onnx.reference``, the implementation that comes with
the standard, against ONNX Runtime as it will run it, at the smallest length too where sizes vary. A large one would
take minutes there: what ONNX Runtime makes of it is held against the graph as it is written where it is quantized, and
where its engine is built (`own_graph`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmdeploy.core import facts
from mmdeploy.core.agreement import EXACT_DB, Apart, Expected, Noise, first_apart
from mmdeploy.core.artifact import Array, Artifact, file_sha256
from mmdeploy.core.errors import StepError
from mmdeploy.core.sessions import open_session
from mmdeploy.core.sizes import Lengths
from mmdeploy.engines.graph_files import load_graph
from mmdeploy.engines.int8_forms import is_quantized

logger = logging.getLogger(__name__)

#: Beyond these a graph is too large for onnx.reference: bytes of the file, elements that are computed for one sample,
#: and those of them that it computes one at a time in Python.
_MOST_BYTES = 32_000_000
_MOST_ELEMENTS = 20_000_000
_MOST_SLOW_ELEMENTS = 20_000
_SLOW = frozenset(
    (
        "MaxPool", "AveragePool", "LpPool", "Resize", "Upsample", "GridSample", "RoiAlign", "NonMaxSuppression",
        "MaxUnpool", "Col2Im", "DeformConv", "LRN",
    )
)  # fmt: skip
_SAMPLES = 2
_STANDARD = ("", "ai.onnx")

Examples = Callable[[int], Mapping[str, Array]]
#: As `mmdeploy.core.contracts.StepContext` has it.
AtLengths = Callable[[int], Iterator[tuple[Lengths, Mapping[str, Array]]]]
_Batches = Callable[[], list[Mapping[str, Array]]]


@dataclass(frozen=True)
class Conformance:
    """What an artifact says of its graphs.

    Attributes:
        conforms: By whom they were checked.
    """

    conforms: str


def handed_over(
    made: Artifact,
    source: Artifact,
    examples: Examples,
    *,
    fails: type[StepError],
    component: str,
    at_lengths: AtLengths = lambda batch: iter(()),
) -> Artifact:
    """Return what a step made, with the note that its graphs are what they must be.

    Args:
        made: With its files in the step's folder; graphs that are bit for bit that of ``source`` are not looked at.
        source: What it was made from.
        examples: Gives a batch of so many samples.
        fails: What is raised.
        component: Name of the component, for messages.
        at_lengths: Gives batches at lengths of sizes that vary, the smallest first: that is asked too.

    Raises:
        StepError: If a graph is not valid, or the reference implementation answers something else.
    """

    def batches() -> list[Mapping[str, Array]]:
        smallest = next(at_lengths(_SAMPLES), None)
        return [examples(_SAMPLES), *([] if smallest is None else [smallest[1]])]

    notes = [
        _checked(path, made, source, batches, fails=fails, component=component)
        for path in sorted(made.path.parent.glob("*.onnx"))
        if not _is_copy(path, source)
    ]
    if not notes:
        return made
    return replace(made, metadata={**made.metadata, **facts.as_metadata(Conformance(" | ".join(dict.fromkeys(notes))))})


def _is_copy(path: Path, source: Artifact) -> bool:
    there = source.path.is_file() and source.path.stat().st_size == path.stat().st_size
    return there and file_sha256(path) == source.sha256


def _checked(
    path: Path, made: Artifact, source: Artifact, batches: _Batches, *, fails: type[StepError], component: str
) -> str:
    import onnx

    try:
        onnx.checker.check_model(str(path), full_check=True)  # by its path: it may be larger than a message can be
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as cause:
        reason = " ".join(str(cause).split())[:500]
        raise fails(f"{component}: the graph {path.name} is not valid ONNX: {reason}") from cause
    if why := _too_large(path):
        return f"onnx.checker; {why}, so that ONNX Runtime without optimizations stands in for onnx.reference"
    noise = facts.find(Noise, made.metadata) or facts.find(Noise, source.metadata)
    try:
        apart = _apart(path, batches(), noise)
    except Exception as problem:  # noqa: BLE001 - onnx.reference lacks operators, and raises whatever they raise
        logger.info("%s: onnx.reference cannot run %s: %s", component, path.name, problem)
        return "onnx.checker; onnx.reference has not all of its operators"
    if apart is None:
        return "onnx.checker and onnx.reference"
    if source.format == "onnx" and source.path.is_file() and _apart(source.path, batches(), None) is None:
        raise fails(
            f"{component}: onnx.reference answers something else than ONNX Runtime on the graph {path.name}: {apart}",
            hint="the graph that it was made from is answered alike: this step wrote one that runtimes disagree on",
        )
    logger.warning("%s: onnx.reference answers something else on %s: %s", component, path.name, apart)
    return f"onnx.checker; onnx.reference answers otherwise ({apart}), already before this step"


def _too_large(path: Path) -> str | None:
    """Say why a graph is not run by onnx.reference; None where it is."""
    data = path.with_name(f"{path.name}.data")
    if path.stat().st_size + (data.stat().st_size if data.exists() else 0) > _MOST_BYTES:
        return f"it is larger than {_MOST_BYTES // 1_000_000} MB"
    graph = load_graph(path, weights=False).graph
    if foreign := sorted({node.domain for node in graph.node} - set(_STANDARD)):
        return f"it has operators of {', '.join(foreign)}"
    sizes = dict(_sizes(graph))
    slow = sum(sizes.get(name, 0) for node in graph.node if node.op_type in _SLOW for name in node.output)
    if sum(sizes.values()) > _MOST_ELEMENTS or slow > _MOST_SLOW_ELEMENTS:
        return "it computes too much"
    unsized = [node.op_type for node in graph.node if node.op_type in _SLOW and node.output[0] not in sizes]
    return f"what {unsized[0]} computes is not known" if unsized else None


def _sizes(graph: Any) -> Iterator[tuple[str, int]]:
    """Give the number of elements of each tensor whose shape is known, sizes that vary taken as 1."""
    for value in (*graph.value_info, *graph.output):
        if value.type.tensor_type.HasField("shape"):
            yield value.name, math.prod(size.dim_value or 1 for size in value.type.tensor_type.shape.dim)


def _apart(path: Path, batches: Sequence[Mapping[str, Array]], noise: Noise | None) -> Apart | None:
    """Return where onnx.reference answers something else than ONNX Runtime as it will run the graph."""
    from onnx.reference import ReferenceEvaluator

    model = load_graph(path)
    names, outputs = ([value.name for value in values] for values in (model.graph.input, model.graph.output))
    reference, session = ReferenceEvaluator(model), open_session(path, {"intra_op_thread_count": "1"})
    half = any(_is_half(node) for node in model.graph.node)
    expected = Expected(EXACT_DB, is_quantized(model), noise.sqnr_db if noise else {})
    for batch in batches:
        feed = {name: batch[name] for name in names}
        by_reference = dict(zip(outputs, reference.run(outputs, feed), strict=True))
        answers = dict(zip(outputs, session.run(outputs, feed), strict=True))
        if half:
            continue  # ONNX Runtime computes it in FP32 on a CPU, where FP16 may overflow: gates see what comes of that
        if apart := first_apart(by_reference, answers, expected):
            return apart
    return None


def _is_half(node: Any) -> bool:
    from onnx import TensorProto

    halves = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
    return node.op_type == "Cast" and any(one.name == "to" and one.i in halves for one in node.attribute)
