"""Inputs that a request may leave out: the branch of each, and what `validate` says of what cannot work."""

from pathlib import Path

import pytest

from mmdeploy.recipe.loader import load_recipe
from mmdeploy.recipe.modalities import branches, sees_stand_ins, subsets

RECIPE = Path(__file__).parents[2] / "missing_recipe/recipe.yaml"
AUDIO = "  audio: {dtype: FP32, shape: [4000]}\n"
FUSION = "    inputs: {image: image_embedding, audio: audio_embedding}\n"


def audio(rest: str) -> tuple[str, str]:
    return AUDIO, f"  audio: {{dtype: FP32, shape: [4000], {rest}}}\n"


def test_a_branch_is_what_depends_on_an_input_alone():
    recipe = load_recipe(RECIPE)
    found = branches(recipe)
    assert found["seen"].components == ("eye", "optic_nerve")
    assert found["seen"].embeddings == ("sight",)
    assert found["heard"].components == ("ear",)
    assert [name for name in recipe.components if sees_stand_ins(recipe, name)] == ["head"]


def test_each_optional_input_alone_is_judged_where_no_subsets_are_listed():
    recipe = load_recipe(RECIPE, ["subsets=null", "gates.2.max_drop_when_missing={seen: 0.6}"])
    assert [subset.label for subset in subsets(recipe)] == ["without seen", "without heard", "without felt"]
    assert [subset.without for subset in subsets(load_recipe(RECIPE))][-1] == ("heard", "felt")


@pytest.mark.parametrize(
    ("rest", "place", "told"),
    [
        ("optional: true", "inputs.audio.optional", "say what stands in for it"),
        ("missing: {strategy: mean}", "inputs.audio.missing", "say optional: true as well"),
        ("optional: true, missing: {strategy: learned}", "inputs.audio.missing", "learned needs the model's parameter"),
        (
            "optional: true, missing: {strategy: mean, parameter: fusion.no_audio}",
            "inputs.audio.missing",
            "parameter belongs to learned, not to mean",
        ),
        ("optional: true, missing: {strategy: skip}", "inputs.audio.missing", "skip needs the tensor by which"),
        (
            "optional: true, missing: {strategy: skip, presence: hearing}",
            "inputs.audio.missing.presence",
            "no component reads 'hearing'",
        ),
        ("optional: true, missing: {strategy: mena}", "inputs.audio.missing.strategy", "mean"),
        ("optional: true, missing: {strategy: mean, detect: {}}", "inputs.audio.missing.detect", "at least one"),
        (
            "optional: true, missing: {strategy: mean, detect: {empty: true}}",
            "inputs.audio.missing.detect.empty",
            "no row of [4000] is empty",
        ),
        (
            "range: [-1, 1], optional: true, missing: {strategy: mean, detect: {min_rms: 2}}",
            "inputs.audio.missing.detect.min_rms",
            "out of reach",
        ),
        (
            "range: [-1, 1], optional: true, missing: {strategy: mean, detect: {min_std: 1.5}}",
            "inputs.audio.missing.detect.min_std",
            "out of reach",
        ),
    ],
)  # fmt: skip
def test_what_cannot_work_is_said_at_its_place(edited, problems, rest, place, told):
    found = problems(edited(audio(rest)))
    assert any(place in where and told in message for where, message in found), found


@pytest.mark.parametrize(
    ("dtype", "limit", "told"),
    [("UINT8", "{min_std: 128}", "[0, 255] come to 127.5"), ("INT8", "{min_rms: 129}", "[-128, 127] come to 128")],
)
def test_a_threshold_that_no_value_of_the_type_reaches_is_refused(edited, problems, dtype, limit, told):
    line = f"  audio: {{dtype: {dtype}, shape: [4], optional: true, missing: {{strategy: zeros, detect: {limit}}}}}\n"
    assert any("out of reach" in message and told in message for _, message in problems(edited((AUDIO, line))))


@pytest.mark.parametrize("missing", ["{strategy: skip}", "{strategy: zeros, parameter: fusion.none}", "{}"])
def test_of_a_wrong_stand_in_no_consequence_is_told(edited, problems, missing):
    gates = "gates:\n  - {method: graceful, metric: top1, max_drop_when_missing: {audio: 0.1}}\n"
    found = problems(edited(audio(f"optional: true, missing: {missing}"), ("gates:\n", gates)))
    assert [where for where, _ in found if "audio" in where] and all(
        "inputs.audio.missing" in where for where, _ in found
    )


def test_of_a_subset_that_does_not_exist_no_consequence_is_told(edited, problems):
    gates = "subsets: [{without: [adio]}]\ngates:\n  - {method: graceful, max_drop_when_missing: {audio: 0.1}}\n"
    found = problems(edited(audio("optional: true, missing: {strategy: zeros}"), ("gates:\n", gates)))
    assert [message for _, message in found if "adio" in message] == [message for _, message in found]


def test_an_input_that_a_head_reads_beside_others_cannot_be_left_out(edited, problems):
    path = edited(
        audio("optional: true, missing: {strategy: zeros}"),
        (FUSION, "    inputs: {image: image_embedding, audio: audio_embedding, raw: audio}\n"),
    )
    [(where, message)] = problems(path)
    assert "inputs.audio.optional" in where
    assert "'fusion' reads 'audio' and depends on 'image' too" in message


