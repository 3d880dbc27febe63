"""What every rendering says in the same words: the headline, a substitute's warning, what to do next."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from mmdeploy.core import facts
from mmdeploy.core.contracts import Verdict
from mmdeploy.core.errors import EXIT_INTERRUPTED
from mmdeploy.engines.built_from import Warned
from mmdeploy.record.build_report import BuildReport, GateRecord, SizeRecord, StepRecord
from mmdeploy.report.units import figure_text

END_TO_END = "end to end"
TOTAL = "total"
PLAIN_RECIPE = "The same without searching and measuring"
SUBSTITUTE = "SUBSTITUTE, not the real engine"
#: Details of a gate that compares answers: scores against the original's, and tensors against the original's.
_OF_ANSWERS = {"scores", "tensors"}


def outcome(report: BuildReport) -> str:
    """Return the build's outcome as a word or two: passed, failed, inconclusive, stopped."""
    if report.failure is not None:
        return "stopped"
    return {Verdict.PASS: "passed", Verdict.FAIL: "failed", Verdict.INCONCLUSIVE: "inconclusive"}[report.verdict]


def headline(report: BuildReport) -> str:
    """Return one line that says what the build came to, without the recipe's name."""
    if report.failure is not None:
        if report.exit_code == EXIT_INTERRUPTED:
            return "stopped: interrupted, the gates did not decide"
        return f"stopped: {report.failure.step or 'the build'} failed, the gates did not decide"
    word = outcome(report) + (f" ({SUBSTITUTE})" if report.substitute is not None else "")
    if not report.gates:
        return f"{word}: the recipe has no gates, nothing was judged"
    undecided = _named(report, Verdict.INCONCLUSIVE)
    if report.verdict is Verdict.PASS:
        return f"{word}: all {len(report.gates)} gates" if len(report.gates) > 1 else f"{word}: the one gate"
    if report.verdict is Verdict.FAIL:
        return f"{word}: {_named(report, Verdict.FAIL)}" + (f"; inconclusive: {undecided}" if undecided else "")
    return f"{word}: {undecided or 'every gate passed, but only on the substitute'}"


def substitute_warning(report: BuildReport) -> str | None:
    """Return the warning that the real engines were not judged, or None when they were."""
    if report.substitute is None:
        return None
    return (
        f"{SUBSTITUTE}: the same Q/DQ graph was judged through ONNX Runtime. "
        f"Reason: {report.substitute.rstrip('.')}. Accuracy and parity are the graph's; latency, throughput "
        f"and memory of the {report.target} engine are unknown."
    )


def repository(report: BuildReport) -> tuple[str, Path | None]:
    """Say whether something was published, and where the repository is, where there is one."""
    if report.already_published:
        return f"nothing changed; already published as {report.release}", report.published
    if report.published is not None:
        passed = report.verdict is Verdict.PASS
        return (
            "published" if passed else f"published on request, although {outcome(report)}",
            report.published,
        )
    if report.failure is not None and not report.gates:
        return "not published; what was live before still is", None
    return "not published; staged repository kept", report.staged


def worst_first(report: BuildReport) -> list[GateRecord]:
    """Return the gates, failed before inconclusive before passed, and so the checks of each; else as they were."""
    order = [Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.PASS]
    sorted_checks = (
        gate.model_copy(update={"checks": tuple(sorted(gate.checks, key=lambda check: order.index(check.verdict)))})
        for gate in report.gates
    )
    return sorted(sorted_checks, key=lambda gate: order.index(gate.verdict))


def unique_names(gates: tuple[GateRecord, ...]) -> Iterator[tuple[str, GateRecord]]:
    """Number the gates of a method that the recipe uses more than once: CI systems merge equal names."""
    seen: dict[str, int] = {}
    for gate in gates:
        seen[gate.gate] = seen.get(gate.gate, 0) + 1
        yield (gate.gate if seen[gate.gate] == 1 else f"{gate.gate} {seen[gate.gate]}"), gate


def log_link(report: BuildReport, path: Path | None) -> str:
    """Return where a file of the run is, seen from the report in its folder: true of a copy, too; else empty."""
    run = report.staged.parent
    if path is None or not path.is_relative_to(run) or path == run:
        return ""
    return quote(path.relative_to(run).as_posix())


def warned_text(step: StepRecord) -> str:
    """Return `` (2 warnings)`` for a step whose tool warned, else nothing."""
    found = facts.find(Warned, step.metadata)
    count = len(found.warnings) if found else 0
    return f" ({count} warning{'s' if count > 1 else ''})" if count else ""


