"""Caches that Triton would answer wrongly from, or that hold nothing, are refused or doubted with their place."""

from pathlib import Path

import pytest
from recipe_samples import SAMPLE, write_sample_files

from mmdeploy.core.errors import RecipeError
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.recipe.plausible import doubts

CACHED = "components.image_encoder.serving.response_cache=true"
WHOLE = "response_cache={size_mib: 4, ensemble: true}"


def load(folder: Path, *overrides: str, text: str = SAMPLE):
    write_sample_files(folder)
    (folder / "recipe.yaml").write_text(text)
    return load_recipe(folder / "recipe.yaml", overrides)


def refusals(folder: Path, *overrides: str, text: str = SAMPLE) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load(folder, *overrides, text=text)
    return [str(problem) for problem in caught.value.problems]


def test_caches_that_are_right_are_taken(tmp_path):
    recipe = load(tmp_path, CACHED, WHOLE)
    assert recipe.response_cache.size_mib == 4
    assert doubts(recipe) == []


@pytest.mark.parametrize(
    ("overrides", "place", "told"),
    [
        (("response_cache={}",), "response_cache", "nothing is cached: say ensemble: true"),
        ((WHOLE, "outputs={logits: {}, image_embedding: {}}"), "response_cache.ensemble", "the ensemble has 2 outputs"),
        ((WHOLE, "inputs.audio.shape=[-1, -1]"), "response_cache.ensemble", "the bytes of 'audio'"),
        (
            ("components.audio_encoder.serving.response_cache=true", "inputs.audio.shape=[-1]"),
            "components.audio_encoder.serving.response_cache",
            "the bytes of 'waveform' can be those of requests of several shapes",
        ),
        (
            (CACHED, "components.image_encoder.serving.version_policy={specific: [1]}"),
            "components.image_encoder.serving.version_policy",
            "take version_policy out",
        ),
        (
            (CACHED, "response_cache={size_mib: 1}", 
             "components.image_encoder.outputs.embedding={tensor: image_embedding, dtype: FP32, shape: [600, 600]}"),
            "response_cache.size_mib",
            "too small for one answer of 'image_encoder', which takes 1.37 MiB",
        ),
        (("response_cache={size_mib: 0}", CACHED), "response_cache.size_mib", "1"),
    ],
)  # fmt: skip
def test_a_cache_that_cannot_be_right_is_refused(tmp_path, overrides, place, told):
    (problem,) = refusals(tmp_path, *overrides)
    assert place in problem
    assert told in problem


def test_a_length_that_varies_beside_a_fixed_input_may_be_cached(tmp_path):
    load(tmp_path, WHOLE, "inputs.audio.shape=[-1]")  # the image tells how many samples there are


def test_an_answer_that_can_be_spoilt_and_a_cache_of_few_answers_are_doubted(tmp_path):
    text = SAMPLE.replace(
        "outputs: {embedding: image_embedding}",
        "outputs: {embedding: {tensor: image_embedding, dtype: FP32, shape: [200, 200]}, pooled: image_pooled}",
    ).replace("logits: {labels: labels.txt}", "logits: {labels: labels.txt}\n  image_pooled: {}")
    (spoilt,) = doubts(load(tmp_path, CACHED, text=text))
    assert "spoken.image_encoder" in spoilt
    fewer = text.replace(", pooled: image_pooled", "").replace("\n  image_pooled: {}", "")
    (few,) = doubts(load(tmp_path, CACHED, "response_cache={size_mib: 1}", text=fewer))
    assert "6 answers of 'image_encoder' fill it" in few
