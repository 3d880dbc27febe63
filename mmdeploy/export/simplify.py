"""Write attention as engines recognize it: the exporter's detours taken out, the same numbers.

``scaled_dot_product_attention`` comes out of torch.onnx with two detours that keep ONNX Runtime and OpenVINO from
fusing the attention, and cost a fifth of an INT8 text encoder's time in OpenVINO:

* the key's last two axes are swapped by way of three dimensions, with sizes computed at run time;
* with a mask, the softmax is guarded against NaN, which a row would be where everything is masked by -inf. The exporter
  masks with the smallest float, so there is none; nor where a mask of -inf is known and leaves something in each row.
  (Rows that are NaN because their scores overflowed were zeros behind the guard; without it they are NaN, as in
  PyTorch.)

The rule of `mmdeploy.export.masked_rows` is taken out, too, where the mask is known to leave something in each row.
Where it stays, its zero is a constant of its own: OpenVINO 2026.4 cannot load an attention whose mask has the same one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmdeploy.core import graph_passes

#: A size: known, -1, or that of an axis of the tensor in question.
_Size = int | tuple[str, int]


def simplify(proto: Any) -> None:
    """Take the detours out, in place.

    Args:
        proto: The ``onnx.ModelProto``, as the exporter wrote it.
    """
    graph = _Graph(proto.graph)
    for node in list(proto.graph.node):
        if node.op_type == "Reshape":
            _swap_directly(graph, node)
        elif node.op_type == "Where":
            _drop_guard(graph, node)
            _drop_row_rule(graph, node)
    graph_passes.drop_unused(proto)


class _Graph:
    """A graph, looked up by name."""

    def __init__(self, graph: Any) -> None:
        self.proto = graph
        self._producers = {name: node for node in graph.node for name in node.output}
        self._constants = {weight.name: weight for weight in graph.initializer}
        values = (*graph.input, *graph.value_info)
        self._shapes = {value.name: value.type.tensor_type.shape.dim for value in values}

    def producer(self, name: str, op_type: str) -> Any | None:
        """Return the node that gives a tensor, if it is of that operator."""
        node = self._producers.get(name)
        return node if node is not None and node.op_type == op_type else None

    def constant(self, name: str) -> Any | None:
        """Return a constant's values."""
        from onnx import numpy_helper

        return numpy_helper.to_array(self._constants[name]) if name in self._constants else None

    def sizes(self, name: str) -> list[int | None] | None:
        """Return a tensor's known sizes; None where it has no known rank."""
        if name not in self._shapes:
            return None
        return [size.dim_value if size.HasField("dim_value") else None for size in self._shapes[name]]


def _swap_directly(graph: _Graph, last: Any) -> None:
    """Write Reshape, Transpose, Reshape as one Transpose where they swap the last two axes of a tensor."""
    swap = graph.producer(last.input[0], "Transpose")
    first = graph.producer(swap.input[0], "Reshape") if swap is not None else None
    if swap is None or first is None or _permutation(swap) != [0, 2, 1]:
        return
    tensor = first.input[0]
    sizes = graph.sizes(tensor)
    if sizes is None or len(sizes) < 3:
        return
    rank = len(sizes)
    inner, outer = _shape(graph, first.input[1], tensor), _shape(graph, last.input[1], tensor)
    turned = [*range(rank - 2), rank - 1, rank - 2]
    if inner is None or len(inner) != 3 or not _is_sizes(inner[1:], [rank - 2, rank - 1], sizes):
        return
    if outer is None or len(outer) != rank or not _is_sizes(outer, turned, sizes):
        return
    swap.input[0] = tensor
    swap.output[0] = last.output[0]
    del swap.attribute[:]
    swap.attribute.append(_ints("perm", turned))
    graph.proto.node.remove(last)


def _permutation(node: Any) -> list[int]:
    return next((list(attribute.ints) for attribute in node.attribute if attribute.name == "perm"), [])


def _ints(name: str, values: Sequence[int]) -> Any:
    from onnx import helper

    return helper.make_attribute(name, list(values))


