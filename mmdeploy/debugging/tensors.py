"""An ONNX graph as a net of tensors: what depends on what, every tensor as an output, pieces cut out."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from mmdeploy.core import graph_passes
from mmdeploy.core.artifact import Array

#: Name of what a node gives where its tensor is an input of the graph: see `TensorGraph.fed`.
OWN = "/own"


class TensorGraph:
    """An ``onnx.ModelProto``, its nodes in order, looked up by tensor."""

    def __init__(self, model: Any) -> None:
        """Put the nodes of a model in order, in place."""
        graph_passes.sort_nodes(model)
        self.model = model
        graph = model.graph
        self.constants = {weight.name for weight in graph.initializer}
        self.inputs = [value.name for value in graph.input if value.name not in self.constants]
        self.outputs = [value.name for value in graph.output]
        self._producers: dict[str, Any] = {}
        for node in graph.node:
            names = set(reads(node))
            self._producers |= {name: node for name in node.output if name}
            if names <= self.constants and names:
                self.constants.update(node.output)
        self.computed = [name for name in self._producers if name not in self.constants]

    def node(self, tensor: str) -> Any:
        """Return the node that gives a tensor; None for an input or a weight."""
        return self._producers.get(tensor)

    def before(self, tensor: str, stops: Collection[str]) -> list[str]:
        """Return the nearest tensors upstream at which to stop: of ``stops``, or inputs of the graph."""
        found: dict[str, None] = {}
        seen: set[str] = set()
        waiting = list(reads(self._producers[tensor])) if tensor in self._producers else []
        while waiting:
            name = waiting.pop(0)
            if name in seen or not name:
                continue
            seen.add(name)
            if name in stops or name in self.inputs:
                found[name] = None
            elif name in self._producers:
                waiting.extend(reads(self._producers[name]))
        return list(found)

    def upstream(self, tensor: str, stops: Collection[str]) -> set[str]:
        """Return every tensor of ``stops`` that a tensor depends on, itself among them."""
        found, waiting = {tensor}, [tensor]
        while waiting:
            for name in self.before(waiting.pop(), stops):
                if name not in found and name not in self.inputs:
                    found.add(name)
                    waiting.append(name)
        return found

    def watched(self, tensors: Sequence[str]) -> Any:
        """Return the model with these tensors as its only outputs."""
        from onnx import helper

        model = self._copied()
        del model.graph.output[:]
        model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in tensors)
        graph_passes.drop_unused(model)
        return model

    def fed(self, given: Mapping[str, Array], tensors: Sequence[str]) -> Any:
        """Return the model in which readers of a tensor get what is fed for it, and what its node made is an output.

        So the error of each node is seen alone, with inputs that have none.

        Args:
            given: An example of what is fed, by tensor.
            tensors: The outputs; one that is fed is put out as its node gives it, under its name and `OWN`.
        """
        from onnx import helper

        model = self._copied()
        graph = model.graph
        for node in graph.node:
            for index, name in enumerate(node.output):
                node.output[index] = f"{name}{OWN}" if name in given else name
        known = set(self.inputs)
        for name, array in given.items():
            if name not in known:
                shape = [f"{name}_{axis}" for axis in range(array.ndim)]
                dtype = helper.np_dtype_to_tensor_dtype(array.dtype)
                graph.input.append(helper.make_tensor_value_info(name, dtype, shape))
        for value in [value for value in graph.value_info if value.name in given]:
            graph.value_info.remove(value)
        del graph.output[:]
        names = [f"{name}{OWN}" if name in given else name for name in tensors]
        graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
        return model

    def cut_out(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> Any:
        """Return the piece between some tensors as a model of its own, with the weights that it needs.

        Args:
            inputs: An example of each tensor at which the piece starts; axes that the graph knows as dynamic stay so.
            outputs: Tensors at which it ends.
        """
        import onnx_ir

        whole = onnx_ir.from_proto(self._with_shapes())
        values = onnx_ir.convenience.create_value_mapping(whole.graph)
        for name, array in inputs.items():
            value = values[name]
            value.type = onnx_ir.TensorType(onnx_ir.DataType.from_numpy(array.dtype))
            known = list(value.shape) if value.shape is not None and len(value.shape) == array.ndim else array.shape
            value.shape = onnx_ir.Shape(_size(*pair) for pair in zip(known, array.shape, strict=True))
        piece = onnx_ir.convenience.extract(whole.graph, list(inputs), list(outputs))
        model = onnx_ir.to_proto(onnx_ir.Model(piece, ir_version=whole.ir_version))
        graph_passes.sort_nodes(model)
        return model

    def _with_shapes(self) -> Any:
        import onnx

        try:
            return onnx.shape_inference.infer_shapes(self.model, data_prop=True)
        except (onnx.shape_inference.InferenceError, ValueError):  # larger than protobuf takes, or odd: do without
            return self.model

    def _copied(self) -> Any:
        import onnx

        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        return model


def reads(node: Any) -> Iterator[str]:
    """Yield every tensor that a node reads, in the bodies of control flow too."""
    yield from node.input
    for body in graph_passes.bodies(node):
        made = {value.name for value in (*body.input, *body.initializer)}
        made.update(name for inner in body.node for name in inner.output)
        yield from (name for inner in body.node for name in reads(inner) if name not in made)
        yield from (value.name for value in body.output if value.name not in made)


def _size(known: Any, here: int) -> Any:
    """Return the size to declare: as the graph knows it, where that fits what was seen."""
    return known if not isinstance(known, int) else here
