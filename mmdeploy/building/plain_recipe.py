"""The plain recipe: what a build found by searching and measuring, as a recipe that builds just that.

A component whose engine was chosen by measuring gets the engine that won; one that ships uncompressed loses the
passes that were not worth it, one that ships compressed or in lower precision is kept ``always``. A pass that searched
gives way to the section without a search that it wrote into its artifact's metadata as ``plain``.
"""

from __future__ import annotations

import logging
import os
import shlex
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mmdeploy import engines, prune, quantize
from mmdeploy.choice.record import engine_choice
from mmdeploy.core.contracts import MethodOptions, method_of
from mmdeploy.core.facts import find
from mmdeploy.core.store import translated
from mmdeploy.core.version import __version__
from mmdeploy.planning.chains import full_precision, lowers_precision, torch_sections
from mmdeploy.plugins.registry import Registry
from mmdeploy.recipe.declared import Section
from mmdeploy.recipe.schema import Component, Recipe
from mmdeploy.recipe.wiring import upstream
from mmdeploy.recipe.yaml_tree import text_of
from mmdeploy.scoring.findings import PlainSection

if TYPE_CHECKING:
    from mmdeploy.core.artifact import Artifact

logger = logging.getLogger(__name__)

FILENAME = "plain_recipe.yaml"

_COMPRESSING = ("prune", "recover", "quantize")
_SEARCHED: Mapping[str, Registry[Any]] = {"prune": prune.METHODS, "quantize": quantize.METHODS}
#: Sections whose values are long.
_IN_BLOCKS = ("model", "data")
_WIDTH = 110


@dataclass(frozen=True)
class PlainComponent:
    """A component without anything left to find out.

    Attributes:
        fields: Its section of the recipe.
        found: What was found, a sentence each; empty where nothing was searched or measured.
    """

    fields: Mapping[str, Any]
    found: tuple[str, ...] = ()


def write(recipe: Recipe, artifacts: Mapping[str, Artifact], folder: Path, *, single: bool = False) -> Path | None:
    """Write the plain recipe of a build into its folder.

    Args:
        recipe: What was built, overrides included.
        artifacts: What the steps made, by id.
        folder: The run's.
        single: Whether the components ship as one model.

    Returns:
        The file, or None where nothing was searched or measured: then the recipe is plain already.

    Raises:
        StoreError: If the file cannot be written.
    """
    recipe = recipe.written
    components = {name: plain_component(recipe, name, artifacts) for name in recipe.components}
    if recipe.layout != "auto" and not any(component.found for component in components.values()):
        return None
    if recipe.layout == "auto":
        chosen: Literal["single", "ensemble"] = "single" if single else "ensemble"
        recipe = recipe.model_copy(update={"layout": chosen})
    path = folder / FILENAME
    with translated(folder):
        path.write_text(_text(recipe, components, path, _comments(recipe, components, path)), encoding="utf-8")
    return path


def write_point(recipe: Recipe, artifacts: Mapping[str, Artifact], path: Path, remarks: Sequence[str]) -> None:
    """Write a build of a study as a recipe of its own, whether anything was left open in it or not.

    Args:
        recipe: What was built, overrides included.
        artifacts: What the steps made, by id.
        path: The file.
        remarks: What is said of it in front, a paragraph each.

    Raises:
        StoreError: If the file cannot be written.
    """
    recipe = recipe.written
    components = {name: plain_component(recipe, name, artifacts) for name in recipe.components}
    found = [f"- {name}: {'; '.join(one.found)}." for name, one in components.items() if one.found]
    place = "beside the recipe" if recipe.folder is None else f"into {_quoted(recipe.root)}"
    comments = [
        *remarks,
        f"  mmdeploy build {_quoted(path)}",
        f"To keep it, copy it {place} and drop `folder`.",
        *found,
        *_cautions(recipe, components),
    ]
    with translated(path.parent):
        path.write_text(_text(recipe, components, path, comments), encoding="utf-8")


def plain_component(recipe: Recipe, name: str, artifacts: Mapping[str, Artifact]) -> PlainComponent:
    """Replace in a component's section what was left open by what was found."""
    component = recipe.components[name]
    fields = _component_fields(component)
    found: list[str] = []
    dropped = _not_shipped(component, name, artifacts)
    for key in dropped:
        fields.pop(key, None)
    for key, methods in _SEARCHED.items():
        artifact = artifacts.get(f"{name}/{key}")
        found_plain = find(PlainSection, artifact.metadata) if artifact is not None else None
        if key in fields and found_plain is not None:
            plain = found_plain.plain
            fields[key] = _shown(methods.read(plain, recipe.root)) if plain else None
            came_to = plain["method"] if plain else "nothing"
            found.append(f"{key}: {method_of(getattr(component, key))} came to {came_to}")
    choice = engine_choice(artifacts.get(f"{name}/engine"))
    if choice is not None:
        won = engines.METHODS.read(choice.engine, recipe.root)
        if component.engine is not None or won != recipe.engine_options(name):
            fields["engine"] = _shown(won)
        without = f", without {' and '.join(dropped)}" if dropped else ""
        found.append(f"{choice.chosen} was chosen by measuring{without}")
        fields.pop("keep", None)
        if lowers_precision(won) or any(fields.get(key) for key in _COMPRESSING):
            fields["keep"] = "always"
    return PlainComponent(_in_order(Component, fields), tuple(found))


