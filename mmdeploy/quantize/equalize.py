"""SmoothQuant: move what makes activations hard to quantize into the weights, in the float graph, exactly.

A transformer's normalized activations have a few channels that are a hundred times as large as the rest; one scale
for the whole tensor leaves the rest few codes. Each channel j of such an activation X is divided by s_j, and row j of
the weights W that multiply it is multiplied by it: s_j = max|X_j|^alpha / max|W_j|^(1 - alpha), one s for all weights
that read X (Xiao et al., "SmoothQuant", ICML 2023, equation 4). The division goes into the producer of X: gamma and
beta of a normalization, or the weights of a linear layer, through a ReLU. Where a normalization's output is read by
others too, such as the residual of a post-norm block, the linear layers get X times 1/s: one multiplication more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mmdeploy.core import graph_passes
from mmdeploy.core.contracts import Array
from mmdeploy.quantize import graphs

_NORMS = ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
_SMALLEST = 1e-5  # of a scale, as in the authors' code


@dataclass(frozen=True)
class Edit:
    """A constant to divide or multiply by the scales: input ``index`` of ``node``, channels along ``axis``."""

    node: Any
    index: int
    axis: int
    divide: bool


@dataclass(frozen=True)
class Group:
    """An activation, the linear layers that read it, and how it is divided.

    Attributes:
        tensor: The activation; its channels are the last axis.
        producer: The node that gives it.
        nodes: The linear layers.
        readers: The nodes that read the activation and lead to those layers alone.
        edits: What to divide in the producer; None where the linear layers get a product of their own.
    """

    tensor: str
    producer: Any
    nodes: tuple[Any, ...]
    readers: tuple[Any, ...]
    edits: tuple[Edit, ...] | None


@dataclass(frozen=True)
class Equalized:
    """What was done to one group.

    Attributes:
        producer: Node whose output was divided by the scales.
        nodes: Linear layers that read it, and whose weights were multiplied.
        how: Whether the scales were folded into the producer's constants, or a Mul was put behind it.
        scales: The smallest and the largest.
    """

    producer: str
    nodes: tuple[str, ...]
    how: Literal["folded", "multiplied"]
    scales: tuple[float, float]


@dataclass(frozen=True)
class Equalization:
    """What a quantize step says of it in its metadata."""

    equalized: tuple[Equalized, ...]


def find(model: Any, chosen: Iterable[str]) -> list[Group]:
    """Return the activations that can be equalized and are read by a quantized linear layer."""
    return _Search(model, set(chosen)).groups()


def normalized(groups: Iterable[Group]) -> bool:
    """Say whether any of the activations is the output of a normalization, written as one operator or as several."""
    return any(group.producer.op_type in (*_NORMS, "Add", "Mul") for group in groups)


def apply(model: Any, groups: Iterable[Group], maxima: Mapping[str, Array], alpha: float) -> list[Equalized]:
    """Equalize in place.

    Args:
        model: The float graph that the groups were found in.
        groups: Of `find`.
        maxima: Largest magnitude of each channel by tensor [channels].
        alpha: How much of the difficulty goes to the weights, between 0 and 1.

    Returns:
        What was done.
    """
    import numpy as np

    constants = _Constants(model.graph)
    done = []
    for group in groups:
        weights = [np.abs(constants.value(node, 1)).max(axis=graphs.channel_axis(node)) for node in group.nodes]
        scale = _scales(maxima[group.tensor], np.max(weights, axis=0), alpha)
        for node in group.nodes:
            constants.scale(Edit(node, 1, 1 - graphs.channel_axis(node), divide=False), scale)
        if group.edits is None:
            _multiply(model, group, 1 / scale)
        for edit in group.edits or ():
            constants.scale(edit, scale)
        done.append(
            Equalized(
                producer=group.producer.name,
                nodes=tuple(node.name for node in group.nodes),
                how="multiplied" if group.edits is None else "folded",
                scales=(float(scale.min()), float(scale.max())),
            )
        )
    graph_passes.drop_unused(model)
    return done


def _scales(activations: Array, weights: Array, alpha: float) -> Array:
    """Return s by channel; 1 where a channel or its weights are always zero."""
    import numpy as np

    dead = (activations == 0) | (weights == 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.maximum(activations**alpha / weights ** (1 - alpha), _SMALLEST)
    return np.where(dead, 1, scale).astype(np.float32)


class _Search:
    """Looks for groups in one graph."""

    def __init__(self, model: Any, chosen: set[str]) -> None:
        graph = model.graph
        self._nodes = graph.node
        self._chosen = chosen
        self._shapes = {weight.name: tuple(weight.dims) for weight in graph.initializer}
        self._readers = graphs.readers(graph)
        self._producers = {name: node for node in graph.node for name in node.output}

    def groups(self) -> list[Group]:
        found = []
        for node in self._nodes:
            group = self._group(node) if node.output and not self._is_carrier(node) else None
            if group is not None and any(reader.name in self._chosen for reader in group.nodes):
                found.append(group)
        return found

    def _group(self, node: Any) -> Group | None:
        tensor = node.output[0]
        branches = [(reader, self._linears(reader, tensor)) for reader in self._readers.get(tensor, ())]
        nodes = tuple(linear for _, branch in branches if branch for linear in branch)
        readers = tuple(reader for reader, branch in branches if branch)
        sizes = {self._channels(linear) for linear in nodes}
        edits = self._edits(node, sizes.pop()) if len(sizes) == 1 else None
        if edits is None:
            return None
        if len(readers) == len(branches):
            return Group(tensor, node, nodes, readers, tuple(edits))
        return Group(tensor, node, nodes, readers, None) if node.op_type in _NORMS else None

    def _linears(self, reader: Any, tensor: str) -> list[Any] | None:
        """Return the linear layers that a reader of a tensor leads to; None when anything else takes part."""
        if reader is None:
            return None
        if self._is_linear(reader) and reader.input[0] == tensor and list(reader.input).count(tensor) == 1:
            return [reader]
        if not self._is_carrier(reader):
            return None
        carried = reader.output[0]
        branches = [self._linears(following, carried) for following in self._readers.get(carried, ())]
        whole = [branch for branch in branches if branch]
        return [linear for branch in whole for linear in branch] if whole and len(whole) == len(branches) else None

    def _is_linear(self, node: Any) -> bool:
        if node.op_type not in ("MatMul", "Gemm") or len(self._shapes.get(node.input[1], ())) != 2:
            return False
        return not any(attribute.name == "transA" and attribute.i for attribute in node.attribute)

    def _is_carrier(self, node: Any) -> bool:
        """Say whether a node leaves the channels where they are."""
        if node.op_type == "Identity":
            return True
        order = next((list(attribute.ints) for attribute in node.attribute if attribute.name == "perm"), [])
        return node.op_type == "Transpose" and bool(order) and order[-1] == len(order) - 1

    def _channels(self, linear: Any) -> int:
        return int(self._shapes[linear.input[1]][1 - graphs.channel_axis(linear)])

    def _edits(self, node: Any, channels: int) -> list[Edit] | None:
        """Return what divides a node's output by scales; None where nothing does exactly."""
        constants = [index for index, name in enumerate(node.input) if name in self._shapes]
        fits = [index for index in constants if self._shapes[node.input[index]][-1:] == (channels,)]
        if node.op_type in _NORMS:
            parameters = [index for index, name in enumerate(node.input) if index and name]
            return [Edit(node, index, -1, divide=True) for index in parameters] if parameters == fits else None
        if node.op_type == "Mul" and len(constants) == len(fits) == 1:
            return [Edit(node, fits[0], -1, divide=True)]
        if node.op_type == "Add" and len(constants) == len(fits) == 1:
            before = self._before(node.input[1 - fits[0]], channels)
            return None if before is None else [*before, Edit(node, fits[0], -1, divide=True)]
        if node.op_type == "Relu":
            return self._before(node.input[0], channels)
        if self._is_linear(node):
            bias = [Edit(node, 2, -1, divide=True)] if len(node.input) == 3 else []
            return [Edit(node, 1, graphs.channel_axis(node), divide=True), *bias] if not bias or 2 in fits else None
        return None

    def _before(self, tensor: str, channels: int) -> list[Edit] | None:
        """Return the edits of a tensor that one node only reads."""
        producer = self._producers.get(tensor)
        if producer is None or len(self._readers[tensor]) != 1:
            return None
        return self._edits(producer, channels)


