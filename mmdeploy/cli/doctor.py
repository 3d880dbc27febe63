"""``mmdeploy doctor``: what this machine can build, run and serve, and what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmdeploy.cli.options import workdir_option
from mmdeploy.cli.output import Output, output_options
from mmdeploy.cli.text import table
from mmdeploy.core.errors import EXIT_ENVIRONMENT, EXIT_PASS, EXIT_STEP_FAILED, UsageError

if TYPE_CHECKING:
    from mmdeploy.building.diagnosis import Finding

#: What nothing works without.
_NEEDED = ("machine", "build", "serve", "recipe")


@click.command()
@click.argument("subject", required=False, metavar="[RECIPE|MODEL]")
@click.option("--data", metavar="PATH:CALLABLE", help="With MODEL: gives samples, as for init.")
@click.option("--weights", type=click.Path(path_type=Path), help="With MODEL: checkpoint to load.")
@click.option("--call", metavar="PATH:CALLABLE", help="With MODEL: calls it where its forward cannot.")
@workdir_option
@output_options(quiet="what is missing, one a line")
def command(
    subject: str | None, data: str | None, weights: Path | None, call: str | None, workdir: Path, output: Output
) -> int:
    """Say what this machine can build, run and serve, and what is missing; with RECIPE also whether that builds here.

    With MODEL, such as model.py:build, look at a model instead: it answers samples, and the forms in it that will not
    deploy, or not on every engine, are named with their line and the form that does. Where a recipe.yaml beside it
    names it, --data may be left out.

    Nothing is started or written. Exits with 4 where nothing can be built or served, or the recipe cannot; with 3 where
    the model cannot be deployed as it is.

    \b
    Example:
      mmdeploy doctor
      mmdeploy doctor recipes/spoken_digits --json
      mmdeploy doctor model.py:build --data data.py:samples
    """  # noqa: D301
    of_model = {"--data": data, "--weights": weights, "--call": call}
    if subject is not None and ":" in subject and not Path(subject).exists():
        return _model(subject, data, weights, call, output)
    if given := next((name for name, value in of_model.items() if value is not None), None):
        raise UsageError(f"{given} goes with a model", hint="mmdeploy doctor model.py:build --data data.py:samples")
    return _machine(Path(subject) if subject is not None else None, workdir, output)


def _machine(recipe: Path | None, workdir: Path, output: Output) -> int:
    from mmdeploy.building.diagnosis import diagnose
    from mmdeploy.recipe.loader import load_recipe

    place = recipe / "recipe.yaml" if recipe is not None and recipe.is_dir() else recipe
    found = diagnose(workdir, None if place is None else load_recipe(place))
    _tell(found, output)
    unfit = any(one.state == "missing" and one.topic in _NEEDED for one in found)
    return EXIT_ENVIRONMENT if unfit else EXIT_PASS


def _model(model: str, data: str | None, weights: Path | None, call: str | None, output: Output) -> int:
    from mmdeploy.scaffold.own_model import Sources, examined, with_samples_of_recipe

    sources = Sources(model, data or "", weights=weights, call=call)
    if data is None:
        sources = with_samples_of_recipe(sources)
    found = examined(sources)
    if found or output.as_json or output.quiet:
        _tell(found, output)
    else:
        output.tell(f"{model} answered its samples: no form in it is known not to deploy")
    return EXIT_STEP_FAILED if any(one.state == "missing" for one in found) else EXIT_PASS


def _tell(found: Sequence[Finding], output: Output) -> None:
    rows = [
        (one.topic, one.name, one.state, f"{one.what}\n  {one.remedy}" if one.remedy else one.what) for one in found
    ]
    output.answer(
        text=lambda: table(("", "what", "state", "found, and what to do"), rows),
        fields=lambda: {"findings": [one.to_json() for one in found]},
        quiet=[f"{one.topic} {one.name}: {' '.join(one.what.split())}" for one in found if one.state == "missing"],
    )
