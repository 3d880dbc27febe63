"""The JSON schema of a recipe, for editors and other tools.

A recipe with a base is checked as what it is, a part of one: nothing must be there, and ``null`` takes away what the
base has. What comes of it is for the loader to check.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from mmdeploy.recipe.methods import STANDS_FOR
from mmdeploy.recipe.schema import Recipe
from mmdeploy.recipe.sections import described, methods, summary

_OF_VARIANTS = "Variant."
_DEFINITIONS = "#/$defs/"


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of a recipe (draft 2020-12), with every pass, engine and gate that is known."""
    whole = Recipe.model_json_schema(schema_generator=_Described)
    definitions = whole.pop("$defs")
    definitions["Recipe"] = whole
    parts = {f"{_OF_VARIANTS}{name}": _part(definition) for name, definition in definitions.items()}
    return {
        "$schema": _Described.schema_dialect,
        "title": whole["title"],
        "description": whole["description"],
        "type": "object",
        "if": {"required": ["base"], "properties": {"base": {"type": "string"}}},
        "then": {"$ref": f"{_DEFINITIONS}{_OF_VARIANTS}Recipe"},
        "else": {"$ref": f"{_DEFINITIONS}Recipe"},
        "$defs": definitions | parts,
    }


def _part(schema: Any) -> Any:
    """Return what a part of something may be, as a variant gives it: nothing is needed, and anything may be null."""
    if isinstance(schema, list):
        return [_part(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made: dict[str, Any] = {}
    for key, value in schema.items():
        match key:
            case "required" | "minProperties" | "discriminator":
                pass
            case "oneOf" | "anyOf":  # a part of a section may be one of several methods
                made["anyOf"] = _part(value)
            case "properties" | "patternProperties":
                made[key] = {name: _part(one) for name, one in value.items()}
            case "additionalProperties":
                made[key] = _part(value)
            case "$ref":
                made[key] = value.replace(_DEFINITIONS, f"{_DEFINITIONS}{_OF_VARIANTS}")
            case "type":
                made[key] = value if value == "null" else [value, "null"]
            case "enum":
                made[key] = [*value, None]
            case _:  # lists among them, which are given whole
                made[key] = value
    return made


class _Described(GenerateJsonSchema):
    """Takes descriptions from docstrings too, and tells the many ``Options`` apart by their method."""

    def function_plain_schema(self, schema: Any) -> Any:
        """Tell the sections that a `NotYet` stands for."""
        stands_for = schema.get("metadata", {}).get(STANDS_FOR)
        if stands_for is None:
            return super().function_plain_schema(schema)
        return self.generate_inner(stands_for.adapter().core_schema)

    def model_schema(self, schema: Any) -> Any:
        """Make the schema of one class."""
        made = super().model_schema(schema)
        model: type[BaseModel] = schema["cls"]
        made["description"] = summary(model)
        if methods(model):
            made["title"] = f"{methods(model)[0]} options"
            made["required"] = sorted({"method", *made.get("required", ())})
        for name, text in described(model).items():
            made["properties"][name].setdefault("description", text)
        return made