def _is_sizes(found: Sequence[_Size], axes: Sequence[int], sizes: Sequence[int | None]) -> bool:
    """Say whether a shape is made of these axes of a tensor; one entry may be -1, what is left over."""
    unsure = sum(1 for entry in found if entry == -1)
    same = all(
        entry in (("axis", axis), -1) or (sizes[axis] is not None and entry == sizes[axis])
        for entry, axis in zip(found, axes, strict=True)
    )
    return same and unsure <= 1


def _shape(graph: _Graph, name: str, tensor: str) -> list[_Size] | None:
    """Return what a one-dimensional tensor holds, in terms of the sizes of ``tensor``; None when it is not known."""
    values = graph.constant(name)
    if values is not None:
        return [int(value) for value in values.reshape(-1)]
    if (node := graph.producer(name, "Shape")) is not None:
        sizes = graph.sizes(tensor)
        whole = node.input[0] == tensor and sizes is not None and not any(part.i for part in node.attribute)
        return [("axis", axis) for axis in range(len(sizes or ()))] if whole else None
    if (node := graph.producer(name, "Concat")) is not None:
        parts = [_shape(graph, part, tensor) for part in node.input]
        return None if any(part is None for part in parts) else [entry for part in parts for entry in part or ()]
    if (node := graph.producer(name, "Slice")) is not None:
        whole_shape = _shape(graph, node.input[0], tensor)
        limits = [graph.constant(part) for part in node.input[1:]]
        if whole_shape is None or any(limit is None or limit.size != 1 for limit in limits):
            return None
        start, stop, *rest = (int(limit.reshape(())) for limit in limits if limit is not None)
        return whole_shape[start:stop] if rest in ([], [0], [0, 1]) else None
    return None


def _drop_guard(graph: _Graph, where: Any) -> None:
    """Take out ``Where(IsNaN(p), 0, p)`` behind a softmax whose mask makes no row NaN."""
    check = graph.producer(where.input[0], "IsNaN")
    softmax = graph.producer(where.input[2], "Softmax")
    zero = graph.constant(where.input[1])
    if check is None or softmax is None or check.input[0] != where.input[2] or zero is None or zero.any():
        return
    masked = graph.producer(softmax.input[0], "Add")
    if masked is None or not any(_leaves_something(graph, name) for name in masked.input):
        return
    graph.proto.node.remove(where)
    softmax.output[0] = where.output[0]
    check.input[0] = softmax.output[0]


def _drop_row_rule(graph: _Graph, where: Any) -> None:
    """Take out ``Where(any(mask), attention, 0)``, as `masked_rows` has it, where the mask is known to be open."""
    attention, zero = graph.producer(where.input[1], "MatMul"), graph.constant(where.input[2])
    if attention is None or zero is None or zero.any() or not _is_open(graph, where.input[0]):
        return
    graph.proto.node.remove(where)
    attention.output[0] = where.output[0]


def _is_open(graph: _Graph, rows: str) -> bool:
    """Say whether ``any`` of a mask, along its last axis, is known to be true in each row."""
    values = graph.constant(rows)
    if values is not None:
        return bool(values.all())
    cast = graph.producer(rows, "Cast")
    reduced = graph.producer(cast.input[0], "ReduceMax") if cast is not None else None
    number = graph.producer(reduced.input[0], "Cast") if reduced is not None else None
    if number is None:
        return False
    seen = graph.producer(number.input[0], "Greater")
    return _leaves_something(graph, seen.input[0] if seen is not None else number.input[0])


def _leaves_something(graph: _Graph, name: str) -> bool:
    """Say whether a mask is known to have something above -inf, or True, in each row, the last axis."""
    import numpy as np

    values = graph.constant(name)
    if values is not None:
        there = values if values.dtype == bool else np.isfinite(values)
        return bool(there.any(axis=-1).all()) if there.ndim else bool(there)
    if (node := graph.producer(name, "Expand")) is not None:
        return _leaves_something(graph, node.input[0])
    if (node := graph.producer(name, "Where")) is not None:
        condition, chosen, other = node.input
        if not _is_finite(graph, chosen):
            return False
        return _is_finite(graph, other) or _leaves_something(graph, condition)
    return False


def _is_finite(graph: _Graph, name: str) -> bool:
    import numpy as np

    values = graph.constant(name)
    return values is not None and bool(np.isfinite(values).all())