def test_skip_needs_a_head_that_reads_the_embedding_too(edited, problems):
    path = edited(
        audio("optional: true, missing: {strategy: skip, presence: hearing}"),
        ("    inputs: {pixels: image}\n", "    inputs: {pixels: image, hearing: hearing}\n"),
    )
    [(where, message)] = problems(path)
    assert "inputs.audio.missing.presence" in where
    assert "reads 'hearing' but none of the embeddings of 'audio'" in message


def test_mean_needs_calibration_samples(edited, problems):
    path = edited(
        audio("optional: true, missing: {strategy: mean}"),
        ("  calibration: data.py:calibration\n", ""),
        ("    quantize: {method: static, calibrator: entropy}\n", ""),
    )
    [(where, message)] = problems(path)
    assert "inputs.audio.missing.strategy" in where
    assert "data.calibration" in message


@pytest.mark.parametrize(
    ("listed", "told"),
    [
        ("[{without: [adio]}]", "there is no input 'adio'"),
        ("[{without: [image]}]", "'image' cannot be left out"),
        ("[{without: [audio]}, {without: [audio]}]", "listed twice"),
        ("[{without: []}]", "must not be empty"),
    ],
)
def test_subsets_name_optional_inputs(edited, problems, listed, told):
    path = edited(audio("optional: true, missing: {strategy: zeros}"), ("gates:\n", f"subsets: {listed}\ngates:\n"))
    [(where, message)] = problems(path)
    assert "subsets" in where
    assert told in message


def test_a_subset_that_is_listed_twice_is_told_where_it_is_repeated(problems):
    [(where, message)] = problems(
        RECIPE, "subsets=[{without: [seen]}, {without: [seen]}, {without: [heard]}]", "gates=[]"
    )
    assert "subsets.1" in where
    assert "without seen is listed twice" in message


def test_something_must_be_left_of_a_request(problems):
    [(where, message)] = problems(
        RECIPE, "subsets=[{without: [seen, heard, felt]}]", "gates.2.max_drop_when_missing={seen+heard+felt: 1}"
    )
    assert "subsets.0.without" in where
    assert "leave at least one input in" in message


def test_the_graceful_gate_limits_what_is_judged(problems):
    found = problems(RECIPE, "gates.2.max_drop_when_missing={seen: 0.1, smelt: 0.2, seen+felt: 0.3}")
    assert ["smelt" in found[0][1], "no subset that is judged" in found[1][1]] == [True, True]


def test_names_of_the_ensembles_own_are_taken(edited, problems):
    path = edited(
        audio("optional: true, missing: {strategy: zeros}"),
        ("    outputs: {embedding: image_embedding}\n", "    outputs: {embedding: audio_present}\n"),
        (FUSION, "    inputs: {image: audio_present, audio: audio_embedding}\n"),
    )
    [(where, message)] = problems(path)
    assert "image_encoder.outputs" in where
    assert "mark the rows of 'audio'" in message


def test_what_arrives_and_holds_nothing_is_told_of_strings(edited, problems):
    path = edited(
        (
            AUDIO,
            "  audio: {dtype: BOOL, shape: [9], optional: true, missing: {strategy: zeros, detect: {min_std: 1}}}\n",
        )
    )
    [(where, message)] = problems(path)
    assert "detect.min_std" in where
    assert "says nothing about 'audio', which is BOOL" in message


@pytest.mark.parametrize(
    ("overrides", "place", "told"),
    [
        (["inputs.seen.optional=false"], "inputs.seen.missing", "say optional: true as well"),
        (["inputs.seen.missing=null"], "inputs.seen.optional", "say what stands in for it"),
        (["inputs.seen.missing.strategy=meen"], "inputs.seen.missing.strategy", "did you mean 'mean'?"),
        (["inputs.seen.missing=[mean]"], "inputs.seen.missing", "must be a mapping"),
        (["inputs.felt.missing={strategy: learned}"], "inputs.felt.missing", "name it under parameter"),
        (["inputs.heard.missing={strategy: skip}"], "inputs.heard.missing", "name it under presence"),
        (["inputs.heard.missing.presence=''"], "inputs.heard.missing.presence", "must not be empty"),
        (
            ["inputs.seen.missing={strategy: mean, presence: hearing}"], "inputs.heard.missing.presence",
            "already written by presence of 'seen'",
        ),
        (
            ["inputs.heard.missing.presence=felt", "components.head.inputs.hearing=null"],
            "inputs.heard.missing.presence", "'felt' is an input",
        ),
        (["subsets=[{without: [seen, seen]}]", "gates=[]"], "subsets.0.without.1", "'seen' is listed twice"),
        (
            ["gates=[{method: graceful, max_drop_when_missing: {felt: 0.1}}]", "inputs.felt.optional=false",
             "inputs.felt.missing=null", "subsets=[{without: [seen]}]"],
            "gates.0.max_drop_when_missing.felt", "'felt' cannot be left out",
        ),
    ],
)  # fmt: skip
def test_each_mistake_is_one_error(problems, overrides, place, told):
    [(where, message)] = problems(RECIPE, *overrides)
    assert place in where and told in message
