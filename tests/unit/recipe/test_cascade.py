"""Cascades: who answers first, and what `validate` says of one that cannot work."""

from pathlib import Path
from typing import Any

import pytest

from mmdeploy.core.errors import RecipeError
from mmdeploy.planning.chains import fed_outputs, yardstick
from mmdeploy.recipe.cascade_stages import scored_in, stages, without
from mmdeploy.recipe.layout import obstacles
from mmdeploy.recipe.loader import load_recipe

CASCADE = Path(__file__).parents[2] / "tiny_recipe" / "cascade.yaml"


def loaded(*overrides: str) -> Any:
    return load_recipe(CASCADE, overrides)


def complaints(*overrides: str) -> str:
    with pytest.raises(RecipeError) as refused:
        loaded(*overrides)
    return "\n".join(f"{problem.where} {problem.message}" for problem in refused.value.problems)


def test_early_is_what_the_condition_and_the_early_answers_depend_on():
    found = stages(loaded())
    assert (found.early, found.rest, found.early_only) == (("left", "quick"), ("right", "fusion"), ("quick",))
    assert found.read == ("quick_logits",)


def test_what_only_answers_early_is_scored_as_if_it_answered_everybody():
    recipe = loaded("components.quick.module=left.project", "components.quick.inputs={left: left_embedding}")
    view = scored_in(recipe, "quick")
    assert [*view.components] == ["left", "quick"] and view.cascade is None
    assert view.components["quick"].outputs["logits"].tensor == "logits"
    assert fed_outputs(recipe, "quick") == {"logits"}
    assert yardstick(recipe, "quick").metric.outputs == ("logits",)
    for name in ("left", "right", "fusion"):
        assert scored_in(recipe, name) is recipe


def test_a_module_that_the_rest_calls_too_is_scored_in_the_whole():
    recipe = loaded()
    assert scored_in(recipe, "quick") is recipe


def test_the_plain_ensemble_lacks_what_only_answers_early():
    plain = without(loaded())
    assert [*plain.components] == ["left", "right", "fusion"] and plain.cascade is None


@pytest.mark.parametrize(
    ("override", "place", "told"),
    [
        ("when=max(softmax(quick_logit)) < 0.3", "cascade.when",
         "no component writes a tensor 'quick_logit'; did you mean 'quick_logits'? accepted: left_embedding, logits, "
         "quick_logits, right_embedding"),
        ("when=max(softmax(quick_logits))", "cascade.when", "is a number, and a row is true or false"),
        ("when=quick_logits < 0.3", "cascade.when", "comes to [4] values a row"),
        ("when=exec(quick_logits) < 0.3", "cascade.when", "there is no function `exec`"),
        ("answers={logits: quick}", "cascade.answers.logits", "no component writes the tensor 'quick'"),
        ("answers={quick_logits: quick_logits}", "cascade.answers", "rows that leave early have no 'logits'"),
        ("when=max(softmax(logits)) < 0.3", "cascade.answers.logits", "so nothing is saved"),
        ("left_early=logits", "cascade.left_early", "is a tensor already"),
        ("wen=1", "cascade.wen", "did you mean 'when'?"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_said_at_its_place(override, place, told):
    found = complaints(f"cascade.{override}")
    assert any(place in line and told in line for line in found.splitlines()), found


@pytest.mark.parametrize(
    ("overrides", "place", "told"),
    [
        (["inputs.b.optional=true", "inputs.b.missing={strategy: zeros}"], "inputs.b.optional",
         "serve without a cascade"),
        (["sizes={tokens: {min: 1, max: 8, bucket: [4, 8]}}"], "sizes.tokens.bucket", "take bucket out"),
        ([f"components.{name}.serving.max_batch_size=0" for name in ("left", "right", "quick", "fusion")],
         "components.left.serving.max_batch_size", "say 1 or more"),
        (["layout=single"], "cascade", "nothing would leave early; or say layout: auto"),
        (["gates=[{method: size, max_bytes: 100000}]"], "cascade", "add a gate, such as {method: early_exit"),
        (["cascade=null"], "gates.2", "no row can leave early without a cascade"),
        (["components.fusion.outputs.logits={tensor: logits, dtype: FP32, shape: [5]}"], "cascade.answers.logits",
         "'quick_logits' has shape [4] and 'logits' [5]: one answers for the other"),
        (["inputs.c={dtype: FP32, shape: [8]}", "components.quick.inputs.right=c"], "inputs.c",
         "only early components of the cascade depend on 'c'"),
    ],
)  # fmt: skip
def test_what_cannot_be_beside_a_cascade_is_refused_with_the_way_out(overrides, place, told):
    found = complaints(*overrides)
    assert any(place in line and told in line for line in found.splitlines()), found


def test_layout_auto_leaves_an_ensemble():
    assert [one.path for one in obstacles(loaded("layout=auto"))] == [("cascade",)]


def test_names_that_a_cascade_is_served_by_are_taken(tmp_path):
    text = CASCADE.read_text().replace("quick:", "rest:").replace("base: ", f"base: {CASCADE.parent}/")
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(RecipeError) as refused:
        load_recipe(tmp_path / "recipe.yaml")
    assert "'rest' is the name of a model that a cascade is served by" in str(refused.value)
