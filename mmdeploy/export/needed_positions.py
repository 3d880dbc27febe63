"""Compute for one position alone what is read of one position: a class token, or the end of a text.

An encoder answers with one row of a sequence, yet its last layer is written for all of them. Each operation that treats
rows apart gives the same numbers for a row alone, so what picks the row is moved up to where rows meet: in front of
the last layer's query, with its mask's row beside it. Keys and values still see every position. One layer of twelve
becomes a fifth of itself, in any engine and at any precision, and its ranges are those of the row that counts.

Two ways to pick are known: ``x[:, n]``, and ``x[arange(batch), n]`` with a position a sample. A graph where nothing but
such a row is read of a product with weights is changed; others keep every byte.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmdeploy.core import graph_passes

#: Operators whose first input alone is a tensor of rows, and those that broadcast all of theirs.
_OF_ONE = frozenset(
    ("Cast", "Clip", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Log", "Mish")
) | {"Neg", "Reciprocal", "Relu", "Selu", "Sigmoid", "Softplus", "Sqrt", "Tanh"}
_OF_SEVERAL = frozenset(("Add", "Sub", "Mul", "Div", "Pow", "Where"))

#: Constants of at most so many bytes, shapes among them, are looked at when shapes are inferred.
_LIGHT_BYTES = 4096

#: Axis of the positions by index of the input.
_Inputs = Mapping[int, int]


def pick_early(proto: Any) -> None:
    """Move what picks a position as far up as it goes, in place.

    Args:
        proto: The ``onnx.ModelProto``, with the shapes of its tensors.
    """
    graph = _Graph(proto.graph)
    picks = [pick for node in proto.graph.node if (pick := _pick_of(graph, node)) is not None]
    if not picks:
        return
    shapes = _inferred(proto)
    changed = [_Narrowing(_Graph(proto.graph, shapes), pick).apply() for pick in picks]
    if any(changed):
        graph_passes.sort_nodes(proto)


def _inferred(proto: Any) -> dict[str, Any]:
    """Return what ONNX infers of the tensors inside, by name; large weights are left out, since it would copy them."""
    import onnx

    light = onnx.ModelProto()
    light.CopyFrom(onnx.ModelProto(ir_version=proto.ir_version, opset_import=proto.opset_import))
    for part in ("node", "input", "output", "value_info"):
        getattr(light.graph, part).extend(getattr(proto.graph, part))
    for weight in proto.graph.initializer:
        # protobuf writes a tensor out to say how large it is; an element takes half a byte at least
        if math.prod(weight.dims) <= 2 * _LIGHT_BYTES and weight.ByteSize() <= _LIGHT_BYTES:
            light.graph.initializer.append(weight)
        else:
            known = onnx.helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims)
            light.graph.input.append(known)
    found = onnx.shape_inference.infer_shapes(light)
    return {value.name: value for value in found.graph.value_info}


@dataclass(frozen=True)
class _Pick:
    """A node that picks one position of a tensor, and drops the axis.

    Attributes:
        node: It.
        axis: Of the positions.
        position: The constant that says which; None where each sample has its own.
        indices: The tensor with batch index and position [batch, 2], and the one with the position alone.
    """

    node: Any
    axis: int
    position: int | None = None
    indices: tuple[str, str] | None = None


class _Graph:
    """A graph, looked up by name."""

    def __init__(self, graph: Any, inferred: dict[str, Any] | None = None) -> None:
        self.proto = graph
        self.inferred = {} if inferred is None else inferred
        self.producers = {name: node for node in graph.node for name in node.output}
        self.constants = {weight.name: weight for weight in graph.initializer}
        self.values = {value.name: value for value in (*graph.input, *graph.output, *graph.value_info)}
        self.outputs = {value.name for value in graph.output}
        self._made = 0

    def shape(self, name: str) -> list[int | str] | None:
        """Return a tensor's sizes, of which those that vary have names; None where one is not known."""
        if name in self.constants:
            return list(self.constants[name].dims)
        for known in (self.values, self.inferred):
            sizes = _sizes(known[name]) if name in known else []
            if sizes and all(sizes):
                return sizes
        return None

    def array(self, name: str) -> Any | None:
        """Return a constant's values."""
        from onnx import numpy_helper

        return numpy_helper.to_array(self.constants[name]) if name in self.constants else None

    def readers(self) -> dict[str, list[Any]]:
        """Return the nodes that read each tensor."""
        found: dict[str, list[Any]] = {}
        for node in self.proto.node:
            for name in dict.fromkeys(node.input):
                found.setdefault(name, []).append(node)
        return found

    def constant(self, values: Sequence[int]) -> str:
        """Add whole numbers [n]."""
        import numpy as np
        from onnx import numpy_helper

        tensor = numpy_helper.from_array(np.array(values, np.int64), self._name("position"))
        self.proto.initializer.append(tensor)
        self.constants[tensor.name] = tensor
        return str(tensor.name)

    def add(self, like: Any, op_type: str, inputs: Sequence[str], shape: Sequence[int | str], **attributes: Any) -> str:
        """Add a node to the module of another, and return its output, of the type of its first input."""
        from onnx import helper

        first = inputs[0]
        of = self.constants[first].data_type if first in self.constants else self._type(first)
        name = self._name(op_type.lower())
        node = helper.make_node(op_type, list(inputs), [name], **attributes)
        node.metadata_props.extend(like.metadata_props)
        self.proto.node.append(node)
        self.proto.value_info.append(helper.make_tensor_value_info(name, of, shape))
        self.producers[name] = self.proto.node[-1]
        self.values[name] = self.proto.value_info[-1]
        return name

    def state(self, name: str, shape: Sequence[int | str]) -> None:
        """Write down the sizes of a tensor that a node gives."""
        from onnx import helper

        of = self._type(name)
        for value in [value for value in self.proto.value_info if value.name == name]:
            self.proto.value_info.remove(value)
        self.proto.value_info.append(helper.make_tensor_value_info(name, of, shape))
        self.values[name] = self.proto.value_info[-1]

    def _type(self, name: str) -> int:
        known = self.values.get(name, self.inferred.get(name))
        return int(known.type.tensor_type.elem_type) if known is not None else 0

    def _name(self, word: str) -> str:
        while True:
            name, self._made = f"picked_{word}_{self._made}", self._made + 1
            if name not in self.producers and name not in self.constants and name not in self.values:
                return name


