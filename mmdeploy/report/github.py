"""What GitHub shows of a build: the step's summary, and annotations at the lines of the recipe.

See "Workflow commands for GitHub Actions". Other systems read ``junit.xml``.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from mmdeploy.core.contracts import Verdict
from mmdeploy.core.errors import Problem
from mmdeploy.record.build_report import BuildReport, GateRecord
from mmdeploy.report import markdown
from mmdeploy.report.places import lines_of_gates
from mmdeploy.report.units import check_text, without_controls

#: What GitHub takes of one step's summary.
_MOST_BYTES = 2**20
#: How a problem begins: file and line.
_PLACE = re.compile(r"(?!--)([^\s:]+(?: [^\s:]+)*):(\d+)")
_LEVELS = {Verdict.FAIL: "error", Verdict.INCONCLUSIVE: "warning"}


def summarize(report: BuildReport, environ: Mapping[str, str] = os.environ, *, gate: str = "") -> None:
    """Add the report to the step's summary, where there is one to write to; one that is too large is left out.

    Args:
        report: The report.
        environ: The environment.
        gate: The only gate that is shown; everything when empty.
    """
    place = environ.get("GITHUB_STEP_SUMMARY")
    text = (markdown.render_gate(report, gate) if gate else markdown.render(report)).encode("utf-8", "replace")
    if place and len(text) < _MOST_BYTES:
        with contextlib.suppress(OSError), Path(place).open("ab") as summary:
            summary.write(text)


@contextlib.contextmanager
def group(title: str, say: Callable[[str], None], environ: Mapping[str, str] = os.environ) -> Iterator[None]:
    """Fold what is said meanwhile under a title, on GitHub's runners.

    Args:
        title: What it is.
        say: Prints a line where the rest is printed.
        environ: The environment.
    """
    if not is_runner(environ):
        yield
        return
    say(f"::group::{_escaped(title)}")
    try:
        yield
    finally:
        say("::endgroup::")


def of_build(report: BuildReport, environ: Mapping[str, str] = os.environ, *, only: str = "") -> Iterator[str]:
    """Give the commands that annotate a recipe with what its build came to; none outside of GitHub's runners.

    Args:
        report: The build's.
        environ: The environment.
        only: The gate that is told of; all when empty.
    """
    if not is_runner(environ):
        return
    if report.failure is not None:
        where = f"step {report.failure.step}" if report.failure.step else report.recipe.name
        yield command("error", f"{where} failed", report.failure.message, (report.recipe.path, 1), environ)
    lines = lines_of_gates(report.recipe.path, [gate.gate for gate in report.gates])
    for gate, line in zip(report.gates, lines, strict=True):
        if gate.verdict in _LEVELS and only in ("", gate.gate):
            title = f"gate {gate.gate}: {gate.verdict.value}"
            yield command(_LEVELS[gate.verdict], title, _reason(gate), (report.recipe.path, line), environ)


def of_problems(problems: tuple[Problem, ...], environ: Mapping[str, str] = os.environ) -> Iterator[str]:
    """Give the commands that annotate a wrong recipe at its mistakes."""
    for problem in problems if is_runner(environ) else ():
        message = f"{problem.where}: {problem.message}"
        if (place := _PLACE.match(problem.where)) is not None:
            yield command("error", "recipe", message, (Path(place[1]), int(place[2])), environ)
        else:  # of an override on the command line
            yield f"::error title=mmdeploy%3A recipe::{_escaped(message)}"


def is_runner(environ: Mapping[str, str]) -> bool:
    """Say whether this is one of GitHub's runners."""
    return environ.get("GITHUB_ACTIONS") == "true"


def command(level: str, title: str, message: str, at: tuple[Path, int], environ: Mapping[str, str]) -> str:
    """Return a workflow command; what would end a property or the line is escaped as GitHub does."""
    (file, line), top = at, environ.get("GITHUB_WORKSPACE") or str(Path.cwd())
    place = os.path.relpath(file, top)
    told = {"file": place, "line": str(line), "title": f"mmdeploy: {title}"}
    properties = ",".join(
        f"{key}={_escaped(value).replace(':', '%3A').replace(',', '%2C')}" for key, value in told.items()
    )
    return f"::{level} {properties}::{_escaped(message)}"


def _escaped(text: str) -> str:
    return without_controls(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _reason(gate: GateRecord) -> str:
    """Return the checks that did not pass, and what to do."""
    missed = [check for check in gate.checks if check.verdict is not Verdict.PASS]
    told = [f"{check.name}: {check_text(check)[0]}, limit {check.limit}" for check in missed]
    return "\n".join([*told, *([gate.advice] if gate.advice else [])])
