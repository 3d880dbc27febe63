"""``mmdeploy init``: look at a model, propose a recipe, write it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmdeploy.cli import init_pretrained
from mmdeploy.cli.output import Output, output_options
from mmdeploy.cli.text import counted, printable, table, wrapped
from mmdeploy.core.errors import EXIT_USAGE, ModelError, RecipeError, UsageError
from mmdeploy.core.target import Target

if TYPE_CHECKING:
    from mmdeploy.scaffold.choosing import Choice
    from mmdeploy.scaffold.own_model import Found
    from mmdeploy.scaffold.proposal import Proposal

_TARGETS = [target.value for target in Target]


def _checked_name(text: str) -> str:
    import re

    from mmdeploy.recipe.schema import NAME_PATTERN, PATTERN_MEANINGS

    if not re.fullmatch(NAME_PATTERN, text):
        raise click.BadParameter(f"{printable(text)!r} is not {PATTERN_MEANINGS[NAME_PATTERN]}")
    return text


@click.command()
@click.argument("model", required=False, metavar="[MODEL]")
@click.option(
    "--data", metavar="PATH:CALLABLE", help="Gives samples: a dict of arrays by input name, or (dict, label)."
)
@click.option("--evaluation", metavar="PATH:CALLABLE", help="Held-out samples for the gates; --data then calibrates.")
@click.option("--weights", type=click.Path(path_type=Path), help="Checkpoint to load; else the factory's own weights.")
@click.option(
    "--call", metavar="PATH:CALLABLE", help="Calls the model where its forward cannot: call(model, **inputs)."
)
@click.option(
    "--component",
    "components",
    multiple=True,
    metavar="MODULE",
    help="Attribute path of a module that shall be a component. Repeatable; proposed where left out.",
)
@click.option("--whole", is_flag=True, help="The whole model as one component.")
@click.option(
    "--pretrained",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Instead of MODEL: a checkpoint of transformers, as save_pretrained leaves it.",
)
@click.option(
    "--samples",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="With --pretrained: your pictures, sounds or texts; samples/ beside the recipe where left out.",
)
@click.option(
    "--name",
    callback=lambda ctx, parameter, given: given and _checked_name(given),
    help="Name of the ensemble; after the folder where left out.",
)
@click.option("--target", type=click.Choice(_TARGETS), help="What it is compiled for; cpu where left out.")
@click.option(
    "--output",
    "recipe",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Recipe to write; recipe.yaml beside the model.",
)
@click.option("--yes", is_flag=True, help="Ask nothing, take what is proposed. So it is where nobody could answer.")
@click.option("--force", is_flag=True, help="Write over files that are there.")
@output_options(quiet="the files that were written, a path a line")
def command(
    *,
    model: str | None,
    data: str | None,
    evaluation: str | None,
    weights: Path | None,
    call: str | None,
    components: tuple[str, ...],
    whole: bool,
    pretrained: Path | None,
    samples: Path | None,
    name: str | None,
    target: str | None,
    recipe: Path | None,
    yes: bool,
    force: bool,
    output: Output,
) -> int | None:
    """Look at a model while it answers real samples, propose a recipe for it, write it.

    MODEL is what returns the trained torch.nn.Module: model.py:build, or package.module:build. --data is a callable
    that gives samples, without a batch dimension: {"image": array, "text": array}, named as forward's parameters, or
    such a dict and its label.

    The parts of the model become components, wired by the tensors that pass between them. What cannot be wired is
    marked in the recipe, with what to do. On a terminal init asks, with what it proposes as the answer; in a script
    the options say all. See docs/begin.md.

    --pretrained writes the factory and the data file too: for CLIP, SigLIP, CLAP, BERT, ViT, Wav2Vec2 and what shares
    their form. See docs/howto_huggingface.md.

    \b
    Example:
      mmdeploy init model.py:build --data data.py:samples
      mmdeploy init --pretrained clip-vit-base-patch32 --samples photos
      mmdeploy init model.py:build --data data.py:calibration \\
        --evaluation data.py:test --component image_encoder --component fusion \\
        --name digits --target cpu --yes
    """  # noqa: D301
    if pretrained is not None:
        others = {"--data": data, "--evaluation": evaluation, "--weights": weights, "--call": call, "--whole": whole}
        init_pretrained.refuse_beside({"MODEL": model, **others, "--component": components})
        init_pretrained.write_recipe(
            pretrained, output, samples=samples, name=name, target=target, file=recipe, force=force
        )
        return None
    if samples is not None:
        raise UsageError("--samples goes with --pretrained", hint="of a model of your own, --data gives the samples")
    from mmdeploy.scaffold import files
    from mmdeploy.scaffold.own_model import Sources, find, texts_of

    if model is None or data is None:
        missing = "MODEL, such as model.py:build" if model is None else "--data, such as --data data.py:samples"
        raise UsageError(
            f"init needs {missing}",
            hint="mmdeploy init model.py:build --data data.py:samples, or mmdeploy init --pretrained FOLDER",
        )
    sources = Sources(model, data, evaluation, weights, call, recipe)
    files.refuse_existing({sources.recipe: None}, force=force)
    found = find(sources)
    asks = not (yes or output.as_json or output.quiet) and sys.stdin.isatty() and sys.stdout.isatty()
    choice = _chosen(found, components, name=name, target=target, whole=whole or None)
    output.tell(_shown(found, choice))
    if asks:
        choice = _asked(found, choice, name=name, target=target, components=None if whole else components)
    written = [str(path) for path in files.write_files(texts_of(found, choice), force=force)]
    _tell_written(choice.proposal, sources.recipe, written, output)
    return _ended(choice.proposal, sources.recipe, output)


def _chosen(found: Found, components: Sequence[str], **told: Any) -> Choice:
    try:
        return found.choose(components, **told)
    except ModelError as error:
        if not (components or told["whole"]):
            raise
        raise UsageError(error.message, hint=error.hint) from error


def _shown(found: Found, choice: Choice) -> str:
    proposal = choice.proposal
    seen = proposal.looked.seen
    rows = [
        (
            part.name,
            "\n".join(f"{argument} <- {tensor or '?'}" for argument, tensor in part.inputs.items()),
            "\n".join(f"{tensor} {_tensor(proposal, tensor)}" for tensor in part.outputs.values()),
        )
        for part in proposal.wiring.parts
    ]
    inputs = ", ".join(f"{name} {_tensor(proposal, name)}" for name in seen.inputs)
    lines = [
        wrapped(f"{type(found.looked.model).__name__} answered; {counted(seen.count, 'sample')} seen: {inputs}"),
        "",
        table(("component", "reads", "writes"), rows),
        *(f"\n{wrapped(note)}" for note in choice.notes),
        *(f"\n{wrapped(one.told_of(name))}" for name, one in proposal.optional.items()),
        *(f"\nleft out: {name} has weights, and no component calls it" for name in proposal.wiring.left_out),
    ]
    return printable("\n".join(lines))


def _tensor(proposal: Proposal, name: str) -> str:
    known = proposal.tensors[name]
    return f"{known.dtype} [{', '.join('?' if dim is None else str(dim) for dim in known.shape)}]"


def _asked(
    found: Found, choice: Choice, *, name: str | None, target: str | None, components: Sequence[str] | None
) -> Choice:
    """Ask for what the command line left open."""
    click.echo("")
    if components is not None and not components:
        proposed = " ".join(part.path for part in choice.proposal.wiring.parts)
        choice = _other_components(found, choice, proposed)
    told = choice.proposal.told
    name = name or click.prompt("name of the ensemble", default=told.name, value_proc=_checked_name)
    target = target or click.prompt("target", default=told.target, type=click.Choice(_TARGETS))
    proposal = replace(choice.proposal, told=replace(told, name=name, target=target))
    return replace(choice, proposal=proposal)


def _tell_written(proposal: Proposal, recipe: Path, written: Sequence[str], output: Output) -> None:
    output.answer(
        text=lambda: "\n".join(["", *(f"written: {path}" for path in written)]),
        fields=lambda: {
            "recipe": str(recipe),
            "written": list(written),
            "marked": [str(gap) for gap in proposal.wiring.gaps],
        },
        quiet=written,
    )


def _other_components(found: Found, choice: Choice, proposed: str) -> Choice:
    while True:
        wanted = click.prompt("components, as paths of modules", default=proposed)
        if wanted == proposed:
            return choice
        try:
            choice = found.choose(wanted.replace(",", " ").split())
        except ModelError as error:
            click.echo(f"{printable(error.message)}{f' ({printable(error.hint)})' if error.hint else ''}")
            continue
        click.echo(f"\n{_shown(found, choice)}\n")
        proposed = wanted


def _ended(proposal: Proposal, recipe: Path, output: Output) -> int | None:
    """Say what could not be seen and what comes next; the exit code is that of `mmdeploy validate`."""
    from mmdeploy.recipe.loader import load_recipe
    from mmdeploy.recipe.wiring import MARK

    gaps = proposal.wiring.gaps
    quoted = shlex.quote(str(recipe))
    if gaps:
        output.tell("")
        output.tell(f"{counted(len(gaps), 'place')} marked {MARK} in {quoted}, which init leaves to you:")
        for gap in gaps:
            output.tell(wrapped(printable(f"- {gap}"), "  "))
            for line in gap.lines:
                output.tell(f"      {printable(line)}")
    else:
        try:
            load_recipe(recipe)
        except RecipeError as error:
            raise UsageError(
                f"{recipe} is written, but not right yet: {error.message}",
                hint=f"correct it, then mmdeploy validate {quoted}; what the model does not read is no input, and no "
                "sample has it",
            ) from error
    output.tell("")
    output.tell("next:")
    for line in (
        f"mmdeploy validate {quoted}",
        f"mmdeploy build {quoted}",
        "mmdeploy serve model_repository",
    ):
        output.tell(f"  {line}")
    return EXIT_USAGE if gaps else None
