"""Dynamic INT8 quantization of an ONNX graph: weights beforehand, activations anew for each input.

What it does to the numbers: weights of linear layers are symmetric INT8, one scale an output channel; each
activation that meets one is rounded to UINT8 over exactly the range that it has in this very input, so nothing is
ever clipped. Sums, and everything between, stay FP32. One request's range is that of its whole batch: the same sample
answers a little differently in another company.

When to choose it: where there is no calibration data, or inputs vary too much for fixed ranges, and the component is
linear layers: transformers and MLPs. ONNX Runtime ran CLIP's text tower 2.9 times as fast as in FP32 on a CPU with
VNNI, where static quantization came to 3.1. Recurrent and convolutional layers stay FP32: ONNX Runtime has no kernel
for convolutions with a scale a channel, and slow ones without.

What it needs: nothing but the graph.

Limits: only ``engine: onnxruntime`` on a CPU runs it in INT8. OpenVINO answers right but computes it in floating point
(0.75 times the speed of FP32). TensorRT refuses it.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field

from mmdeploy.core import graph_passes
from mmdeploy.core.artifact import Artifact, file_sha256
from mmdeploy.core.contracts import StepContext
from mmdeploy.core.errors import QuantizeError
from mmdeploy.core.facts import as_metadata
from mmdeploy.core.target import Target
from mmdeploy.engines.own_answers import asked_of
from mmdeploy.quantize import coverage, embeddings, fidelity, graphs, held_out, selection
from mmdeploy.quantize.coverage import COVERAGE
from mmdeploy.quantize.scheme import NodeChoice, Scheme

CONSUMES = "onnx"
PRODUCES = "onnx"
REQUIRES: tuple[str, ...] = ("onnx", "onnxruntime")
MEASURES = False
FILENAME = "model.onnx"

#: Samples that the quantized graph is compared with the float graph on.
_COMPARED_SAMPLES = 8


class Options(NodeChoice):
    """Options of dynamic quantization.

    Attributes:
        method: ``dynamic``.
    """

    method: Literal["dynamic"] = "dynamic"
    op_types: Annotated[tuple[Literal["MatMul", "Gemm"], ...], Field(min_length=1)] = ("MatMul", "Gemm")


def data_needs(options: Options) -> frozenset[str]:
    """Return the recipe's data sets that it reads: none."""
    return frozenset()


def run(artifact: Artifact, options: Options, context: StepContext) -> Artifact:
    """Quantize one component's graph.

    Args:
        artifact: The float graph.
        options: Of this pass.
        context: Of the step; the result is compared with the float graph on ``examples``.

    Returns:
        A graph with DynamicQuantizeLinear and MatMulInteger; metadata: ``quantized_nodes``, ``excluded_nodes`` (why,
        by node), ``bytes_before``, ``bytes_after``, ``sqnr_db`` and ``cosine`` to the float graph by output.

    Raises:
        QuantizeError: For TensorRT, when nothing is left to quantize, or when the result does not run, is not
            finite, or is changed by ONNX Runtime's optimizer.
    """
    if context.target in (Target.TENSORRT, Target.TENSORRT_RTX):
        raise QuantizeError(
            f"{context.component}: TensorRT takes no dynamic quantization: it knows Q/DQ pairs with fixed scales only",
            hint="use quantize.method: static or qat, or engine.method: onnxruntime for this component",
        )
    model = graphs.load(artifact.path)
    chosen = selection.choose(model, Scheme(**options.model_dump(exclude={"method"})))
    path = context.workdir / FILENAME
    size = min(context.max_batch_size or _COMPARED_SAMPLES, _COMPARED_SAMPLES)
    batches = [context.examples(size), *(feed for _, feed in context.at_lengths(size))]
    held = held_out.HeldOut(artifact.path, batches, threads=context.threads)
    quantized, tables = embeddings.settle(
        _quantized(model, chosen, per_channel=options.per_channel), options, context, held.judge
    )
    graphs.save(quantized, path)
    likeness = fidelity.compare(held, path, asked_of(context).feeds, quantized)
    fidelity.check_floor(likeness, context.component)
    after = Artifact(PRODUCES, path, file_sha256(path), artifact.inputs, artifact.outputs, "dynamic")
    metadata: dict[str, Any] = {
        "quantized_nodes": list(chosen.nodes),
        "excluded_nodes": dict(chosen.excluded),
        **as_metadata(tables),
        COVERAGE: as_metadata(coverage.measure(quantized)),
        "bytes_before": artifact.size_bytes,
        "bytes_after": after.size_bytes,
        **as_metadata(likeness),
    }
    return replace(after, metadata=metadata)


def _quantized(model: Any, chosen: selection.Selection, per_channel: bool) -> Any:
    from onnxruntime.quantization import QuantizationMode, QuantType
    from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer

    _split_gemms(model)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            # What `quantize_dynamic` calls, which takes files only.
            quantizer = ONNXQuantizer(
                model, per_channel, False, QuantizationMode.IntegerOps, False, QuantType.QInt8, QuantType.QUInt8,
                None, list(chosen.nodes), [], ["MatMul"], {"MatMulConstBOnly": True, "WeightSymmetric": True},
            )  # fmt: skip
            quantizer.quantize_model()
    except Exception as cause:
        raise QuantizeError(f"ONNX Runtime's quantizer refuses the graph: {cause}") from cause
    return quantizer.model.model


def _split_gemms(model: Any) -> None:
    """Write each Gemm as MatMul, under its name, and Add, in place.

    ONNX Runtime's quantizer does so too, but transposes a weight once for each Gemm that reads it.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    weights = {weight.name: weight for weight in graph.initializer}
    nodes = []
    for node in graph.node:
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        if node.op_type != "Gemm" or node.input[1] not in weights or not _is_plain(attributes):
            nodes.append(node)
            continue
        right = node.input[1]
        if attributes.get("transB"):
            right = f"{node.input[1]}_transposed"
            if right not in weights:
                turned = numpy_helper.to_array(weights[node.input[1]]).T.copy()
                graph.initializer.append(numpy_helper.from_array(turned, right))
                weights[right] = graph.initializer[-1]
        biased = len(node.input) == 3 and bool(node.input[2])
        product = f"{node.output[0]}_product" if biased else node.output[0]
        nodes.append(helper.make_node("MatMul", [node.input[0], right], [product], node.name))
        if biased:
            nodes.append(helper.make_node("Add", [product, node.input[2]], [node.output[0]], f"{node.name}/bias"))
    del graph.node[:]
    graph.node.extend(nodes)
    graph_passes.drop_unused(model)


def _is_plain(attributes: Mapping[str, Any]) -> bool:
    return not attributes.get("transA") and attributes.get("alpha", 1) == attributes.get("beta", 1) == 1
