"""Hypothesis strategies for any `BuildReport` that a build could write."""

from datetime import UTC
from pathlib import Path

from hypothesis import strategies as st

from mmdeploy.choice.record import EngineChoice, Measurement
from mmdeploy.core.contracts import Verdict
from mmdeploy.core.facts import as_metadata
from mmdeploy.core.target import Hardware, Target
from mmdeploy.record.build_report import (
    BuildReport,
    CheckRecord,
    CostRecord,
    Failure,
    GateRecord,
    LatencyRecord,
    ModuleCosts,
    RecipeRecord,
    SizeRecord,
    Stage,
    StageSeries,
    StepRecord,
)
from mmdeploy.scoring.findings import Decision, GroupScore, PrecisionFindings, Scored, Sensitivity
from mmdeploy.training.record import EpochRecord, TrainingRecord

TEXT = st.text(max_size=30)
PATHS = st.text("abc/._- <&", min_size=1, max_size=20).map(Path)
FIGURES = st.floats()
INTERVALS = st.none() | st.tuples(FIGURES, FIGURES)
SECONDS = st.floats(0, 1e7)
SIZES = st.none() | st.integers(0, 2**50)
COMPONENTS = st.none() | TEXT
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | FIGURES | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
FACTS = st.dictionaries(TEXT, JSON, max_size=3)

#: What a ``select`` step records, with any figures.
CHOICES = st.builds(
    EngineChoice,
    chosen=TEXT,
    engine=st.just({"method": "onnxruntime"}),
    reference=TEXT,
    measurements=st.lists(
        st.builds(
            Measurement,
            label=TEXT,
            engine=TEXT,
            options=st.just({"method": "onnxruntime"}),
            graph=st.sampled_from(["float", "quantized"]),
            p50_ms=st.none() | FIGURES,
            ratio=st.none() | FIGURES,
            ratio_interval=INTERVALS,
            drop=st.none() | FIGURES,
            drop_interval=INTERVALS,
            bytes=st.integers(0, 2**50),
            out_because=st.none() | TEXT,
        ),
        max_size=3,
    ).map(tuple),
    left_out=st.dictionaries(TEXT, TEXT, max_size=2),
    decisions=st.lists(TEXT, max_size=2).map(tuple),
).map(as_metadata)

#: What a step that trained records, with any figures.
COURSES = st.builds(
    TrainingRecord,
    metric=TEXT,
    larger_is_better=st.booleans(),
    steps_per_epoch=st.integers(0, 100),
    batch_size=st.integers(0, 100),
    processes=st.integers(1, 4),
    parameters=st.integers(0, 2**40),
    epochs=st.lists(
        st.builds(
            EpochRecord,
            epoch=st.integers(0, 100),
            metric=st.none() | FIGURES,
            validation_loss=st.none() | FIGURES,
            training_loss=st.none() | FIGURES,
            learning_rate=FIGURES,
            seconds=SECONDS,
        ),
        min_size=1,
        max_size=4,
    ),
).map(TrainingRecord.to_metadata)

_SCORED = {
    "metric": FIGURES, "drop": FIGURES, "drop_interval": INTERVALS, "sqnr_db": st.none() | FIGURES, "cosine": FIGURES,
    "samples": st.integers(0, 2000),
}  # fmt: skip
_SENSITIVITIES = st.builds(
    Sensitivity,
    sensitivity=st.lists(st.builds(GroupScore, group=TEXT, weights=st.integers(0, 2**40), **_SCORED), max_size=3).map(
        tuple
    ),
    metric=TEXT,
    whole=st.none() | st.builds(Scored, **_SCORED),
)
_FINDINGS = st.builds(
    PrecisionFindings,
    decisions=st.lists(st.builds(Decision, TEXT, TEXT, TEXT, TEXT), max_size=2).map(tuple),
    metric=TEXT,
    max_drop=st.none() | FIGURES,
    result=TEXT,
    held_back=st.none() | st.builds(Scored, **_SCORED),
    evaluations=st.none() | st.integers(0, 99),
    int8_groups=st.lists(TEXT, max_size=2).map(tuple),
)

#: What the sensitivity of layer groups and searches record, with any figures.
SEARCHES = st.builds(lambda groups, found: as_metadata(groups) | as_metadata(found), _SENSITIVITIES, _FINDINGS)

