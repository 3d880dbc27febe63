"""Search which layer groups to quantize: INT8 where it is faster, FP32 where INT8 costs more than the budget.

What it does to the numbers: that of static quantization, with some layer groups left out. All groups start in INT8;
those go back to FP32 whose INT8 is not measurably faster on the component's own engine, and then those that cost most
accuracy for the speed they bring, until the ensemble loses at most ``max_drop`` of the task's metric against the FP32
original. Accuracy is that of the *fused* output: upstream as it ships, downstream in FP32. One half of the validation
samples decides, the other half verifies: each failure there gives one more group back.

When to choose it: where static quantization of everything costs too much, or to know that it does not. It takes about
two evaluations of the ensemble a group. The result says which section without a search (``plain``) gives the same
file: use that from then on.

What it needs: calibration data, and validation data with labels, a few hundred samples: with 100 the metric moves in
steps of a point. Where the engine cannot run on this machine nothing is timed, and accuracy alone decides.

Limits: a search by one group at a time, not over all combinations: those that were given back only because of others
are tried again. The samples held back are looked at once more for each failure on them, which ``held_back_looks``
counts. A budget that no layer group keeps is an error that shows the best found. Losses upstream count: a component
behind a lossy encoder has less of the budget left, and nothing to spend where the encoder has broken it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Annotated, Any, Literal

from pydantic import Field

from mmdeploy.core.artifact import Artifact, file_sha256
from mmdeploy.core.contracts import StepContext
from mmdeploy.core.errors import QuantizeError
from mmdeploy.core.facts import as_metadata, read
from mmdeploy.quantize import sensitivity, speed, static
from mmdeploy.quantize.found import FILENAME as FOUND
from mmdeploy.quantize.partial import PartialGraphs, PartialOptions
from mmdeploy.quantize.search import Search
from mmdeploy.scoring.evaluations import DEFAULT_MAX_DROP, HELD_BACK, SEARCHED, Budget, Evaluations, ScoredDrop
from mmdeploy.scoring.findings import PlainSection, PrecisionFindings, Sensitivity, scored

CONSUMES = "onnx"
PRODUCES = "onnx"
REQUIRES: tuple[str, ...] = ("onnx", "onnxruntime", "scipy", "torchmetrics")
#: It times graphs: nothing may run beside it.
MEASURES = True

_FEWEST_SAMPLES = 4


class Options(PartialOptions):
    """Options of the search.

    Attributes:
        method: ``auto``.
        max_drop: Largest loss of the task's metric at the ensemble's output against the FP32 original, in the metric's
            unit. Null takes that of the accuracy gate whose metric it is, or 0.01.
        rule: Whether the estimate of the loss on the samples held back must keep ``max_drop``, or its whole interval.
        confidence: Of the intervals.
        must_pay: Give groups back whose INT8 is not measurably faster; false keeps them, for their size.
    """

    method: Literal["auto"] = "auto"
    max_drop: Annotated[float, Field(ge=0.0)] | None = None
    rule: Literal["estimate", "interval"] = "estimate"
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.95
    must_pay: bool = True


def data_needs(options: Options) -> frozenset[str]:
    """Return the recipe's data sets that it reads."""
    return frozenset({"calibration", "validation"})


def run(artifact: Artifact, options: Options, context: StepContext) -> Artifact:
    """Search, and quantize what was found.

    Args:
        artifact: The float graph.
        options: Of this pass.
        context: Of the step; ``calibration``, ``fused``, ``timed`` and, to go on after a kill, ``scratch`` are used.

    Returns:
        The Q/DQ graph; metadata: that of static quantization and ``plain`` (the section that gives the same file
        without a search), ``decisions`` (what was done, why, its cost and gain), ``sensitivity`` (each group alone on
        the samples searched, worst first), ``searched`` and ``held_back`` (the result on either half),
        ``held_back_looks``, ``int8_groups``, ``float_groups``, ``latency``, ``metric``, ``max_drop``,
        ``evaluations``, ``evaluation_seconds``, ``timing_seconds``, ``seconds``.

    Raises:
        QuantizeError: Without calibration or validation data, with too few samples to search and to verify, or when
            there is nothing to quantize.
        BudgetError: When the budget cannot be kept; it carries the best found.
        EngineError: When ONNX Runtime or the engine refuses a graph.
    """
    return _Run(artifact, options, context).artifact()


