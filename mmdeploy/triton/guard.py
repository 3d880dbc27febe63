"""Writes checks of requests into an ONNX graph, so that whoever serves it refuses what it cannot answer.

The embedded backends check requests themselves; Triton's native onnxruntime backend does not, and an INT8 graph
answers NaN and ids outside of the vocabulary plausibly. ONNX has no node that raises an error. What every ONNX
Runtime on a CPU refuses is a ``Gather`` beyond its data, and it names the node: so a node that is named after what
is wrong gathers row 0 of a table with one row while a request is right, and row 1 when it is not. What it gathers
is the shape (zeros: as it was) for a ``Reshape`` of the input, which copies nothing and keeps the check from being
taken out as dead.

Costs one pass over an input (two for a range). In a batch that Triton makes of several requests, all of them get
the error. On a GPU a Gather beyond its data is no error: for CPUs only.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmdeploy.core.artifact import TensorSpec
from mmdeploy.core.sizes import Size

if TYPE_CHECKING:
    import onnx

_FLOATS = ("FP16", "FP32", "FP64")
#: ONNX's type in which the values of a type are checked; INT64 for all others.
_KINDS = {"FP16": "FLOAT", "FP32": "FLOAT", "FP64": "DOUBLE"}
_SAME = {"FP32": "FLOAT", "FP64": "DOUBLE", "INT64": "INT64"}


@dataclass(frozen=True)
class Length:
    """What the length of an axis must keep.

    Attributes:
        axis: Of the input in the graph, the batch being 0.
        size: Bounds, and the name that messages use.
        same_as: Another input, what clients call it, and an axis of it, which must be as long.
    """

    axis: int
    size: Size
    same_as: tuple[str, str, int] | None = None


@dataclass(frozen=True)
class Guard:
    """What one input of a graph must keep.

    Attributes:
        spec: The input, the batch left out.
        shown: What clients call it.
        span: Lowest and highest value; None for any.
        lengths: What the lengths of its axes must keep.
    """

    spec: TensorSpec
    shown: str
    span: tuple[float, float] | None = None
    lengths: tuple[Length, ...] = ()


def guards_of(
    inputs: Sequence[TensorSpec], clients: Mapping[str, str], ranges: Mapping[str, tuple[float, float]]
) -> list[Guard]:
    """Return what to check of the inputs that clients send: lengths are of their sizes, floats finite, all in range.

    Args:
        inputs: Of the component.
        clients: What clients call an input, by its name; without those that other components write.
        ranges: Lowest and highest value, by the input's name.
    """
    found: list[Guard] = []
    first: dict[str, tuple[str, str, int]] = {}
    for spec in inputs:
        if spec.name not in clients:
            continue
        lengths = []
        for axis, size in enumerate(spec.sizes, start=1):
            if size is not None:
                same = first.setdefault(size.name, (spec.name, clients[spec.name], axis))
                lengths.append(Length(axis, size, same if same != (spec.name, clients[spec.name], axis) else None))
        found.append(Guard(spec, clients[spec.name], ranges.get(spec.name), tuple(lengths)))
    return [guard for guard in found if guard.span is not None or guard.lengths or guard.spec.dtype in _FLOATS]


def write_guards(model: onnx.ModelProto, guards: Sequence[Guard]) -> None:
    """Put checks in front of what reads the inputs of a graph."""
    graph = model.graph
    inputs = {value.name: value for value in graph.input}
    nodes: list[onnx.NodeProto] = []
    for guard in guards:
        value = inputs[guard.spec.name]
        checked = f"guard/{guard.spec.name}/checked"
        for node in graph.node:
            node.input[:] = [checked if name == guard.spec.name else name for name in node.input]
        writer = _Writer(guard, rank=len(value.type.tensor_type.shape.dim))
        nodes += writer.written(checked)
        graph.initializer.extend(writer.constants)
        known = graph.value_info.add()
        known.CopyFrom(value)
        known.name = checked
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])


class _Writer:
    """Writes the nodes of one input's checks."""

    def __init__(self, guard: Guard, rank: int) -> None:
        self._guard, self._rank = guard, rank
        self._nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._numbers = itertools.count()

    def written(self, result: str) -> list[onnx.NodeProto]:
        """Return the nodes; the last one's output is the input, checked, under the name ``result``."""
        spec, shown = self._guard.spec, self._guard.shown
        kind = _KINDS.get(spec.dtype, "INT64")
        values = spec.name if kind == _SAME.get(spec.dtype) else self._cast(spec.name, kind)
        checks = [check for length in self._guard.lengths for check in self._length(length)]
        if spec.dtype in _FLOATS:
            checks.append((self._finite(values, kind), f"input '{shown}' holds NaN or infinite values"))
        if self._guard.span is not None:
            low, high = self._guard.span
            message = f"input '{shown}' holds values outside [{low:g}, {high:g}]"
            checks.append((self._within(values, kind, low, high), message))
        source = spec.name
        for held, message in checks[:-1]:
            source, before = self._name(), source
            self._require(held, message, before, source)
        self._require(*checks[-1], source, result)
        return self._nodes

    def _length(self, length: Length) -> Iterator[tuple[str, str]]:
        """Give what is held of an axis, and what is wrong where it is not."""
        size, shown = length.size, self._guard.shown
        found = self._long(self._guard.spec.name, length.axis)
        if size.bounded:
            above = self._node("GreaterOrEqual", found, self._constant("INT64", [], [size.min]))
            below = self._node("LessOrEqual", found, self._constant("INT64", [], [size.max]))
            bounds = f"outside of {size.min} to {size.max} of the size '{size.name}'"
            yield self._node("And", above, below), f"input '{shown}' has a length {bounds}"
        if size.multiple_of > 1:
            rest = self._node("Mod", found, self._constant("INT64", [], [size.multiple_of]))
            message = (
                f"input '{shown}' has a length that is no multiple of {size.multiple_of}, as '{size.name}' must be"
            )
            yield self._node("Equal", rest, self._constant("INT64", [], [0])), message
        if length.same_as is not None:
            name, other, axis = length.same_as
            message = f"inputs '{shown}' and '{other}' differ in length: both have the size '{size.name}'"
            yield self._node("Equal", found, self._long(name, axis)), message

    def _long(self, name: str, axis: int) -> str:
        place = self._constant("INT64", [], [axis])
        return self._node("Gather", self._node("Shape", name), place)

    def _finite(self, values: str, kind: str) -> str:
        """A value minus itself is 0, and NaN where it is NaN or infinite; so is the sum of these."""
        total = self._node("ReduceSum", self._node("Sub", values, values), keepdims=0)
        return self._node("Equal", total, self._constant(kind, [], [0]))

    def _within(self, values: str, kind: str, low: float, high: float) -> str:
        lowest, highest = (self._node(reduce, values, keepdims=0) for reduce in ("ReduceMin", "ReduceMax"))
        above = self._node("GreaterOrEqual", lowest, self._constant(kind, [], [_bound(low, kind)]))
        below = self._node("LessOrEqual", highest, self._constant(kind, [], [_bound(high, kind)]))
        return self._node("And", above, below)

    def _require(self, held: str, message: str, source: str, target: str) -> None:
        row = self._cast(self._node("Not", held), "INT64")
        unchanged = self._constant("INT64", [1, self._rank], [0] * self._rank)
        shape = self._node("Gather", unchanged, row, name=message)
        self._node("Reshape", source, shape, output=target)

    def _cast(self, source: str, kind: str) -> str:
        from onnx import TensorProto

        return self._node("Cast", source, to=TensorProto.DataType.Value(kind))

    def _name(self) -> str:
        return f"guard/{self._guard.spec.name}/{next(self._numbers)}"

    def _node(self, operation: str, *inputs: str, name: str = "", output: str = "", **attributes: int) -> str:
        from onnx import helper

        output = output or self._name()
        self._nodes.append(helper.make_node(operation, inputs, [output], name=name or output, **attributes))
        return output

    def _constant(self, kind: str, shape: list[int], values: list[float]) -> str:
        from onnx import TensorProto, helper

        name = self._name()
        self.constants.append(helper.make_tensor(name, TensorProto.DataType.Value(kind), shape, values))
        return name


def _bound(value: float, kind: str) -> float:
    """Return a bound in the type that is compared; what lies beyond integers is their end."""
    return value if kind in ("FLOAT", "DOUBLE") else max(-(2**63), min(2**63 - 1, int(value)))
