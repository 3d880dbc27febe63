"""``preprocess`` and ``postprocess``: what they make is known, and what does not fit is told with its place."""

import pickle
import shutil
from pathlib import Path

import pytest

from mmdeploy.core.errors import RecipeError
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.recipe.media import SECTIONS, in_order, model_outputs

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
