"""How much of a graph is in INT8: layers with weights, and the numbers in their weights.

Read off the graph that was written, whatever wrote it: a layer is in INT8 where its weight is and, but for a table that
is only looked up, its input too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

#: Name in the metadata of a quantize step.
COVERAGE = "coverage"
#: Operators with weights, and which of their inputs those are.
_WEIGHTS = {
    "Conv": (1,), "ConvTranspose": (1,), "MatMul": (0, 1), "Gemm": (0, 1), "Gather": (0,), "Einsum": (0, 1),
    "LSTM": (1, 2), "GRU": (1, 2), "RNN": (1, 2), "MatMulInteger": (0, 1), "ConvInteger": (1,),
}  # fmt: skip
_INTEGER = ("MatMulInteger", "ConvInteger")
#: Nodes through which a constant keeps its numbers.
_CARRIERS = ("DequantizeLinear", "Transpose", "Reshape", "Identity", "Cast", "Squeeze", "Unsqueeze", "Slice", "Concat")
_FLOATS, _BYTES = (1, 10, 11, 16), (2, 3)  # TensorProto: FLOAT, FLOAT16, DOUBLE, BFLOAT16; UINT8, INT8
_MOST_NAMES = 50
#: Looked-up constants smaller than this are no embedding table.
_FEWEST_NUMBERS = 256


@dataclass(frozen=True)
class Coverage:
    """What of a graph is in INT8.

    Attributes:
        layers: Layers with weights.
        int8_layers: Those of them in INT8.
        weights: Numbers in floating-point and INT8 constants; scales excepted.
        int8_weights: Those of them in INT8.
        float_layers: Operators of the layers in floating point, by name; the first fifty.
    """

    layers: int
    int8_layers: int
    weights: int
    int8_weights: int
    float_layers: Mapping[str, str]


def measure(model: Any) -> Coverage:
    """Return what of a quantized graph is in INT8."""
    graph = _Graph(model)
    found = {node.name or node.output[0]: (node.op_type, graph.is_int8(node)) for node in graph.layers()}
    numbers = dict(graph.numbers())
    return Coverage(
        layers=len(found),
        int8_layers=sum(int8 for _, int8 in found.values()),
        weights=sum(size for size, _ in numbers.values()),
        int8_weights=sum(size for size, int8 in numbers.values() if int8),
        float_layers=dict([(name, operator) for name, (operator, int8) in found.items() if not int8][:_MOST_NAMES]),
    )


class _Graph:
    """A graph that is asked where the weights of its layers are."""

    def __init__(self, model: Any) -> None:
        self._nodes = model.graph.node
        self._constants = {weight.name: weight for weight in model.graph.initializer}
        self._made = {name: node for node in self._nodes for name in node.output}

    def layers(self) -> Iterator[Any]:
        for node in self._nodes:
            if node.op_type in _WEIGHTS and self._weights(node):
                small = math.prod(self._weights(node)[0].dims) < _FEWEST_NUMBERS
                if not (node.op_type == "Gather" and (small or self._is_scale(node))):
                    yield node

    def is_int8(self, node: Any) -> bool:
        if not all(weight.data_type in _BYTES for weight in self._weights(node)):
            return False
        if node.op_type == "Gather" or node.op_type in _INTEGER:
            return True
        data = [name for name in node.input[:2] if self._source(name) is None]
        return all(name in self._made and self._made[name].op_type == "DequantizeLinear" for name in data)

    def numbers(self) -> Iterator[tuple[str, tuple[int, bool]]]:
        """Give the size of each constant that is a weight or a bias, and whether it is INT8."""
        quantizing = {
            name
            for node in self._nodes
            for name in (node.input[1:] if node.op_type in ("QuantizeLinear", "DequantizeLinear") else ())
        }
        scales = {node.input[0] for node in self._nodes if node.op_type == "Gather" and self._is_scale(node)}
        for name, weight in self._constants.items():
            if name not in quantizing | scales and weight.dims and weight.data_type in (*_FLOATS, *_BYTES):
                yield name, (math.prod(weight.dims), weight.data_type in _BYTES)

    def _weights(self, node: Any) -> list[Any]:
        sources = (self._source(node.input[index]) for index in _WEIGHTS[node.op_type] if index < len(node.input))
        return [one for one in sources if one is not None and one.dims]

    def _source(self, name: str) -> Any:
        """Return the constant that a tensor holds the numbers of; None where it is computed."""
        while name not in self._constants:
            node = self._made.get(name)
            if node is None or node.op_type not in _CARRIERS:
                return None
            name = node.input[0]
        weight = self._constants[name]
        return weight if weight.data_type in (*_FLOATS, *_BYTES) else None

    def _is_scale(self, node: Any) -> bool:
        """Say whether what is looked up are the scales of a table in INT8, one a row."""
        weight = self._source(node.input[0])
        return weight is not None and len(weight.dims) == 2 and weight.dims[1] == 1
