"""``mmdeploy explain``: where it went, of a gate that did not pass."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmdeploy.cli import completion
from mmdeploy.cli.options import set_option, workdir_option
from mmdeploy.cli.output import Output, output_options
from mmdeploy.cli.text import table, wrapped
from mmdeploy.core.errors import UsageError

if TYPE_CHECKING:
    from mmdeploy.explaining.findings import Explanation, Section
    from mmdeploy.recipe.schema import Recipe
    from mmdeploy.record.build_report import BuildReport


@click.command()
@click.argument("report", type=click.Path(path_type=Path))
@click.argument("gate", shell_complete=completion.gates)
@click.option("--recipe", type=click.Path(path_type=Path), help="The recipe, where it is not where the build read it.")
@set_option
@click.option(
    "--groups/--no-groups",
    default=True,
    show_default=True,
    help="Measure the layer groups of the worst component, as mmdeploy sensitivity does; this may take minutes.",
)
@click.option("--report-only", is_flag=True, help="Tell what the report holds; measure nothing.")
@click.option("--passed", is_flag=True, help="Explain a gate that passed, too.")
@workdir_option
@output_options(quiet="what was concluded, a sentence a line")
def command(
    *,
    report: Path,
    gate: str,
    recipe: Path | None,
    overrides: tuple[str, ...],
    groups: bool,
    report_only: bool,
    passed: bool,
    workdir: Path,
    output: Output,
) -> None:
    """Say where it went, of a gate that failed or was left open.

    REPORT is a report.json, a run's folder or a release; GATE one of its gates, such as accuracy, or "accuracy 2" for
    the second one. Accuracy: stage by stage; component by component, each swapped alone into the FP32 ensemble and out
    of the shipped one, served by real Tritons, from the results in the store; and layer group by layer group of the
    worst component. Parity, latency and size: component by component from the report. A build with --set is explained
    with the same --set. The exit code is 0 whatever is found.

    \b
    Example:
      mmdeploy explain .mmdeploy/runs/spoken_digits/latest accuracy
      mmdeploy explain model_repository/spoken_digits latency --passed --json
    """  # noqa: D301
    from mmdeploy.explaining.run import Asked, explained, named_gate
    from mmdeploy.record.report_file import read_report

    found = read_report(report)
    named_gate(found, gate)
    built = None if report_only else _recipe(found, recipe, overrides)
    asked = Asked(gate, built, workdir, groups=groups and not report_only, passed=passed)
    with output.display() as display:
        explanation = explained(found, asked, display)
    output.answer(
        text=lambda: "\n".join(_lines(explanation)), fields=explanation.to_json, quiet=explanation.conclusions
    )


def _recipe(report: BuildReport, path: Path | None, overrides: tuple[str, ...]) -> Recipe:
    """Load the recipe that was built."""
    from mmdeploy.recipe.loader import load_recipe

    file = path or report.recipe.path
    if file.is_dir():
        file /= "recipe.yaml"
    if not file.is_file():
        raise UsageError(
            f"{file}: the recipe of this build is not there",
            hint="name it with --recipe, or let the report alone tell with --report-only",
        )
    loaded = load_recipe(file, overrides)
    if loaded.origin.sha256 != report.recipe.sha256:
        raise UsageError(
            f"{file} is not what was built any more: its SHA-256 is another",
            hint="explain a build of the recipe as it is, or let the report alone tell with --report-only",
        )
    return loaded


def _lines(found: Explanation) -> Iterator[str]:
    yield f"{found.gate}: {found.verdict}"
    yield from (wrapped(one, "  ") for one in found.missed)
    for section in found.sections:
        yield ""
        yield from _section(section)
    yield ""
    yield from (wrapped(f"{one}.") for one in found.conclusions)
    yield from (wrapped(f"not known: {one}.") for one in found.not_measured)


def _section(section: Section) -> Iterator[str]:
    rows = []
    for one in section.shares:
        interval = "" if one.interval is None else f"[{one.interval[0]:.4g}, {one.interval[1]:.4g}]"
        rows.append((one.what, "–" if one.value is None else f"{one.value:.5g}", interval, one.told))
    yield table((section.title, "", "", ""), rows)
    if section.note:
        yield wrapped(f"({section.note})")
