"""``mmdeploy lint``: check a Triton model repository against the rules of Triton."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmdeploy.cli.output import Output, output_options
from mmdeploy.cli.text import counted, table
from mmdeploy.core.errors import EXIT_GATE_FAILED, EXIT_PASS

if TYPE_CHECKING:
    from mmdeploy.triton.lint import Finding


@click.command()
@click.argument("repository", type=click.Path(path_type=Path), default="model_repository")
@click.option(
    "--sarif", is_flag=True, help="Print SARIF 2.1.0, which code hosts show beside the lines; paths below this folder."
)
@click.option(
    "--container",
    metavar="TAG",
    help="Hold it against a release image of Triton as well, such as 26.08-py3: its backends, TensorRT, ONNX Runtime.",
)
@output_options(quiet="what Triton refuses, a finding a line")
def command(repository: Path, output: Output, sarif: bool, container: str | None) -> int:
    """Check a Triton model repository, ours or not, against what Triton enforces when it loads one.

    No server is needed. REPOSITORY is a model repository, or a folder of published ones; model_repository where it is
    left out. Exits with 1 when Triton would refuse a model, with 0 when there are only warnings. With --container, what
    that image lacks or is too old for is an error, and what cannot be known of it a warning; what images hold is from a
    table of mmdeploy's that names its sources.

    \b
    Example:
      mmdeploy lint model_repository
      mmdeploy lint /srv/models --json
      mmdeploy lint model_repository --container 26.08-py3
      mmdeploy lint models --sarif > lint.sarif
    """  # noqa: D301
    from mmdeploy.packaging import containers, fit
    from mmdeploy.triton.lint import Severity, lint

    if output.as_json and sarif:
        raise click.UsageError("--json and --sarif are two forms of the same: give one")
    image = None if container is None else containers.container(container)
    findings = (*lint(repository), *(fit.unfit(repository, image) if image else ()))
    errors = sum(finding.severity is Severity.ERROR for finding in findings)
    if sarif:
        click.echo(_sarif(findings))
    else:
        output.answer(
            text=lambda: _text(repository, findings, errors),
            fields=lambda: {"findings": [_fields(finding) for finding in findings]},
            quiet=[f"{_where(one)}: {one.message} ({one.rule})" for one in findings if one.severity is Severity.ERROR],
        )
    return EXIT_GATE_FAILED if errors else EXIT_PASS


def _fields(finding: Finding) -> dict[str, Any]:
    return {
        "rule": finding.rule,
        "severity": finding.severity.value,
        "model": finding.model,
        "file": str(finding.file),
        "line": finding.line,
        "message": finding.message,
        "remedy": finding.remedy,
    }


def _where(finding: Finding) -> str:
    return f"{finding.file}:{finding.line}" if finding.line else str(finding.file)


def _sarif(findings: Sequence[Finding]) -> str:
    """Return the findings as a SARIF log."""
    from mmdeploy.report import sarif

    return sarif.log(
        "mmdeploy lint",
        (
            sarif.Result(
                finding.rule,
                finding.severity.value,
                f"{finding.message}. {finding.remedy}",
                finding.file,
                finding.line,
                {"model": finding.model},
            )
            for finding in findings
        ),
    )


def _text(repository: Path, findings: Sequence[Finding], errors: int) -> str:
    if not findings:
        return f"ok: {repository}: Triton takes it"
    rows = [
        (
            finding.severity.value,
            _where(finding),
            f"{finding.message} ({finding.rule})\n  {finding.remedy}",
        )
        for finding in findings
    ]
    total = f"{counted(errors, 'error')}, {counted(len(findings) - errors, 'warning')}"
    verdict = "Triton refuses what has an error" if errors else "Triton takes it"
    return f"{table(('severity', 'where', 'what is wrong, and what to do'), rows)}\n\n{repository}: {total}: {verdict}"
