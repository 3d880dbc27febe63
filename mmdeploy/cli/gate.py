"""``mmdeploy gate``: judge a build against a baseline."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmdeploy.cli.options import json_option, workdir_option
from mmdeploy.cli.text import table, wrapped
from mmdeploy.core.errors import EXIT_GATE_FAILED, EXIT_INCONCLUSIVE, EXIT_PASS

if TYPE_CHECKING:
    from mmdeploy.core.contracts import Check, Verdict

_EXITS = {"pass": EXIT_PASS, "fail": EXIT_GATE_FAILED, "inconclusive": EXIT_INCONCLUSIVE}


@click.command()
@click.argument("report", type=click.Path(path_type=Path), required=False)
@click.option(
    "--baseline",
    type=click.Path(path_type=Path),
    required=True,
    help="What mmdeploy baseline accept wrote, or a report.",
)
@click.option("--max-drop", type=click.FloatRange(0), help="Largest loss of each accuracy metric, in its unit.")
@click.option("--max-relative-drop", type=click.FloatRange(0), help="Largest loss, as a share of the baseline's score.")
@click.option("--min-gain", type=click.FloatRange(0), help="Least gain of each accuracy metric, in its unit.")
@click.option("--max-size-ratio", type=click.FloatRange(0), help="Bytes of all components over the baseline's.")
@click.option(
    "--max-latency-ratio",
    type=click.FloatRange(0),
    help="Latencies over the baseline's, each as a ratio to the FP32 reference of its own run; on the same hardware.",
)
@workdir_option
@json_option
def command(
    *,
    report: Path | None,
    baseline: Path,
    max_drop: float | None,
    max_relative_drop: float | None,
    min_gain: float | None,
    max_size_ratio: float | None,
    max_latency_ratio: float | None,
    workdir: Path,
    as_json: bool,
) -> int:
    """Judge a build against a baseline.

    REPORT is a report.json, a run's folder or a release, by default the latest run. Give at least one limit. Accuracy
    is compared sample by sample, so both must have been judged on the same samples. Verdicts are by the whole interval:
    what the samples leave open is inconclusive. Exits with 0, 1 or 5, as a build does.

    \b
    Example:
      mmdeploy gate --baseline baseline.json --max-drop 0.01 --max-size-ratio 1.05
      mmdeploy gate model_repository/spoken_digits --baseline baseline.json --min-gain 0.005 --json
    """  # noqa: D301
    from mmdeploy.cli.report import latest
    from mmdeploy.core.contracts import Verdict
    from mmdeploy.record.report_file import read_report
    from mmdeploy.report.against_baseline import Goals, judged

    goals = Goals(max_drop, max_relative_drop, min_gain, max_size_ratio, max_latency_ratio)
    if goals == Goals():
        raise click.UsageError("nothing to judge: give a limit, such as --max-drop 0.01")
    checks = judged(read_report(report or latest(workdir)), read_report(baseline), goals)
    verdict = Verdict.of_all([check.verdict for check in checks])
    click.echo(_json(checks, verdict) if as_json else _text(checks, verdict, baseline))
    return _EXITS[verdict.value]


def _json(checks: Sequence[Check], verdict: Verdict) -> str:
    from mmdeploy.record.plain_json import jsonable

    return json.dumps({"verdict": verdict.value, "checks": [jsonable(asdict(check)) for check in checks]}, indent=2)


def _text(checks: Sequence[Check], verdict: Verdict, baseline: Path) -> str:
    rows = []
    for check in checks:
        interval = "" if check.interval is None else f"[{check.interval[0]:.4g}, {check.interval[1]:.4g}]"
        measured = "–" if check.measured is None else f"{check.measured:.4g}"
        rows.append((check.verdict.value, check.name, f"{measured} {interval}".rstrip(), check.limit))
    notes = [wrapped(f"{check.name}: {check.note}") for check in checks if check.note]
    head = ("verdict", "against the baseline", "measured", "limit")
    return "\n".join([table(head, rows), "", *notes, f"{verdict.value}: against {baseline}"])
