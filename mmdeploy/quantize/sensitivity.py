"""Sensitivity: what quantizing one layer group alone does to the answers of the whole ensemble.

What it does: each layer group of a component in turn is put in INT8 as static quantization would, all else stays FP32,
and the ensemble is run over the validation split. The figures are those of the *fused* output: the task's metric, what
it loses against FP32, SQNR and cosine; a large error in a layer that the answer hardly depends on costs nothing there.
The component as a whole is judged the same way.
When to choose it: where static quantization costs too much, to see which layers to leave out; ``quantize: {method:
auto}`` leaves them out by itself.
What it needs: calibration data for the ranges, and validation data with labels.
Limits: one group at a time says nothing of how errors add up or cancel out. A metric over few samples moves in steps
of one sample: groups that cost none are ranked by SQNR. One evaluation a group: calibration is done once.
"""

from __future__ import annotations

import json
import time
from typing import Annotated, Any, Literal

from pydantic import Field

from mmdeploy.core.artifact import Artifact, file_sha256
from mmdeploy.core.contracts import FusedOutput, MethodOptions, StepContext
from mmdeploy.core.errors import QuantizeError
from mmdeploy.core.facts import as_metadata
from mmdeploy.quantize.layer_groups import LayerGroup
from mmdeploy.quantize.partial import PartialGraphs, PartialOptions
from mmdeploy.scoring.evaluations import Evaluations, Journal, ScoredDrop
from mmdeploy.scoring.findings import GroupScore, Sensitivity, group_score, scored

CONSUMES = "onnx"
PRODUCES = "sensitivity"
REQUIRES: tuple[str, ...] = ("onnx", "onnxruntime", "scipy", "torchmetrics")
MEASURES = False
FILENAME = "sensitivity.json"
JOURNAL = "evaluations.jsonl"


class Options(PartialOptions):
    """Options of the sensitivity analysis.

    Attributes:
        method: ``sensitivity``.
        confidence: Of the intervals of the drop.
    """

    method: Literal["sensitivity"] = "sensitivity"
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.95


def data_needs(options: Options) -> frozenset[str]:
    """Return the recipe's data sets that it reads."""
    return frozenset({"calibration", "validation"})


def options_for(section: MethodOptions | None) -> Options:
    """Return options that quantize as a recipe's section would, as far as the section says; defaults otherwise."""
    shared = set(Options.model_fields) & set(type(section).model_fields) - {"method"} if section else set()
    return Options.model_validate(section.model_dump(include=shared)) if section else Options()


def run(artifact: Artifact, options: Options, context: StepContext) -> Artifact:
    """Judge each layer group of a component, and the component as a whole.

    Args:
        artifact: The float graph.
        options: Of this pass.
        context: Of the step; ``calibration``, ``fused`` and, to go on after a kill, ``scratch`` are used.

    Returns:
        A JSON file; its content is the metadata too: ``sensitivity`` (the groups, worst first), ``whole``,
        ``original``, ``metric``, ``samples``, ``evaluations``, ``evaluation_seconds``, ``seconds``.

    Raises:
        QuantizeError: Without calibration or validation data, or when there is nothing to quantize.
        EngineError: When ONNX Runtime refuses a graph.
    """
    started = time.perf_counter()
    fused = validation(context, "the sensitivity of its layers")
    graphs = PartialGraphs(artifact, options, context)
    evaluations = Evaluations(fused, journal_of(context), confidence=options.confidence, seed=context.seed)
    everything = slice(None)
    ranked = each_alone(graphs, evaluations, everything, context)
    whole = tuple(group.name for group in graphs.groups)
    whole_drop = together(graphs, evaluations, whole, part=everything, context=context)
    measured = Sensitivity(
        sensitivity=tuple(described(group, found) for group, found in ranked),
        metric=fused.metric,
        whole=scored(whole_drop),
    )
    content: dict[str, Any] = {
        "component": context.component,
        **as_metadata(measured),
        "larger_is_better": fused.larger_is_better,
        "samples": fused.samples,
        "original": evaluations.original(everything).metric,
        "evaluations": evaluations.count,
        "evaluation_seconds": evaluations.seconds,
        "seconds": time.perf_counter() - started,
    }
    path = context.workdir / FILENAME
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return Artifact(PRODUCES, path, file_sha256(path), artifact.inputs, artifact.outputs, "sensitivity", content)


def validation(context: StepContext, purpose: str) -> FusedOutput:
    """Return the judge at the fused output.

    Raises:
        QuantizeError: When the recipe has no validation data.
    """
    if context.fused is None:
        raise QuantizeError(
            f"{context.component}: {purpose} is measured on validation data, and the recipe names none",
            hint="name a callable that yields (feed, label) under `data.validation` in the recipe;"
            " not the one of data.evaluation, on which the gates judge",
        )
    return context.fused


def journal_of(context: StepContext) -> Journal:
    """Open the step's journal."""
    return Journal(context.scratch / JOURNAL if context.scratch else None)


def each_alone(
    graphs: PartialGraphs, evaluations: Evaluations, part: slice, context: StepContext
) -> list[tuple[LayerGroup, ScoredDrop]]:
    """Score each layer group alone in INT8; return them with the worst first."""
    found = []
    for done, group in enumerate(graphs.groups):
        context.progress(done, len(graphs.groups), "layer groups judged at the fused output")
        found.append((group, together(graphs, evaluations, (group.name,), part=part, context=context)))
    context.progress(len(found), len(found), "layer groups judged at the fused output")
    return sorted(found, key=lambda one: (-one[1].drop, one[1].score.sqnr_db))


def together(
    graphs: PartialGraphs, evaluations: Evaluations, names: tuple[str, ...], *, part: slice, context: StepContext
) -> ScoredDrop:
    """Score the graph with the named groups in INT8."""
    path = context.workdir / "candidate.onnx"
    try:
        return evaluations.drop_of(f"INT8 {json.dumps(sorted(names))}", lambda: graphs.write(names, path), part)
    finally:
        for file in context.workdir.glob(f"{path.name}*"):
            file.unlink()


def described(group: LayerGroup, found: ScoredDrop) -> GroupScore:
    """Return a group's figures as they are recorded."""
    return group_score(group.name, found, nodes=group.nodes, globs=group.globs, weights=group.weights)