def write(artifact: Artifact, made: Artifact, options: Options, context: StepContext) -> Artifact:
    """Quantize what a search has found, in another encoding; nothing is searched.

    Args:
        artifact: The float graph.
        made: What `run` gave for the same graph.
        options: Of this pass.
        context: Of the step.
    """
    section, search = read(PlainSection, made), read(PrecisionFindings, made)
    product = static.write(artifact, made, static.Options.model_validate(section.plain), context)
    anew = PrecisionFindings(
        decisions=search.decisions,
        metric=search.metric,
        max_drop=search.max_drop,
        int8_groups=search.int8_groups,
        float_groups=search.float_groups,
    )
    measured = replace(read(Sensitivity, made), whole=None)
    found = {name: value for facts in (section, anew, measured) for name, value in as_metadata(facts).items()}
    return replace(product, produced_by="auto", metadata={**product.metadata, **found})


class _Run:
    """One run of the pass."""

    def __init__(self, artifact: Artifact, options: Options, context: StepContext) -> None:
        self._started = time.perf_counter()
        self._float, self._options, self._context = artifact, options, context
        fused = sensitivity.validation(context, "what `quantize: auto` may lose")
        if fused.samples < _FEWEST_SAMPLES:
            raise QuantizeError(
                f"{context.component}: {fused.samples} validation samples cannot be split into a half to search on and"
                " a half to verify on",
                hint="give a few hundred in data.validation",
            )
        self._journal = sensitivity.journal_of(context)
        self._evaluations = Evaluations(fused, self._journal, confidence=options.confidence, seed=context.seed)
        self._graphs = PartialGraphs(artifact, options, context)
        self._budget = Budget(
            DEFAULT_MAX_DROP if options.max_drop is None else options.max_drop, by_interval=options.rule == "interval"
        )
        self._search = Search(self._graphs, self._evaluations, self._budget, context)
        self._watch: speed.Stopwatch | None = None
        if context.timed is not None and options.must_pay:
            self._watch = speed.Stopwatch(self._graphs, artifact.path, context, self._journal)
        self._looks = 0
        self._product: Artifact | None = None

    def artifact(self) -> Artifact:
        """Search and return the result, its files in the step's folder."""
        as_float = self._evaluations.drop_of("FP32", lambda: self._float.path, SEARCHED)
        self._search.find(as_float, self._watch)
        held_back = self._search.verify(self._build)
        product = self._product
        assert product is not None
        for file in (*product.files, product.path.with_name(FOUND)):
            shutil.move(file, self._context.workdir / file.name)
        path = self._context.workdir / product.path.name
        shutil.rmtree(product.path.parent)
        metadata = {**product.metadata, **self._found(held_back)}
        return replace(product, path=path, sha256=file_sha256(path), produced_by="auto", metadata=metadata)

    def _build(self, kept: tuple[str, ...]) -> ScoredDrop:
        """Build what would ship, as its plain section does, and score it on the samples held back."""
        folder = self._context.workdir / f"product{self._looks}"
        folder.mkdir()
        options = static.Options.model_validate(self._plain(kept))
        product = static.run(self._float, options, replace(self._context, workdir=folder))
        self._looks += 1
        if self._product is not None:
            shutil.rmtree(self._product.path.parent)
        self._product = product
        return self._evaluations.drop_of(f"product {sorted(kept)}", lambda: product.path, HELD_BACK)

    def _plain(self, kept: tuple[str, ...]) -> dict[str, Any]:
        return self._graphs.excluding([group.name for group in self._graphs.groups if group.name not in kept])

    def _latency(self) -> dict[str, Any] | None:
        """Time the component in FP32, and all of it in INT8, against the result."""
        if self._watch is None:
            return None
        kept = self._search.kept
        everything = [group.name for group in self._graphs.groups]
        found = self._watch.compare(kept, {"FP32": [], "all in INT8": everything})
        return {f"{label} to the result": asdict(one) for label, one in found.items() if label != speed.ALL}

    def _found(self, held_back: ScoredDrop) -> Mapping[str, Any]:
        search, evaluations = self._search, self._evaluations
        searched = sensitivity.together(self._graphs, evaluations, search.kept, part=SEARCHED, context=self._context)
        found = PrecisionFindings(
            decisions=tuple(search.decisions),
            metric=evaluations.scorer.metric,
            max_drop=self._budget.max_drop,
            searched=scored(searched),
            held_back=scored(held_back),
            evaluations=evaluations.count,
            evaluation_seconds=evaluations.seconds,
            seconds=time.perf_counter() - self._started,
            int8_groups=tuple(search.kept),
            float_groups=tuple(group.name for group in self._graphs.groups if group.name not in search.kept),
        )
        ranked = tuple(sensitivity.described(group, score) for group, score in search.ranked)
        return {
            **as_metadata(PlainSection(self._plain(search.kept))),
            **as_metadata(Sensitivity(sensitivity=ranked, metric=evaluations.scorer.metric)),
            **as_metadata(found),
            "held_back_looks": self._looks,
            "latency": self._latency(),
            "timing_seconds": self._watch.seconds if self._watch else 0.0,
        }