def sizes_and_total(report: BuildReport) -> list[SizeRecord]:
    """Return the sizes, and their total after them where there are several and all are known."""
    reference = [size.reference_bytes for size in report.sizes if size.reference_bytes is not None]
    candidate = [size.candidate_bytes for size in report.sizes if size.candidate_bytes is not None]
    if len(report.sizes) < 2 or not len(reference) == len(candidate) == len(report.sizes):
        return list(report.sizes)
    total = SizeRecord(component=TOTAL, reference_bytes=sum(reference), candidate_bytes=sum(candidate))
    return [*report.sizes, total]


def next_steps(report: BuildReport) -> list[str]:
    """Say what to do now, most useful first; a sentence each."""
    if report.failure is not None:
        advice = [report.failure.hint] if report.failure.hint else []
        if report.failure.log is not None:
            advice.append(f"read the log: {report.failure.log}")
        return [*advice, "build again: finished steps are reused"]
    if report.verdict is Verdict.PASS:
        return [f"serve it: mmdeploy serve {report.published}"] if report.published else []
    return _advice_on_failed(report) + _advice_on_undecided(report)


def _named(report: BuildReport, verdict: Verdict) -> str:
    return ", ".join(dict.fromkeys(gate.gate for gate in report.gates if gate.verdict is verdict))


def _advice_on_failed(report: BuildReport) -> list[str]:
    """Return what the failed gates advise; of answers that differ, where they came to differ goes before it."""
    where = "; ".join(part for part in (largest_loss(report), weakest_component(report)) if part)
    advice = []
    for (text, lossy), names in _grouped(report, Verdict.FAIL).items():
        told = text or "its checks say what is over"
        advice.append(f"{names}: {where}. {told}" if lossy and where else f"{names}: {told}")
    return advice


def _advice_on_undecided(report: BuildReport) -> list[str]:
    if report.substitute is not None:
        judge = f"judge it on a machine that runs {report.target} engines"
        unsafe = ", or publish it without that: mmdeploy build --publish-unverified"
        failed = Verdict.FAIL in {gate.verdict for gate in report.gates}
        return [judge if failed or report.published else judge + unsafe]
    undecided = _grouped(report, Verdict.INCONCLUSIVE).items()
    return [f"{names}: {text or 'its checks say what is missing'}" for (text, _), names in undecided]


def _grouped(report: BuildReport, verdict: Verdict) -> dict[tuple[str, bool], str]:
    """Return the names of the gates with a verdict, by their advice and by whether they compare answers."""
    found: dict[tuple[str, bool], list[str]] = {}
    for gate in report.gates:
        if gate.verdict is verdict:
            lossy = bool(_OF_ANSWERS & gate.details.keys()) and not gate.details.get("original_misses")
            found.setdefault((gate.advice, lossy), []).append(gate.gate)
    return {key: ", ".join(dict.fromkeys(names)) for key, names in found.items()}


def largest_loss(report: BuildReport) -> str | None:
    """Name the stage at which the end-to-end metric lost most, such as ``top1 fell most at INT8 (…)``."""
    for series in report.stages:
        measured = [(stage.value, stage.label) for stage in series.stages if stage.value is not None]
        sign = 1 if series.larger_is_better else -1
        drops = [(sign * (old - new), old, new, label) for (old, _), (new, label) in itertools.pairwise(measured)]
        drop, old, new, label = max(drops, key=lambda found: found[0], default=(0.0, 0.0, 0.0, ""))
        if series.component is None and drop > 0:
            values = f"{figure_text(old, unit=series.unit)} → {figure_text(new, unit=series.unit)}"
            moved = "fell" if series.larger_is_better else "rose"
            return f"{series.metric} {moved} most at {label} ({values})"
    return None


def weakest_component(report: BuildReport) -> str | None:
    """Name the component whose shipped graph has the lowest SQNR, such as ``lowest SQNR: fusion (…)``."""
    last = [
        (series.stages[-1].value, series)
        for series in report.stages
        if series.component is not None and series.unit == "dB" and series.stages
    ]
    found = [(value, series) for value, series in last if value is not None]
    if len(found) < 2:
        return None
    value, series = min(found, key=lambda pair: pair[0])
    return f"lowest {series.metric}: {series.component} ({figure_text(value, unit=series.unit)})"
