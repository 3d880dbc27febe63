"""Examples: the recipe's own samples, padded or cut to what is asked; made-up values only where there are none."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from recorded_sets import recorded_set, set_artifact

from mmdeploy.core.artifact import NUMPY_BY_DTYPE
from mmdeploy.model.torch_component import load_component
from mmdeploy.model.torch_model import TorchChain
from mmdeploy.planning.steps import DATA_SETS, Step
from mmdeploy.recipe.declared import InputSpec, SizeSpec
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.recipe.schema import Recipe
from mmdeploy.worker.context import recipe_module
from mmdeploy.worker.examples import Examples, ensemble_examples
from mmdeploy.worker.task import Task

RECIPE = Path(__file__).parents[2] / "tiny_recipe/recipe.yaml"
UNCALIBRATED = ("data.calibration=null", "components.left.quantize=null", "components.right.quantize=null")
TEXTS = """
import numpy as np

def calibration():
    for length in (1, 3, 7):
        yield {"a": np.arange(1, length + 1, dtype=np.int64), "b": np.full(8, length, np.float32)}

def evaluation():
    yield {"a": np.array([9], np.int64), "b": np.ones(8, np.float32)}, 0
"""


def with_inputs(recipe: Recipe, **specs: dict[str, object]) -> Recipe:
    return recipe.model_copy(update={"inputs": {name: InputSpec.model_validate(spec) for name, spec in specs.items()}})


@pytest.fixture
def texts(tiny_recipe: Path) -> Recipe:
    """A recipe whose first input is token ids of any length, none of which is 0."""
    (tiny_recipe.parent / "data.py").write_text(TEXTS)
    recipe = load_recipe(tiny_recipe)
    ids: dict[str, object] = {"dtype": "INT64", "shape": (-1,), "range": (1, 9)}
    return with_inputs(recipe, a=ids, b={"dtype": "FP32", "shape": (8,)})


def test_one_sample_alone_is_as_it_is(texts: Recipe, tmp_path: Path) -> None:
    samples = recorded_set(texts, "calibration", tmp_path)
    assert ensemble_examples(texts, samples, 1)["a"].tolist() == [[1]]


def test_several_are_padded_to_the_largest_within_the_range_and_begin_again_where_there_are_too_few(
    texts: Recipe, tmp_path: Path
) -> None:
    batch = ensemble_examples(texts, recorded_set(texts, "calibration", tmp_path), 4)
    assert batch["a"].tolist() == [[1] * 7, [1, 2, 3, 1, 1, 1, 1], [1, 2, 3, 4, 5, 6, 7], [1] * 7]
    assert batch["b"][:, 0].tolist() == [1, 3, 7, 1]


def test_an_axis_that_varies_is_never_of_size_1_in_a_batch(texts: Recipe, tmp_path: Path) -> None:
    """torch.export would take it as fixed."""
    batch = ensemble_examples(texts, recorded_set(texts, "evaluation", tmp_path), 2)
    assert batch["a"].tolist() == [[9, 1], [9, 1]]


@given(dtype=st.sampled_from(sorted(NUMPY_BY_DTYPE)), low=st.integers(0, 60), width=st.integers(1, 60))
def test_without_data_values_are_made_up_inside_the_range(dtype: str, low: int, width: int) -> None:
    span = (0, 1) if dtype == "BOOL" else (low, low + width)
    recipe = with_inputs(load_recipe(RECIPE), a={"dtype": dtype, "shape": (-1, 2), "range": span})
    made = ensemble_examples(recipe, None, 3)["a"]
    assert made.dtype == NUMPY_BY_DTYPE[dtype] and made.shape == (3, 16, 2)
    assert span[0] <= made.min() <= made.max() <= span[1]


@pytest.mark.parametrize("key", ["calibration", "evaluation"])
def test_a_head_is_fed_with_what_upstream_makes_of_the_samples(key: str, tmp_path: Path) -> None:
    recipe = load_recipe(RECIPE, () if key == "calibration" else UNCALIBRATED)
    artifacts = {DATA_SETS[key]: set_artifact(recipe, key, tmp_path, 4)}
    step = Step("fusion/export", "fusion", "export", "onnx", {}, (), {})
    fed = Examples(Task(step, recipe, tmp_path, artifacts, 1))(6)
    samples = recorded_set(recipe, key, tmp_path).batch(0, 4)
    for name, tensor in (("left", "a"), ("right", "b")):
        tower = load_component(recipe_module(Task(replace(step, component=name), recipe, tmp_path, {}, 1)))
        answers = tower(torch.from_numpy(np.array(samples[tensor]))).detach().numpy()
        np.testing.assert_allclose(fed[name], answers[[0, 1, 2, 3, 0, 1]], atol=1e-6)


def test_what_lies_upstream_answers_each_sample_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, rows = load_recipe(RECIPE), []
    run = TorchChain.run
    monkeypatch.setattr(TorchChain, "run", lambda chain, feeds: rows.append(len(feeds["a"])) or run(chain, feeds))
    artifacts = {DATA_SETS["calibration"]: set_artifact(recipe, "calibration", tmp_path, 4)}
    task = Task(Step("fusion/export", "fusion", "export", "onnx", {}, (), {}), recipe, tmp_path, artifacts, 1)
    examples = Examples(task)
    fed = [examples(size) for size in (3, 2, 1, 5, 4, 3)]
    assert rows == [5]
    fed[1]["left"][:] = 0  # nobody else's
    for size, feed in zip((3, 1, 5, 4, 3), (fed[0], *fed[2:]), strict=True):
        for name, array in Examples(task)(size).items():
            np.testing.assert_allclose(feed[name], array, atol=1e-6)


def test_a_step_after_the_export_is_fed_without_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe(RECIPE)
    samples = {DATA_SETS["calibration"]: set_artifact(recipe, "calibration", tmp_path, 4)}
    step = Step("fusion/export", "fusion", "export", "onnx", {}, (), {})
    first = Examples(Task(step, recipe, tmp_path, samples, 1))
    wanted = first(3)
    first.answered.save(tmp_path / "upstream.npz")
    exported = replace(samples[DATA_SETS["calibration"]], path=tmp_path / "model.onnx")
    later = Examples(
        Task(replace(step, id="fusion/engine"), recipe, tmp_path, {**samples, "fusion/export": exported}, 1)
    )
    monkeypatch.setattr("mmdeploy.worker.examples.torch_chain", lambda *_: pytest.fail("the model was loaded"))
    for rows in (1, 2, 3):
        for name, array in later(rows).items():
            np.testing.assert_array_equal(array, wanted[name][:rows])
    with pytest.raises(pytest.fail.Exception):  # other samples than were answered
        later(7)


def sized(tiny_recipe: Path) -> Recipe:
    """A recipe whose first input is token ids of 2 to 8, in steps of 2."""
    (tiny_recipe.parent / "data.py").write_text(TEXTS.replace("(1, 3, 7)", "(2, 4, 8)"))
    recipe = load_recipe(tiny_recipe)
    sizes = {"tokens": SizeSpec(min=2, max=8, multiple_of=2)}
    ids: dict[str, object] = {"dtype": "INT64", "shape": ("tokens",), "range": (1, 9)}
    return with_inputs(recipe.model_copy(update={"sizes": sizes}), a=ids, b={"dtype": "FP32", "shape": (8,)})


def test_a_size_with_a_name_has_its_usual_length_or_the_one_asked(tiny_recipe: Path, tmp_path: Path) -> None:
    recipe = sized(tiny_recipe)
    samples = recorded_set(recipe, "calibration", tmp_path)
    assert ensemble_examples(recipe, samples, 3)["a"].tolist() == [[1, 2, 1, 2], [1, 2, 3, 4], [1, 2, 3, 4]]
    assert ensemble_examples(recipe, samples, 2, {"tokens": 6})["a"].tolist() == [
        [1, 2, 1, 2, 1, 2],
        [1, 2, 3, 4, 1, 2],
    ]
    assert ensemble_examples(recipe, None, 2, {"tokens": 6})["a"].shape == (2, 6)


def at_lengths(recipe: Recipe, folder: Path) -> list[tuple[dict[str, int], tuple[int, ...]]]:
    artifacts = {DATA_SETS["calibration"]: set_artifact(recipe, "calibration", folder, 3)}
    step = Step("left/export", "left", "export", "onnx", {}, (), {})
    fed = Examples(Task(step, recipe, folder, artifacts, 1)).at_lengths(2)
    return [(dict(at), feed["values"].shape) for at, feed in fed]


def test_examples_are_given_at_all_lengths_that_tell(tiny_recipe: Path, tmp_path: Path) -> None:
    expected = [({"tokens": length}, (2, length)) for length in (2, 4, 6, 8)]
    assert at_lengths(sized(tiny_recipe), tmp_path) == expected


def test_where_lengths_have_no_name_they_are_those_of_samples(texts: Recipe, tmp_path: Path) -> None:
    assert at_lengths(texts, tmp_path) == [({"a_0": length}, (1, length)) for length in (1, 3, 7)]
