"""What a report says of buckets that were measured."""

from pathlib import Path

from mmdeploy.building.bucket_gain import BucketGain, told
from mmdeploy.building.gain import Gain
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.record.observer import Silent
from mmdeploy.scoring.served_figures import Estimate

TESTS = Path(__file__).parents[2]
RECIPE = load_recipe(TESTS / "padded_recipe" / "recipe.yaml")


def gain(low: float, value: float, high: float) -> Gain:
    return Gain(Estimate(value, (low, high)), 400)


def test_buckets_that_win_are_told_with_their_figures_and_no_warning():
    assert told(RECIPE, {"no-bucket": gain(1.2, 1.5, 1.9), "padded": gain(0.9, 1.0, 1.2)}) == (
        "Buckets (frames [8, 32]): 1.50 × [1.20, 1.90] the samples a second of no bucket, 1.00 × [0.90, 1.20] (not "
        "told apart) the samples a second of padding all to the maximum; 8 clients, 400 requests each way, evaluation "
        "samples at their true lengths.",
    )


def test_buckets_that_are_surely_slower_than_none_are_warned_of():
    found = {"no-bucket": gain(0.5, 0.56, 0.62), "padded": gain(2.4, 2.7, 2.9)}
    _, warning = told(RECIPE, found)
    assert warning.startswith("Warning: `bucket` costs more than it wins on this machine, 0.56 × the samples")
    assert "dynamic_batching" not in warning
    alone = {
        name: part.model_copy(update={"serving": type(part.serving)()}) for name, part in RECIPE.components.items()
    }
    unbatched = RECIPE.model_copy(update={"components": alone})
    assert "no component has `dynamic_batching`" in told(unbatched, found)[1]


def test_what_noise_may_explain_is_no_warning():
    assert len(told(RECIPE, {"no-bucket": gain(0.5, 0.8, 1.01)})) == 1


def test_what_was_not_measured_says_why():
    [note] = told(RECIPE, {"no-bucket": Gain(None, 3, "3 rounds of the 8 that a verdict needs")})
    assert "not measured (3 rounds of the 8 that a verdict needs) against no bucket" in note


def test_a_recipe_without_buckets_is_not_measured(tmp_path):
    recipe = load_recipe(TESTS / "tiny_recipe" / "recipe.yaml")
    measure = BucketGain(recipe, {}, tmp_path, Silent())
    assert measure(None) == ()  # asks nobody
    assert not list(tmp_path.iterdir())
