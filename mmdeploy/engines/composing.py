"""Several graphs as one: each tensor that one writes and another reads becomes an edge inside.

Numbers stay what they are: nodes and weights are taken over as they are written, under names that begin with the
component's. Weights that lie outside of a graph stay where they are until the whole is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmdeploy.core.errors import EngineError
from mmdeploy.engines.graph_files import INLINE_LIMIT_BYTES

if TYPE_CHECKING:
    import onnx_ir


@dataclass(frozen=True)
class Part:
    """One graph of the whole.

    Attributes:
        name: What the names of its nodes and weights will begin with.
        graph: Its ONNX file.
        inputs: Tensor of the whole by the graph's input.
        outputs: Tensor of the whole by the graph's output.
    """

    name: str
    graph: Path
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


def compose(parts: Sequence[Part], outputs: Sequence[str], path: Path, *, shared: bool = False) -> None:
    """Write one graph that does what several do.

    Args:
        parts: Each after those whose tensors it reads.
        outputs: Tensors that the whole gives, in their order.
        path: File to write.
        shared: Whether parts may have weights in common, which are written once then.

    Raises:
        EngineError: If the graphs are of different opsets, or one is no readable graph.
    """
    import onnx_ir
    from onnx_ir.passes.common import DeduplicateHashedInitializersPass

    models = [_read(part) for part in parts]
    whole = onnx_ir.Graph([], [], nodes=[], opset_imports=_opsets(parts, models), name="composed")
    tensors: dict[str, onnx_ir.Value] = {}
    for part, model in zip(parts, models, strict=True):
        _take(whole, part, model, tensors)
    whole.outputs.extend(tensors[name] for name in outputs)
    result = onnx_ir.Model(whole, ir_version=max(model.ir_version for model in models))
    for model in models:
        result.functions.update(model.functions)
    if shared:
        DeduplicateHashedInitializersPass(size_limit=2**62)(result)
    weights_bytes = sum(value.const_value.nbytes for value in whole.initializers.values() if value.const_value)
    outside = f"{path.name}.data" if weights_bytes >= INLINE_LIMIT_BYTES else None
    if outside is None:
        onnx_ir.external_data.load_to_model(result)
    onnx_ir.save(result, path, external_data=outside)


def _read(part: Part) -> onnx_ir.Model:
    import onnx_ir

    try:
        return onnx_ir.load(part.graph)
    except Exception as error:  # onnx_ir names no errors of its own; a broken file meets protobuf's, onnx's and its own
        raise EngineError(f"{part.name}: {part.graph.name} is not a readable ONNX graph: {error}") from error


def _opsets(parts: Sequence[Part], models: Sequence[onnx_ir.Model]) -> dict[str, int]:
    found: dict[str, tuple[int, str]] = {}
    for part, model in zip(parts, models, strict=True):
        for domain, version in model.opset_imports.items():
            before, whose = found.setdefault(domain, (version, part.name))
            if before != version:
                called = domain or "ai.onnx"
                raise EngineError(
                    f"{whose} is of opset {before} of {called}, {part.name} of {version}: one graph has one",
                    hint="export both with the same export.opset, or say layout: ensemble",
                )
    return {domain: version for domain, (version, _) in found.items()}


def _take(whole: onnx_ir.Graph, part: Part, model: onnx_ir.Model, tensors: dict[str, onnx_ir.Value]) -> None:
    """Move the nodes and weights of a graph into the whole; ``tensors`` knows and learns what its tensors are."""
    graph = model.graph
    read = [(value, part.inputs[str(value.name)]) for value in graph.inputs]
    written = [(value, part.outputs[str(value.name)]) for value in graph.outputs]
    graph.outputs.clear()
    graph.inputs.clear()
    for value in _inner(graph):
        value.name = f"{part.name}/{value.name}"
    nodes = list(graph)
    for node in graph.all_nodes():
        node.name = f"{part.name}/{node.name}" if node.name else None
    for value, tensor in read:
        if tensor in tensors:
            value.replace_all_uses_with(tensors[tensor])
        else:
            value.name = tensor
            tensors[tensor] = value
            whole.inputs.append(value)
    weights = list(graph.initializers.values())
    graph.initializers.clear()
    graph.remove(nodes)
    for weight in weights:
        whole.register_initializer(weight)
    whole.extend(nodes)
    known = {tensor: tensors[name] for value, tensor in written for other, name in read if value is other}
    for value, tensor in written:
        value = known.get(tensor, value)
        if value.producer() is None or any(value is other for other in tensors.values()):
            value = _copied(whole, value)
        value.name = tensor
        tensors[tensor] = value


def _inner(graph: onnx_ir.Graph) -> Iterator[onnx_ir.Value]:
    """Give every value of a graph that is none of its inputs, those of the graphs in its nodes included."""
    import onnx_ir

    yield from list(graph.initializers.values())
    for node in graph.all_nodes():
        yield from (value for value in node.outputs if value.name)
        for attribute in node.attributes.values():
            if attribute.type is onnx_ir.AttributeType.GRAPH:
                yield from (*attribute.as_graph().inputs, *list(attribute.as_graph().initializers.values()))


def _copied(whole: onnx_ir.Graph, value: onnx_ir.Value) -> onnx_ir.Value:
    """Return a copy of what has another name that must stay: of an input, a weight, or another output."""
    import onnx_ir

    node = onnx_ir.node("Identity", [value])
    whole.append(node)
    (copied,) = node.outputs
    copied.type, copied.shape = value.type, value.shape
    return copied
