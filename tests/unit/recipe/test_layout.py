"""Which recipes may be one model: everything that holds of a step alone is named at its place, with the way out."""

from pathlib import Path
from typing import Any

import pytest

from mmdeploy.core.errors import RecipeError
from mmdeploy.recipe.layout import composed_serving, may_be_single, obstacles
from mmdeploy.recipe.loader import load_recipe

TINY = Path(__file__).parents[2] / "tiny_recipe" / "recipe.yaml"


def loaded(*overrides: str) -> Any:
    return load_recipe(TINY, overrides)


def complaints(*overrides: str) -> str:
    with pytest.raises(RecipeError) as refused:
        loaded(*overrides)
    return "\n".join(f"{problem.where} {problem.message}" for problem in refused.value.problems)


@pytest.mark.parametrize(
    ("overrides", "place"),
    [
        (["inputs.a.optional=true", "inputs.a.missing={strategy: zeros}"], "inputs.a.optional"),
        (["components.left.serving.response_cache=true"], "components.left.serving.response_cache"),
        (["components.left.engine={method: openvino}"], "components.right.engine"),
        (["components.left.engine={method: onnxruntime, intra_op_threads: 2}"], "components.right.engine"),
        (["components.left.serving={dynamic_batching: {}}", "components.right.serving={dynamic_batching: "
          "{max_queue_delay_us: 9}}"], "components.right.serving.dynamic_batching"),
        (["components.left.serving.guard=graph"], "components.right.serving.guard"),
        (["components.left.serving={max_batch_size: 16, dynamic_batching: {preferred_batch_size: [16]}}"],
         "components.left.serving.dynamic_batching.preferred_batch_size"),
        (["gates.0.scope=components"], "gates.0.scope"),
        (["gates.0.outputs=[left_embedding]"], "gates.0.outputs"),
    ],
)  # fmt: skip
def test_what_holds_of_a_step_alone_is_refused_at_its_place(overrides: list[str], place: str) -> None:
    found, *_ = obstacles(loaded("layout=auto", *overrides))
    assert ".".join(map(str, found.path)) == place
    assert not may_be_single(loaded("layout=auto", *overrides)), "auto serves an ensemble"
    assert "or say layout: auto, which leaves an ensemble then" in complaints("layout=single", *overrides)


@pytest.mark.parametrize(
    ("overrides", "place"),
    [
        (["components.left.engine=auto", "data.validation=data.py:calibration"], "components.left.engine"),
        ([f"components.{name}.{section}" for name in ("left", "right", "fusion")
          for section in ("engine={method: openvino, precision: bf16}", "keep=if_it_pays")], "components.left.keep"),
    ],
)  # fmt: skip
def test_what_is_only_known_when_it_is_built_is_refused_for_single_alone(overrides: list[str], place: str) -> None:
    assert may_be_single(loaded("layout=auto", *overrides))
    assert place in complaints("layout=single", *overrides)


def test_a_recipe_that_does_not_say_is_an_ensemble() -> None:
    assert loaded().layout == "ensemble"
    assert not may_be_single(loaded())
    assert may_be_single(loaded("layout=single"))


def test_one_component_is_one_model_already() -> None:
    only = [f"components.{name}=null" for name in ("right", "fusion")]
    found = complaints("layout=single", *only, "inputs.b=null", "outputs={left_embedding: {}}")
    assert "nothing to compose" in found


def test_what_one_component_says_of_serving_holds_for_all() -> None:
    recipe = loaded(
        "layout=single",
        "components.left.serving={max_batch_size: 4, dynamic_batching: {max_queue_delay_us: 7}}",
        "components.fusion.serving={instance_group: {count: 2}}",
    )
    serving = composed_serving(recipe)
    assert serving.max_batch_size == 4
    assert serving.dynamic_batching is not None and serving.dynamic_batching.max_queue_delay_us == 7
    assert serving.instance_group is not None and serving.instance_group.count == 2
