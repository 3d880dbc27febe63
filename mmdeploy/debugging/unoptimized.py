"""A graph against reference tensors, node by node: ONNX Runtime runs it as it is written, without any rewriting.

Twice. Once as it stands, where errors add up from node to node. Once with every reader fed the reference's tensors, so
that each node shows its own error and no other. A break is one node with a large error of its own; steady noise is many
small ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmdeploy.core.artifact import Array
from mmdeploy.core.sessions import AS_WRITTEN, open_session
from mmdeploy.core.temporary import temporary_folder
from mmdeploy.debugging.figures import Figures, Tolerance, measure, worst
from mmdeploy.debugging.findings import TensorFinding
from mmdeploy.debugging.pairs import Pair
from mmdeploy.debugging.tensors import OWN, TensorGraph
from mmdeploy.engines.graph_files import save_graph

#: What single precision loses by another order of sums is far above.
_ROUNDING_DB = 80.0

#: Reference tensors of a batch, by name.
Reference = Callable[[int], Mapping[str, Array]]


class Unoptimized:
    """A graph that ONNX Runtime runs as it is written."""

    def __init__(self, model: Any, *, threads: int = 1) -> None:
        """Open a session.

        Raises:
            EngineError: If ONNX Runtime refuses the graph.
        """
        with temporary_folder("debug") as folder:
            path = folder / "graph.onnx"
            save_graph(model, path)
            self._session = open_session(path, {"intra_op_thread_count": str(threads)}, graph_level=AS_WRITTEN)
        self._inputs = [value.name for value in self._session.get_inputs()]
        self.outputs = [value.name for value in self._session.get_outputs()]

    def run(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """Return every output; of the tensors only those that are inputs are read."""
        answers = self._session.run(self.outputs, {name: tensors[name] for name in self._inputs})
        return dict(zip(self.outputs, answers, strict=True))


@dataclass(frozen=True)
class Bounds:
    """Tolerances of a comparison: of a tensor with all that lies upstream, and of its node alone."""

    total: Tolerance
    own: Tolerance


def compare(
    graph: TensorGraph,
    pairs: Sequence[Pair],
    reference: Reference,
    batches: Sequence[Mapping[str, Array]],
    bounds: Bounds,
) -> list[TensorFinding]:
    """Compare the tensors of a graph with their references, in order.

    Args:
        graph: To be judged.
        pairs: Its tensors with their references.
        reference: Gives the reference's tensors of a batch.
        batches: Inputs of the graph.
        bounds: What the tensors may differ by.
    """
    names = [pair.tensor for pair in pairs]
    whole = Unoptimized(graph.watched(names)) if names else None
    alone: Unoptimized | None = None
    total: dict[Pair, dict[int, Figures]] = {pair: {} for pair in pairs}
    own: dict[Pair, dict[int, Figures]] = {pair: {} for pair in pairs}
    for batch, feed in enumerate(batches):
        wanted = reference(batch)
        answers = whole.run(feed) if whole else {}
        given = {**feed, **{pair.tensor: wanted[pair.reference] for pair in pairs if not pair.is_rounded}}
        given = {name: _as(array, answers.get(name)) for name, array in given.items()}
        alone = alone or (Unoptimized(graph.fed(given, names)) if names else None)
        apart = alone.run(given) if alone else {}
        for pair in pairs:
            name = f"{pair.tensor}{OWN}" if pair.tensor in given else pair.tensor
            total[pair][batch] = measure(wanted[pair.reference], answers[pair.tensor], bounds.total)
            own[pair][batch] = measure(wanted[pair.reference], apart[name], bounds.own)
    return [_finding(graph, pair, total[pair], own[pair], bounds) for pair in pairs]


def _as(array: Array, example: Array | None) -> Array:
    """Return a tensor in the type that the graph has there."""
    return array if example is None or array.dtype == example.dtype else array.astype(example.dtype)


def _finding(
    graph: TensorGraph, pair: Pair, total: Mapping[int, Figures], own: Mapping[int, Figures], bounds: Bounds
) -> TensorFinding:
    both, alone = _worst_of(total), _worst_of(own)
    batch = worst(own) if not alone.within else worst(total)
    node = graph.node(pair.tensor)
    tolerance = str(bounds.total) if bounds.own == bounds.total else f"{bounds.total}, alone {bounds.own}"
    return TensorFinding(
        tensor=pair.tensor,
        reference=pair.reference,
        node=node.name,
        op_type=node.op_type,
        sqnr_db=both.sqnr_db,
        own_sqnr_db=alone.sqnr_db,
        own_known=True,
        own_within=alone.within,
        cosine=both.cosine,
        max_error=both.max_error,
        magnitude=both.magnitude,
        tolerance=tolerance,
        within=both.within and alone.within,
        finite=both.finite and alone.finite,
        is_output=pair.tensor in graph.outputs,
        batch=batch,
    )


def _worst_of(found: Mapping[int, Figures]) -> Figures:
    first, *others = found.values()
    for other in others:
        first = first.worse(other)
    return first


def first_bad(findings: Sequence[TensorFinding]) -> TensorFinding | None:
    """Return the first tensor whose node fails alone; failing that, the first that the sum of errors takes too far."""
    bad = [one for one in findings if not one.within]
    return next((one for one in bad if not one.own_within), next(iter(bad), None))


def grows_most(findings: Sequence[TensorFinding]) -> TensorFinding | None:
    """Return the tensor whose node adds most noise of its own, beyond the rounding of floats; None where none does."""
    noisy = [
        one for one in findings if one.own_known and one.own_sqnr_db is not None and one.own_sqnr_db < _ROUNDING_DB
    ]
    return min(noisy, key=lambda one: one.own_sqnr_db or 0.0, default=None)
