"""``preprocess`` and ``postprocess``: what they make is known, and what does not fit is told with its place."""

import json
import pickle
import shutil
from pathlib import Path

import pytest

from mmdeploy.core.errors import RecipeError
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.recipe.media import in_order, model_outputs
from mmdeploy.recipe.media_sections import SECTIONS
from mmdeploy.recipe.modalities import Branch, branches, detection

RECIPE = Path(__file__).parents[2] / "media_recipe"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    shutil.copytree(RECIPE, tmp_path / "recipe", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "recipe" / "recipe.yaml"


def problems(path: Path, *changes: tuple[str, str]) -> list[tuple[str, str]]:
    text = path.read_text()
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new, 1)
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    return [(problem.where.partition(" ")[2], problem.message) for problem in caught.value.problems]


def test_sources_are_what_steps_make_of_what_clients_send(recipe: Path) -> None:
    loaded = load_recipe(recipe)
    found = {name: (spec.dtype, spec.shape) for name, spec in loaded.sources().items()}
    assert found == {
        "image": ("FP32", (3, 16, 16)), "sound": ("FP32", (1600,)), "ids": ("INT64", (8,)), "mask": ("INT64", (8,)),
        "counts": ("FP32", (2,)),
    }  # fmt: skip
    assert [spec.name for spec in loaded.input_specs] == ["photo", "clip", "caption"]
    assert loaded.model_outputs == ("logits", "embedding")
    assert pickle.loads(pickle.dumps(loaded)) == loaded


@pytest.mark.parametrize(
    ("change", "place"),
    [(("length: 8", "length: 8, max_length: 8"), "preprocess."), (("k: 2", "k: 0"), "postprocess.")],
)
def test_of_a_step_that_cannot_be_no_consequence_is_told(recipe: Path, change: tuple[str, str], place: str) -> None:
    ((where, _),) = problems(recipe, change)
    assert where.startswith(place)


def test_without_steps_sources_are_the_inputs(tiny_recipe: Path) -> None:
    loaded = load_recipe(tiny_recipe)
    assert loaded.sources() == loaded.inputs and loaded.model_outputs == tuple(loaded.outputs)
    assert loaded.source_specs == loaded.input_specs


def test_steps_run_in_the_order_of_what_they_read() -> None:
    first = SECTIONS["l2_normalise"](inputs={"embedding": "x"}, outputs={"embedding": "y"})
    second = SECTIONS["softmax"](inputs={"scores": "y"}, outputs={"probabilities": "z"})
    assert in_order({"second": second, "first": first}) == ("first", "second")
    assert model_outputs(("z", "y"), {"second": second, "first": first}) == ("x",)


