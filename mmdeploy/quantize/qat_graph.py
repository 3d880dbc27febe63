"""From trained layers to the nodes of the exported graph: which node is which layer, and so which scales it has.

A node is known by its weight: the exporter may name it after the batch normalization that it folded in, may write
three projections of an attention as one product, and may drop equal weights. Module paths decide between layers
whose weights are equal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmdeploy.core.contracts import Array
from mmdeploy.core.errors import QuantizeError
from mmdeploy.quantize import graphs
from mmdeploy.quantize.graphs import channel_axis
from mmdeploy.quantize.selection import Selection

#: Weights differ by this much, relative to the largest, where the exporter folded a normalization that changes nothing.
_EQUAL = 1e-5


@dataclass(frozen=True)
class TrainedLayer:
    """A layer that was trained with fake quantizers.

    Attributes:
        name: Path of the layer.
        node_paths: Module paths that its node may be named after.
        weight: Trained weight in floating point, output channels on axis 0.
        weight_scale: One scale for each output channel [channels], or one [1].
        input_range: Values of the input that the smallest and the largest code stand for.
        output_range: The same of the output; None where the output is not rounded.
    """

    name: str
    node_paths: tuple[str, ...]
    weight: Array
    weight_scale: Array
    input_range: tuple[float, float]
    output_range: tuple[float, float] | None


@dataclass
class Matched:
    """What the trained layers say about a graph.

    Attributes:
        layers: Names of the layers of a node, by node.
        ranges: Smallest and largest value by tensor.
        weight_scales: Scales by node.
        widened: Tensors for which layers want different ranges, with the smallest upper end that one wants.
        untrained: Chosen nodes that no trained layer fits.
    """

    layers: dict[str, list[str]] = field(default_factory=dict)
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    weight_scales: dict[str, Array] = field(default_factory=dict)
    widened: dict[str, float] = field(default_factory=dict)
    untrained: list[str] = field(default_factory=list)


def match(model: Any, selection: Selection, layers: Sequence[TrainedLayer]) -> Matched:
    """Find the layer of each chosen node, and take over its scales.

    Weights that two nodes share but want with different scales are given to each of them in ``model``.

    Args:
        model: The float graph, its weights as initializers (see `fold_weights`).
        selection: Nodes to quantize.
        layers: In the order in which they are called; those of one packed parameter follow each other.
    """
    weights = {weight.name: weight for weight in model.graph.initializer}
    chosen = set(selection.nodes)
    candidates = [*_runs(layers)]
    matched = Matched()
    for node in model.graph.node:
        if node.name not in chosen:
            continue
        run = _layer_of(node, weights, candidates)
        if run is None:
            matched.untrained.append(node.name)
            continue
        matched.layers[node.name] = [layer.name for layer in run]
        matched.weight_scales[node.name] = _scale_of(run)
        for layer in run:
            _widen(matched, node.input[0], layer.input_range)
        for layer in run:
            if layer.output_range is not None and node.output[0] in selection.tensors:
                _widen(matched, node.output[0], layer.output_range)
    _give_each_its_weight(model, matched)
    return matched


def _runs(layers: Sequence[TrainedLayer]) -> Iterator[tuple[TrainedLayer, ...]]:
    """Yield each layer, and the neighbours of one attention that the exporter may have written as one product."""
    for start, first in enumerate(layers):
        yield (first,)
        for stop in range(start + 2, start + 4):
            run = tuple(layers[start:stop])
            same = all(layer.node_paths == first.node_paths and layer.weight.ndim == 2 for layer in run)
            if len(run) == stop - start and same and len({layer.weight.shape[1] for layer in run}) == 1:
                yield run


def _layer_of(
    node: Any, weights: Mapping[str, Any], candidates: Sequence[tuple[TrainedLayer, ...]]
) -> tuple[TrainedLayer, ...] | None:
    import numpy as np
    from onnx import numpy_helper

    if len(node.input) < 2 or node.input[1] not in weights:
        return None
    weight = np.moveaxis(numpy_helper.to_array(weights[node.input[1]]), channel_axis(node), 0)
    path = node.name.rpartition("/")[0]
    near = sorted(candidates, key=lambda run: path not in run[0].node_paths)
    return next((run for run in near if _same(weight, run)), None)


def _same(weight: Array, run: Sequence[TrainedLayer]) -> bool:
    import numpy as np

    rows = sum(layer.weight.shape[0] for layer in run)
    if weight.shape != (rows, *run[0].weight.shape[1:]):
        return False
    limit = _EQUAL * max(float(np.abs(weight).max(initial=0.0)), 1e-12)
    start = 0
    for layer in run:
        stop = start + layer.weight.shape[0]
        if float(np.abs(weight[start:stop] - layer.weight).max(initial=0.0)) > limit:
            return False
        start = stop
    return True


def _scale_of(run: Sequence[TrainedLayer]) -> Array:
    """Return the scales of a product: one where each layer has the same one, else one a channel."""
    import numpy as np

    if all(layer.weight_scale.size == 1 for layer in run):
        largest: Array = np.max([layer.weight_scale for layer in run], axis=0).reshape(())
        return largest
    return np.concatenate([np.broadcast_to(layer.weight_scale, layer.weight.shape[:1]) for layer in run])


def _widen(matched: Matched, tensor: str, wanted: tuple[float, float]) -> None:
    before = matched.ranges.get(tensor, wanted)
    if before != wanted:
        matched.widened[tensor] = min(before[1], wanted[1], matched.widened.get(tensor, wanted[1]))
    matched.ranges[tensor] = min(before[0], wanted[0]), max(before[1], wanted[1])


def _give_each_its_weight(model: Any, matched: Matched) -> None:
    import numpy as np

    weights = {weight.name: weight for weight in model.graph.initializer}
    owner: dict[str, str] = {}
    for node in model.graph.node:
        scale = matched.weight_scales.get(node.name)
        if scale is None:
            continue
        first = owner.setdefault(node.input[1], node.name)
        if not np.array_equal(matched.weight_scales[first], scale):
            copied = model.graph.initializer.add()
            copied.CopyFrom(weights[node.input[1]])
            copied.name = f"{node.input[1]}_of_{node.name}"
            node.input[1] = copied.name


def round_for_products_only(quantized: Any, selection: Selection) -> int:
    """Let whatever else reads the input of a product read it unrounded, in place, as in training.

    ONNX Runtime's quantizer hands the rounded tensor to every reader, so that a residual connection around a product
    whose input is not normalized (`nn.TransformerEncoderLayer` as it comes) is rounded too. Outputs that are rounded
    themselves, those of convolutions, stay rounded for all.

    Returns:
        The number of inputs that were changed.
    """
    graph, chosen = quantized.graph, set(selection.nodes)
    made = {name: node for node in graph.node for name in node.output}
    sources: dict[str, str] = {}
    for node in graph.node:
        before = made.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if before is None or before.op_type != "QuantizeLinear":
            continue
        producer = made.get(before.input[0])
        if producer is None or producer.name not in chosen or producer.op_type in selection.float_outputs:
            sources[node.output[0]] = before.input[0]
    changed = 0
    for node in graph.node:
        if node.name in chosen:
            continue
        for index, name in enumerate(node.input):
            if name in sources:
                node.input[index] = sources[name]
                changed += 1
    return changed


def fold_weights(model: Any) -> None:
    """Make initializers, in place, of weights that nodes compute from constants.

    The exporter leaves the packed projections of an attention whose queries and keys come from different tensors
    as a Split and a Transpose of one parameter.

    Raises:
        QuantizeError: When one of these nodes cannot be computed.
    """
    import onnx
    from onnx import numpy_helper
    from onnx.reference import ReferenceEvaluator

    graph = model.graph
    wanted = _computed_weights(model)
    if not wanted:
        return
    makers = _makers(graph.node, wanted)
    given = {name for node in makers for name in node.input}
    part = onnx.helper.make_graph(
        makers, "weights", [], [onnx.helper.make_empty_tensor_value_info(name) for name in wanted],
        initializer=[weight for weight in graph.initializer if weight.name in given],
    )  # fmt: skip
    try:
        values = ReferenceEvaluator(onnx.helper.make_model(part, opset_imports=model.opset_import)).run(wanted, {})
    except Exception as cause:
        raise QuantizeError(f"weights of the graph cannot be computed: {cause}") from cause
    for node in makers:
        for index, name in enumerate(node.output):
            node.output[index] = "" if name in wanted else name
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in zip(wanted, values, strict=True))
    _drop_unread(graph)


def _computed_weights(model: Any) -> list[str]:
    constants = graphs.constants(model) - {weight.name for weight in model.graph.initializer}
    weighted = (node for node in model.graph.node if node.op_type in ("MatMul", "Gemm", "Conv"))
    return list(dict.fromkeys(node.input[1] for node in weighted if node.input[1] in constants))


def _makers(nodes: Sequence[Any], wanted: Sequence[str]) -> list[Any]:
    """Return the nodes that the tensors are computed by, in order."""
    needed, found = set(wanted), []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            needed.update(node.input)
            found.append(node)
    return found[::-1]


def _drop_unread(graph: Any) -> None:
    """Remove nodes and weights that nothing reads, in place."""
    read = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if read.intersection(name for name in node.output if name):
            read.update(node.input, *(_outer_names(attribute.g) for attribute in node.attribute))
            kept.append(node)
    weights = [weight for weight in graph.initializer if weight.name in read]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept[::-1])
    graph.initializer.extend(weights)


def _outer_names(graph: Any) -> set[str]:
    """Return what the body of a control flow node reads, of its own and from outside."""
    names = {value.name for value in graph.output}
    for node in graph.node:
        names.update(node.input, *(_outer_names(attribute.g) for attribute in node.attribute))
    return names
