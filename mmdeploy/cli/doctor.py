"""``mmdeploy doctor``: what this machine can build, run and serve, and what is missing."""

from __future__ import annotations

from pathlib import Path

import click

from mmdeploy.cli.options import workdir_option
from mmdeploy.cli.output import Output, output_options
from mmdeploy.cli.text import table
from mmdeploy.core.errors import EXIT_ENVIRONMENT, EXIT_PASS

#: What nothing works without.
_NEEDED = ("machine", "build", "serve", "recipe")


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path), required=False)
@workdir_option
@output_options(quiet="what is missing, one a line")
def command(recipe: Path | None, workdir: Path, output: Output) -> int:
    """Say what this machine can build, run and serve, and what is missing; with RECIPE also whether that builds here.

    Nothing is started or written. Exits with 4 where nothing can be built or served, or the recipe cannot.

    \b
    Example:
      mmdeploy doctor
      mmdeploy doctor recipes/spoken_digits --json
    """  # noqa: D301
    from mmdeploy.building.diagnosis import diagnose
    from mmdeploy.recipe.loader import load_recipe

    place = recipe / "recipe.yaml" if recipe is not None and recipe.is_dir() else recipe
    found = diagnose(workdir, None if place is None else load_recipe(place))
    rows = [
        (one.topic, one.name, one.state, f"{one.what}\n  {one.remedy}" if one.remedy else one.what) for one in found
    ]
    output.answer(
        text=lambda: table(("", "what", "state", "found, and what to do"), rows),
        fields=lambda: {"findings": [one.to_json() for one in found]},
        quiet=[f"{one.topic} {one.name}: {one.what}" for one in found if one.state == "missing"],
    )
    unfit = any(one.state == "missing" and one.topic in _NEEDED for one in found)
    return EXIT_ENVIRONMENT if unfit else EXIT_PASS
