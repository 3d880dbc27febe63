"""Weights rounded so that each makes up for what rounding the others has done to a layer's answers (GPTQ).

What it does to the numbers: to the nearest code each weight is as near as it can be; what the layer answers is not,
where its inputs go together, as those of a trained network do. Here weights are rounded one input after another, and
the error of each is taken off those that are still to come, in the measure in which their inputs are alike on
calibration data. Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers",
ICLR 2023, after Hassibi and Stork's optimal brain surgeon (1992); inputs are taken in falling order of their power.

It costs nothing where the model is served: scales, codes and operators are the same. It takes memory for a matrix of
inputs by inputs a layer, at most `_HELD_BYTES` of them at a time, and a pass over the samples for each such group.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from mmdeploy.core import graph_passes
from mmdeploy.core.contracts import Array, Progress, no_progress
from mmdeploy.quantize import graphs
from mmdeploy.quantize.ranges import Feeds, watching
from mmdeploy.quantize.selection import Selection
from mmdeploy.quantize.set_aside import SetAside
from mmdeploy.quantize.weight_codes import natural_scales

#: Matrices of inputs by inputs that are held at a time.
_HELD_BYTES = 512 * 2**20
#: Share of the mean power of the inputs that is added to each: inputs that never differ have no inverse without it.
_DAMPING = 0.01
#: Inputs that are rounded before the weights of all later ones are corrected at once.
_BLOCK = 64


@dataclass(frozen=True)
class Rounded:
    """Weights as codes.

    Attributes:
        codes: INT8 by name of a weight, in the shape that the graph has it in.
        scales: Of each, in a shape that goes with it: one for each output channel, [1, channels] or [channels, 1], or
            one alone, [].
    """

    codes: Mapping[str, Array] = field(default_factory=dict)
    scales: Mapping[str, Array] = field(default_factory=dict)

    def values(self, name: str) -> Array:
        """Return a weight as FP32, in the shape that the graph has it in."""
        import numpy as np

        return self.codes[name].astype(np.float32) * self.scales[name]

    def flat_scales(self, names: Collection[str]) -> dict[str, Array]:
        """Return the scales of some weights, one for each output channel [channels], or one []."""
        return {name: one.reshape(-1) if one.ndim else one for name, one in self.scales.items() if name in names}


@dataclass(frozen=True)
class _Layer:
    """A weight, and what it is multiplied with.

    Attributes:
        weight: Its name.
        axis: Its axis that counts output channels.
        inputs: Its length along the other.
        tensors: What it is multiplied with: more than one where several nodes share it.
    """

    weight: str
    axis: int
    inputs: int
    tensors: tuple[str, ...]


def rounded(
    model: SetAside,
    selection: Selection,
    feeds: Feeds,
    *,
    per_channel: bool,
    threads: int,
    progress: Progress = no_progress,
) -> Rounded:
    """Round the weights of linear layers; those of convolutions, and what else reads a weight, stay as they are.

    Args:
        model: The float graph.
        selection: Nodes to quantize.
        feeds: Gives batches of samples; called once for each group of layers.
        per_channel: Whether a weight has a scale for each output channel, or one.
        threads: Threads for ONNX Runtime.
        progress: Where to report.
    """
    import numpy as np
    from onnx import numpy_helper

    layers = _layers(model, selection)
    codes: dict[str, Array] = {}
    scales: dict[str, Array] = {}
    whole = {weight.name: weight for weight in model.whole().graph.initializer} if layers else {}
    for group in _groups(layers):
        powers = _powers(model, group, feeds, threads)
        for layer in group:
            values = numpy_helper.to_array(whole.pop(layer.weight))
            power = np.sum([powers[tensor] for tensor in layer.tensors], axis=0)
            codes[layer.weight], scales[layer.weight] = _rounded(values, layer.axis, power, per_channel=per_channel)
            progress(len(codes), len(layers), "layers whose weights are rounded")
    return Rounded(codes, scales)


def _layers(model: SetAside, selection: Selection) -> list[_Layer]:
    """Return the linear layers whose weight nothing else reads."""
    chosen = set(selection.nodes)
    matrices = {one.name: tuple(one.dims) for one in model.graph.initializer if len(one.dims) == 2}
    found: dict[str, _Layer] = {}
    graph, *bodies = graph_passes.with_bodies(model.graph)
    others = {name for body in bodies for node in body.node for name in node.input}
    others.update(output.name for one in (graph, *bodies) for output in one.output)
    for node in graph.node:
        linear = node.name in chosen and node.op_type in ("MatMul", "Gemm")
        others.update(name for index, name in enumerate(node.input) if not (linear and index == 1))
        if not linear or node.input[1] not in matrices:
            continue
        name, axis = node.input[1], graphs.channel_axis(node)
        before = found.get(name, _Layer(name, axis, matrices[name][1 - axis], ()))
        if before.axis != axis:  # multiplied with as it is, and turned
            others.add(name)
        found[name] = _Layer(name, axis, before.inputs, tuple(dict.fromkeys((*before.tensors, node.input[0]))))
    return [layer for name, layer in found.items() if name not in others and 0 not in matrices[name]]


def _groups(layers: Sequence[_Layer]) -> Iterator[list[_Layer]]:
    """Give layers, as many at a time as may be held."""
    group: list[_Layer] = []
    held: dict[str, int] = {}
    for layer in layers:
        more = dict.fromkeys(layer.tensors, 4 * layer.inputs**2)
        if group and sum((held | more).values()) > _HELD_BYTES:
            yield group
            group, held = [], {}
        group.append(layer)
        held |= more
    if group:
        yield group


def _powers(model: SetAside, group: Sequence[_Layer], feeds: Feeds, threads: int) -> dict[str, Array]:
    """Return, by tensor, the sum over its rows of their products with themselves [inputs, inputs]."""
    import numpy as np

    sizes = {tensor: layer.inputs for layer in group for tensor in layer.tensors}
    found = {tensor: np.zeros((size, size), np.float32) for tensor, size in sizes.items()}
    with watching(model, list(sizes), threads) as watch:
        for feed in feeds():
            for name, array in watch(feed):
                rows = array.reshape(-1, sizes[name])
                found[name] += rows.T @ rows
    return found


def _rounded(values: Array, axis: int, power: Array, *, per_channel: bool) -> tuple[Array, Array]:
    """Return the codes of a weight, in its shape, and its scales, in a shape that goes with it."""
    import numpy as np

    matrix = values if axis else values.T  # [inputs, outputs]
    scales = natural_scales(np.abs(matrix).max(axis=0) if per_channel else np.abs(matrix).max())
    order = np.argsort(-np.diag(power), kind="stable")
    codes = np.empty(matrix.shape, np.int8)
    codes[order] = _in_order(matrix[order], power[np.ix_(order, order)], scales)
    shape: tuple[int, ...] = ((1, -1) if axis else (-1, 1)) if per_channel else ()
    return np.ascontiguousarray(codes if axis else codes.T), scales.reshape(shape)


def _in_order(matrix: Array, power: Array, scales: Array) -> Array:
    """Round the rows of a matrix one after the other, each on what the errors of those before have left.

    Args:
        matrix: Weights [inputs, outputs].
        power: Of the inputs [inputs, inputs].
        scales: Of the outputs [outputs], or one [1].

    Returns:
        Codes [inputs, outputs].
    """
    import numpy as np

    later, left = _shares(power), matrix.astype(np.float32)
    codes = np.empty(left.shape, np.int8)
    for start in range(0, len(left), _BLOCK):
        stop = min(start + _BLOCK, len(left))
        errors = np.empty((stop - start, left.shape[1]), np.float32)
        for row in range(start, stop):
            given = np.clip(np.rint(left[row] / scales), -127, 127)
            codes[row] = given
            errors[row - start] = (left[row] - given * scales) / later[row, row]
            within = later[row, row + 1 : stop]
            left[row + 1 : stop] -= within[:, None] * errors[row - start]
        left[stop:] -= later[start:stop, stop:].T @ errors
    return codes


def _shares(power: Array) -> Array:
    """Return the upper triangular factor U of the inverse of the damped power, which is U.T @ U [inputs, inputs]."""
    import numpy as np
    from scipy.linalg import cholesky, solve_triangular

    damped = power.astype(np.float64)
    mean = float(np.diag(damped).mean())
    damped[np.diag_indices_from(damped)] += _DAMPING * mean if mean > 0 else 1.0
    # with rows and columns turned round, a lower factor of the power is an upper one, and its inverse is wanted
    upper = cholesky(damped[::-1, ::-1], lower=True, overwrite_a=True, check_finite=False)[::-1, ::-1]
    inverse: Array = solve_triangular(upper, np.eye(len(upper)), lower=False, overwrite_b=True, check_finite=False)
    return np.asarray(inverse, np.float32)
