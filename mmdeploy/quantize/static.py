"""Static INT8 quantization of an ONNX graph after training, written as Q/DQ pairs.

What it does to the numbers: the inputs of linear layers and convolutions are rounded to 8 bits with one scale a
tensor, found on calibration data; their weights to symmetric INT8 with one scale an output channel. Sums and
everything between those layers stay FP32. The outputs of products are not rounded (4 dB better on a small ViT,
and as fast); those of convolutions are, because ONNX Runtime runs a convolution in INT8 only then.

When to choose it: first; it needs minutes and no training. Where it costs too much accuracy, leave the worst
layers out with ``exclude``.

What it needs: calibration data like that of production, 100 to 500 samples. Ranges: ``percentile`` (the
default) leaves out the tails; ``minmax`` takes the smallest and largest value seen, and is safe where rare large
values carry meaning; ``entropy`` keeps the part whose distribution survives 8 bits best (Migacz, "8-bit Inference
with TensorRT", GTC 2017) and takes 0.1 s a tensor; ``mse`` has the smallest squared error that 8 bits can have. On
spoken_digits, along the chain, logits against FP32: percentile 44 dB, minmax 42, entropy 40 asymmetric; 42, 39, 40
symmetric.

``equalize`` is for transformers with a few large channels: it moves them from normalized activations into the
weights, exactly, before ranges are found (SmoothQuant), and reads the calibration data once more.

Limits: products of two activations (attention) stay FP32 unless ``quantize_attention``; ONNX Runtime has
answered wrongly on some of those graphs, so the result is checked against ONNX Runtime's own unoptimized run.

Ranges are found once and do not depend on the engine, but for ``mse``, which knows whether codes are spread around
zero. The engine's `Encoding` says how they are written: symmetric INT8 (TensorRT), the same numbers as UINT8 with
zero point 128, or asymmetric UINT8 (fastest in ONNX Runtime on a CPU, and up to 3 dB better, since no code is spent
on values that do not occur). Memory for calibration is one batch of ``batch_size`` samples through the graph plus
2048 counters a tensor (8192 for ``mse``), however many samples there are.
"""

from __future__ import annotations

import glob
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from mmdeploy.core.artifact import Artifact, file_sha256
from mmdeploy.core.contracts import Encoding, FeedDict, StepContext
from mmdeploy.core.errors import QuantizeError
from mmdeploy.core.facts import as_metadata
from mmdeploy.engines.built_from import Warned
from mmdeploy.quantize import encode, equalize, fidelity, giving_back, graphs, ranges, selection
from mmdeploy.quantize.scheme import CalibrationOptions, Scheme

logger = logging.getLogger(__name__)

CONSUMES = "onnx"
PRODUCES = "onnx"
REQUIRES: tuple[str, ...] = ("onnx", "onnxruntime")
MEASURES = False
FILENAME = "model.onnx"

#: Batches that the quantized graph is compared with the float graph on.
_COMPARED_BATCHES = 4


class Settings(CalibrationOptions, Scheme):
    """Everything that decides the numbers: what the options of static and of a search over it have in common."""


class Options(Settings):
    """Options of static quantization.

    Attributes:
        method: ``static``.
    """

    method: Literal["static"] = "static"


def data_needs(options: Options) -> frozenset[str]:
    """Return the recipe's data sets that are read."""
    return frozenset({"calibration"})


@dataclass(frozen=True)
class Calibrated:
    """A float graph with all that its quantization needs.

    Attributes:
        model: The float graph, equalized where that was asked for.
        chosen: What is quantized in it.
        ranges: Smallest and largest value by tensor.
        samples: Number of samples that the ranges were found on.
        equalized: What was equalized in the graph: see `mmdeploy.quantize.equalize.apply`.
    """

    model: Any
    chosen: selection.Selection
    ranges: Mapping[str, tuple[float, float]]
    samples: int
    equalized: Sequence[equalize.Equalized] = ()


def run(artifact: Artifact, options: Options, context: StepContext) -> Artifact:
    """Quantize one component's graph.

    Args:
        artifact: The float graph.
        options: Of this pass.
        context: Of the step; ``calibration`` is read up to four times.

    Returns:
        The Q/DQ graph; metadata: ``encoding``, ``calibrator``, ``samples``, ``quantized_nodes``,
        ``excluded_nodes`` (why, by node), ``ranges`` (low and high by tensor), ``equalized`` (producer, layers
        and how), ``bytes_before``, ``bytes_after``, ``sqnr_db`` and ``cosine`` to the float graph by output.

    Raises:
        QuantizeError: Without calibration data, when nothing is left to quantize, when an activation is not
            finite, or when the result does not run, is not finite, or is changed by ONNX Runtime's optimizer.
    """
    found = calibrated(artifact, options, context)
    path = context.workdir / FILENAME
    written = _Writing(artifact, found, options, context).write(path)
    chosen, likeness = written.chosen, written.likeness
    after = Artifact(PRODUCES, path, file_sha256(path), artifact.inputs, artifact.outputs, "static")
    metadata: dict[str, Any] = {
        "encoding": str(context.encoding),
        "calibrator": options.calibrator,
        "samples": found.samples,
        "quantized_nodes": list(chosen.nodes),
        "excluded_nodes": {**chosen.excluded, **written.given_back},
        "ranges": {name: list(limits) for name, limits in found.ranges.items()},
        **as_metadata(equalize.Equalization(tuple(found.equalized))),
        "bytes_before": artifact.size_bytes,
        "bytes_after": after.size_bytes,
        **as_metadata(likeness),
        **as_metadata(Warned(written.warnings)),
    }
    return replace(after, metadata=metadata)