def _pick_of(graph: _Graph, node: Any) -> _Pick | None:
    """Say what a node picks; None where it does anything else."""
    data, *rest = node.input or ("",)
    shape = graph.shape(data)
    if node.op_type not in ("Gather", "GatherND") or data in graph.constants or shape is None or len(shape) < 3:
        return None
    if node.op_type == "Gather":
        axis, position = _attribute(node, "axis", 0) % len(shape), graph.array(rest[0])
        return _Pick(node, axis, int(position)) if position is not None and position.ndim == 0 and axis else None
    both = graph.producers.get(rest[0])
    found = graph.shape(node.output[0])
    if _attribute(node, "batch_dims", 0) or both is None or both.op_type != "Concat" or len(both.input) != 2:
        return None
    parts = [graph.producers.get(name) for name in both.input]
    if found is None or found[0] != shape[0] or any(part is None or part.op_type != "Unsqueeze" for part in parts):
        return None
    counted, position_of = (part.input[0] for part in parts if part is not None)
    last = _attribute(both, "axis", 0) in (-1, 1)
    return _Pick(node, 1, indices=(rest[0], position_of)) if last and _counts_up(graph, counted) else None


def _counts_up(graph: _Graph, name: str) -> bool:
    """Say whether a tensor is 0, 1, 2, and so on."""
    node = graph.producers.get(name)
    if node is None or node.op_type != "Range":
        return False
    start, _, step = (graph.array(part) for part in node.input)
    return start is not None and step is not None and int(start) == 0 and int(step) == 1


def _attribute(node: Any, name: str, default: int) -> int:
    return next((int(one.i) for one in node.attribute if one.name == name), default)