@pytest.mark.parametrize(
    ("change", "place", "message"),
    [
        (("{data: photo}", "{date: photo}"), "preprocess.read_photo.inputs.date", "no input 'date'; did you mean 'data'"),  # noqa: E501
        (("{data: photo}", "{data: foto}"), "preprocess.read_photo.inputs.data", "nothing writes the tensor 'foto'"),
        (("{pixels: image}", "{pixel: image}"), "preprocess.read_photo.outputs.pixel", "did you mean 'pixels'"),
        (("method: decode_image", "method: decode_imag"), "preprocess.read_photo.method", "did you mean 'decode_image'"),  # noqa: E501
        (("resize: 20", "resise: 20"), "preprocess.read_photo.resise", "did you mean 'resize'"),
        (("resize: 20", "layout: HW"), "preprocess.read_photo", "layout HW has no room for RGB"),
        (("tokenizer: tokenizer.json", "tokenizer: gone.json"), "preprocess.read_caption.tokenizer", "gone.json"),
        (("preprocess.py:count_words", "preprocess.py:count"), "preprocess.count_words.method", "count_words"),
        (("inputs: {scores: logits}", "inputs: {scores: photo}"), "postprocess.shares.inputs.scores", "none of that"),
        (("{ids: ids, mask: mask}", "{ids: ids, types: kinds}"), "preprocess.read_caption.outputs.types", "nothing takes"),  # noqa: E501
        (("shape: [1]}\n  clip", "shape: [3]}\n  clip"), "preprocess.read_photo", "takes BYTES of shape [1], not BYTES [3]"),  # noqa: E501
        (("inputs: {pixels: image}", "inputs: {pixels: photo}"), "components.see.inputs.pixels", "let a step of preprocess"),  # noqa: E501
        (("read_photo:  ", "see:  "), "preprocess.see", "the component 'see' has this name too"),
        (("shape: [2]}}", "shape: [2], kind: x}}"), "preprocess.count_words.outputs.counts.kind", "unknown key"),
        (
            ("hear:   {module: hear, inputs: {sound: sound}", "hear:   {module: hear, inputs: {sound: {tensor: sound, shape: [3]}}"),  # noqa: E501
            "components.hear.inputs.sound",
            "shape [3] here",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_with_its_place(
    recipe: Path, change: tuple[str, str], place: str, message: str
) -> None:
    found = problems(recipe, change)
    assert any(where == place and message in said for where, said in found), found


def test_a_circle_is_told(recipe: Path) -> None:
    loop = "postprocess:\n  turn: {method: l2_normalise, inputs: {embedding: round}, outputs: {embedding: round}}\n"
    assert any("reads" in said or "already" in said for _, said in problems(recipe, ("postprocess:\n", loop)))


def test_what_varies_has_the_name_of_the_size_that_a_component_declares(recipe: Path) -> None:
    text = recipe.read_text().replace("length: 8", "max_length: 8")
    text = text.replace("ids: ids, mask: mask, counts", "ids: {tensor: ids, shape: [tokens]}, mask: mask, counts")
    recipe.write_text(text.replace("preprocess:\n", "sizes: {tokens: {min: 1, max: 8}}\npreprocess:\n"))
    specs = {spec.name: spec for spec in load_recipe(recipe).source_specs}
    assert specs["ids"].shape == (-1,) and specs["ids"].sizes[0].max == 8  # type: ignore[union-attr]
    assert specs["mask"].shape == (-1,) and not specs["mask"].sizes


def test_a_branch_holds_the_steps_that_only_it_reads(recipe: Path) -> None:
    found = branches(load_recipe(recipe.with_name("optional.yaml")))
    assert found["photo"] == Branch("photo", ("see",), ("seen",), ("read_photo",), ("image",), ("image",))
    assert found["clip"] == Branch("clip", ("hear",), ("heard",), ("read_clip",), ("sound",), ("sound",))


def test_what_postprocess_reads_of_a_branch_has_a_stand_in(recipe: Path) -> None:
    path = recipe.with_name("optional.yaml")
    step = "postprocess: {close: {method: l2_normalise, inputs: {embedding: features}, outputs: {embedding: close}}}"
    path.write_text(f"{path.read_text()}{step}\noutputs: {{close: {{}}}}\n")
    see = {"pixels": "image"}, {"embedding": "seen", "features": "features"}
    changes = [
        f"components.see.{side}={json.dumps(wires)}" for side, wires in zip(("inputs", "outputs"), see, strict=True)
    ]
    assert branches(load_recipe(path, changes))["photo"].embeddings == ("seen", "features")


OPTIONAL = "{dtype: BYTES, shape: [1], optional: true, missing: {strategy: zeros}}"


@pytest.mark.parametrize(
    ("changes", "place", "message"),
    [
        (
            [("caption: {dtype: BYTES, shape: [1]}", f"caption: {OPTIONAL}")],
            "inputs.caption.optional",
            "'fusion' reads 'ids', made of 'caption', and depends on 'clip', 'photo' too",
        ),
        (
            [
                ("photo:   {dtype: BYTES, shape: [1]}", f"photo: {OPTIONAL}"),
                ("inputs: {text: caption}\n", "inputs: {text: caption, also: photo}\n"),
            ],
            "inputs.photo.optional",
            "'count_words' reads 'photo' and depends on 'caption' too",
        ),
        (
            [("photo:   {dtype: BYTES, shape: [1]}", f"photo: {OPTIONAL}"), ("  read_clip:  ", "  photo_branch:  ")],
            "preprocess.photo_branch",
            "is the name of a model of what depends on 'photo' alone",
        ),
    ],
)
def test_files_that_cannot_be_left_out_are_told(
    recipe: Path, changes: list[tuple[str, str]], place: str, message: str
) -> None:
    found = problems(recipe, *changes)
    assert any(where == place and message in said for where, said in found), found


def detecting(detect: str, dtype: str = "BYTES", shape: str = "[1]") -> str:
    missing = f"missing: {{strategy: zeros, detect: {detect}}}"
    return f"clip: {{dtype: {dtype}, shape: {shape}, optional: true, {missing}}}"


BOTH_READ = ("inputs: {sound: sound}", "inputs: {sound: sound, there: heard_mask}")
MASK = ("outputs: {samples: sound}", "outputs: {samples: sound, mask: heard_mask}")


@pytest.mark.parametrize(
    ("detect", "changes", "place", "message"),
    [
        ("{min_rms: 0.1}", [BOTH_READ, MASK], "min_rms", "of which tensor? Components read 'sound' and 'heard_mask'"),
        ("{tensor: sond, min_rms: 0.1}", [], "tensor", "'sond' is neither the input nor made of it alone"),
        ("{tensor: sond, min_rms: 0.1}", [], "tensor", "did you mean 'sound'?"),
        ("{tensor: image, min_rms: 0.1}", [], "tensor", "'image' is neither the input nor made of it alone"),
        ("{tensor: clip, min_rms: 0.1}", [], "min_rms", "says nothing about 'clip', which is BYTES"),
        ("{tensor: clip, min_rms: 0.1}", [], "min_rms", "name what a step makes of it (sound)"),
        ("{tensor: sound, empty: true}", [], "", "tensor is what min_std and min_rms look at"),
        ("{min_rms: 0}", [], "min_rms", "greater than 0"),
        ("{invalid: false, empty: false}", [], "", "give at least one of"),
    ],
)
def test_what_detects_nothing_of_a_file_is_told(
    recipe: Path, detect: str, changes: list[tuple[str, str]], place: str, message: str
) -> None:
    found = problems(recipe, ("clip:    {dtype: BYTES, shape: [1]}", detecting(detect)), *changes)
    where = f"inputs.clip.missing.detect.{place}".rstrip(".")
    assert [said for at, said in found if at == where and message in said], found


def test_thresholds_are_of_what_the_step_makes(recipe: Path) -> None:
    """Samples are not bounded; of pixels that are UINT8 no standard deviation is above 127.5."""
    optional = "photo: {dtype: BYTES, shape: [1], optional: true, missing: {strategy: zeros, detect: {min_std: 128}}}"
    kept = ("mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25]", "dtype: UINT8")
    ((where, told),) = problems(recipe, ("photo:   {dtype: BYTES, shape: [1]}", optional), kept)
    assert where == "inputs.photo.missing.detect.min_std" and "values of 'image' within [0, 255] come to 127.5" in told
    whole = load_recipe(recipe.with_name("optional.yaml"), ["inputs.clip.missing.detect.min_rms=900"])
    assert detection(whole, branches(whole)["clip"]).tensor == "sound"


def test_invalid_is_of_files(recipe: Path) -> None:
    numbers = ("clip:    {dtype: BYTES, shape: [1]}", detecting("{invalid: true}", "FP32", "[1600]"))
    step = ("decode_audio, inputs: {data: clip}, outputs: {samples: sound}, rate: 8000, samples: 1600, max_seconds: 5",
            "normalise, inputs: {values: clip}, outputs: {values: sound}, mean: [0.0], std: [2.0]")  # fmt: skip
    ((where, told),) = problems(recipe, numbers, step)
    assert where == "inputs.clip.missing.detect.invalid" and "invalid is for files and text" in told


def test_what_a_step_makes_of_an_optional_input_is_padded_by_itself(recipe: Path) -> None:
    varying = [
        ("samples: 1600, ", ""),
        ("inputs: {sound: sound}", "inputs: {sound: {tensor: sound, shape: [length]}}"),
        ("preprocess:\n", "sizes: {length: {min: 800, max: 8000, bucket: [1600, 8000]}}\npreprocess:\n"),
        ("clip:    {dtype: BYTES, shape: [1]}", f"clip: {OPTIONAL}"),
    ]
    shared = (
        ("length: 8", "max_length: 800"),
        ("heard: heard, ids: ids", "heard: heard, ids: {tensor: ids, shape: [length]}"),
    )
    told = problems(recipe, *varying, *shared)
    assert any(where == "sizes.length.bucket" and "'ids' has the size 'length' too" in said for where, said in told), (
        told
    )
    for new, old in ((two, one) for one, two in shared):
        recipe.write_text(recipe.read_text().replace(new, old))
    assert load_recipe(recipe).sizes["length"].bucket == (1600, 8000)


def test_texts_longer_than_what_reads_them_takes_are_refused(recipe: Path) -> None:
    found = problems(
        recipe, ("length: 8", "max_length: 9"), ("preprocess:\n", "sizes: {tokens: {min: 1, max: 8}}\npreprocess:\n"),
        ("ids: ids, mask: mask, counts", "ids: {tensor: ids, shape: [tokens]}, mask: mask, counts"),
    )  # fmt: skip
    ((where, told),) = found
    assert where == "preprocess.read_caption.max_length" and "let max_length be 8" in told
