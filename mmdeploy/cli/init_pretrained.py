"""What ``mmdeploy init --pretrained`` does: a recipe of a checkpoint of `transformers`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mmdeploy.cli.output import Output
from mmdeploy.cli.text import counted, printable, table, wrapped
from mmdeploy.core.errors import UsageError

if TYPE_CHECKING:
    from mmdeploy.scaffold.pretrained import Proposed
    from mmdeploy.scaffold.pretrained_parts import Part


def write_recipe(
    folder: Path,
    output: Output,
    *,
    samples: Path | None,
    name: str | None,
    target: str | None,
    file: Path | None,
    force: bool,
) -> None:
    """Look at a checkpoint, and write a recipe for it.

    Raises:
        UsageError: If the checkpoint cannot be taken, or files are there already.
    """
    from mmdeploy.recipe.loader import load_recipe
    from mmdeploy.scaffold import files
    from mmdeploy.scaffold.naming import identifier
    from mmdeploy.scaffold.pretrained import Asked, propose

    name = name or identifier(folder.absolute().name)
    recipe = file if file is not None else Path(f"{name}_recipe") / "recipe.yaml"
    wanted = (recipe, recipe.parent / "model.py", recipe.parent / "data.py")
    try:
        files.refuse_existing(dict.fromkeys(wanted), force=force)
    except UsageError as error:
        raise UsageError(
            error.message, hint="--output FOLDER/recipe.yaml writes elsewhere, --force writes over it"
        ) from error
    proposed = propose(Asked(folder, recipe, name, target or "cpu", samples, files.SCHEMA))
    schema = recipe.parent / files.SCHEMA
    texts = ({} if schema.exists() else {schema: files.schema_text()}) | dict(proposed.texts)
    output.tell(f"{_shown(proposed)}\n")
    written = [str(path) for path in files.write_files(texts, force=force)]
    load_recipe(recipe)
    output.answer(
        text=lambda: "\n".join([*(f"written: {path}" for path in written), "", *_next(proposed, recipe)]),
        fields=lambda: {"recipe": str(recipe), "written": written, "marked": []},
        quiet=written,
    )


def refuse_beside(options: Mapping[str, object]) -> None:
    """Say no to what means nothing beside ``--pretrained``.

    Raises:
        UsageError: Naming the first.
    """
    for option, value in options.items():
        if value:
            raise UsageError(
                f"--pretrained takes no {option}: it writes the factory and the data callables itself",
                hint="mmdeploy init --pretrained FOLDER, or mmdeploy init model.py:build --data data.py:samples",
            )


def _shown(proposed: Proposed) -> str:
    form = proposed.form
    rows = [(part.name, _reads(part), "\n".join(map(str, part.writes))) for part in form.parts]
    answered = (
        f"{type(form.served).__name__}: what model.py builds answers as transformers' own does, on made-up samples"
    )
    lines = [wrapped(answered), "", table(("component", "reads", "writes"), rows)]
    lines += [wrapped(f"note: {note}") for note in form.notes]
    return printable("\n".join(lines))


def _reads(part: Part) -> str:
    reads = ", ".join(part.reads)
    if part.reader is None:
        return reads
    how = part.reader.step["method"] if part.reader.step else "the checkpoint's processor, in data.py"
    return f"{part.reader.kind} -> {how} ->\n{reads}"


def _next(proposed: Proposed, recipe: Path) -> list[str]:
    quoted = shlex.quote(str(recipe))
    there = sum(path.is_file() for path in proposed.samples.rglob("*")) if proposed.samples.is_dir() else 0
    files = f"put your files into {shlex.quote(str(proposed.samples))}/ (which: {recipe.parent / 'data.py'} says)"
    held = [f"samples: {counted(there, 'file')} in {proposed.samples}", ""] if there else []
    steps = [f"mmdeploy validate {quoted}", f"mmdeploy build {quoted}", "mmdeploy serve model_repository"]
    asked = [] if there else [wrapped(files, "  ", hanging=2)]
    return [*held, "next:", *asked, *(f"  {line}" for line in steps)]
