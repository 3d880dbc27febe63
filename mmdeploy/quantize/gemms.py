"""Gemm in the one form that quantizers and INT8 kernels get right: ``input @ weight + bias``, a number a channel.

ONNX Runtime's quantizer drops ``beta``, its kernels take a bias of exactly one number for each output channel, and
neither knows a bias that is computed. So factors go into the weights and the bias, a bias that is broadcast is written
out, and any other is added by a node of its own. The numbers are those of before, but for rounding.
"""

from __future__ import annotations

from typing import Any

from mmdeploy.core import graph_passes
from mmdeploy.core.contracts import Array


def write_plainly(model: Any) -> None:
    """Rewrite each Gemm whose weight is a constant, in place."""
    graph = model.graph
    constants = _Constants(graph)
    nodes: list[Any] = []
    for node in graph.node:
        nodes.append(node)
        if node.op_type == "Gemm" and node.input[1] in constants.known:
            nodes.extend(_plain(node, constants))
    if len(nodes) != len(graph.node):
        del graph.node[:]
        graph.node.extend(nodes)
    if constants.added:
        graph_passes.drop_unused(model)


def is_transposed(node: Any) -> bool:
    """Say whether a Gemm takes its input transposed."""
    return bool(_factor(node, "transA", 0))


def _plain(node: Any, constants: _Constants) -> list[Any]:
    """Rewrite a Gemm in place, and return the nodes that follow it."""
    from onnx import helper

    alpha, beta = _factor(node, "alpha", 1.0), _factor(node, "beta", 1.0)
    kept = [attribute for attribute in node.attribute if attribute.name not in ("alpha", "beta")]
    del node.attribute[:]
    node.attribute.extend(kept)
    node.input[1] = constants.scaled(node.input[1], alpha)
    if len(node.input) < 3 or not node.input[2]:
        return []
    channels = constants.known[node.input[1]].dims[0 if _factor(node, "transB", 0) else 1]
    if (bias := constants.channelwise(node.input[2], beta, channels)) is not None:
        node.input[2] = bias
        return []
    added, output, product = node.input[2], node.output[0], f"{node.output[0]}_product"
    del node.input[2]
    node.output[0] = product
    following = []
    if beta != 1:
        inputs = [added, constants.number(beta, added)]
        following.append(helper.make_node("Mul", inputs, [f"{output}_bias"], f"{node.name}/beta"))
        added = f"{output}_bias"
    return [*following, helper.make_node("Add", [product, added], [output], f"{node.name}/bias")]


def _factor(node: Any, name: str, default: float) -> float:
    from onnx import helper

    return next((helper.get_attribute_value(one) for one in node.attribute if one.name == name), default)


class _Constants:
    """The constants of a graph; new ones are added under names of their own."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph
        self.added = False
        self.known: dict[str, Any] = {weight.name: weight for weight in graph.initializer}

    def scaled(self, name: str, factor: float) -> str:
        """Return the name of a constant times a factor."""
        values = self._values(name)
        return name if factor == 1 else self._add(f"{name}_times_{factor:g}", values * values.dtype.type(factor))

    def channelwise(self, name: str, factor: float, channels: int) -> str | None:
        """Return the name of a constant times a factor with one number a channel; None where it is no such thing."""
        import numpy as np

        if name not in self.known:
            return None
        values = self._values(name)
        if values.size not in (1, channels) or (values.size > 1 and values.shape[-1] != channels):
            return None
        if factor == 1 and values.shape == (channels,):
            return name
        whole = np.broadcast_to(values.reshape(-1), (channels,)) * values.dtype.type(factor)
        return self._add(f"{name}_times_{factor:g}_for_{channels}", whole)

    def number(self, factor: float, like: str) -> str:
        """Return the name of a factor as a constant."""
        import numpy as np

        return self._add(f"{like}_beta_{factor:g}", np.array(factor, np.float32))

    def _values(self, name: str) -> Array:
        from onnx import numpy_helper

        values: Array = numpy_helper.to_array(self.known[name])
        return values

    def _add(self, name: str, values: Array) -> str:
        from onnx import numpy_helper

        if name not in self.known:
            self._graph.initializer.append(numpy_helper.from_array(values, name))
            self.known[name] = self._graph.initializer[-1]
            self.added = True
        return name
