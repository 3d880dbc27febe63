"""``mmdeploy validate``: check a recipe without running its model or its data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmdeploy.cli.options import recipe_argument, set_option, workdir_option
from mmdeploy.cli.output import Output, output_options
from mmdeploy.cli.text import counted, table, wrapped
from mmdeploy.core.errors import RecipeError

if TYPE_CHECKING:
    from mmdeploy.core.contracts import MethodOptions
    from mmdeploy.recipe.declared import Wire
    from mmdeploy.recipe.media import MediaStep
    from mmdeploy.recipe.schema import Recipe


@click.command()
@recipe_argument
@set_option
@workdir_option
@output_options(quiet="nothing, or what is wrong")
def command(recipe: Path, overrides: tuple[str, ...], workdir: Path, output: Output) -> int | None:
    """Check a recipe without running its model or its data.

    The plug-ins that it names (gates.py:flips) are imported: their options are theirs to say.

    Reads the YAML, checks it against the schema, checks that the components fit together as Triton wants them,
    and that the files are there. Reports every problem at once. Warns of limits and samples that prove little. Says
    what the recipe's code depends on that a plan cannot notice: as far as its source tells, and as far as earlier
    builds in the work folder saw.

    \b
    Example:
      mmdeploy validate recipes/spoken_digits/recipe.yaml
      mmdeploy validate recipe.yaml --set components.fusion.quantize=null --json
    """  # noqa: D301
    from mmdeploy.recipe.loader import load_recipe

    try:
        loaded = load_recipe(recipe, overrides)
    except RecipeError as error:
        if not output.as_json:
            raise
        problems = [{"where": problem.where, "message": problem.message} for problem in error.problems]
        output.document({"ok": False, "problems": problems})
        return error.exit_code
    from mmdeploy.recipe.plausible import doubts

    if loaded.baseline is not None:
        from mmdeploy.record.report_file import read_report

        read_report(loaded.root / loaded.baseline.file)  # one that is damaged, or of another version
    doubted, unseen = doubts(loaded), _unseen(loaded, workdir)
    told = ["", *(wrapped(f"warning: {what}") for what in doubted)] if doubted else []
    output.answer(
        text=lambda: "\n".join([_summary(loaded), *told, *_warnings(unseen)]),
        fields=lambda: _fields(loaded, doubted, unseen),
    )
    return None


def _unseen(recipe: Recipe, workdir: Path) -> list[str]:
    """Return what the recipe's code depends on that is part of no key; the work folder is not made for that."""
    from mmdeploy.core.digests import FileFacts
    from mmdeploy.core.store import Store
    from mmdeploy.planning.recipe_inputs import codes_of, take_inputs, unseen_notes

    codes = codes_of(recipe, FileFacts()).values()
    found = [f"{call}: what it gets is not noticed when it changes" for code in codes for call in code.elsewhere]
    if (workdir / "store").is_dir():
        found += unseen_notes(take_inputs(recipe, Store(workdir / "store")))
    return list(dict.fromkeys(found))


def _warnings(unseen: list[str]) -> list[str]:
    hint = "read a file beside the recipe instead, or name what stands for it in model.files or data.files"
    return ["", *(wrapped(f"warning: {what}") for what in unseen), wrapped(f"hint: {hint}")] if unseen else []


def _fields(recipe: Recipe, doubted: list[str], unseen: list[str]) -> dict[str, Any]:
    from mmdeploy.recipe.wiring import topological_order

    return {
        "ok": True,
        "path": str(recipe.origin.path),
        "sha256": recipe.origin.sha256,
        "base": str(recipe.origin.base) if recipe.origin.base else None,
        "order": topological_order(recipe.components),
        "max_batch_size": recipe.max_batch_size,
        "warnings": doubted,
        "unseen": unseen,
        "recipe": recipe.written.model_dump(mode="json"),
    }


