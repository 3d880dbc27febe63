"""Sizes of a recipe: what is declared and used, and what of it is refused, with its place."""

import pytest
from recipe_samples import SAMPLE, write_sample_files

from mmdeploy.core.errors import RecipeError
from mmdeploy.core.sizes import Size
from mmdeploy.recipe.loader import load_recipe

VARYING = SAMPLE.replace("[4000]", "[samples]").replace(
    "inputs:\n  image", "sizes:\n  samples: {min: 160, max: 64000, multiple_of: 16}\ninputs:\n  image"
)


def loaded(folder, text=VARYING, *overrides):
    write_sample_files(folder)
    (folder / "recipe.yaml").write_text(text)
    return load_recipe(folder / "recipe.yaml", overrides)


def problems(folder, text=VARYING, *overrides):
    with pytest.raises(RecipeError) as caught:
        loaded(folder, text, *overrides)
    return {problem.where.partition(" ")[2]: problem.message for problem in caught.value.problems}


def test_specs_of_inputs_know_their_sizes(tmp_path):
    image, audio = loaded(tmp_path).input_specs
    assert (image.shape, image.sizes) == ((8, 8), ())
    assert (audio.shape, audio.sizes) == ((-1,), (Size("samples", 160, 64000, 16),))


def test_the_smallest_length_is_the_smallest_multiple(tmp_path):
    recipe = loaded(tmp_path, VARYING.replace("min: 160, ", ""))
    assert recipe.input_specs[1].sizes == (Size("samples", 16, 64000, 16),)


def test_sizes_are_overridden_like_all_else(tmp_path):
    recipe = loaded(tmp_path, VARYING, "sizes.samples.max=320", "inputs.image.shape=[samples, 8]")
    assert [spec.sizes for spec in recipe.input_specs] == [
        (Size("samples", 160, 320, 16), None),
        (Size("samples", 160, 320, 16),),
    ]


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            ["inputs.audio.shape=[sample]", "inputs.image.shape=[samples]"],
            "no size is called 'sample'; did you mean 'samples'? accepted: samples: declare it under sizes",
        ),
        (
            ["inputs.audio.shape=[4000]"],
            "no shape has the size 'samples': write it into the shape of an input, or take it out",
        ),
        (
            ["sizes.samples.min=64000", "sizes.samples.max=160"],
            "min 64000 is above max 160: no length is allowed; exchange them?",
        ),
        (["sizes.samples.min=1"], "1 is no multiple of 16 (multiple_of): did you mean 16?"),
        (
            ["sizes.samples.max=70000", "sizes.samples.min=1600", "sizes.samples.multiple_of=1600"],
            "70000 is no multiple of 1600 (multiple_of): did you mean 68800 or 70400?",
        ),
        (
            ["sizes.samples.min=64000"],
            "'samples' can only be 64000: a size that does not vary is written as a number in shapes",
        ),
        (
            ["inputs.image.shape=[8, 0]"],
            "an axis of length 0 holds nothing, and Triton refuses it: 1 or more, -1 or a size",
        ),
        (["sizes.samples.min=0"], "must be at least 1, not the number 0"),
        (
            ["sizes.samples.max=9999999999"],
            "must be less than 2.14748e+09, not the number 9999999999",
        ),
        (["inputs.audio.shape=[2.5]"], "must be a whole number, not the number 2.5"),
        (
            ["inputs.audio.shape=['two words']", "inputs.image.shape=[samples]"],
            "must be a name of letters, digits and '_' that does not start with a digit; not the string \"two words\"",
        ),
        (
            ["sizes.samples.max=2147483632", "sizes.samples.multiple_of=16"],
            "a request of 8 samples holds 64 GiB of inputs, 64 of them this one, and a message "
            "over gRPC less than 2 GiB",
        ),
        (
            ["components.audio_encoder.serving.warmup={variable_size: 100}"],
            "100, outside [160, 64000] of the size 'samples': leave it out, and the sample keeps its own length",
        ),
        (
            ["components.audio_encoder.inputs.waveform={tensor: audio, dtype: FP32, shape: [4000]}"],
            "shape [4000] here, but input 'audio' of the ensemble says [samples] for the same tensor 'audio'",
        ),
    ],
)
def test_what_no_recipe_can_mean_is_refused(tmp_path, overrides, told):
    assert list(problems(tmp_path, VARYING, *overrides).values()) == [told]


@pytest.mark.parametrize("given", ["'64000'", "64000.5", "9999999999", "null"])
def test_what_is_wrong_with_a_size_is_told_at_the_size_alone(tmp_path, given):
    gate = "gates=[{method: latency, max_ratio_to_reference: 1.5, lengths: {samples: 16000}}]"
    assert list(problems(tmp_path, VARYING, gate, f"sizes.samples.max={given}")) == [f"sizes.samples.max={given}"]


def test_the_batch_axis_keeps_its_name(tmp_path):
    text = VARYING.replace("samples:", "batch:").replace("[samples]", "[batch]")
    assert problems(tmp_path, text) == {
        "sizes.batch": "'batch' is the name of the batch axis in every graph; give the size another"
    }


def test_a_wire_may_name_a_size_and_leave_it_open(tmp_path):
    wired = "components.audio_encoder.inputs.waveform={tensor: audio, dtype: FP32, shape: [%s]}"
    for dim in ("samples", "-1"):
        assert loaded(tmp_path, VARYING, wired % dim)