@dataclass(frozen=True)
class _Written:
    """A quantized graph that is good enough.

    Attributes:
        chosen: What is quantized in it.
        likeness: How like it is to the float graph.
        given_back: Why nodes that were to be quantized stay in float, by name.
        warnings: The same for people.
    """

    chosen: selection.Selection
    likeness: fidelity.Likeness
    given_back: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Writing:
    """Writes a calibrated graph, with as many nodes in INT8 as leave enough of its answers."""

    artifact: Artifact
    found: Calibrated
    options: Options
    context: StepContext

    def write(self, path: Path) -> _Written:
        batches = fidelity.first(
            ranges.first_samples(self.context, self.options.samples, self.options.batch_size), _COMPARED_BATCHES
        )
        quantized, everything = self._attempt(path, (), batches)
        worst = everything.likeness.worst
        if worst is None or worst[1] >= fidelity.FLOOR_DB:
            return everything
        alone = giving_back.own_noise_db(
            self.found.model, quantized, everything.chosen.nodes, batches[0], threads=self.context.threads
        )
        for nodes in giving_back.portions(list(alone), len(everything.chosen.nodes)):
            written = self._attempt(path, nodes, batches)[1]
            left = written.likeness.worst
            if left is None or left[1] >= fidelity.FLOOR_DB:
                why = {node: f"{alone[node]:.1f} dB alone, and {worst[0]} came to {worst[1]:.1f} dB" for node in nodes}
                told = f"left in float, since INT8 takes too much there: {', '.join(nodes)}"
                logger.warning("%s: %s", self.context.component, told)
                return replace(written, given_back=why, warnings=(told,))
        raise fidelity.too_little_left(worst, self.context.component, list(alone.items())[:3])

    def _attempt(self, path: Path, without: Sequence[str], batches: Sequence[FeedDict]) -> tuple[Any, _Written]:
        """Write the graph without some nodes, and compare it."""
        found, scheme = self.found, self.options
        if without:
            out = (*scheme.exclude, *map(glob.escape, without))
            scheme = scheme.model_copy(update={"exclude": out})
        chosen = selection.choose(found.model, scheme) if without else found.chosen
        limits = {name: found.ranges[name] for name in chosen.tensors}
        quantized = encode.write(found.model, chosen, limits, encoding=self.context.encoding, scheme=scheme)
        graphs.save(quantized, path)
        likeness = fidelity.compare(self.artifact.path, path, batches, threads=self.context.threads)
        return quantized, _Written(chosen, likeness)


def calibrated(artifact: Artifact, options: Settings, context: StepContext) -> Calibrated:
    """Read a component's float graph, choose what is quantized, and find the ranges of its activations.

    Raises:
        QuantizeError: Without calibration data, when nothing is left to quantize, or when an activation is not
            finite.
    """
    if context.calibration is None:
        raise QuantizeError(
            f"{context.component}: static quantization needs calibration data",
            hint="name a callable under `data.calibration` in the recipe",
        )
    model = graphs.load(artifact.path)
    chosen = selection.choose(model, options)
    equalized: Sequence[equalize.Equalized] = ()
    if options.equalize is not None:
        groups = equalize.find(model, chosen.nodes)
        tensors = [group.tensor for group in groups]
        maxima = ranges.channel_maxima(
            model, tensors, ranges.first_samples(context, options.samples, options.batch_size), threads=context.threads
        )
        equalized = equalize.apply(model, groups, maxima, options.equalize)
        chosen = selection.choose(model, options)
    found = ranges.find(
        model,
        chosen.tensors,
        ranges.first_samples(context, options.samples, options.batch_size),
        _how(options, context),
    )
    return Calibrated(model, chosen, found.by_tensor, found.samples, equalized)


def _how(options: Settings, context: StepContext) -> ranges.Calibration:
    return ranges.Calibration(
        calibrator=options.calibrator,
        percentile=options.percentile,
        symmetric=context.encoding is not Encoding.UINT8_ASYMMETRIC,
        threads=context.threads,
        total=min(options.samples, context.calibration_batches * options.batch_size) or None,
        progress=context.progress,
    )
