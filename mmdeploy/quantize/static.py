"""Static INT8 quantization of an ONNX graph after training, written as Q/DQ pairs.

What it does to the numbers: the inputs of linear layers and convolutions are rounded to 8 bits with one scale a
tensor, found on calibration data; their weights to symmetric INT8 with one scale an output channel. Sums and
everything between those layers stay FP32. The outputs of products are not rounded (4 dB better on a small ViT,
and as fast); those of convolutions are, because ONNX Runtime runs a convolution in INT8 only then.

When to choose it: first; it needs minutes and no training. Where it costs too much accuracy, leave the worst
layers out with ``exclude``, or have weights rounded so that they make up for each other (``rounding``).

What it needs: calibration data like that of production, 100 to 500 samples. Ranges: ``percentile`` (the default, but
see below) leaves out the tails, and leaves room for larger values where few were seen; ``minmax`` takes the smallest
and largest value seen, and is safe where rare large values carry meaning; ``entropy`` keeps the part whose distribution
survives 8 bits best (Migacz, "8-bit Inference with TensorRT", GTC 2017) and takes 0.1 s a tensor; ``mse`` has the
smallest squared error that 8 bits can have. On spoken_digits, along the chain, logits against FP32: percentile 44 dB,
minmax 42, entropy 40 asymmetric; 42, 39, 40 symmetric.

``equalize`` is for transformers with a few large channels: it moves them from normalized activations into the
weights, exactly, before ranges are found (SmoothQuant). Left at ``auto`` it is tried with 0.5 and without, wherever a
normalization feeds linear layers, and so is ``mse`` after it: on 32 calibration samples each, judged on 32 others by
the noise at the component's outputs. On MiniLM-L6 (real weights, 256 sentences held out; mean cosine to FP32) this
took 0.989 to 0.996, where dynamic quantization has 0.993.

Embedding tables are INT8, a scale a row, where that costs next to nothing at the outputs: see ``embeddings``.

Limits: products of two activations (attention) stay FP32 unless ``quantize_attention``; ONNX Runtime has
answered wrongly on some of those graphs, so the result is checked against ONNX Runtime's own unoptimized run.

Ranges are found once, and what is left open is settled once, in the encoding of the recipe's engine or of the first
candidate; others are written from what was found (``mse``, which knows whether codes are spread around zero, takes its
histograms again). The engine's `Encoding` says how ranges are written: symmetric INT8 (TensorRT), the same numbers as
UINT8 with zero point 128, or asymmetric UINT8 (fastest in ONNX Runtime on a CPU, and up to 3 dB better, since no code
is spent on values that do not occur). Memory for calibration is one batch of ``batch_size`` samples through the graph
plus 2048 counters a tensor (8192 for ``mse``) and at most 256 MiB of activations, however many samples there are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mmdeploy.core import facts
from mmdeploy.core.artifact import Artifact, file_sha256
from mmdeploy.core.contracts import StepContext
from mmdeploy.core.errors import QuantizeError
from mmdeploy.core.facts import as_metadata
from mmdeploy.engines.built_from import Warned
from mmdeploy.engines.own_answers import asked_of
from mmdeploy.quantize import coverage, equalize, fidelity, graphs, held_out, ranges, selection, settle
from mmdeploy.quantize.coverage import COVERAGE
from mmdeploy.quantize.found import Found
from mmdeploy.quantize.set_aside import set_aside
from mmdeploy.quantize.static_options import Options as Options
from mmdeploy.quantize.writing import COMPARED_BATCHES, Calibrated, Writing
from mmdeploy.scoring.findings import PlainSection

CONSUMES = "onnx"
PRODUCES = "onnx"
REQUIRES: tuple[str, ...] = ("onnx", "onnxruntime")
MEASURES = False
FILENAME = "model.onnx"


Settings = settle.Settings


def data_needs(options: Options) -> frozenset[str]:
    """Return the recipe's data sets that are read."""
    return frozenset({"calibration"})


def run(artifact: Artifact, options: Options, context: StepContext) -> Artifact:
    """Quantize one component's graph.

    Args:
        artifact: The float graph.
        options: Of this pass.
        context: Of the step; ``calibration`` is read up to four times, and where weights are rounded by GPTQ once more
            for each group of layers.

    Returns:
        The Q/DQ graph; metadata: ``encoding``, ``calibrator``, ``samples``, ``quantized_nodes``,
        ``excluded_nodes`` (why, by node), ``ranges`` (low and high by tensor), ``equalized`` (producer, layers
        and how), ``bytes_before``, ``bytes_after``, ``sqnr_db`` and ``cosine`` to the float graph by output, and
        ``worst_nodes`` (SQNR of the worst nodes alone).

    Raises:
        QuantizeError: Without calibration data, when nothing is left to quantize, when an activation is not
            finite, or when the result does not run, is not finite, or is changed by ONNX Runtime's optimizer.
    """
    return _quantized(artifact, calibrated(artifact, options, context), options, context)