class _Constants:
    """The constants of a graph; one that several nodes read is copied before it is changed."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}

    def value(self, node: Any, index: int) -> Array:
        from onnx import numpy_helper

        array: Array = numpy_helper.to_array(self._tensors[node.input[index]])
        return array

    def scale(self, edit: Edit, scale: Array) -> None:
        import numpy as np
        from onnx import numpy_helper

        before = self.value(edit.node, edit.index)
        shape = [1] * before.ndim
        shape[edit.axis] = scale.size
        factors = scale.reshape(shape)
        after = (before / factors if edit.divide else before * factors).astype(before.dtype)
        name = f"{edit.node.input[edit.index]}_equalized"
        while name in self._tensors:
            name += "_"
        tensor = numpy_helper.from_array(np.ascontiguousarray(after), name)
        self._graph.initializer.append(tensor)
        self._tensors[name] = self._graph.initializer[-1]
        edit.node.input[edit.index] = name


def _multiply(model: Any, group: Group, factors: Array) -> None:
    """Give the linear layers of a group, and no others, the tensor times factors."""
    from onnx import helper, numpy_helper

    graph = model.graph
    name = f"{group.tensor}_equalized"
    graph.initializer.append(numpy_helper.from_array(factors.astype("float32"), f"{name}_factors"))
    product = helper.make_node("Mul", [group.tensor, f"{name}_factors"], [name], f"{group.producer.name}/equalize")
    for reader in group.readers:
        reader.input[list(reader.input).index(group.tensor)] = name
    known = next(value for value in (*graph.value_info, *graph.input) if value.name == group.tensor)
    graph.value_info.append(known)
    graph.value_info[-1].name = name
    position = next(index for index, node in enumerate(graph.node) if node.name == group.producer.name)
    graph.node.insert(position + 1, product)