def _summary(recipe: Recipe) -> str:
    from mmdeploy.recipe.wiring import topological_order

    recipe = recipe.written
    counts = f"{counted(len(recipe.components), 'component')}, {counted(len(recipe.gates), 'gate')}"
    rows = []
    for name in topological_order(recipe.components):
        component = recipe.components[name]
        chain = _chain(recipe, name)
        reads = "\n".join(f"{key} <- {_wire(wire)}" for key, wire in component.inputs.items())
        writes = "\n".join(f"{key} -> {_wire(wire)}" for key, wire in component.outputs.items())
        rows.append((name, reads, writes, chain, str(component.serving.max_batch_size)))
    inputs = "\n".join(
        f"{name}: {spec.dtype} {_shape(spec.shape)}"
        + (f", may be missing: {spec.missing.strategy}" if spec.missing else "")
        for name, spec in recipe.inputs.items()
    )
    gates = "\n".join(_gate(gate) for gate in recipe.gates) or "none: whatever is built is published"
    ends = [("inputs", inputs), ("outputs", "\n".join(recipe.outputs)), ("data", _data(recipe)), ("gates", gates)]
    if recipe.sizes:
        ends.insert(1, ("sizes", _sizes(recipe)))
    if recipe.postprocess:
        ends.insert(-3, ("postprocess", _steps(recipe.postprocess)))
    if recipe.preprocess:
        ends.insert(1, ("preprocess", _steps(recipe.preprocess)))
    if recipe.cascade is not None:
        ends.insert(-2, ("cascade", _cascade(recipe)))
    if (stream := recipe.stream) is not None:
        ends.insert(-2, ("stream", f"chunks of {stream.over}, kept: {', '.join(stream.keep)}"))
    if recipe.baseline is not None:
        ends.append(("baseline", str(recipe.baseline)))
    over = f" over {recipe.origin.base}" if recipe.origin.base else ""
    return "\n".join(
        (
            wrapped(f"ok: {recipe.origin.path}{over}: {recipe.name} for {recipe.target}, {counts}"),
            "",
            table(("component", "reads", "writes", "steps", "batch"), rows),
            "",
            table(("ensemble", f"max_batch_size {recipe.max_batch_size}"), ends),
        )
    )


def _cascade(recipe: Recipe) -> str:
    """Say who answers first, and who is asked when."""
    from mmdeploy.recipe.cascade_stages import stages

    assert recipe.cascade is not None
    found = stages(recipe)
    first, rest = ", ".join(found.early), ", ".join(found.rest)
    return f"first: {first}\nrest, where {recipe.cascade.when}: {rest}"


def _data(recipe: Recipe) -> str:
    """List the data callables, and say which of them a build calls just once."""
    named = {key: getattr(recipe.data, key) for key in ("calibration", "training", "validation", "evaluation", "loss")}
    when = {"training": " (each epoch)", "loss": ""}
    lines = [f"{key}: {name}{when.get(key, ' (once a build)')}" for key, name in named.items() if name is not None]
    return "\n".join(lines) or "none"


def _chain(recipe: Recipe, name: str) -> str:
    """Return the methods of a component in the order in which they run; a search says what it searches."""
    from mmdeploy.planning.chains import torch_sections
    from mmdeploy.planning.kinds import TRAIN

    component = recipe.components[name]
    trained = torch_sections(component)
    methods = [_searching(section.kind.name, section.options) for section in trained] + [_method(component.export)]
    if component.quantize is not None and all(section.kind is not TRAIN for section in trained):
        methods.append(_searching("quantize", component.quantize))
    engine = recipe.automatic_engine(name) or recipe.engine_options(name)
    return " > ".join([*methods, _searching("engine", engine)])


def _searching(section: str, options: MethodOptions) -> str:
    method = _method(options)
    return f"{section} {method}" if method == "auto" else method


def _method(options: MethodOptions) -> str:
    return str(options.model_dump(include={"method"})["method"])


def _wire(wire: Wire) -> str:
    dtype = f" {wire.dtype}" if wire.dtype else ""
    shape = f" {_shape(wire.shape)}" if wire.shape else ""
    return f"{wire.tensor}{dtype}{shape}"


def _shape(shape: Sequence[int | str]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _steps(steps: Mapping[str, MediaStep]) -> str:
    return "\n".join(
        f"{name}: {step.described()['method']}, {', '.join(step.inputs.values())} -> {', '.join(step.tensors.values())}"
        for name, step in steps.items()
    )


def _sizes(recipe: Recipe) -> str:
    lines = []
    for name, spec in recipe.sizes.items():
        size = spec.named(name)
        step = f", multiples of {size.multiple_of}" if size.multiple_of > 1 else ""
        to = f", padded to {spec.pad_to}" if spec.pad_to is not None else ""
        to += f", in buckets of {', '.join(map(str, spec.bucket))}" if spec.bucket is not None else ""
        mask = f", mask {spec.mask}" if spec.mask is not None else ""
        lines.append(f"{name}: {size.min} to {size.max}{step}{to}{mask}")
    return "\n".join(lines)


def _gate(options: MethodOptions) -> str:
    given = options.model_dump(mode="json", exclude_unset=True, exclude={"method"})
    return f"{_method(options)} " + ", ".join(f"{key} {value}" for key, value in given.items())
