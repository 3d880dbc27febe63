"""The schema: made of what the registries hold, frozen, described, and the same for YAML, JSON and Python."""

import json
import pickle
import typing

import jsonschema
import pytest
import yaml
from pydantic import BaseModel, ValidationError

from mmdeploy import engines, export, gates
from mmdeploy.choice.options import default_engine
from mmdeploy.core.artifact import NUMPY_BY_DTYPE
from mmdeploy.core.target import Target
from mmdeploy.recipe.declared import Dtype, Wire
from mmdeploy.recipe.json_schema import json_schema
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.recipe.schema import REGISTRIES, Recipe, union_of
from mmdeploy.recipe.sections import described, members, models


def test_dtypes_are_those_that_the_rest_of_mmdeploy_knows():
    assert set(typing.get_args(Dtype)) == set(NUMPY_BY_DTYPE)


def test_every_entry_of_a_registry_is_in_the_schema():
    titles = {definition.get("title") for definition in json_schema()["$defs"].values()}
    for methods in REGISTRIES.values():
        for method in methods:
            assert f"{method} options" in titles


@pytest.mark.parametrize("entries", [1, 2, 6])
def test_a_union_of_any_number_of_methods_accepts_each(entries):
    methods = dict(list(gates.METHODS.items())[:entries])
    assert len(models(union_of(methods))) == entries


def test_every_target_has_an_engine(sample):
    recipe = load_recipe(sample)
    for target in Target:
        options = recipe.model_copy(update={"target": target}).engine_options("fusion")
        assert options == default_engine(target)
    chosen = engines.METHODS["tensorrt"].Options(method="tensorrt")
    fusion = recipe.components["fusion"].model_copy(update={"engine": chosen})
    assert recipe.model_copy(update={"components": {"fusion": fusion}}).engine_options("fusion") is chosen


def test_missing_sections_are_not_done_but_export_is(sample):
    fusion = load_recipe(sample).components["fusion"]
    assert fusion.quantize is None
    assert fusion.export.model_dump()["method"] == next(iter(export.METHODS))


def test_a_recipe_is_frozen_and_crosses_processes_with_its_origin(sample):
    recipe = load_recipe(sample)
    with pytest.raises(ValidationError):
        recipe.name = "other"
    copy = pickle.loads(pickle.dumps(recipe))
    assert copy == recipe
    assert copy.root == recipe.root
    assert copy.origin.sha256 == recipe.origin.sha256


def test_a_recipe_made_in_memory_has_no_folder(sample):
    recipe = Recipe.model_validate(yaml.safe_load(sample.read_text()))
    assert recipe.components["fusion"].inputs["audio"] == Wire(tensor="audio_embedding")
    with pytest.raises(ValueError, match="not read from a file"):
        _ = recipe.root


def test_what_is_dumped_is_read_again(sample):
    recipe = load_recipe(sample)
    sample.write_text(json.dumps(recipe.model_dump(mode="json")))
    assert load_recipe(sample).model_dump() == recipe.model_dump()


def test_the_json_schema_accepts_what_the_loader_accepts_and_refuses_misspelt_keys(sample):
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    tree = yaml.safe_load(sample.read_text())
    tree["components"]["fusion"]["inputs"]["audio"] = {"tensor": "audio_embedding", "shape": [-1]}
    jsonschema.validate(tree, schema)
    tree["components"]["fusion"]["quantise"] = {"method": "static"}
    with pytest.raises(jsonschema.ValidationError, match="quantise"):
        jsonschema.validate(tree, schema)


def _sections(annotation, seen):
    for member in members(annotation):
        if isinstance(member, type) and issubclass(member, BaseModel):
            if member not in seen:
                seen.add(member)
                for field in member.model_fields.values():
                    _sections(field.annotation, seen)
        else:
            for part in typing.get_args(member):
                _sections(part, seen)
    return seen


def test_every_section_and_every_key_is_described():
    missing = []
    for section in _sections(Recipe, set()):
        if not section.__doc__:
            missing.append(section.__qualname__)
        texts = described(section)
        missing += [f"{section.__module__}.{name}" for name in section.model_fields if name not in texts]
    assert [name for name in missing if not name.endswith(".method")] == []
