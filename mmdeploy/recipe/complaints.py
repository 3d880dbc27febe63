"""What pydantic finds wrong with a recipe, in our words: what is wrong, what is accepted, what was meant."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import ValidationError

from mmdeploy.core.errors import did_you_mean, nearest
from mmdeploy.recipe import own_steps
from mmdeploy.recipe.media import FILE_PATTERN, DeclaredOutput, OwnStep
from mmdeploy.recipe.methods import PLUGGED_IN
from mmdeploy.recipe.schema import PATTERN_MEANINGS
from mmdeploy.recipe.sections import annotation_at, described, members, methods, models, places_of, section_at, value_at
from mmdeploy.recipe.yaml_tree import Keys, Node

_WANTED = {
    "int_type": "a whole number", "int_parsing": "a whole number", "int_from_float": "a whole number",
    "float_type": "a number", "float_parsing": "a number", "finite_number": "a finite number",
    "bool_type": "true or false", "bool_parsing": "true or false",
    "string_type": "a string", "path_type": "a path",
    "tuple_type": "a list, such as [1, 2]", "list_type": "a list, such as [1, 2]",
    "dict_type": "a mapping (key: value)", "model_type": "a mapping (key: value)",
    "model_attributes_type": "a mapping (key: value)",
}  # fmt: skip
_BOUNDS = {
    "greater_than": ("greater than", "gt"), "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"), "less_than_equal": ("at most", "le"),
    "multiple_of": ("a multiple of", "multiple_of"),
}  # fmt: skip
_YAML_1_1_BOOLEANS = ("yes", "no", "on", "off", "y", "n")
_SHOWN_CHARACTERS = 60


@dataclass(frozen=True)
class Complaint:
    """One thing wrong at one place.

    Attributes:
        path: The place, as the user wrote it.
        message: What is wrong and what is accepted.
        missing: The place is empty and must not be.
        meant: What was probably meant in this place.
        meant_key: ``meant`` is the key; otherwise it is the value.
    """

    path: Keys
    message: str
    missing: bool = False
    meant: str | None = None
    meant_key: bool = False


def complaints(error: ValidationError, tree: Node) -> list[Complaint]:
    """Translate everything that pydantic found; one complaint a place, in pydantic's order.

    A key that is missing because it was misspelt is complained about once.
    """
    data = tree.plain()
    found: dict[Keys, Complaint] = {}
    for detail in _relevant(error, tree, data):
        complaint = _complaint(detail, data)
        before = found.setdefault(complaint.path, complaint)
        if complaint.message not in before.message:
            message = f"{before.message}; or: {complaint.message}"
            found[complaint.path] = Complaint(complaint.path, message)
    misspelt = {(*place.path[:-1], place.meant) for place in found.values() if place.meant_key}
    return [place for place in found.values() if not (place.missing and place.path in misspelt)]


def shown(value: Any) -> str:
    """Write a value as YAML would take it, its kind before it, cut to a readable length."""
    text = json.dumps(value, ensure_ascii=False)
    if len(text) > _SHOWN_CHARACTERS:
        text = text[: _SHOWN_CHARACTERS - 1] + "…"
    match value:
        case None:
            return "nothing"
        case bool():
            return text
        case str():
            return f"the string {text}"
        case list():
            return f"the list {text}"
        case dict():
            return f"the mapping {text}"
    return f"the number {text}"


def _relevant(error: ValidationError, tree: Node, data: Any) -> list[Any]:
    """Add ``path`` to pydantic's details; leave out those of alternatives that were not meant."""
    details: list[dict[str, Any]] = []
    meant = []
    for detail in error.errors(include_url=False):
        loc = detail["loc"][:-1] if detail["type"] == "missing" else detail["loc"]
        path, alternatives = _path(loc, tree)
        details.append({**detail, "path": path})
        if all(_is_meant(place, name, data) for place, name in alternatives):
            meant.append(details[-1])
    found = meant or details
    return [
        detail
        for detail in found
        # A list is too short also when items of it were refused.
        if detail["type"] != "too_short" or not any(_is_within(other["path"], detail["path"]) for other in found)
    ]


def _is_within(path: Keys, outer: Keys) -> bool:
    return len(path) > len(outer) and path[: len(outer)] == outer


def _is_meant(place: Keys, alternative: str | int, data: Any) -> bool:
    """Say whether an alternative that pydantic tried at a place is the one whose errors help the user."""
    section = section_at(data, place)
    if section is None or not isinstance(value_at(data, place), dict):
        return True
    return alternative in (section.__name__, *methods(section), PLUGGED_IN, "wire", "spec", "[key]")


def _path(loc: Sequence[str | int], tree: Node) -> tuple[Keys, list[tuple[Keys, str | int]]]:
    """Split pydantic's location into keys of the recipe and the alternatives that it tried, each with its place."""
    node: Node | None = tree
    path: Keys = ()
    alternatives: list[tuple[Keys, str | int]] = []
    tagged = False
    for key in loc:
        child = node.child(key) if node else None
        method = node.child("method") if node else None
        if not tagged and method is not None and method.value == key:
            tagged = True
        elif child is not None:
            path = (*path, key)
            node, tagged = child, False
        else:
            alternatives.append((path, key))
    return path, alternatives


