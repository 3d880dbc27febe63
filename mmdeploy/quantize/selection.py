"""Which nodes are quantized: operators, minus globs on names, minus products of two activations."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from mmdeploy.core import globs
from mmdeploy.core.errors import QuantizeError, did_you_mean
from mmdeploy.quantize import gemms, graphs
from mmdeploy.quantize.scheme import Scheme

#: Operators that multiply by a weight; a MatMul that multiplies two activations is attention.
_WEIGHTED = ("MatMul", "Gemm", "Conv", "ConvTranspose")
#: Outputs of these are rounded too: ONNX Runtime has an INT8 convolution only with an 8-bit output.
_ROUNDED_OUTPUT = ("Conv", "ConvTranspose")
_DATA_INPUTS = {"Gemm": 2, "Conv": 2, "ConvTranspose": 2}  # the third is the bias


@dataclass(frozen=True)
class Selection:
    """Nodes and tensors to quantize.

    Attributes:
        nodes: Names of the nodes, in the graph's order.
        excluded: Why a node of the wanted operators stays float, by name.
        tensors: Activations that need a range.
        float_outputs: Operators whose outputs are not rounded.
    """

    nodes: tuple[str, ...]
    excluded: Mapping[str, str]
    tensors: tuple[str, ...]
    float_outputs: tuple[str, ...]


def choose(model: Any, scheme: Scheme) -> Selection:
    """Choose by the recipe's scheme.

    Raises:
        QuantizeError: When an operator is unknown to the quantizer, a glob matches no node, or nothing is left.
    """
    _check_op_types(scheme)
    for pattern in scheme.exclude:
        _check_glob(pattern, [node.name for node in model.graph.node])
    wanted = [node for node in model.graph.node if node.op_type in scheme.op_types]
    reasons = _Reasons(model, scheme)
    excluded = {node.name: reason for node in wanted if (reason := reasons.of(node))}
    chosen = [node for node in wanted if node.name not in excluded]
    if not chosen:
        raise QuantizeError(_nothing_left(model, scheme, excluded))
    rounded = tuple(op for op in scheme.op_types if op in _ROUNDED_OUTPUT or op not in _WEIGHTED)
    return Selection(
        nodes=tuple(node.name for node in chosen),
        excluded=excluded,
        tensors=tuple(dict.fromkeys(_activations(model, chosen, rounded))),
        float_outputs=tuple(op for op in scheme.op_types if op not in rounded),
    )


class _Reasons:
    """Says why a node is left out."""

    def __init__(self, model: Any, scheme: Scheme) -> None:
        self._scheme = scheme
        self._constants = graphs.constants(model)
        self._types = graphs.element_types(model)

    def of(self, node: Any) -> str | None:
        if node.op_type in self._scheme.exclude_op_types:
            return f"operator {node.op_type} is excluded"
        for pattern in self._scheme.exclude:
            if fnmatchcase(node.name, pattern):
                return f"excluded by {pattern!r}"
        if self._types.get(node.input[0]) != 1:  # TensorProto.FLOAT
            return "its input is not known to be FP32"
        if node.op_type == "MatMul":
            both = not self._constants.intersection(node.input)
            return "a product of two activations" if both and not self._scheme.quantize_attention else None
        if node.op_type in _WEIGHTED and node.input[1] not in self._constants:
            return "its weight is computed"
        if node.op_type == "Gemm" and gemms.is_transposed(node):
            return "its input is transposed"
        return None


def _activations(model: Any, chosen: Iterable[Any], rounded: tuple[str, ...]) -> Iterable[str]:
    weights = {weight.name for weight in model.graph.initializer}
    types = graphs.element_types(model)
    for node in chosen:
        names = list(node.input[: _DATA_INPUTS.get(node.op_type)])
        if node.op_type in rounded:
            names.extend(node.output)
        yield from (name for name in names if name and name not in weights and types.get(name) == 1)


def _check_op_types(scheme: Scheme) -> None:
    from onnxruntime.quantization.registry import QDQRegistry

    for op in (*scheme.op_types, *scheme.exclude_op_types):
        if op not in QDQRegistry:
            near = difflib.get_close_matches(op, list(QDQRegistry), n=3, cutoff=0.5)
            raise QuantizeError(
                f"operator {op!r} cannot be quantized",
                hint=f"did you mean {' or '.join(map(repr, near))}?" if near else did_you_mean(op, QDQRegistry),
            )


def _check_glob(pattern: str, names: list[str]) -> None:
    if globs.unmatched([pattern], names) is not None:
        raise QuantizeError(
            f"exclude: {pattern!r} matches no node", hint=globs.nearest_names(pattern, names, noun="nodes")
        )


def _nothing_left(model: Any, scheme: Scheme, excluded: Mapping[str, str]) -> str:
    if not excluded:
        present = sorted({node.op_type for node in model.graph.node})
        return f"nothing to quantize: the graph has no {', '.join(scheme.op_types)}; it has {', '.join(present)}"
    reasons = sorted(set(excluded.values()))
    return f"nothing is left to quantize: all {len(excluded)} nodes are out ({'; '.join(reasons)})"
