"""``mmdeploy gate``: judge a build against a baseline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmdeploy.cli.options import benchmark_option, workdir_option
from mmdeploy.cli.output import Output, output_options
from mmdeploy.cli.text import table, wrapped
from mmdeploy.core.errors import EXIT_GATE_FAILED, EXIT_INCONCLUSIVE, EXIT_PASS, UsageError

if TYPE_CHECKING:
    from mmdeploy.baseline.comparable import Goals
    from mmdeploy.core.contracts import Check, GateResult, Verdict
    from mmdeploy.record.build_report import BuildReport

_HEARTBEAT_SECONDS = 15
_EXITS = {"pass": EXIT_PASS, "fail": EXIT_GATE_FAILED, "inconclusive": EXIT_INCONCLUSIVE}


@click.command()
@click.argument("report", type=click.Path(path_type=Path), required=False)
@click.option(
    "--baseline",
    type=click.Path(path_type=Path),
    required=True,
    help="What mmdeploy baseline accept wrote, a report, a run's folder or a release.",
)
@click.option("--max-drop", type=click.FloatRange(0), help="Largest loss of each accuracy metric, in its unit.")
@click.option("--max-relative-drop", type=click.FloatRange(0), help="Largest loss, as a share of the baseline's score.")
@click.option("--min-gain", type=click.FloatRange(0), help="Least gain of each accuracy metric, in its unit.")
@click.option("--max-size-ratio", type=click.FloatRange(0), help="Bytes of all components over the baseline's.")
@click.option(
    "--max-latency-ratio",
    type=click.FloatRange(0),
    help="Latencies over the baseline's: of both repositories, served here and asked in turns, where both are at hand; "
    "else each as a ratio to the FP32 reference of its own run, on the same hardware.",
)
@click.option(
    "--measure/--no-measure",
    default=None,
    help="Insist on serving both repositories, or take latencies from the reports.  [default: where both are at hand]",
)
@click.option(
    "--max-seconds",
    type=click.FloatRange(1),
    default=60.0,
    show_default=True,
    help="To measure each load for, at most.",
)
@click.option("--junit", type=click.Path(path_type=Path, dir_okay=False), help="Write all gates as JUnit XML.")
@click.option(
    "--sarif",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write what did not pass as SARIF 2.1.0, at the recipe's lines.",
)
@benchmark_option
@workdir_option
@output_options(quiet="the checks that did not pass, one a line")
def command(
    *,
    report: Path | None,
    baseline: Path,
    max_drop: float | None,
    max_relative_drop: float | None,
    min_gain: float | None,
    max_size_ratio: float | None,
    max_latency_ratio: float | None,
    measure: bool | None,
    max_seconds: float,
    junit: Path | None,
    sarif: Path | None,
    benchmark_json: Path | None,
    workdir: Path,
    output: Output,
) -> int:
    """Judge a build against a baseline.

    REPORT is a report.json, a run's folder or a release, by default the latest run. Give at least one limit. Accuracy
    is compared sample by sample, so both must have been judged on the same samples, on machines whose INT8 is the same.
    Verdicts are by the whole interval: what the samples, or the noise, leave open is inconclusive. Exits with 0, 1 or
    5, as a build does.

    \b
    Example:
      mmdeploy gate --baseline baseline.json --max-drop 0.01 --max-size-ratio 1.05
      mmdeploy gate model_repository/spoken_digits --baseline baseline.json \\
        --min-gain 0.005 --json
      mmdeploy gate --baseline model_repository/spoken_digits \\
        --max-latency-ratio 1.1 --measure
    """  # noqa: D301
    from mmdeploy.baseline.against import judged, own_gates, with_gate
    from mmdeploy.baseline.comparable import Goals
    from mmdeploy.cli.report import latest
    from mmdeploy.core.contracts import Verdict
    from mmdeploy.record.report_file import read_report

    goals = Goals(max_drop, max_relative_drop, min_gain, max_size_ratio, max_latency_ratio)
    theirs = read_report(baseline)
    if goals == Goals():
        raise click.UsageError("nothing to judge: give a limit, such as --max-drop 0.01")
    place = report or latest(workdir)
    ours = read_report(place)
    asked = _Asked(place, baseline, goals, measure, max_seconds, workdir / "gate")
    result = judged(ours, theirs, goals, _measured(asked, ours, theirs))
    checks = (own_gates(ours), *result.checks)
    verdict = Verdict.of_all([check.verdict for check in checks])
    _write(with_gate(ours, result), junit, sarif, benchmark_json)
    output.answer(
        text=lambda: _text(checks, verdict, baseline),
        fields=lambda: _fields(checks, result, verdict),
        quiet=[f"{check.verdict.value}: {check.name}" for check in checks if check.verdict is not Verdict.PASS],
    )
    return _EXITS[verdict.value]


def _write(report: BuildReport, junit: Path | None, sarif: Path | None, benchmark_json: Path | None) -> None:
    """Write the files that were asked for, and tell a CI system that shows more than what is printed."""
    from mmdeploy.record.build_report import BASELINE
    from mmdeploy.report import benchmark, github, write_file
    from mmdeploy.report import junit as junit_report
    from mmdeploy.report import sarif as sarif_log

    if junit is not None:
        write_file(junit, junit_report.render(report))
    if sarif is not None:
        write_file(sarif, sarif_log.of_gates(report))
    for file, text in benchmark.files(report, benchmark_json).items() if benchmark_json is not None else ():
        write_file(file, text)
    for annotation in github.of_build(report, only=BASELINE):
        click.echo(annotation, err=True)
    github.summarize(report, gate=BASELINE)


class _Asked:
    """What was asked for on the command line."""

    def __init__(
        self, place: Path, baseline: Path, goals: Goals, measure: bool | None, max_seconds: float, logs: Path
    ) -> None:
        self.place, self.baseline, self.goals = place, baseline, goals
        self.measure, self.max_seconds, self.logs = measure, max_seconds, logs


def _measured(asked: _Asked, ours: BuildReport, theirs: BuildReport) -> tuple[Check, ...] | None:
    """Measure both repositories in turns; None where the reports are to tell."""
    from mmdeploy.baseline.comparable import require_comparable
    from mmdeploy.baseline.in_turns import HowLong, at_hand, loads, measured

    limit = asked.goals.max_latency_ratio
    if limit is None:
        if asked.measure:
            raise click.UsageError("--measure is for latency: give --max-latency-ratio, too")
        return None
    sides = [at_hand(asked.place), at_hand(asked.baseline)]
    if asked.measure is False or (asked.measure is None and None in sides):
        return None
    for place, side in zip((asked.place, asked.baseline), sides, strict=True):
        if side is None:
            raise UsageError(
                f"{place}: no repository to serve is there, and --measure wants both",
                hint="name a release, such as model_repository/NAME, or the folder of a run",
            )
    require_comparable(ours, theirs, asked.goals, in_turns=True)  # before time is spent
    assert sides[0] is not None and sides[1] is not None
    from mmdeploy.report import github

    with github.group("latency of both repositories", lambda line: click.echo(line, err=True)):
        click.echo(f"serving {asked.place} and {asked.baseline}", err=True)
        return measured(sides[0], sides[1], limit, loads(ours), HowLong(asked.max_seconds, asked.logs, _Heartbeat()))


class _Heartbeat:
    """Says now and then how far measuring is: CI systems end a job that says nothing."""

    def __init__(self) -> None:
        self._last = 0

    def __call__(self, done: int, total: int | None, what: str) -> None:
        if done - self._last not in range(_HEARTBEAT_SECONDS):
            self._last = done
            click.echo(f"{done} of {total} {what}", err=True)


def _fields(checks: tuple[Check, ...], result: GateResult, verdict: Verdict) -> dict[str, Any]:
    from dataclasses import asdict

    from mmdeploy.baseline.against import RESOLUTION

    shown: Mapping[str, Any] = result.details.get(RESOLUTION, {})
    rows = [asdict(check) | shown.get(check.name, {}) for check in checks]
    return {"verdict": verdict.value, "baseline": result.details["baseline"], "checks": rows}


def _text(checks: tuple[Check, ...], verdict: Verdict, baseline: Path) -> str:
    rows = []
    for check in checks:
        interval = "" if check.interval is None else f"[{check.interval[0]:.4g}, {check.interval[1]:.4g}]"
        measured = "–" if check.measured is None else f"{check.measured:.4g}"
        rows.append((check.verdict.value, check.name, f"{measured} {interval}".rstrip(), check.limit))
    notes = [wrapped(f"{check.name}: {check.note}") for check in checks if check.note]
    head = ("verdict", "against the baseline", "measured", "limit")
    return "\n".join([table(head, rows), "", *notes, f"{verdict.value}: against {baseline}"])