STEPS = st.builds(
    StepRecord,
    id=TEXT,
    component=TEXT,
    kind=st.sampled_from(["export", "quantize", "engine", "reference", "select", "recover", "train", "sensitivity"]),
    method=TEXT | st.just("auto"),
    status=st.sampled_from(["ran", "reused", "failed", "skipped"]),
    why=TEXT,
    seconds=SECONDS,
    key=TEXT,
    size_before_bytes=SIZES,
    size_after_bytes=SIZES,
    metadata=FACTS | CHOICES | COURSES.map(lambda course: {"training": course}) | SEARCHES,
)
CHECKS = st.builds(
    CheckRecord,
    name=TEXT,
    measured=st.none() | FIGURES,
    limit=TEXT | st.floats(allow_nan=False).map(lambda limit: f">= {limit:g}"),
    verdict=st.sampled_from(Verdict),
    interval=INTERVALS,
    unit=st.sampled_from(["", "ms", "dB", "bytes", "%"]),
    note=TEXT,
)


def _gate(checks: list[CheckRecord], name: str, details: dict[str, object]) -> GateRecord:
    verdict = Verdict.of_all([check.verdict for check in checks])
    return GateRecord(gate=name, verdict=verdict, checks=tuple(checks), details=details)


GATES = st.builds(_gate, st.lists(CHECKS, max_size=3), TEXT, FACTS)
STAGES = st.builds(Stage, label=TEXT, value=st.none() | FIGURES, interval=INTERVALS, note=TEXT)
SERIES = st.builds(
    StageSeries,
    component=COMPONENTS,
    metric=TEXT,
    unit=st.sampled_from(["", "dB"]),
    stages=st.lists(STAGES, max_size=3).map(tuple),
)
SIZE_RECORDS = st.builds(SizeRecord, component=TEXT, reference_bytes=SIZES, candidate_bytes=SIZES)
LATENCIES = st.builds(
    LatencyRecord,
    component=COMPONENTS,
    statistic=TEXT,
    batch_size=st.integers(1, 64),
    concurrency=st.integers(1, 64),
    reference_ms=st.none() | FIGURES,
    candidate_ms=st.none() | FIGURES,
    reference_interval_ms=INTERVALS,
    candidate_interval_ms=INTERVALS,
)
MODULE_COSTS = st.builds(
    ModuleCosts,
    parameters=st.integers(0, 2**40),
    nonzero_parameters=st.integers(0, 2**40),
    flops=st.integers(0, 2**60),
    bytes=st.integers(0, 2**50),
)
COSTS = st.builds(
    CostRecord,
    component=TEXT,
    before=MODULE_COSTS,
    after=st.none() | MODULE_COSTS,
    latency_ratio=st.none() | FIGURES,
    latency_ratio_interval=INTERVALS,
    notes=st.lists(TEXT, max_size=2).map(tuple),
)
FAILURES = st.builds(Failure, step=TEXT, message=TEXT, hint=st.none() | TEXT, log=st.none() | PATHS)
HARDWARE = st.builds(
    Hardware,
    cpu=TEXT,
    cores=st.integers(1, 256),
    isa=st.lists(TEXT, max_size=2).map(tuple),
    memory_bytes=st.integers(0, 2**45),
    gpus=st.lists(TEXT, max_size=2).map(tuple),
)


@st.composite
def reports(draw: st.DrawFn) -> BuildReport:
    gates = tuple(draw(st.lists(GATES, max_size=3)))
    failure = draw(st.none() | FAILURES)
    verdict = Verdict.FAIL if failure else Verdict.of_all([gate.verdict for gate in gates])
    exit_code = {Verdict.PASS: 0, Verdict.FAIL: 3 if failure else 1, Verdict.INCONCLUSIVE: 5}[verdict]
    return BuildReport(
        recipe=RecipeRecord(name=draw(TEXT), path=draw(PATHS), sha256=draw(TEXT)),
        target=draw(st.sampled_from(Target)),
        started_at=draw(st.datetimes(timezones=st.just(UTC))),
        seconds=draw(SECONDS),
        verdict=verdict,
        exit_code=exit_code,
        published=draw(st.none() | PATHS),
        staged=draw(PATHS),
        log=draw(st.none() | PATHS),
        substitute=draw(st.none() | TEXT),
        hardware=draw(HARDWARE),
        libraries=draw(st.dictionaries(TEXT, TEXT, max_size=2)),
        server_version=draw(st.none() | TEXT),
        seed=draw(st.integers(0, 2**31)),
        steps=tuple(draw(st.lists(STEPS, max_size=3))),
        gates=gates,
        stages=tuple(draw(st.lists(SERIES, max_size=3))),
        sizes=tuple(draw(st.lists(SIZE_RECORDS, max_size=3))),
        latencies=tuple(draw(st.lists(LATENCIES, max_size=3))),
        costs=tuple(draw(st.lists(COSTS, max_size=3))),
        plain_recipe=draw(st.none() | PATHS),
        notes=tuple(draw(st.lists(TEXT, max_size=2))),
        failure=failure,
    )
