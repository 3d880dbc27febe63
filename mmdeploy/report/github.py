"""What GitHub shows of a build: the step's summary, and annotations at the lines of the recipe.

See "Workflow commands for GitHub Actions". Other systems read ``junit.xml``.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from mmdeploy.core.contracts import Verdict
from mmdeploy.core.errors import Problem, RecipeError
from mmdeploy.recipe.yaml_tree import Node, tree_from_file
from mmdeploy.record.build_report import BuildReport, GateRecord
from mmdeploy.report import markdown
from mmdeploy.report.units import check_text, without_controls

#: What GitHub takes of one step's summary.
_MOST_BYTES = 2**20
#: How a problem begins: file and line.
_PLACE = re.compile(r"(?!--)([^\s:]+(?: [^\s:]+)*):(\d+)")
_LEVELS = {Verdict.FAIL: "error", Verdict.INCONCLUSIVE: "warning"}


def summarize(report: BuildReport, environ: Mapping[str, str] = os.environ) -> None:
    """Add the report to the step's summary, where there is one to write to; one that is too large is left out."""
    place = environ.get("GITHUB_STEP_SUMMARY")
    text = markdown.render(report).encode("utf-8", "replace")
    if place and len(text) < _MOST_BYTES:
        with contextlib.suppress(OSError), Path(place).open("ab") as summary:
            summary.write(text)


def of_build(report: BuildReport, environ: Mapping[str, str] = os.environ) -> Iterator[str]:
    """Give the commands that annotate a recipe with what its build came to; none outside of GitHub's runners."""
    if not is_runner(environ):
        return
    if report.failure is not None:
        where = f"step {report.failure.step}" if report.failure.step else report.recipe.name
        yield command("error", f"{where} failed", report.failure.message, (report.recipe.path, 1), environ)
    lines = _lines_of_gates(report.recipe.path, len(report.gates))
    for gate, line in zip(report.gates, lines, strict=True):
        if gate.verdict in _LEVELS:
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


def _lines_of_gates(path: Path, count: int) -> list[int]:
    """Return the line of each gate; 1 where they are not those of this file, as of a variant's base."""
    try:
        tree: Node = tree_from_file(path)[1]
    except RecipeError:
        return [1] * count
    gates = tree.child("gates")
    if gates is None or not isinstance(gates.value, list) or len(gates.value) != count:
        return [1 if gates is None else gates.line] * count
    return [gate.line for gate in gates.value]
