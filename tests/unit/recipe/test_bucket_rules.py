"""Buckets of a recipe's sizes: what is refused, with its place and the way out."""

import pytest
from recipe_samples import SAMPLE, write_sample_files

from mmdeploy.core.errors import RecipeError
from mmdeploy.recipe.loader import load_recipe

VARYING = SAMPLE.replace("[4000]", "[samples]").replace(
    "inputs:\n  image",
    "sizes:\n  samples: {min: 160, max: 64000, multiple_of: 16, bucket: [16000, 64000]}\ninputs:\n  image",
)


def loaded(folder, *overrides):
    write_sample_files(folder)
    (folder / "recipe.yaml").write_text(VARYING)
    return load_recipe(folder / "recipe.yaml", overrides)


def test_buckets_are_read(tmp_path):
    assert loaded(tmp_path).sizes["samples"].bucket == (16000, 64000)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("sizes.samples.bucket=[16000]", "the last bucket is 16000, and the largest length 64000 (max)"),
        ("sizes.samples.bucket=[64000, 16000]", "buckets ascend, each once: [16000, 64000]"),
        ("sizes.samples.bucket=[16000, 16000, 64000]", "buckets ascend, each once: [16000, 64000]"),
        ("sizes.samples.bucket=[16000, 128000]", "let the last bucket be 64000"),
        ("sizes.samples.bucket=[100, 64000]", "100 must be at least 160 and a multiple of 16"),
        ("sizes.samples.bucket=[1601, 64000]", "1601 must be at least 160 and a multiple of 16"),
    ],
)
def test_buckets_that_are_none_are_refused(tmp_path, override, told):
    with pytest.raises(RecipeError) as caught:
        loaded(tmp_path, override)
    (problem,) = caught.value.problems
    assert "sizes.samples.bucket" in problem.where and told in problem.message


def test_what_may_be_left_out_is_padded_by_itself(tmp_path):
    optional = ["inputs.audio.optional=true", "inputs.audio.missing={strategy: zeros}"]
    assert loaded(tmp_path, *optional).sizes["samples"].bucket
    shared = "inputs.image={dtype: FP32, shape: [samples]}"
    with pytest.raises(RecipeError) as caught:
        loaded(tmp_path, *optional, shared)
    (problem,) = caught.value.problems
    assert "sizes.samples.bucket" in problem.where and "give 'audio' a size of its own" in problem.message


def test_gates_name_lengths_that_requests_may_have(tmp_path):
    override = "gates=[{method: latency, max_ratio_to_reference: 1.5, lengths: {%s}}]"
    assert loaded(tmp_path, override % "samples: 16000").gates[0].lengths == {"samples": 16000}
    for given, told in (
        ("samples: 16001", "16001, no multiple of 16"),
        ("samples: 64016", "64016, outside [160, 64000]"),
        ("sample: 160", "no input has a size called 'sample'; did you mean 'samples'"),
    ):
        with pytest.raises(RecipeError) as caught:
            loaded(tmp_path, override % given)
        (problem,) = caught.value.problems
        assert "gates" in problem.where and told in problem.message
