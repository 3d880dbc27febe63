"""What a build leaves behind: `BuildReport`, frozen, JSON-able and versioned, written for every verdict.

``BuildReport.model_json_schema()`` is the schema of ``report.json``. A change that an existing reader would
misread, or refuse, makes a new ``SCHEMA_VERSION``: also a new field, since readers refuse what they do not know.
Version 2 added ``costs`` and ``plain_recipe``, version 3 a gate's ``advice``, version 4 its ``tables``, the
``samples`` behind a check, a step's ``log`` and the recipe's ``revision``, version 5 ``release``;
`mmdeploy.record.report_file` reads an older report as one of this version without them.

Numbers that JSON cannot hold are written as the strings
``"Infinity"``, ``"-Infinity"`` and ``"NaN"``: the SQNR of two equal tensors is infinite, and ``null`` there
would say "not measured".
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    WithJsonSchema,
    model_validator,
)

from mmdeploy.core.contracts import GateResult, Verdict
from mmdeploy.core.errors import EXIT_PASS
from mmdeploy.core.target import Hardware, Target
from mmdeploy.core.version import __version__
from mmdeploy.record.plain_json import NON_FINITE, jsonable

SCHEMA_VERSION = 5
FILENAME = "report.json"
#: Name of the gate that judges a build against an earlier one.
BASELINE = "baseline"


def _as_utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)


Figure = Annotated[float, WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string", "enum": NON_FINITE}]})]
Interval = tuple[Figure, Figure]
Facts = Annotated[dict[str, JsonValue], BeforeValidator(jsonable)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Bytes = Annotated[int, Field(ge=0)]
StepStatus = Literal["ran", "reused", "failed", "skipped"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings", defer_build=True)


class RecipeRecord(_Record):
    """The recipe that was built.

    Attributes:
        name: As the recipe names itself.
        path: Where it was read from.
        sha256: Digest of its file, and of its base's after it.
        revision: Git commit that its folder is at, with what is not committed; None outside of a repository.
    """

    name: str
    path: Path
    sha256: str
    revision: str | None = None


class StepRecord(_Record):
    """One step of one component's chain.

    Attributes:
        id: Such as ``image_encoder/quantize``.
        component: The component it belongs to.
        kind: Such as ``export``, ``quantize``, ``engine``, ``reference`` or ``select``.
        method: The pass or engine, such as ``static``.
        status: ``skipped`` steps were not reached, or were not worth doing; ``why`` says which.
        why: Why it ran, was reused or was skipped, such as ``options changed: samples 128 → 256``.
        seconds: Time it took; 0 for what did not run.
        key: The step's address in the store; empty when it has none.
        size_before_bytes: Bytes on disk of what it consumed, or None.
        size_after_bytes: Bytes on disk of what it produced, or None.
        metadata: JSON-able facts of the artifact: parity per batch size, SQNR, node counts, engine warnings.
        log: What its tools printed in this run, or None where it did not run.
    """

    id: str
    component: str
    kind: str
    method: str
    status: StepStatus
    why: str = ""
    seconds: Seconds = 0.0
    key: str = ""
    size_before_bytes: Bytes | None = None
    size_after_bytes: Bytes | None = None
    metadata: Facts = Field(default_factory=dict)
    log: Path | None = None


class CheckRecord(_Record):
    """One measured number against its limit; the fields are those of `mmdeploy.core.contracts.Check`."""

    name: str
    measured: Figure | None
    limit: str
    verdict: Verdict
    interval: Interval | None = None
    unit: str = ""
    note: str = ""
    samples: Annotated[int, Field(ge=0)] | None = None


class TableRecord(_Record):
    """What a gate shows a reviewer; the fields are those of `mmdeploy.core.contracts.ReviewTable`."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str | int | Figure | None, ...], ...]
    note: str = ""


