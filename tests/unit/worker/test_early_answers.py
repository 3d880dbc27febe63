"""What the PyTorch model answers early, by the rule that is served."""

from pathlib import Path

import numpy as np
import pytest

from mmdeploy.core.errors import ModelError
from mmdeploy.core.samples import column_of
from mmdeploy.recipe.cascade import Cascade
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.worker.early_answers import answered_early, leaving

TINY = Path(__file__).parents[2] / "tiny_recipe"
QUICK = np.array([[9.0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 9, 0]], np.float32)


def test_samples_that_are_sure_leave_with_the_early_answer():
    found = answered_early(load_recipe(TINY / "cascade.yaml"), {"quick_logits": QUICK, "logits": -QUICK})
    assert found["left_early"].tolist() == [[True], [False], [True]]
    np.testing.assert_array_equal(found["logits"], QUICK)


def test_without_a_cascade_nothing_is_answered_early():
    assert answered_early(load_recipe(TINY / "recipe.yaml"), {"logits": QUICK}) == {}


def test_samples_of_several_lengths_are_decided_each_by_itself():
    lengths = column_of([np.ones((size, 2)) * size for size in (1, 3, 2)])
    assert leaving(Cascade(when="min(max(x)) < 2.5", answers={"y": "x"}), {"x": lengths}).tolist() == [
        False,
        True,
        False,
    ]


def test_an_early_answer_of_another_shape_and_a_condition_of_many_values_end_the_build_here():
    recipe = load_recipe(TINY / "cascade.yaml")
    with pytest.raises(ModelError, match=r"cascade.answers.logits: 'quick_logits' is float32 \[3\]"):
        answered_early(recipe, {"quick_logits": QUICK[:, :3], "logits": QUICK})
    with pytest.raises(ModelError, match=r"cascade.when: `x < 1` comes to \[4\] values a row"):
        leaving(Cascade(when="x < 1", answers={"y": "x"}), {"x": QUICK})


def test_an_entropy_of_scores_is_refused_and_told_how_shares_are_made_of_them():
    recipe = load_recipe(TINY / "cascade.yaml", ["cascade.when=entropy(quick_logits) > 0.5"])
    tensors = {"quick_logits": QUICK, "logits": QUICK}
    told = "takes the entropy of `quick_logits`, and its values are no shares: they sum to 4 to 9, the least is 0"
    with pytest.raises(ModelError, match=told) as refused:
        answered_early(recipe, tensors)
    assert refused.value.hint == "say entropy(softmax(quick_logits)) where these are scores of classes"
    negative = {**tensors, "quick_logits": np.array([[2, -1, 0, 0]] * 3, np.float32)}  # sums to 1 all the same
    with pytest.raises(ModelError, match="the least is -1"):
        answered_early(recipe, negative)
    shares = np.array([[0.995, 0, 0, 0], [0.25, 0.25, 0.25, 0.25], [np.nan, 0, 0, 1]], np.float32)
    found = answered_early(recipe, {**tensors, "quick_logits": shares})  # what lower precision leaves of shares
    assert found["left_early"][:, 0].tolist() == [True, False, False]
    made = load_recipe(TINY / "cascade.yaml", ["cascade.when=entropy(softmax(quick_logits)) > 0.5"])
    assert answered_early(made, tensors)["left_early"][:, 0].tolist() == [True, False, True]
