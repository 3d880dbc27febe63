"""``mmdeploy lint``: check a Triton model repository against the rules of Triton."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmdeploy.cli.options import json_option
from mmdeploy.cli.text import counted, table
from mmdeploy.core.errors import EXIT_GATE_FAILED, EXIT_PASS

if TYPE_CHECKING:
    from mmdeploy.triton.lint import Finding


@click.command()
@click.argument("repository", type=click.Path(path_type=Path), default="model_repository")
@json_option
def command(repository: Path, as_json: bool) -> int:
    """Check a Triton model repository, ours or not, against what Triton enforces when it loads one.

    No server is needed. REPOSITORY is a model repository, or a folder of published ones; model_repository where it is
    left out. Exits with 1 when Triton would refuse a model, with 0 when there are only warnings.

    \b
    Example:
      mmdeploy lint model_repository
      mmdeploy lint /srv/models --json
    """  # noqa: D301
    from mmdeploy.triton.lint import Severity, lint

    findings = lint(repository)
    errors = sum(finding.severity is Severity.ERROR for finding in findings)
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
