"""The JSON schema of a recipe, for editors and other tools."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from mmdeploy.recipe.schema import Recipe
from mmdeploy.recipe.sections import described, methods, summary


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of a recipe (draft 2020-12), with every pass, engine and gate that is known."""
    schema = Recipe.model_json_schema(schema_generator=_Described)
    return {"$schema": _Described.schema_dialect} | schema


class _Described(GenerateJsonSchema):
    """Takes descriptions from docstrings too, and tells the many ``Options`` apart by their method."""

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
