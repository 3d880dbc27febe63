"""Write trained scales into the exported graph as Q/DQ pairs, through the same encoder as static quantization."""

from __future__ import annotations

import glob
from dataclasses import replace
from typing import Any

from mmdeploy.core.artifact import Artifact, file_sha256
from mmdeploy.core.contracts import Array, Encoding, StepContext
from mmdeploy.core.errors import QuantizeError
from mmdeploy.core.facts import as_metadata, read
from mmdeploy.engines.own_answers import asked_of
from mmdeploy.quantize import (
    coverage,
    embeddings,
    encode,
    fidelity,
    giving_back,
    graphs,
    held_out,
    qat_graph,
    ranges,
    selection,
)
from mmdeploy.quantize.coverage import COVERAGE
from mmdeploy.quantize.qat_modelopt import LARGEST_CODE
from mmdeploy.quantize.qat_options import Options
from mmdeploy.quantize.qat_scales import SCALES, QatScales

FILENAME = "model.onnx"

#: Batches that the quantized graph is compared with the float graph on.
_COMPARED_BATCHES = 4


def write(graph: Artifact, trained: Artifact, options: Options, context: StepContext) -> Artifact:
    """Write Q/DQ pairs into the exported graph with the scales that were trained.

    Args:
        graph: The float graph that was exported from ``trained``.
        trained: What `run` made.
        options: Of this pass, as `run` had them.
        context: Of the step; ``calibration`` gives ranges to chosen nodes that were not trained, and batches that
            the graphs are compared on. Without it such nodes stay float.

    Returns:
        The Q/DQ graph; metadata as of static quantization, and ``trained_nodes`` (layers by node),
        ``untrained_nodes`` (quantized with static ranges) and ``widened`` (tensors that layers want different ranges
        for, with the smallest; the largest is written) and ``unrounded_readers`` (inputs of other nodes that read
        the tensor of a product before it is rounded).

    Raises:
        QuantizeError: When a glob matches no node, no node is one of the trained layers, or the result does not run,
            is not finite, or is changed by ONNX Runtime's optimizer.
    """
    scales = read(QatScales, trained, under=SCALES)
    model = graphs.load(graph.path)
    qat_graph.fold_weights(model)
    chosen = selection.choose(model, options)
    matched = qat_graph.match(model, chosen, _trained_layers(trained, scales))
    if not matched.layers:
        raise QuantizeError(
            f"{context.component}: none of the trained layers is found in the exported graph",
            hint="the graph must be exported from the artifact that quantization-aware training made",
        )
    if matched.untrained and context.calibration is None:
        out = (*options.exclude, *map(glob.escape, matched.untrained))
        chosen = selection.choose(model, options.model_copy(update={"exclude": out}))
    limits = _limits(model, chosen, matched, options, context)
    encoding = context.encoding
    if encoding is Encoding.UINT8_ASYMMETRIC and not scales.asymmetric:
        encoding = Encoding.UINT8_SYMMETRIC
    quantized = encode.write(
        model, chosen, limits, encoding=encoding, scheme=options, weight_scales=matched.weight_scales
    )
    unrounded = qat_graph.round_for_products_only(quantized, chosen)
    path = context.workdir / FILENAME
    batches = _compared(options, context)
    held = held_out.HeldOut(graph.path, batches, threads=context.threads)
    quantized, tables = embeddings.settle(quantized, options, context, held.judge if batches else None)
    graphs.save(quantized, path)
    after = Artifact("onnx", path, file_sha256(path), graph.inputs, graph.outputs, "qat")
    metadata: dict[str, Any] = {
        "encoding": str(encoding),
        "calibrator": options.calibrator,
        "samples": scales.samples,
        "quantized_nodes": list(chosen.nodes),
        "excluded_nodes": dict(chosen.excluded),
        "trained_nodes": matched.layers,
        "untrained_nodes": matched.untrained,
        "widened": matched.widened,
        "unrounded_readers": unrounded,
        "ranges": {name: list(pair) for name, pair in limits.items()},
        **as_metadata(tables),
        COVERAGE: as_metadata(coverage.measure(quantized)),
        "bytes_before": graph.size_bytes,
        "bytes_after": after.size_bytes,
    }
    if batches:  # no floor: training judged by the task's metric what rounded weights answer, not by float ones
        worst = giving_back.worst_nodes(model, quantized, chosen.nodes, batches[0], threads=context.threads)
        likeness = fidelity.compare(held, path, asked_of(context).feeds, quantized)
        metadata |= as_metadata(likeness) | as_metadata(worst)
    return replace(after, metadata=metadata)


def _compared(options: Options, context: StepContext) -> list[dict[str, Array]]:
    """Return what the graphs are compared on; nothing without calibration data."""
    if context.calibration is None:
        return []
    feeds = ranges.first_samples(context, options.samples, options.batch_size)
    return held_out.compared(feeds, _COMPARED_BATCHES, options.samples, share_out=False)[0]


def _limits(
    model: Any, chosen: selection.Selection, matched: qat_graph.Matched, options: Options, context: StepContext
) -> dict[str, tuple[float, float]]:
    """Return the range of every tensor: as trained, or, for those that no trained layer reads, as static."""
    limits = {name: limits for name, limits in matched.ranges.items() if name in chosen.tensors}
    missing = [name for name in chosen.tensors if name not in limits]
    if not missing:
        return limits
    if context.calibration is None:
        raise QuantizeError(
            f"{context.component}: no range was trained for {missing[0]!r}, and there is no calibration data",
            hint="name a callable under `data.calibration` in the recipe",
        )
    how = ranges.Calibration(
        calibrator="minmax" if options.calibrator == "max" else options.calibrator,
        percentile=options.percentile,
        threads=context.threads,
        progress=context.progress,
    )
    return limits | dict(
        ranges.find(model, missing, ranges.first_samples(context, options.samples, options.batch_size), how).by_tensor
    )


def _trained_layers(trained: Artifact, scales: QatScales) -> list[qat_graph.TrainedLayer]:
    import numpy as np
    from safetensors.numpy import load_file

    weights = load_file(trained.path)
    beside = load_file(trained.path.with_name(scales.file))
    found = []
    for layer in scales.layers:
        name = layer.name
        weight = weights[layer.parameter] if layer.parameter in weights else beside[layer.parameter]
        found.append(
            qat_graph.TrainedLayer(
                name=name,
                node_paths=layer.node_paths,
                weight=weight[slice(*layer.rows)] if layer.rows else weight,
                weight_scale=beside[name] / np.float32(LARGEST_CODE),
                input_range=(layer.input_low, layer.input_amax),
                output_range=None
                if layer.output_low is None or layer.output_amax is None
                else (layer.output_low, layer.output_amax),
            )
        )
    return found