def write(artifact: Artifact, made: Artifact, options: Options, context: StepContext) -> Artifact:
    """Write in another encoding what was found for the first: no way is tried, and no range is found.

    Weights are rounded by GPTQ only where the first encoding kept enough without, and this one does not; embedding
    tables are as they were there, unless that leaves too little here; the worst nodes are those that were found there.

    Args:
        artifact: The float graph.
        made: What `run` gave for the same graph.
        options: Of this pass.
        context: Of the step.
    """
    return _quantized(artifact, _recalled(artifact, made, options, context), options, context)


def _quantized(artifact: Artifact, found: Calibrated, options: Options, context: StepContext) -> Artifact:
    path = context.workdir / FILENAME
    may_round = options.rounding == "gptq" or (options.rounding == "auto" and options.min_sqnr_db is not None)
    feeds = ranges.first_samples(context, options.samples, options.batch_size)
    batches, fitted = held_out.compared(feeds, COMPARED_BATCHES, options.samples, share_out=may_round)
    known = () if fitted else found.kept.wanted
    held = held_out.HeldOut(artifact.path, batches, threads=context.threads, wanted=known)
    writing = Writing(held, found, options, context, fitted)
    written = writing.write(path)
    chosen, worst = written.chosen, writing.worst_nodes(written)
    quantized, tables = writing.with_tables(path, written)
    likeness = fidelity.compare(held, path, asked_of(context).feeds, quantized)
    fidelity.check_floor(likeness, context.component, options.least_db)
    replace(found.kept, wanted=held.wanted, rounded=writing.rounded).save(context.workdir)
    after = Artifact(PRODUCES, path, file_sha256(path), artifact.inputs, artifact.outputs, "static")
    metadata: dict[str, Any] = {
        "encoding": str(context.encoding),
        **as_metadata(ranges.Limits(found.how.calibrator, dict(found.ranges))),
        **as_metadata(ranges.CalibratedOn(found.samples)),
        "rounding": "gptq" if writing.rounded.codes else "nearest",
        "quantized_nodes": list(chosen.nodes),
        "excluded_nodes": {**chosen.excluded, **written.given_back},
        **as_metadata(equalize.Equalization(tuple(found.equalized))),
        **(_searched(options, found.how) if found.how.trials else {}),
        **as_metadata(tables),
        COVERAGE: as_metadata(coverage.measure(quantized)),
        "bytes_before": artifact.size_bytes,
        "bytes_after": after.size_bytes,
        **as_metadata(likeness),
        **as_metadata(worst),
        **as_metadata(Warned(written.warnings)),
    }
    return replace(after, metadata=metadata)


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
    model = set_aside(graphs.load(artifact.path))  # from here on nobody holds its weights
    how = settle.settle(artifact.path, model, options, context)
    feeds = ranges.first_samples(context, options.samples, options.batch_size)
    maxima = settle.maxima(model, how.equalize, options, feeds, threads=context.threads)
    settled, equalized = settle.equalized(model, how.equalize, options, maxima)
    model = set_aside(settled)
    del settled
    chosen = selection.choose(model, options)
    total = min(options.samples, context.calibration_batches * options.batch_size) or None
    finding = replace(
        settle.calibration(how.calibrator, options, context),
        total=total,
        progress=context.progress,
        answers=0 if equalized else COMPARED_BATCHES,
    )
    limits = ranges.find(model, chosen.tensors, feeds, finding)
    kept = Found(maxima, limits.histograms, limits.answers)
    return Calibrated(model, chosen, limits.by_tensor, limits.samples, equalized, how, kept)


def _recalled(artifact: Artifact, made: Artifact, options: Options, context: StepContext) -> Calibrated:
    """Return what an earlier step found; ranges of ``mse``, which depend on the encoding, for this one."""
    kept, section = Found.load(made.path.parent), facts.find(PlainSection, made.metadata)
    tried, before = facts.find(settle.Trials, made.metadata), facts.read(ranges.Limits, made)
    plainly = section.plain if section else None
    strength = plainly["equalize"] if plainly else options.equalize
    how = settle.Choice(None if strength == "auto" else strength, before.calibrator, tried.trials if tried else ())
    whole, equalized = settle.equalized(graphs.load(artifact.path), how.equalize, options, kept.maxima)
    model = set_aside(whole)
    del whole
    chosen = selection.choose(model, options)
    symmetric = settle.calibration(how.calibrator, options, context).symmetric
    limits = before.ranges | {name: one.limits(symmetric=symmetric) for name, one in kept.histograms.items()}
    samples = facts.read(ranges.CalibratedOn, made).samples
    return Calibrated(model, chosen, limits, samples, equalized, how, kept, made)


def _searched(options: Settings, how: settle.Choice) -> dict[str, Any]:
    section = {"method": "static", **plain(options, how)}
    return {**as_metadata(settle.Trials(how.trials)), **as_metadata(PlainSection(section))}


def plain(options: Settings, how: settle.Choice) -> dict[str, Any]:
    """Return the fields of options that leave nothing open."""
    fields = options.model_dump(mode="json", include=set(Options.model_fields) - {"method"})
    return {**fields, "calibrator": how.calibrator, "equalize": how.equalize}
