"""``mmdeploy lint``: check a Triton model repository against the rules of Triton."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import click

from mmdeploy.cli.options import json_option
from mmdeploy.cli.text import counted, table
from mmdeploy.core.errors import EXIT_GATE_FAILED, EXIT_PASS
from mmdeploy.core.version import __version__

if TYPE_CHECKING:
    from mmdeploy.triton.lint import Finding

_SARIF_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


@click.command()
@click.argument("repository", type=click.Path(path_type=Path), default="model_repository")
@json_option
@click.option(
    "--sarif", is_flag=True, help="Print SARIF 2.1.0, which code hosts show beside the lines; paths below this folder."
)
def command(repository: Path, as_json: bool, sarif: bool) -> int:
    """Check a Triton model repository, ours or not, against what Triton enforces when it loads one.

    No server is needed. REPOSITORY is a model repository, or a folder of published ones; model_repository where it is
    left out. Exits with 1 when Triton would refuse a model, with 0 when there are only warnings.

    \b
    Example:
      mmdeploy lint model_repository
      mmdeploy lint /srv/models --json
      mmdeploy lint models --sarif > lint.sarif
    """  # noqa: D301
    from mmdeploy.triton.lint import Severity, lint

    if as_json and sarif:
        raise click.UsageError("--json and --sarif are two forms of the same: give one")
    findings = lint(repository)
    errors = sum(finding.severity is Severity.ERROR for finding in findings)
    if sarif:
        click.echo(_sarif(findings))
    else:
        click.echo(_json(findings) if as_json else _text(repository, findings, errors))
    return EXIT_GATE_FAILED if errors else EXIT_PASS


def _json(findings: Sequence[Finding]) -> str:
    return json.dumps(
        [
            {
                "rule": finding.rule,
                "severity": finding.severity.value,
                "model": finding.model,
                "file": str(finding.file),
                "line": finding.line,
                "message": finding.message,
                "remedy": finding.remedy,
            }
            for finding in findings
        ],
        indent=2,
    )


def _sarif(findings: Sequence[Finding]) -> str:
    """Return the findings as a SARIF log (OASIS, 2.1.0); files below the working folder by their path in it."""
    rules = list(dict.fromkeys(finding.rule for finding in findings))
    driver = {"name": "mmdeploy lint", "version": __version__, "rules": [{"id": rule} for rule in rules]}
    results = [
        {
            "ruleId": finding.rule,
            "ruleIndex": rules.index(finding.rule),
            "level": finding.severity.value,
            "message": {"text": f"{finding.message}. {finding.remedy}"},
            "locations": [{"physicalLocation": _place(finding)}],
            "properties": {"model": finding.model},
        }
        for finding in findings
    ]
    runs = [{"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}]
    return json.dumps({"$schema": _SARIF_SCHEMA, "version": "2.1.0", "runs": runs}, indent=2)


def _place(finding: Finding) -> dict[str, object]:
    file, here = finding.file.absolute(), Path.cwd()
    uri = quote(file.relative_to(here).as_posix()) if file.is_relative_to(here) else file.as_uri()
    region = {} if finding.line is None else {"region": {"startLine": finding.line}}
    return {"artifactLocation": {"uri": uri}, **region}


def _text(repository: Path, findings: Sequence[Finding], errors: int) -> str:
    if not findings:
        return f"ok: {repository}: Triton takes it"
    rows = [
        (
            finding.severity.value,
            f"{finding.file}:{finding.line}" if finding.line else str(finding.file),
            f"{finding.message} ({finding.rule})\n  {finding.remedy}",
        )
        for finding in findings
    ]
    total = f"{counted(errors, 'error')}, {counted(len(findings) - errors, 'warning')}"
    verdict = "Triton refuses what has an error" if errors else "Triton takes it"
    return f"{table(('severity', 'where', 'what is wrong, and what to do'), rows)}\n\n{repository}: {total}: {verdict}"