def _complaint(detail: Any, data: Any) -> Complaint:
    path, kind, value = detail["path"], detail["type"], detail["input"]
    match kind:
        case "missing":
            place = (*path, str(detail["loc"][-1]))
            return Complaint(place, _missing_message(data, place), missing=True)
        case "extra_forbidden":
            return _unknown_key(data, (*_parent(path, detail["loc"]), str(detail["loc"][-1])))
        case "union_tag_invalid":
            return _unknown_method(data, path, value_at(data, (*path, "method")))
        case "union_tag_not_found":
            return _no_method(data, path)
        case "plug-in":
            return Complaint((*path, "method"), str(detail["ctx"]["told"]))
        case "literal_error" | "enum" if path and path[-1] == "method":
            return _unknown_method(data, path[:-1], value)
    return Complaint(path, _value_message(detail, data))


def _parent(path: Keys, loc: Sequence[str | int]) -> Keys:
    return path[:-1] if path and path[-1] == loc[-1] else path


def _missing_message(data: Any, place: Keys) -> str:
    section = section_at(data, place[:-1])
    meaning = described(section).get(str(place[-1]), "") if section else ""
    return f"missing; it must be given: {meaning}".removesuffix(": ")


def _unknown_key(data: Any, place: Keys) -> Complaint:
    key, section = str(place[-1]), section_at(data, place[:-1])
    accepted = list(section.model_fields) if section else []
    guess = nearest(key, accepted)
    elsewhere = places_of(key)
    if guess is None and elsewhere:
        message = f"unknown key {key!r} here; it belongs to {' or '.join(elsewhere)}; {did_you_mean('', accepted)}"
        return Complaint(place, message)
    return Complaint(
        place, f"unknown key {key!r}; {did_you_mean(key, accepted)}", meant=guess, meant_key=guess is not None
    )


def _no_method(data: Any, path: Keys) -> Complaint:
    own = value_at(data, (*path, own_steps.SPELT_OTHERWISE)) if _may_be_own(data, path) else None
    if isinstance(own, str):
        place = (*path, own_steps.SPELT_OTHERWISE)
        return Complaint(place, own_steps.spelling(own), meant="method", meant_key=True)
    return Complaint((*path, "method"), f"missing; accepted: {', '.join(_methods_at(data, path))}", missing=True)


def _may_be_own(data: Any, path: Keys) -> bool:
    return OwnStep in models(annotation_at(data, path))


def _methods_at(data: Any, path: Keys) -> list[str]:
    found = [name for model in models(annotation_at(data, path)) for name in methods(model)]
    return [*found, own_steps.REFERENCE] if _may_be_own(data, path) else found


def _unknown_method(data: Any, path: Keys, value: Any) -> Complaint:
    accepted = _methods_at(data, path)
    if not isinstance(value, str):
        return Complaint((*path, "method"), f"must be a string, not {shown(value)}; {did_you_mean('', accepted)}")
    if _may_be_own(data, path) and (advice := own_steps.advice(value)):
        return Complaint((*path, "method"), f"unknown method {value!r}; {advice}")
    message = f"unknown method {value!r}; {did_you_mean(value, accepted)}"
    return Complaint((*path, "method"), message, meant=nearest(value, accepted))


def _value_message(detail: Any, data: Any) -> str:
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind.startswith("model") and models(annotation_at(data, detail["path"])) == [DeclaredOutput]:
        return own_steps.undeclared(str(detail["path"][-1]), value)
    if kind in _WANTED:
        return f"must be {_wanted(kind, detail, data)}, not {shown(value)}{_advice(kind, value)}"
    if kind in _BOUNDS:
        words, name = _BOUNDS[kind]
        return f"must be {words} {context[name]:g}, not {shown(value)}"
    match kind:
        case "literal_error" | "enum":
            return _unknown_value(value, annotation_at(data, detail["path"]))
        case "string_pattern_mismatch":
            meaning = PATTERN_MEANINGS.get(context["pattern"], f"a string that matches {context['pattern']}")
            advice = own_steps.advice(value) if context["pattern"] == FILE_PATTERN else ""
            return f"must be {meaning}; not {shown(value)}{advice and f'; {advice}'}"
        case "too_short" | "string_too_short" if context["min_length"] == 1:
            return "must not be empty"
        case "too_short" | "string_too_short":
            return f"must not be shorter than {context['min_length']}, got {shown(value)}"
        case "too_long" | "string_too_long":
            return f"must not be longer than {context['max_length']}, got {shown(value)}"
        case "value_error" | "assertion_error":
            return str(context.get("error", detail["msg"]))
    return f"{detail['msg'][:1].lower()}{detail['msg'][1:]}, got {shown(value)}"


def _wanted(kind: str, detail: Any, data: Any) -> str:
    alternatives = members(annotation_at(data, detail["path"]))
    also_a_name = kind.startswith("model") and str in alternatives
    return f"a name or {_WANTED[kind]}" if also_a_name else _WANTED[kind]


def _advice(kind: str, value: Any) -> str:
    if kind.startswith("bool") and isinstance(value, str) and value.lower() in _YAML_1_1_BOOLEANS:
        return " (YAML 1.2 knows no yes and no)"
    if kind in ("string_type", "path_type") and isinstance(value, (bool, int, float)):
        return "; put it in quotes"
    return ""


def _unknown_value(value: Any, annotation: Any) -> str:
    accepted: list[Any] = []
    for member in members(annotation):
        accepted += list(get_args(member)) or [item.value for item in getattr(member, "__members__", {}).values()]
    named = [one for model in models(annotation) for one in methods(model)]
    if isinstance(value, str) and value in named:
        return f"{value!r} is a method: write {{method: {value}}}"
    if isinstance(value, str) and all(isinstance(item, str) for item in accepted):
        return (
            f"{value!r} is not accepted; {did_you_mean(value, [*accepted, *(f'{{method: {one}}}' for one in named)])}"
        )
    return f"must be {' or '.join(json.dumps(item) for item in accepted)}, not {shown(value)}"
