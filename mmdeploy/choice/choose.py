"""The select step: time the candidates, score those that may ship, and copy the winner."""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from mmdeploy.choice import explanation, rules
from mmdeploy.choice.candidates import Candidate
from mmdeploy.choice.measure import THIS_MACHINE, Bench, Race, Timings
from mmdeploy.choice.options import AutoEngine, MustPay
from mmdeploy.choice.record import EngineChoice, Measurement
from mmdeploy.choice.requests import requests_of
from mmdeploy.core import facts
from mmdeploy.core.artifact import Artifact, file_sha256
from mmdeploy.core.contracts import Array, FusedScore, StepContext, method_of
from mmdeploy.core.errors import DataError, EngineError, InferenceError
from mmdeploy.engines.built_from import BuiltFrom
from mmdeploy.scoring.comparison import drop_interval
from mmdeploy.scoring.metrics import Interval

logger = logging.getLogger(__name__)


def run(
    candidates: Sequence[Candidate],
    options: AutoEngine | MustPay,
    context: StepContext,
    *,
    left_out: Mapping[str, str] = MappingProxyType({}),
    bench: Bench = THIS_MACHINE,
) -> Artifact:
    """Choose among built engines and copy the winner's files into ``context.workdir``.

    Feeds come from ``context.calibration`` where there is calibration data, else from ``context.examples``. The
    artifact's metadata is the winner's, and besides that the fields of `EngineChoice`.

    Args:
        candidates: Built engines, of which at least one runs.
        options: How to measure, and the budget.
        context: Of the step.
        left_out: Why others were not even built, by label: they are in the report too.
        bench: What measures.

    Raises:
        DataError: If ``engine: auto`` has no validation data to judge accuracy by.
        EngineError: If no candidate runs, with the reason of each.
    """
    if isinstance(options, AutoEngine) and context.fused is None:
        raise DataError(
            f"{context.component}: engine: auto needs validation data, to know what each engine costs in accuracy",
            hint="name a callable with labelled samples in data.validation, or name an engine for this component",
        )
    batch = min(options.batch_size, max(1, context.max_batch_size))
    requests, feeds = requests_of(context, batch)
    with ExitStack() as stack:
        race = _started(stack, candidates, requests, options, context, bench=bench)
        contest = _Contest(candidates, options, context, race)
        record = contest.record(contest.decide(), left_out, feeds=feeds, batch_size=batch)
    return _copied(next(one for one in candidates if one.label == record.chosen), record, context)


def _started(
    stack: ExitStack,
    candidates: Sequence[Candidate],
    requests: Sequence[Mapping[str, Array]],
    options: AutoEngine | MustPay,
    context: StepContext,
    *,
    bench: Bench,
) -> Race:
    """Start every candidate's process, and wait until each has loaded its engine."""
    timings = Timings({one.label: {} for one in candidates}, confidence=options.confidence, seed=context.seed)
    race = Race(
        {}, options.max_seconds, options.min_rounds, timings, context.seed, clock=bench.clock, progress=context.progress
    )
    for one in candidates:
        race.processes[one.label] = stack.enter_context(bench.start(one.artifact, one.engine, requests))
    for done, one in enumerate(candidates):
        context.progress(done, len(candidates), "engines loaded")
        try:
            race.processes[one.label].loaded()
        except EngineError as error:
            race.out(one.label, error.message)
    return race


