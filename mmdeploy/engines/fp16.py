"""Write FP16 into an ONNX graph, as strongly typed TensorRT networks want it.

What it does to the numbers: weights and activations are rounded to 11 significant bits; magnitudes above
65504 become infinite and those below 6e-8 vanish, so two kinds of operator stay in FP32:

* those that square, sum or exponentiate (`SENSITIVE`): a LayerNorm in FP16 took published ViT and CLIP models
  to 15 to 19 % accuracy, because its sum of squares overflows;
* everything that a logarithm is computed from, back to the graph's inputs: the power spectrum in front of a
  log-mel spans more decades than FP16 has.

Inputs and outputs keep their types. The conversion itself is ``onnxruntime.transformers.float16`` (MIT,
Microsoft); it writes FP16 even between two operators that are kept in FP32, which would overflow just there,
so those cast pairs are taken out again.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence
from typing import Any

from mmdeploy.core import graph_passes
from mmdeploy.core.errors import EngineError

SENSITIVE = (
    "LayerNormalization", "GroupNormalization", "InstanceNormalization", "RMSNormalization",
    "BatchNormalization", "LpNormalization", "Softmax", "LogSoftmax",
    "ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp",
    "Pow", "Sqrt", "Reciprocal", "Exp", "Log", "STFT", "DFT", "CumSum",
)  # fmt: skip
_ELEMENTWISE = ("Add", "Sub", "Mul", "Div", "Neg", "Abs", "Cast")
_QDQ = ("QuantizeLinear", "DequantizeLinear")
#: QuantizeLinear and DequantizeLinear take FP16 from this opset on.
_QDQ_FP16_OPSET = 19
#: A Q/DQ scale may lose this much of itself by rounding to FP16; beyond it the node stays in FP32.
_SCALE_RELATIVE_ERROR = 2.0**-7


#: Names that the converter gives to the casts that it puts in.
_CAST_TO_FP16 = re.compile(r"_cast_to_fp16_node$|^graph_input_cast\d+$")


def to_fp16(model: Any, keep_fp32: Sequence[str] = (), *, component: str = "") -> tuple[Any, tuple[str, ...]]:
    """Convert a graph's FP32 to FP16, and return it with the names of the nodes that stay in FP32.

    Args:
        model: An ``onnx.ModelProto`` with its weights; it is changed.
        keep_fp32: Globs of operator types or node names to keep besides the ones that always are.
        component: For messages.

    Raises:
        EngineError: If a glob matches nothing, or the converted graph is not valid.
    """
    import onnx
    from onnxruntime.transformers import float16

    _refuse_control_flow(model.graph, component)
    _name_nodes(model.graph.node)
    graph_passes.sort_nodes(model)  # where it is not, types are not inferred
    del model.graph.value_info[:]  # torch lists its weights there, which the converter takes for activations
    kept = _kept(model, keep_fp32, component)
    try:
        blocked = [*float16.DEFAULT_OP_BLOCK_LIST]
        converted = float16.convert_float_to_float16(
            model, keep_io_types=True, op_block_list=blocked, node_block_list=sorted(kept)
        )
        _drop_repeated_casts(converted.graph)
        _join_kept(converted.graph)
        graph_passes.sort_nodes(converted)  # the converter appends its casts at the end
        graph_passes.drop_unused(converted)
        del converted.graph.value_info[:]  # types changed: infer them anew
        converted = onnx.shape_inference.infer_shapes(converted, check_type=True)
        onnx.checker.check_model(converted)
    except Exception as error:  # the converter raises whatever the graph makes it trip over
        raise EngineError(
            f"{component}: FP16 could not be written into the graph: {error}",
            hint="set engine.precision: fp32, or keep the operators concerned with engine.keep_fp32",
        ) from error
    return converted, tuple(sorted(kept))


def _refuse_control_flow(graph: Any, component: str) -> None:
    found = sorted({node.op_type for node in graph.node if node.op_type in ("If", "Loop", "Scan")})
    if found:
        raise EngineError(
            f"{component}: engine.precision: fp16 cannot be written into a graph with {', '.join(found)}",
            hint="set precision: fp32 for this component, or rewrite the model without control flow",
        )


def _name_nodes(nodes: Iterable[Any]) -> None:
    taken: set[str] = set()
    for index, node in enumerate(nodes):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{index}"
        taken.add(node.name)


def _kept(model: Any, keep_fp32: Sequence[str], component: str) -> set[str]:
    graph = model.graph
    kept = {node.name for node in graph.node if node.op_type in SENSITIVE or _is_square(node)}
    for pattern in keep_fp32:
        matched = {
            node.name
            for node in graph.node
            if fnmatch.fnmatchcase(node.op_type, pattern) or fnmatch.fnmatchcase(node.name, pattern)
        }
        if not matched:
            types = ", ".join(sorted({node.op_type for node in graph.node}))
            raise EngineError(
                f"{component}: engine.keep_fp32: {pattern!r} matches no operator type and no node name",
                hint=f"operator types in this graph: {types}",
            )
        kept |= matched
    kept |= _behind_logarithms(graph) | _coarse_scales(model)
    return kept | _sandwiched(graph, kept)


def _is_square(node: Any) -> bool:
    return bool(node.op_type == "Mul" and node.input[0] == node.input[1])


def _sandwiched(graph: Any, kept: set[str]) -> set[str]:
    """Return elementwise nodes between two kept ones, such as the ``+ epsilon`` of a decomposed LayerNorm."""
    kept = set(kept)
    added = True
    while added:
        from_kept = {name for node in graph.node if node.name in kept for name in node.output}
        into_kept = {name for node in graph.node if node.name in kept for name in node.input}
        between = {
            node.name
            for node in graph.node
            if node.op_type in _ELEMENTWISE
            and not from_kept.isdisjoint(node.input)
            and not into_kept.isdisjoint(node.output)
        }
        added = not between <= kept
        kept |= between
    return kept


def _behind_logarithms(graph: Any) -> set[str]:
    """Return the names of all nodes that a ``Log`` depends on."""
    producer = {output: node for node in graph.node for output in node.output}
    pending = [node for node in graph.node if node.op_type == "Log"]
    names: set[str] = set()
    while pending:
        node = pending.pop()
        if node.name not in names:
            names.add(node.name)
            pending.extend(producer[name] for name in node.input if name in producer)
    return names


def _coarse_scales(model: Any) -> set[str]:
    """Return the names of Q/DQ nodes that this opset, or the size of their scales, keeps from FP16."""
    import numpy as np
    from onnx import numpy_helper

    pairs = [node for node in model.graph.node if node.op_type in _QDQ]
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=1)
    if opset < _QDQ_FP16_OPSET:
        return {node.name for node in pairs}
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    names = set()
    for node in pairs:
        if node.input[1] not in values:
            continue
        scale = numpy_helper.to_array(values[node.input[1]]).astype(np.float64)
        rounded = scale.astype(np.float16).astype(np.float64)
        if np.any(np.abs(rounded - scale) > _SCALE_RELATIVE_ERROR * np.abs(scale)):
            names.add(node.name)
    return names


def _drop_repeated_casts(graph: Any) -> None:
    """Keep one of the equal casts that the converter writes for a tensor which several kept nodes read."""
    written: set[str] = set()
    nodes = []
    for node in graph.node:
        if node.op_type == "Cast" and node.output[0] in written:
            continue
        written.update(node.output)
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _join_kept(graph: Any) -> None:
    """Join an operator kept in FP32 to the next one directly, without the rounding to FP16 in between."""
    from onnx import TensorProto

    exact = {
        node.output[0]: node.input[0]
        for node in graph.node
        if node.op_type == "Cast" and _CAST_TO_FP16.search(node.name)
    }
    back = {
        node.output[0]: exact[node.input[0]]
        for node in graph.node
        if node.op_type == "Cast" and _target_type(node) == TensorProto.FLOAT and node.input[0] in exact
    }
    outputs = {output.name for output in graph.output}
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name in back:
                node.input[index] = back[name]
    for node in graph.node:  # a graph output cannot be renamed: give it the exact value by name
        if node.op_type == "Cast" and node.output[0] in back and node.output[0] in outputs:
            node.input[0] = back[node.output[0]]


def _target_type(cast: Any) -> int:
    return next(int(attribute.i) for attribute in cast.attribute if attribute.name == "to")
