"""Which layers are trained with fake quantizers: the recipe's scheme, before there is a graph.

A scheme speaks of ONNX nodes; a layer is taken if one of the names and operators that its node may have is. What the
exporter really wrote is seen by `qat_graph`, where the same scheme chooses among the nodes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmdeploy.core import globs
from mmdeploy.core.errors import QuantizeError
from mmdeploy.quantize.qat_layers import Layer, Prepared
from mmdeploy.quantize.scheme import Scheme

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Chosen:
    """The layers that are trained with fake quantizers.

    Attributes:
        layers: Those taken.
        modules: Their modules, in the same order.
        excluded: Why a layer stays float, by its name.
        shared: Groups of layers (indices) that read one tensor.
        packed: Groups of layers (indices) whose weights are rows of one parameter, and may become one product.
    """

    layers: tuple[Layer, ...]
    modules: tuple[nn.Module, ...]
    excluded: Mapping[str, str]
    shared: tuple[tuple[int, ...], ...]
    packed: tuple[tuple[int, ...], ...]


def choose(prepared: Prepared, scheme: Scheme, component: str) -> Chosen:
    """Apply a scheme to the layers of a module.

    Raises:
        QuantizeError: When a glob can match nothing, or nothing is left to quantize.
    """
    _check_globs(prepared, scheme.exclude)
    reasons = [_reason(layer, scheme) for layer in prepared.layers]
    kept = [index for index, reason in enumerate(reasons) if reason is None]
    excluded = {layer.name: reason for layer, reason in zip(prepared.layers, reasons, strict=True) if reason}
    if not kept:
        raise QuantizeError(_nothing_left(component, excluded), hint=_TRAINABLE)
    place = {index: position for position, index in enumerate(kept)}
    shared = (tuple(place[index] for index in group if index in place) for group in prepared.shared)
    layers = tuple(prepared.layers[index] for index in kept)
    packed: dict[str, list[int]] = {}
    for position, layer in enumerate(layers):
        if layer.rows is not None:
            packed.setdefault(layer.parameter, []).append(position)
    return Chosen(
        layers=layers,
        modules=tuple(prepared.module.get_submodule(prepared.layers[index].name) for index in kept),
        excluded=excluded,
        shared=tuple(group for group in shared if len(group) > 1),
        packed=tuple(tuple(group) for group in packed.values()),
    )


_TRAINABLE = (
    "trained are nn.Linear, nn.Conv1d to nn.Conv3d and nn.MultiheadAttention that are called as modules; use "
    "quantize: {method: static} for a component without them, or leave quantize out"
)


def _reason(layer: Layer, scheme: Scheme) -> str | None:
    operators = {operator.partition("_")[0] for operator in layer.operators}
    wanted = set(scheme.op_types) - set(scheme.exclude_op_types)
    if not operators & wanted:
        excluded = operators & set(scheme.exclude_op_types)
        return f"operator {' or '.join(sorted(operators))} is {'excluded' if excluded else 'not in op_types'}"
    names = [name for name in layer.node_names() if name.rpartition("/")[2].partition("_")[0] in wanted]
    for name in names:
        if pattern := globs.first_match(name, scheme.exclude):
            return f"excluded by {pattern!r}"
    return None


def _check_globs(prepared: Prepared, patterns: Sequence[str]) -> None:
    """Refuse what can match no node, before hours of training; `qat_graph` checks against the real nodes.

    Raises:
        QuantizeError: With the nearest names.
    """
    paths = [path for path, _ in prepared.module.named_modules() if path]
    names = [name for layer in prepared.layers for name in layer.node_names()]
    for pattern in patterns:
        path, slash, _ = pattern.partition("/")
        own_forward = not slash and "." not in pattern  # an operator of the component's own forward, such as Concat
        if own_forward or globs.unmatched([pattern], names) is None or globs.unmatched([path], paths) is None:
            continue
        near = [f"{path}/*" for path in paths]
        raise QuantizeError(
            f"exclude: {pattern!r} matches no node", hint=globs.nearest_names(pattern, [*names, *near], noun="nodes")
        )


def _nothing_left(component: str, excluded: Mapping[str, str]) -> str:
    if not excluded:
        return f"{component}: nothing to quantize: no linear layer and no convolution is called in the module"
    reasons = sorted(set(excluded.values()))
    return f"{component}: nothing is left to quantize: all {len(excluded)} layers are out ({'; '.join(reasons)})"