@dataclass
class _Contest:
    """The candidates, what was measured of them, and the rules."""

    candidates: Sequence[Candidate]
    options: AutoEngine | MustPay
    context: StepContext
    race: Race
    scores: dict[str, FusedScore] = field(default_factory=dict)

    @functools.cached_property
    def original(self) -> FusedScore:
        """The score of the FP32 original."""
        assert self.context.fused is not None
        return self.context.fused.original()

    @property
    def entrants(self) -> list[rules.Entrant]:
        """The candidates as the rules see them now."""
        return [
            rules.Entrant(
                one.label, one.compressed, one.simplicity, self.race.failed.get(one.label), self.drop(one.label)
            )
            for one in self.candidates
        ]

    def decide(self) -> rules.Ruling:
        """Time until the choice is clear, score what would ship, and go on with the others when it loses too much.

        Only what would ship is scored: a slower candidate's accuracy changes nothing.
        """
        limit = self.options.max_drop
        while True:
            self.race.run(
                lambda timings: rules.undecided(self.entrants, timings, limit),
                lambda timings: rules.outpaced(self.entrants, timings.blocks),
            )
            ruling = rules.choose(self.entrants, self.race.timings, limit)
            if ruling is None:
                raise EngineError(
                    f"{self.context.component}: no engine runs: {explanation.reasons(self.race.failed)}",
                    hint="name an engine that runs here, or build where the candidates do",
                )
            unscored = [label for label in (ruling.winner, ruling.reference) if label not in self.scores]
            if limit is None or self.context.fused is None or not unscored:
                return ruling
            self._score(unscored[0])

    def drop(self, label: str) -> float | None:
        """Return the loss of the metric against the original; None where it was not measured."""
        fused, score = self.context.fused, self.scores.get(label)
        if fused is None or score is None:
            return None
        return (self.original.metric - score.metric) * (1 if fused.larger_is_better else -1)

    def _score(self, label: str) -> None:
        """Score an engine in its own process, as it is served: a graph does not show what BF16 does to it.

        The FP32 original is what everything is scored against: it is not run once more.
        """
        fused = self.context.fused
        assert fused is not None
        if next(one for one in self.candidates if one.label == label).original:
            self.scores[label] = fused.unchanged()
            return
        self.context.progress(0, fused.samples, f"validation samples through {label}")
        try:
            self.scores[label] = fused.score(self.race.processes[label])
        except (EngineError, InferenceError) as error:
            logger.warning("%s fails on validation data: %s", label, error.message)
            self.race.out(label, error.message)

    def _drop_interval(self, label: str) -> Interval | None:
        """Return the interval of the drop, from the paired samples; None where the metric is no mean over them."""
        fused, score = self.context.fused, self.scores.get(label)
        if fused is None or score is None or score.per_sample is None:
            return None
        before, after = self.original.per_sample, score.per_sample
        if before is None:
            return None
        return drop_interval(
            before,
            after,
            larger_is_better=fused.larger_is_better,
            confidence=self.options.confidence,
            seed=self.context.seed,
        )

    def record(self, ruling: rules.Ruling, left_out: Mapping[str, str], *, feeds: str, batch_size: int) -> EngineChoice:
        """Return what the step says of its choice."""
        fused = self.context.fused
        record = EngineChoice(
            chosen=ruling.winner,
            engine=next(one.engine for one in self.candidates if one.label == ruling.winner).model_dump(mode="json"),
            reference=ruling.reference,
            measurements=tuple(self._measurement(one, ruling) for one in self.candidates),
            left_out=dict(left_out),
            decisions=(),
            metric=fused.metric if fused is not None and self.scores else None,
            larger_is_better=fused.larger_is_better if fused is not None and self.scores else None,
            original_metric=self.original.metric if self.scores else None,
            max_drop=self.options.max_drop,
            confidence=self.options.confidence,
            feeds=feeds,
            batch_size=batch_size,
        )
        told = explanation.decisions(record, accuracy_judged=bool(self.scores))
        return dataclasses.replace(record, decisions=told)

    def _measurement(self, one: Candidate, ruling: rules.Ruling) -> Measurement:
        timings, label = self.race.timings, one.label
        score = self.scores.get(label)
        ratio = timings.ratio(label, ruling.reference)
        measured = not math.isnan(ratio)
        compared = measured and label != ruling.reference
        entrant = next(entrant for entrant in self.entrants if entrant.label == label)
        why = explanation.why_not(entrant, ruling, timings, self.options.max_drop)
        if entrant.failed is None:
            why = explanation.with_rounds(why, timings.rounds(label), timings.rounds(ruling.winner))
        return Measurement(
            label=label,
            engine=method_of(one.engine),
            options=one.engine.model_dump(mode="json"),
            graph=one.graph,
            compressed=one.compressed,
            p50_ms=timings.p50_ms(label),
            ratio=ratio if measured else None,
            ratio_interval=timings.interval(label, ruling.reference) if compared else None,
            rounds=timings.rounds(label),
            metric=score.metric if score else None,
            drop=self.drop(label),
            drop_interval=self._drop_interval(label),
            sqnr_db=score.sqnr_db if score else None,
            bytes=one.artifact.size_bytes,
            out_because=why,
        )


def _copied(winner: Candidate, record: EngineChoice, context: StepContext) -> Artifact:
    """Copy the winner's files; never by a hard link, which ONNX refuses for external data."""
    source = winner.artifact
    built_from = facts.find(BuiltFrom, source.metadata)
    graph = source.path.with_name(built_from.graph if built_from else source.path.name)
    data = graph.with_name(graph.name + ".data")
    for file in dict.fromkeys([*source.files, graph, *([data] if data.exists() else [])]):
        shutil.copyfile(file, context.workdir / file.name)
    path = Path(context.workdir / source.path.name)
    return dataclasses.replace(
        source,
        path=path,
        sha256=file_sha256(path),
        metadata={**source.metadata, **facts.as_metadata(record)},
    )