class GateRecord(_Record):
    """What a gate found.

    Attributes:
        gate: The gate's method, such as ``accuracy``.
        verdict: The worst of its checks.
        checks: Every comparison it made.
        details: JSON-able figures behind the checks.
        seconds: Time the gate took, or None when it was not taken.
        advice: What the gate says to do about it; empty where it passed, or has nothing to say.
        tables: What it shows a reviewer.
    """

    gate: str
    verdict: Verdict
    checks: tuple[CheckRecord, ...]
    details: Facts = Field(default_factory=dict)
    seconds: Seconds | None = None
    advice: str = ""
    tables: tuple[TableRecord, ...] = ()


class Stage(_Record):
    """A figure at one stage of the chain.

    Attributes:
        label: The stage, such as ``PyTorch FP32``, ``ONNX FP32``, ``INT8``, ``served``.
        value: The figure, or None when it was not measured there.
        interval: Its confidence interval, lower and upper, or None.
        note: What a reader must know, such as the engine that it was measured on.
    """

    label: str
    value: Figure | None
    interval: Interval | None = None
    note: str = ""


class StageSeries(_Record):
    """Where a metric went, stage by stage, in the order of the chain.

    Attributes:
        component: The component, or None for end to end.
        metric: Such as ``top1``, ``cosine``, ``SQNR``.
        unit: Such as ``dB``; empty for a ratio.
        larger_is_better: Whether a larger figure is better.
        stages: The figures, first stage first.
    """

    component: str | None
    metric: str
    unit: str = ""
    larger_is_better: bool = True
    stages: tuple[Stage, ...]


class SizeRecord(_Record):
    """Bytes on disk of a component's engine: the FP32 reference and the candidate."""

    component: str
    reference_bytes: Bytes | None
    candidate_bytes: Bytes | None


class ModuleCosts(_Record):
    """What a component's PyTorch module costs; the fields are those of `mmdeploy.model.costs.Costs`."""

    parameters: int
    nonzero_parameters: int
    flops: int
    bytes: Bytes


class CostRecord(_Record):
    """What a component costs, and what passes on its module changed of that.

    Attributes:
        component: The component.
        before: As the recipe's factory and weights give it.
        after: As the last pass on the module left it; None where there is no such pass.
        latency_ratio: Latency of the engine that ships over that of the simplest uncompressed one, both measured
            alone; None where it was not measured.
        latency_ratio_interval: Its confidence interval, or None.
        notes: What a reader must know, such as that nothing gets faster by it; a sentence each.
    """

    component: str
    before: ModuleCosts
    after: ModuleCosts | None = None
    latency_ratio: Figure | None = None
    latency_ratio_interval: Interval | None = None
    notes: tuple[str, ...] = ()


class LatencyRecord(_Record):
    """A latency statistic of the FP32 reference and the candidate, measured interleaved in one run.

    Attributes:
        component: The component, or None for end to end.
        statistic: Such as ``p50`` or ``p95``.
        batch_size: Samples in a request.
        concurrency: Requests in flight.
        reference_ms: Of the FP32 reference.
        candidate_ms: Of the candidate.
        reference_interval_ms: Confidence interval, lower and upper, or None.
        candidate_interval_ms: Confidence interval, lower and upper, or None.
    """

    component: str | None
    statistic: str
    batch_size: int
    concurrency: int
    reference_ms: Figure | None
    candidate_ms: Figure | None
    reference_interval_ms: Interval | None = None
    candidate_interval_ms: Interval | None = None


class Failure(_Record):
    """Why the build stopped before the gates could decide.

    Attributes:
        step: The step's id; empty where no step was running.
        message: What is wrong, as the command said it.
        hint: What to do, or None.
        log: Path of the log with the details, or None.
    """

    step: str
    message: str
    hint: str | None = None
    log: Path | None = None