def _not_shipped(component: Component, name: str, artifacts: Mapping[str, Artifact]) -> list[str]:
    """Return the compressing sections of which nothing is in what ships."""
    choice = engine_choice(artifacts.get(f"{name}/engine"))
    if choice is None:
        return []
    winner = choice.winner
    given = [key for key in _COMPRESSING if getattr(component, key) is not None]
    if not winner.compressed:
        return given
    return [key for key in given if key == "quantize" and winner.graph == "float"]


def _component_fields(component: Component) -> dict[str, Any]:
    fields: dict[str, Any] = component.model_dump(mode="json", exclude_unset=True)
    for side in ("inputs", "outputs"):
        wires = fields[side]
        fields[side] = {tensor: wire["tensor"] if list(wire) == ["tensor"] else wire for tensor, wire in wires.items()}
    return {key: value for key, value in fields.items() if value is not None}


def _shown(options: MethodOptions) -> dict[str, Any]:
    """Return a section of what differs from the defaults, the method first."""
    return {"method": method_of(options), **options.model_dump(mode="json", exclude_defaults=True, exclude={"method"})}


def _in_order(schema: type[Section], fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: fields[key] for key in schema.model_fields if fields.get(key) is not None}


def _text(recipe: Recipe, components: Mapping[str, PlainComponent], path: Path, comments: Iterable[str]) -> str:

    fields = recipe.model_dump(mode="json", exclude_unset=True, exclude={"components"})
    fields["folder"] = os.path.relpath(recipe.root.resolve(), path.parent.resolve())
    fields["components"] = {name: dict(component.fields) for name, component in components.items()}
    lines = [f"# {line}\n" for comment in comments for line in _wrapped(comment)]
    for key, value in _method_first(_in_order(Recipe, fields)).items():
        # None: what holds no further mapping or list is written on one line
        flow = False if key in _IN_BLOCKS or not isinstance(value, (dict, list)) else None
        lines.append(text_of({key: value}, default_flow_style=flow, allow_unicode=True, width=_WIDTH))
    return "".join(lines)


def _method_first(value: Any) -> Any:
    """Return a section as people write it, the method before its options."""
    if isinstance(value, list):
        return [_method_first(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    keys = sorted(value, key=lambda key: key != "method")
    return {key: _method_first(value[key]) for key in keys}


def _wrapped(comment: str) -> list[str]:
    """Break a comment into lines; one that starts with spaces is a command and stays in one piece."""
    if comment.startswith(" "):
        return [comment]
    return textwrap.wrap(comment, _WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _comments(recipe: Recipe, components: Mapping[str, PlainComponent], path: Path) -> Iterator[str]:
    origin = recipe.origin
    yield f"What mmdeploy {__version__} found for {_quoted(origin.path)}: this builds the same without searching."
    yield f"  mmdeploy build {_quoted(path)}"
    place = "beside the recipe" if recipe.folder is None else f"into {_quoted(recipe.root)}"
    yield f"It is removed with its run after some more builds. To keep it, copy it {place} and drop `folder`."
    if origin.overrides:
        yield f"Laid over that recipe: {' '.join(map(_quoted, origin.overrides))}"
    for name, component in components.items():
        if component.found:
            yield f"- {name}: {'; '.join(component.found)}."
    yield from _cautions(recipe, components)


def _quoted(words: object) -> str:
    """Return words as a shell takes them, on one line whatever is in them."""
    return shlex.quote("".join(letter if letter.isprintable() else "\ufffd" for letter in str(words)))


def _cautions(recipe: Recipe, components: Mapping[str, PlainComponent]) -> Iterator[str]:
    """Say what a build of the plain recipe does otherwise than the one that found it."""
    for name, plain in components.items():
        section = plain.fields.get("engine")
        if section is not None and recipe.automatic_engine(name) is not None and recipe.gates:
            reference = full_precision(engines.METHODS.read(section, recipe.root))
            if reference != full_precision(recipe.engine_options(name)):
                yield (
                    f"The gates compare {name} with FP32 on {method_of(reference)} now, no longer on "
                    f"{method_of(recipe.engine_options(name))}."
                )
    trained = {
        name
        for name, component in recipe.components.items()
        if any(section.kind.trains for section in torch_sections(component))
    }
    for name in trained & {name for name, plain in components.items() if _trains(recipe, plain)}:
        gone = [other for other in upstream(recipe.components, name) if _lost_weights(recipe, other, components[other])]
        if gone:
            yield f"{name} is trained behind {' and '.join(gone)} as shipped now: its weights come out otherwise."


def _trains(recipe: Recipe, plain: PlainComponent) -> bool:
    method = (plain.fields.get("quantize") or {}).get("method")
    trained = method is not None and quantize.METHODS.find(method, recipe.root).CONSUMES == "torch"
    return trained or "recover" in plain.fields


def _lost_weights(recipe: Recipe, name: str, plain: PlainComponent) -> bool:
    """Say whether a pass on a component's weights is gone."""
    keys = {"prune": "prune", "recover": "recover", "train": "quantize"}
    return any(keys[section.kind.name] not in plain.fields for section in torch_sections(recipe.components[name]))
