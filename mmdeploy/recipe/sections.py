"""What the schema accepts at each place of a recipe, and what it says about it.

A field is described by ``Field(description=...)`` or in the ``Attributes`` of the class's docstring.
"""

from __future__ import annotations

import functools
import inspect
import re
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from mmdeploy.core.errors import nearest
from mmdeploy.recipe.media import OwnStep
from mmdeploy.recipe.methods import NotYet, PluggedIn
from mmdeploy.recipe.schema import Recipe
from mmdeploy.recipe.yaml_tree import Keys

_ATTRIBUTE = re.compile(r"^    (\w+): (.*)$")


def members(annotation: Any) -> list[Any]:
    """Return the alternatives of an annotation, ``Annotated`` and ``None`` taken off."""
    if get_origin(annotation) is Annotated:
        return members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [member for part in get_args(annotation) for member in members(part)]
    if inspect.isclass(annotation) and issubclass(annotation, NotYet):
        return members(annotation.annotation())
    return [] if annotation is type(None) else [annotation]


def models(annotation: Any) -> list[type[BaseModel]]:
    """Return the alternatives of an annotation that are sections."""
    return [member for member in members(annotation) if inspect.isclass(member) and issubclass(member, BaseModel)]


def methods(model: type[BaseModel]) -> tuple[str, ...]:
    """Return the values of ``method`` that a section's class stands for; none for a plain section."""
    if issubclass(model, PluggedIn):
        return tuple(model.registry.installed())
    field = model.model_fields.get("method")
    if field is None or get_origin(field.annotation) is not Literal:
        return ()
    return tuple(str(value) for value in get_args(field.annotation))


def annotation_at(data: Any, path: Keys) -> Any:
    """Return what the schema says of a place in a recipe; None where it knows no such place.

    Args:
        data: The recipe as plain values; its ``method`` keys choose between sections.
        path: The place; the last key need not be in ``data``.
    """
    annotation: Any = Recipe
    for key in path:
        annotation = _below(annotation, data, key)
        if annotation is None:
            return None
        data = _value(data, key)
    return annotation


def section_at(data: Any, path: Keys) -> type[BaseModel] | None:
    """Return the section's class at a place; None where a plain value, or nothing, belongs."""
    place = value_at(data, path)
    return _chosen(models(annotation_at(data, path)), place)


def is_mapping_of_names(data: Any, path: Keys) -> bool:
    """Say whether the keys at a place are names that the user gives, such as those of components."""
    return any(get_origin(member) is dict for member in members(annotation_at(data, path)))


def takes_nothing(annotation: Any) -> bool:
    """Say whether an annotation accepts a null."""
    return annotation is type(None) or any(
        map(
            takes_nothing, get_args(annotation) if get_origin(annotation) in (Annotated, Union, types.UnionType) else ()
        )
    )


def described(model: type[BaseModel]) -> dict[str, str]:
    """Return the description of each field that has one."""
    found = _attributes(model)
    for name, field in model.model_fields.items():
        if field.description:
            found[name] = field.description
    return found


def summary(model: type[BaseModel]) -> str:
    """Return a class's docstring without its ``Attributes``."""
    return inspect.cleandoc(model.__doc__ or "").partition("\nAttributes:\n")[0].strip()


@functools.cache
def places_of(key: str) -> tuple[str, ...]:
    """Return where a key is accepted, such as ``components.<name>.quantize (method static)``."""
    return tuple(dict.fromkeys(place for name, place in _all_keys(Recipe, (), ()) if name == key))


def _below(annotation: Any, data: Any, key: str | int) -> Any:
    section = _chosen(models(annotation), data)
    if section is not None and key in section.model_fields:
        return section.model_fields[str(key)].annotation
    for member in members(annotation):
        if get_origin(member) is dict:
            return get_args(member)[1]
        if get_origin(member) in (tuple, list) and isinstance(key, int):
            return get_args(member)[0]
    return None


def _chosen(candidates: list[type[BaseModel]], data: Any) -> type[BaseModel] | None:
    """Choose the section's class by ``method``, or else by the keys that are there."""
    method = _value(data, "method")
    for candidate in candidates:
        if issubclass(candidate, PluggedIn):
            if (plugged_in := candidate.options_of(method)) is not None:
                return plugged_in
        elif method in methods(candidate) or (candidate is OwnStep and OwnStep.is_meant(method)):
            return candidate
    candidates = [candidate for candidate in candidates if not issubclass(candidate, PluggedIn)]
    if method is not None and any(map(methods, candidates)):
        return None
    if len(candidates) <= 1 or any(map(methods, candidates)):
        return candidates[0] if len(candidates) == 1 else None
    keys = list(data) if isinstance(data, dict) else []
    return max(candidates, key=lambda section: sum(nearest(key, section.model_fields) is not None for key in keys))


def _value(data: Any, key: str | int) -> Any:
    if isinstance(data, dict):
        return data.get(key)
    if isinstance(data, list) and isinstance(key, int) and key < len(data):
        return data[key]
    return None


def value_at(data: Any, path: Keys) -> Any:
    """Return the plain value at a place; None where there is none."""
    return functools.reduce(_value, path, data)


def _attributes(model: type[BaseModel]) -> dict[str, str]:
    """Read the ``Attributes`` section of a Google-style docstring, those of parent classes first."""
    found: dict[str, str] = {}
    for parent in reversed(model.__mro__):
        if parent is BaseModel or not issubclass(parent, BaseModel):
            continue
        section = inspect.cleandoc(parent.__doc__ or "").partition("\nAttributes:\n")[2]
        name = ""
        for line in section.splitlines():
            if match := _ATTRIBUTE.match(line):
                name, text = match.groups()
                found[name] = text
            elif name and line.startswith("        "):
                found[name] += " " + line.strip()
            else:
                name = ""
    return {name: text for name, text in found.items() if name in model.model_fields}


def _all_keys(annotation: Any, place: tuple[str, ...], seen: tuple[type[BaseModel], ...]) -> Iterator[tuple[str, str]]:
    """Give every key of the schema with the place that accepts it."""
    for member in members(annotation):
        if get_origin(member) is dict:
            yield from _all_keys(get_args(member)[1], (*place, "<name>"), seen)
        elif get_origin(member) in (tuple, list):
            yield from _all_keys(get_args(member)[0], (*place, "<index>"), seen)
        elif inspect.isclass(member) and issubclass(member, BaseModel) and member not in seen:
            method = "".join(f" (method {name})" for name in methods(member)[:1])
            for name, field in member.model_fields.items():
                if name != "method":
                    yield name, (".".join(place) or "the top level") + method
                yield from _all_keys(field.annotation, (*place, name), (*seen, member))
