"""Findings, and checks that did not pass, as a SARIF log (OASIS, 2.1.0): CI systems show them beside the code."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from mmdeploy.core.contracts import Verdict
from mmdeploy.core.version import __version__
from mmdeploy.record.build_report import BASELINE, BuildReport
from mmdeploy.report.places import lines_of_gates
from mmdeploy.report.units import check_text, remark_text, without_controls

_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_LEVELS = {Verdict.FAIL: "error", Verdict.INCONCLUSIVE: "warning"}


@dataclass(frozen=True)
class Result:
    """One result of a log.

    Attributes:
        rule: Its rule's id.
        level: ``error``, ``warning`` or ``note``.
        message: What is wrong.
        file: Where.
        line: Its line, or None.
        properties: What else is known.
    """

    rule: str
    level: str
    message: str
    file: Path
    line: int | None = None
    properties: dict[str, str] = field(default_factory=dict)


def log(tool: str, results: Iterable[Result]) -> str:
    """Return results as a log of one run; files below the working folder by their path in it."""
    found = list(results)
    rules = list(dict.fromkeys(one.rule for one in found))
    driver = {"name": tool, "version": __version__, "rules": [{"id": rule} for rule in rules]}
    listed = [
        {
            "ruleId": one.rule,
            "ruleIndex": rules.index(one.rule),
            "level": one.level,
            "message": {"text": one.message},
            "locations": [{"physicalLocation": _place(one)}],
            "properties": one.properties,
        }
        for one in found
    ]
    runs = [{"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": listed}]
    return json.dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": runs}, indent=2)


def of_gates(report: BuildReport) -> str:
    """Return the checks of a report that did not pass as a log, at the lines of the recipe."""
    lines = lines_of_gates(report.recipe.path, [gate.gate for gate in report.gates])
    return log(
        "mmdeploy gate" if any(gate.gate == BASELINE for gate in report.gates) else "mmdeploy build",
        (
            Result(
                rule=f"gate/{gate.gate}",
                level=_LEVELS[check.verdict],
                message=without_controls(
                    f"{check.name}: {' '.join(filter(None, check_text(check)))}, limit {check.limit}. "
                    f"{remark_text(check)}".strip()
                ),
                file=report.recipe.path,
                line=line,
                properties={"check": without_controls(check.name), "verdict": check.verdict.value},
            )
            for gate, line in zip(report.gates, lines, strict=True)
            for check in gate.checks
            if check.verdict in _LEVELS
        ),
    )


def _place(one: Result) -> dict[str, object]:
    file, here = one.file.absolute(), Path.cwd()
    uri = quote(file.relative_to(here).as_posix()) if file.is_relative_to(here) else file.as_uri()
    region = {} if one.line is None else {"region": {"startLine": one.line}}
    return {"artifactLocation": {"uri": uri}, **region}
