"""Sizes that are padded to one length, and masks: the recipe that is built of them, and what is refused."""

import json
from pathlib import Path

import pytest
from recipe_samples import SAMPLE, write_sample_files

from mmdeploy.core.errors import RecipeError
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.recipe.modalities import branches

PADDED = SAMPLE.replace("[4000]", "[samples]").replace(
    "inputs:\n  image",
    "sizes:\n  samples: {min: 160, max: 64000, multiple_of: 16, pad_to: 64001}\ninputs:\n  image",
)
READS = "components.audio_encoder.inputs"


def loaded(folder, *overrides):
    write_sample_files(folder)
    (folder / "recipe.yaml").write_text(PADDED)
    return load_recipe(folder / "recipe.yaml", overrides)


def test_components_read_one_length_and_clients_send_any(tmp_path):
    recipe = loaded(tmp_path)
    (sent,) = (spec for spec in recipe.input_specs if spec.name == "audio")
    read = recipe.sources()["audio.padded"]
    assert sent.sizes[0] is not None and sent.sizes[0].max == 64000
    assert read.shape == (64001,) and read.range == recipe.inputs["audio"].range
    assert {wire.tensor for wire in recipe.components["audio_encoder"].inputs.values()} == {"audio.padded"}
    assert not any(any(spec.sizes) for spec in recipe.source_specs)


def test_the_recipe_as_it_was_written_is_kept(tmp_path):
    recipe = loaded(tmp_path)
    assert not recipe.written.preprocess and recipe.written.root == recipe.root
    assert json.loads(recipe.written.model_dump_json())["sizes"]["samples"]["pad_to"] == 64001
    assert {wire.tensor for wire in recipe.written.components["audio_encoder"].inputs.values()} == {"audio"}


@pytest.mark.parametrize("dtype", [None, "FP32", "BOOL"])
def test_a_mask_that_nothing_writes_is_made_in_the_type_that_is_read(tmp_path, dtype):
    wire = "heard" if dtype is None else f"{{tensor: heard, dtype: {dtype}}}"
    recipe = loaded(tmp_path, "sizes.samples.mask=heard", f"{READS}.mask={wire}")
    mask = recipe.sources()["heard"]
    assert (mask.dtype, mask.shape) == (dtype or "INT64", (64001,))
    assert {one for step in recipe.preprocess.values() for one in step.made_masks} == {"heard"}


def test_a_mask_beside_buckets_has_the_length_of_the_size(tmp_path):
    recipe = loaded(
        tmp_path, "sizes.samples={min: 160, max: 64000, bucket: [16000, 64000], mask: heard}", f"{READS}.mask=heard"
    )
    assert recipe.sources()["heard"].shape == ("samples",)
    assert recipe.sources()["audio"].shape == ("samples",)  # padded by the buckets' own step


def test_a_mask_that_clients_send_is_padded_with_zero(tmp_path):
    recipe = loaded(
        tmp_path, "sizes.samples.mask=heard", "inputs.heard={dtype: INT64, shape: [samples], range: [0, 1]}",
        f"{READS}.mask=heard", "inputs.audio.range=[3, 9]",
    )  # fmt: skip
    (step,) = recipe.preprocess.values()
    assert step.options["fill"] == {"audio": 3.0, "heard": 0.0} and not step.made_masks


@pytest.mark.parametrize(
    ("overrides", "place", "told"),
    [
        (["sizes.samples.pad_to=63999"], "sizes.samples.pad_to", "requests of 'samples' may be 64000 long (max)"),
        (["sizes.samples.bucket=[64000]"], "sizes.samples.pad_to", "give one of the two"),
        (
            [
                "inputs.audio.optional=true", "inputs.audio.missing={strategy: zeros}",
                "inputs.image={dtype: FP32, shape: [samples]}",
            ],
            "sizes.samples.pad_to", "'image' has the size 'samples' too",
        ),
        (["sizes.samples.mask=heard"], "sizes.samples.mask", "no component reads the mask 'heard'"),
        (["sizes.samples.mask=image"], "sizes.samples.mask", "'image' has no axis 'samples'"),
        (["sizes.samples.mask=logits"], "sizes.samples.mask", "a component writes 'logits'"),
        (
            ["sizes.samples={max: 64000, mask: heard}", f"{READS}.mask=heard"], "sizes.samples.mask",
            "give `pad_to` or `bucket`",
        ),
        (
            ["sizes.samples.mask=heard", f"{READS}.mask={{tensor: heard, dtype: BYTES}}"], f"{READS}.mask.dtype",
            "not BYTES",
        ),
        (
            ["sizes.samples.mask=heard", f"{READS}.mask={{tensor: heard, dtype: INT64, shape: [7]}}"],
            f"{READS}.mask.shape", "has the shape [samples]",
        ),
        (
            [
                "sizes.samples.mask=heard", "inputs.heard={dtype: INT64, shape: [samples], range: [1, 2]}",
                f"{READS}.mask=heard",
            ],
            "sizes.samples.mask", "without the 0 that padding has in a mask",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_padded_or_masked_is_refused(tmp_path, overrides, place, told):
    with pytest.raises(RecipeError) as caught:
        loaded(tmp_path, *overrides)
    assert any(place in one.where and told in one.message for one in caught.value.problems), caught.value.problems


def test_what_preprocess_makes_is_not_padded(tmp_path):
    (tmp_path / "own.py").write_text("def own(text): ...\n")
    step = '{method: "own.py:own", inputs: {text: text}, outputs: {ids: {tensor: ids, dtype: INT64, shape: [-1]}}}'
    with pytest.raises(RecipeError) as caught:
        loaded(
            tmp_path, "inputs.text={dtype: BYTES, shape: [1]}", f"preprocess.read={step}",
            "sizes.tokens={max: 70, pad_to: 77}", f"{READS}.ids={{tensor: ids, shape: [tokens]}}",
        )  # fmt: skip
    told = {one.message for one in caught.value.problems if "sizes.tokens" in one.where}
    assert any("a step of preprocess makes 'ids'; pad_to and mask are for what clients send" in one for one in told)


def test_each_optional_input_is_filled_up_by_a_step_of_its_branch():
    """And what cannot be left out by one of all that remains."""
    folder = Path(__file__).parents[2] / "padded_recipe"
    recipe = load_recipe(folder / "optional.yaml")
    found = branches(recipe)
    assert [*recipe.preprocess] == ["pad-tokens", "mask-frames"]
    assert found["ids"].steps == ("pad-tokens",) and found["ids"].sources == ("ids.padded", "real")
    assert found["frames"].steps == ("mask-frames",) and found["frames"].sources == ("frames", "heard")
    assert [*load_recipe(folder / "recipe.yaml").preprocess] == ["pad-tokens-frames"]
