"""Which tensor of one form of a component is which of another."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from mmdeploy.debugging.tensors import TensorGraph, reads
from mmdeploy.quantize.equalize import Equalization

#: What ONNX Runtime's quantizer calls the values that go into the Q/DQ pair of an output, which keeps its name.
_UNROUNDED = "_QuantizeLinear_Input"
_ELEMENTWISE_BEFORE = ("Add", "Relu", "Identity", "Transpose")


@dataclass(frozen=True)
class Pair:
    """A tensor with its reference.

    Attributes:
        tensor: Its name in the graph that is judged.
        reference: Its name in the one that it is compared with.
        is_rounded: Whether it is what a Q/DQ pair makes of the reference.
    """

    tensor: str
    reference: str
    is_rounded: bool = False


def same_names(graph: TensorGraph, known: Collection[str]) -> list[Pair]:
    """Return the computed tensors that both graphs know by one name, in order."""
    return [Pair(name, name) for name in graph.computed if name in known]


def quantized(graph: TensorGraph, known: Collection[str], equalization: Equalization | None = None) -> list[Pair]:
    """Match a Q/DQ graph with the float graph that it was made from, in order.

    A quantizer keeps the names of what nodes compute, and puts a pair of QuantizeLinear and DequantizeLinear behind it.
    So a tensor is there twice: as its node computes it, and rounded, as the next one reads it.

    Args:
        graph: With Q/DQ pairs.
        known: Tensors of the float graph.
        equalization: What the quantize step did: tensors that it divided by scales are others.
    """
    equalized = equalization.equalized if equalization else ()
    other = _rescaled(graph, {group.producer for group in equalized if group.how == "folded"})
    found = []
    for name in graph.computed:
        source = rounds(graph, name)
        is_rounded = source is not None
        reference = (source or name).removesuffix(_UNROUNDED)
        if reference in known and reference not in other:
            found.append(Pair(name, reference, is_rounded))
    return found


def rounds(graph: TensorGraph, tensor: str) -> str | None:
    """Return the tensor that a Q/DQ pair rounds to this one; None where it is no such pair's."""
    decoded = graph.node(tensor)
    if decoded.op_type != "DequantizeLinear":
        return None
    encoded = graph.node(decoded.input[0])
    if encoded is None or encoded.op_type != "QuantizeLinear":
        return None
    source = str(encoded.input[0])
    return rounds(graph, source) or source if graph.node(source) is not None else source


def _rescaled(graph: TensorGraph, producers: Collection[str]) -> set[str]:
    """Return the tensors whose channels were divided: outputs of the producers, and what only carries those."""
    found: set[str] = set()
    waiting = [node for node in graph.model.graph.node if node.name in producers]
    while waiting:
        node = waiting.pop()
        found.update(node.output)
        if node.op_type in _ELEMENTWISE_BEFORE:
            before = (graph.node(name) for name in node.input if name not in graph.constants)
            waiting.extend(other for other in before if other is not None and not found.issuperset(other.output))
    return found | {
        name
        for node in graph.model.graph.node
        if node.op_type in ("Identity", "Transpose") and found.issuperset(node.input)
        for name in node.output
    }


def module_outputs(graph: TensorGraph) -> Iterator[tuple[str, str]]:
    """Yield submodules with the tensor that leaves each, by the names of nodes: ``<module path>/<operator>``.

    A submodule whose nodes give several tensors to others, or none, is left out: which one it returns is not told.
    """
    scopes = {name: graph.node(name).name.rpartition("/")[0] for name in graph.computed}
    readers: dict[str, set[str]] = {}
    for node in graph.model.graph.node:
        for name in reads(node):
            readers.setdefault(name, set()).add(node.name.rpartition("/")[0])
    paths = {
        ".".join(scope.split(".")[:depth]) for scope in scopes.values() for depth in range(1, scope.count(".") + 2)
    }
    for path in sorted(paths - {""}):
        leaving = [
            name
            for name, scope in scopes.items()
            if _inside(scope, path)
            and (name in graph.outputs or any(not _inside(reader, path) for reader in readers.get(name, ())))
        ]
        if len(leaving) == 1:
            yield path, leaving[0]


def _inside(scope: str, path: str) -> bool:
    return scope == path or scope.startswith(f"{path}.")