class BuildReport(_Record):
    """Everything a person or a CI system needs to know about one build.

    Attributes:
        schema_version: Of this structure.
        mmdeploy_version: That built.
        recipe: What was built.
        target: What it was built for.
        started_at: UTC.
        seconds: Wall-clock time of the whole build.
        verdict: The worst of the gates; ``fail`` when the build stopped before they could decide; may be
            ``inconclusive`` although every gate passed when only a substitute was judged.
        exit_code: What the command ended with.
        published: The repository that is live now, or None when nothing was published.
        release: Id of the release that is live now, or None when nothing was published: the run's own, or that of an
            earlier run of which nothing has changed.
        staged: The staged repository, kept on every verdict; not there where an earlier run's release is live.
        log: The build's log, or None.
        substitute: Why the candidate was judged on the same Q/DQ graph through ONNX Runtime instead of on its
            real engines, or None when the real ones were judged. Every rendering says so first.
        hardware: The machine that measured.
        libraries: Version by distribution name.
        server_version: Of the Triton that served, or None when none was started.
        seed: For bootstrap, order and anything random.
        steps: In the order in which they were planned.
        gates: In the order of the recipe.
        stages: Where accuracy and parity went, per component and end to end.
        sizes: Per component.
        latencies: Per component and end to end.
        costs: Parameters, operations and latency, per component.
        plain_recipe: The recipe that builds the same without searching and measuring, or None where nothing was
            searched or measured.
        notes: Anything else that a reader must know, one sentence each.
        failure: Set when a step failed or the build was interrupted.
    """

    schema_version: Literal[5] = 5
    mmdeploy_version: str = __version__
    recipe: RecipeRecord
    target: Target
    started_at: Annotated[AwareDatetime, AfterValidator(_as_utc)]
    seconds: Seconds
    verdict: Verdict
    exit_code: int
    published: Path | None
    release: str | None = None
    staged: Path
    log: Path | None = None
    substitute: str | None = None
    hardware: Hardware
    libraries: dict[str, str]
    server_version: str | None = None
    seed: int
    steps: tuple[StepRecord, ...] = ()
    gates: tuple[GateRecord, ...] = ()
    stages: tuple[StageSeries, ...] = ()
    sizes: tuple[SizeRecord, ...] = ()
    latencies: tuple[LatencyRecord, ...] = ()
    costs: tuple[CostRecord, ...] = ()
    plain_recipe: Path | None = None
    notes: tuple[str, ...] = ()
    failure: Failure | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        worst = Verdict.of_all([gate.verdict for gate in self.gates])
        if self.failure is not None:
            worst = Verdict.FAIL
        doubted = self.substitute is not None and worst is Verdict.PASS and self.verdict is Verdict.INCONCLUSIVE
        if self.verdict != worst and not doubted:
            reason = "the build stopped" if self.failure else "that is the worst of the gates"
            raise ValueError(f"verdict is {self.verdict}, but must be {worst}: {reason}")
        if self.exit_code == EXIT_PASS and self.verdict is not Verdict.PASS:
            raise ValueError(f"exit_code 0 contradicts the verdict {self.verdict}")
        return self

    @property
    def already_published(self) -> bool:
        """Whether what the run would have published was live already, as an earlier run's release."""
        return self.release is not None and self.release != self.staged.parent.name

    def to_json(self) -> str:
        """Serialize; `read_report` reads it back."""
        return self.model_dump_json(indent=1) + "\n"


def gate_record(result: GateResult, *, seconds: float | None = None) -> GateRecord:
    """Turn what a gate returned, and the time it took, into its record."""
    checks = tuple(
        CheckRecord(
            name=check.name,
            measured=check.measured,
            limit=check.limit,
            verdict=check.verdict,
            interval=check.interval,
            unit=check.unit,
            note=check.note,
            samples=check.samples,
        )
        for check in result.checks
    )
    tables = tuple(
        TableRecord(
            title=table.title,
            head=table.head,
            rows=tuple(tuple(_cell(cell) for cell in row) for row in table.rows),
            note=table.note,
        )
        for table in result.tables
    )
    return GateRecord(
        gate=result.gate,
        verdict=result.verdict,
        checks=checks,
        details=dict(result.details),
        seconds=seconds,
        advice=result.advice,
        tables=tables,
    )


def _cell(cell: Any) -> Any:
    return cell if cell is None or isinstance(cell, (str, float)) else jsonable(cell)