def _rows_of(graph: _Graph, node: Any, axis: int) -> _Inputs | None:
    """Return where the positions of a node's output are in its inputs; None where it mixes them, or nobody knows.

    Args:
        graph: It.
        node: Of one output that is read.
        axis: Of the positions in that output.
    """
    shape = graph.shape(node.output[0])
    shapes = [graph.shape(name) for name in node.input if name]
    if shape is None or len(shapes) != len(node.input) or any(one is None for one in shapes):
        return None
    known = [one for one in shapes if one is not None]
    rank, first = len(shape), known[0]
    if node.op_type in _OF_ONE:
        return {0: axis}
    if node.op_type in _OF_SEVERAL:
        aligned = {index: axis - rank + len(one) for index, one in enumerate(known)}
        there = {index: at for index, at in aligned.items() if at >= 0 and known[index][at] != 1}
        return there if all(known[index][at] == shape[axis] for index, at in there.items()) else None
    if node.op_type == "LayerNormalization":
        return {0: axis} if axis < _attribute(node, "axis", -1) % rank else None
    if node.op_type == "Softmax":
        return {0: axis} if axis != _attribute(node, "axis", -1) % rank else None
    if node.op_type == "MatMul":
        return {0: len(first) - 2} if axis == rank - 2 and len(first) > 1 and len(known[1]) > 1 else None
    if node.op_type == "Transpose":
        order = next((list(one.ints) for one in node.attribute if one.name == "perm"), [])
        return {0: order[axis]} if order else None
    if node.op_type == "Reshape":
        kept = axis == 1 and len(first) > 2 and rank > 2 and first[:2] == shape[:2] and node.input[1] in graph.constants
        return {0: axis} if kept else None
    return None


