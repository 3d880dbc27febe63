"""``mmdeploy compare``: two builds side by side."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmdeploy.cli.output import Output, output_options
from mmdeploy.cli.text import table, wrapped

if TYPE_CHECKING:
    from mmdeploy.baseline.same_samples import Flips
    from mmdeploy.report.comparing import BuildComparison, Difference


@click.command()
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
@output_options(quiet="what differs, its name a line")
def command(before: Path, after: Path, output: Output) -> None:
    """Say what differs between two builds, and which samples are answered differently.

    BEFORE and AFTER are a report.json, a run's folder or a release. Recipes are compared value by value where both
    builds were published. Samples are compared where both were judged on the same ones, by the paired comparison that
    the accuracy gate makes. Nothing is judged: the exit code is 0.

    \b
    Example:
      mmdeploy compare .mmdeploy/runs/spoken_digits/20261126-101500-a1b2c3 \\
        model_repository/spoken_digits
    """  # noqa: D301
    show(before, after, output)


def show(before: Path, after: Path, output: Output) -> None:
    """Print what differs between two builds."""
    from mmdeploy.record.report_file import read_report
    from mmdeploy.report.comparing import compared

    found = compared(read_report(before), read_report(after), (_recipe_of(before), _recipe_of(after)))
    output.answer(text=lambda: "\n".join(_lines(found)), fields=found.to_json, quiet=_changed(found))


def _recipe_of(place: Path) -> Mapping[str, Any] | None:
    """Return the recipe as it was built, which the provenance of a published build holds; None without one."""
    from mmdeploy.building.provenance import PROVENANCE

    file = (place if place.is_dir() else place.parent) / PROVENANCE
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        recipe = found["predicate"]["buildDefinition"]["externalParameters"]["recipe_as_built"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return recipe if isinstance(recipe, dict) else None


def _lines(found: BuildComparison) -> Iterator[str]:
    yield f"before  {found.builds[0]}"
    yield f"after   {found.builds[1]}"
    yield from (wrapped(sentence) for sentence in found.incomparable)
    parts = {
        "recipe": found.recipe, "made on and with": found.surroundings, "steps (key)": found.steps,
        "in INT8": found.precision, "size": found.sizes,
    }  # fmt: skip
    for title, differences in parts.items():
        if differences:
            yield f"\n{table((title, 'before', 'after'), [_row(one) for one in differences])}"
    unknown = (set() if found.recipe_known else {"recipe"}) | (set() if found.whole else {"steps (key)", "in INT8"})
    same = [title for title, differences in parts.items() if not differences and title not in unknown]
    if same:
        yield f"\nthe same: {', '.join(same)}"
    if found.figures:
        rows = [(one.what, one.before, one.after, one.verdicts) for one in found.figures]
        yield f"\n{table(('gate', 'before', 'after', 'verdict'), rows)}"
    for flips in found.flips:
        yield f"\n{_flips(flips)}"


def _changed(found: BuildComparison) -> Iterator[str]:
    """Give the names of what differs, gates with another verdict among them."""
    for differences in (found.recipe, found.surroundings, found.steps, found.precision, found.sizes):
        yield from (one.what for one in differences)
    yield from (one.what for one in found.figures if one.before != one.after)


def _row(one: Difference) -> tuple[str, str, str]:
    return one.what, one.before or "–", one.after or "–"


def _flips(one: Flips) -> str:
    low, high = one.interval
    lines = [
        wrapped(
            f"{one.metric}, the same {one.samples} samples: {one.worse_count} worse, {one.better_count} better; "
            f"drop {one.drop:.4g}, interval {low:.4g} to {high:.4g}"
        )
    ]
    for what, count, samples in (("worse", one.worse_count, one.worse), ("better", one.better_count, one.better)):
        if samples:
            more = f" and {count - len(samples)} more" if count > len(samples) else ""
            lines.append(wrapped(f"{what}: {', '.join(map(str, samples))}{more}", "  "))
    return "\n".join(lines)
