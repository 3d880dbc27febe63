"""Training and scoring where inputs may be missing: the whole ensemble around a component, row by row."""

from pathlib import Path

import numpy as np
import pytest
import torch
from fused_samples import exported
from recorded_sets import recorded_set

from mmdeploy.recipe.loader import load_recipe
from mmdeploy.recipe.schema import Recipe
from mmdeploy.worker.fused_output import FusedEnsemble, Graphs, Validation
from mmdeploy.worker.missing_training import MissingInTraining
from mmdeploy.worker.modalities import PRESENT, Modalities
from mmdeploy.worker.training_setup import HeldOut, RecipeTrainingSetup

RECIPE = Path(__file__).parents[2] / "missing_recipe/recipe.yaml"
STAND_INS = {name: np.full(16, value, np.float32) for name, value in (("sight", 0.5), ("sound", 0.0), ("touch", -1.0))}


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe(RECIPE, ["data.training=data.py:calibration"])


@pytest.fixture(scope="module")
def held_out(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> HeldOut:
    return HeldOut(recorded_set(recipe, "evaluation", tmp_path_factory.mktemp("sets")))


@pytest.fixture(scope="module")
def setup(recipe: Recipe, held_out: HeldOut) -> RecipeTrainingSetup:
    missing = MissingInTraining(Modalities(recipe, STAND_INS), 0.5)
    return RecipeTrainingSetup(recipe, "head", held_out, {}, missing)


def test_a_share_of_the_samples_loses_what_a_subset_leaves_out_and_the_original_with_them(setup):
    [(feeds, _)] = setup.training(0, 64)
    there = feeds[PRESENT]
    assert 0.3 < (~there).any(axis=1).mean() < 0.7
    assert there.any(axis=1).all()
    [(again, _)] = setup.training(0, 64)
    np.testing.assert_array_equal(there, again[PRESENT])
    given = {name: torch.from_numpy(array) for name, array in feeds.items()}
    found = setup.teacher(given)
    missing = torch.from_numpy(~there[:, 0])
    assert (found["sight"][missing] == 0.5).all()
    assert not (found["sight"][~missing] == 0.5).all(dim=1).any()
    assert torch.equal(found["hearing"], given[PRESENT][:, 1:2])


def test_an_input_that_was_not_sent_has_its_stand_in_in_every_row(setup):
    feeds = {name: torch.randn(3, 8) for name in ("heard", "felt")}
    found = setup.teacher(feeds)
    assert found["sight"].shape == (3, 16)
    assert (found["sight"] == 0.5).all()
    assert "features" not in found


def test_scores_of_graphs_are_those_of_the_model_on_samples_that_hold_nothing_too(recipe, held_out, setup, tmp_path):
    samples = held_out.validation
    names = ("eye", "optic_nerve", "ear", "skin", "head")
    graphs = {name: exported(recipe, name, tmp_path / name).path for name in names}
    missing = Modalities(recipe, STAND_INS)
    feeds, labels = setup.validation()
    for component, in_turns in (("head", True), ("optic_nerve", False)):
        marked = missing.marked(feeds, in_turns=in_turns)
        lacking = (~marked[PRESENT]).any(axis=1).mean()
        assert 0.4 < lacking < 0.6 if in_turns else lacking < 0.1, "whoever is given stand-ins is scored on them"
        expected = np.zeros((feeds.count, 4), np.float32)
        for rows in marked.groups():
            given = {name: torch.from_numpy(np.array(array)) for name, array in marked.take(rows).items()}
            expected[rows] = setup.teacher(given)["logits"].numpy()
        validation = Validation(samples.feeds(), samples.labels)
        fused = FusedEnsemble(recipe, component, Graphs(graphs, graphs), validation, modalities=missing)
        score = fused.score(graphs[component])
        assert score.metric == pytest.approx((expected.argmax(axis=1) == labels).mean())
        assert score.cosine > 0.99999
        np.testing.assert_allclose(fused._original_answers()["logits"], expected, rtol=1e-4, atol=1e-5)