@dataclass
class _Narrowing:
    """The nodes that are computed for one position, and where it is in what they give."""

    graph: _Graph
    pick: _Pick
    axes: dict[str, int] = field(default_factory=dict)
    plan: dict[str, tuple[Any, _Inputs]] = field(default_factory=dict)
    _picked: dict[tuple[str, int], str] = field(default_factory=dict)

    def apply(self) -> bool:
        """Rewrite the graph where that spares a product; say whether it was."""
        self._search()
        self._settle()
        if not any(node.op_type == "MatMul" for node, _ in self.plan.values()):
            return False
        for name, (node, inputs) in self.plan.items():
            rank = len(self.graph.shape(name) or ())
            for index, axis in inputs.items():
                if node.input[index] not in self.plan:
                    node.input[index] = self._one(node.input[index], axis, rank)
        for name, (node, _) in self.plan.items():
            self._shorten(name, node)
        self._drop_axis()
        return True

    def _search(self) -> None:
        """Find the nodes that give the same for a position alone."""
        waiting = [(self.pick.node.input[0], self.pick.axis)]
        while waiting:
            name, axis = waiting.pop()
            node = self.graph.producers.get(name)
            if (
                self.axes.setdefault(name, axis) != axis
                or name in self.plan
                or node is None
                or name in self.graph.outputs
            ):
                continue
            inputs = _rows_of(self.graph, node, axis)
            if inputs:
                self.plan[name] = (node, inputs)
                waiting += [(node.input[index], at) for index, at in inputs.items()]

    def _settle(self) -> None:
        """Keep the nodes that nobody reads otherwise, and whose other inputs can be picked from."""
        readers = self.graph.readers()
        while self.plan:
            gone = [name for name, entry in self.plan.items() if not self._stays(name, *entry, readers.get(name, ()))]
            if not gone:
                return
            for name in gone:
                del self.plan[name]

    def _stays(self, name: str, node: Any, inputs: _Inputs, readers: Sequence[Any]) -> bool:
        rank = len(self.graph.shape(name) or ())
        edges = [(node.input[index], axis) for index, axis in inputs.items() if node.input[index] not in self.plan]
        inner = [(node.input[index], axis) for index, axis in inputs.items() if node.input[index] in self.plan]
        return (
            all(self._reads_rows(reader, name) for reader in readers)
            and all(self.axes[one] == axis for one, axis in inner)
            and all(self._can_pick(one, axis, rank) for one, axis in edges)
        )

    def _reads_rows(self, reader: Any, name: str) -> bool:
        """Say whether a node reads nothing but the picked position of a tensor."""
        if list(reader.output) == list(self.pick.node.output):
            return True
        inputs = self.plan[reader.output[0]][1] if reader.output[0] in self.plan else {}
        return all(index in inputs for index, one in enumerate(reader.input) if one == name)

    def _can_pick(self, name: str, axis: int, rank: int) -> bool:
        shape = self.graph.shape(name)
        if shape is None:
            return False
        if self.pick.indices is None:
            return True
        whole = [1] * (rank - len(shape)) + shape
        batch = (self.graph.shape(self.pick.node.input[0]) or [0])[0]
        return axis + rank - len(shape) > 0 and whole[0] in (1, batch)

    def _one(self, name: str, axis: int, rank: int) -> str:
        """Return a tensor with one position of another, its axis kept."""
        if (name, axis) not in self._picked:
            self._picked[name, axis] = self._normalized(name, axis) or self._taken(name, axis, rank)
        return self._picked[name, axis]

    def _normalized(self, name: str, axis: int) -> str | None:
        """Normalize the position by itself, where a normalization gives the tensor: it costs less than to read it."""
        node, shape = self.graph.producers.get(name), self.graph.shape(name)
        if (
            node is None
            or shape is None
            or node.op_type != "LayerNormalization"
            or not _rows_of(self.graph, node, axis)
        ):
            return None
        before = self._one(node.input[0], axis, len(shape))
        copied = {one.name: _value(one) for one in node.attribute}
        return self.graph.add(node, node.op_type, [before, *node.input[1:]], _with_one(shape, axis), **copied)

    def _taken(self, name: str, axis: int, rank: int) -> str:
        graph, like = self.graph, self.pick.node
        shape: list[int | str] = list(graph.shape(name) or ())
        if self.pick.indices is None:
            position = graph.constant([self.pick.position or 0])
            return graph.add(like, "Gather", [name, position], _with_one(shape, axis), axis=axis)
        if missing := rank - len(shape):
            axis, shape = axis + missing, [*[1] * missing, *shape]
            name = graph.add(like, "Unsqueeze", [name, graph.constant(range(missing))], shape)
        if shape[0] == 1:  # one for all samples: what each picks of it is laid out along the batch
            batch = (graph.shape(like.input[0]) or [0])[0]
            laid = [batch if at == axis else size for at, size in enumerate(shape)]
            found = graph.add(like, "Gather", [name, self.pick.indices[1]], laid, axis=axis)
            return self._swapped(found, laid, (0, axis))
        found, turned = self._swapped(name, shape, (1, axis)), _swap(shape, 1, axis)
        places = graph.add(like, "Unsqueeze", [self.pick.indices[0], graph.constant([1])], [shape[0], 1, 2])
        one = graph.add(like, "GatherND", [found, places], _with_one(turned, 1))
        return self._swapped(one, _with_one(turned, 1), (1, axis))

    def _swapped(self, name: str, shape: Sequence[int | str], axes: tuple[int, int]) -> str:
        if axes[0] == axes[1]:
            return name
        order = _swap(range(len(shape)), *axes)
        return self.graph.add(self.pick.node, "Transpose", [name], _swap(shape, *axes), perm=order)

    def _shorten(self, name: str, node: Any) -> None:
        """Write down that a node gives one position: in the shape that is known, and in that of a Reshape."""
        axis = self.axes[name]
        if node.op_type == "Reshape":
            sizes = [int(size) for size in self.graph.array(node.input[1]).reshape(-1)]  # type: ignore[union-attr]
            node.input[1] = self.graph.constant(_with_one(sizes, axis))
        shape = _with_one(self.graph.shape(name) or (), axis)
        self.graph.state(name, shape)
        self.graph.inferred.pop(name, None)

    def _drop_axis(self) -> None:
        """Let the node that picked drop the axis of what has one position."""
        node = self.pick.node
        node.op_type = "Squeeze"
        del node.attribute[:]
        node.input[1] = self.graph.constant([self.pick.axis])


def _sizes(value: Any) -> list[int | str]:
    return [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]


def _value(attribute: Any) -> Any:
    from onnx import helper

    return helper.get_attribute_value(attribute)


def _with_one(shape: Sequence[Any], axis: int) -> list[Any]:
    return [1 if at == axis else size for at, size in enumerate(shape)]


def _swap(values: Sequence[Any], one: int, other: int) -> list[Any]:
    found = list(values)
    found[one], found[other] = found[other], found[one]
    return found
