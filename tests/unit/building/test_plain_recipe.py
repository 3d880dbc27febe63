"""The plain recipe: that it loads, asks for what was found, and leaves nothing to be found again."""

from pathlib import Path

import pytest
from choice_records import chosen_metadata, measured
from recipe_samples import SAMPLE, write_sample_files

from mmdeploy.building import plain_recipe
from mmdeploy.core.artifact import Artifact
from mmdeploy.core.errors import StoreError
from mmdeploy.engines import onnxruntime, openvino
from mmdeploy.planning.chains import torch_sections
from mmdeploy.quantize import qat, static
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.recipe.schema import Recipe


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    recipe = tmp_path / "recipe"
    recipe.mkdir()
    write_sample_files(recipe)
    with (recipe / "data.py").open("a") as stream:
        stream.write("\n\ndef training(): ...\n\n\ndef validation(): ...\n")
    return recipe


def load(folder: Path, *overrides: str) -> Recipe:
    data = ("data.training=data.py:training", "data.validation=data.py:validation")
    return load_recipe(folder / "recipe.yaml", (*data, *overrides))


def made(**metadata: object) -> Artifact:
    return Artifact("onnx", Path("model.onnx"), "0" * 64, (), (), "test", metadata)


def selected(engine: str = "onnxruntime", *, compressed: bool, graph: str = "quantized", **options: object) -> Artifact:
    winner = measured("winner", compressed=compressed, graph=graph, options={"method": engine, **options})
    return made(**chosen_metadata("winner", measured("other", compressed=not compressed), winner))


def plain(recipe: Recipe, tmp_path: Path, artifacts: dict[str, Artifact]) -> Recipe:
    run = tmp_path / "work" / "runs" / "spoken" / "1"
    run.mkdir(parents=True)
    path = plain_recipe.write(recipe, artifacts, run)
    assert path == run / "plain_recipe.yaml"
    return load_recipe(path)


def test_without_a_search_there_is_no_plain_recipe(folder: Path, tmp_path: Path) -> None:
    artifacts = {"image_encoder/quantize": made(sqnr_db={}), "image_encoder/engine": made(graph="model.onnx")}
    assert plain_recipe.write(load(folder), artifacts, tmp_path) is None
    assert list(tmp_path.glob("*.yaml")) == []


def test_that_of_a_variant_is_whole(folder: Path, tmp_path: Path) -> None:
    (folder / "variants").mkdir()
    variant = folder / "variants" / "variant.yaml"
    variant.write_text("base: ../recipe.yaml\nname: other\ndata: {validation: ../data.py:validation}\ngates: null\n")
    recipe = load_recipe(variant)
    found = plain(recipe, tmp_path, {"image_encoder/engine": selected(compressed=True)})
    untouched = {"components", "folder"}
    assert found.model_dump(exclude=untouched) == recipe.model_dump(exclude=untouched)
    assert (found.root, found.origin.base) == (folder, None)
    text = (tmp_path / "work" / "runs" / "spoken" / "1" / "plain_recipe.yaml").read_text()
    assert "base:" not in text
    assert f"copy it into {folder}" in " ".join(text.replace("#", "").split())


def test_what_nothing_was_found_about_is_as_it_was(folder: Path, tmp_path: Path) -> None:
    recipe = load(folder, "seed=7", "components.fusion.serving.max_batch_size=4")
    found = plain(recipe, tmp_path, {"image_encoder/engine": selected(compressed=True)})
    untouched = {"components", "folder"}
    assert found.model_dump(exclude=untouched) == recipe.model_dump(exclude=untouched)
    for name in ("audio_encoder", "fusion"):
        assert found.components[name] == recipe.components[name]
    assert found.root == recipe.root.resolve()


def test_a_search_gives_way_to_what_it_found(folder: Path, tmp_path: Path) -> None:
    recipe = load(folder, "components.image_encoder={quantize: {method: auto}, keep: always}", *wired())
    exclude = ["attention[[]0]*", "*/Mul"]
    section = static.Options(exclude=tuple(exclude), samples=64).model_dump(mode="json")
    found = plain(recipe, tmp_path, {"image_encoder/quantize": made(plain=section)}).components["image_encoder"]
    assert found.quantize == static.Options(exclude=tuple(exclude), samples=64)
    assert found.keep == "always"
    assert found.engine is None


def wired() -> list[str]:
    return [
        f"components.image_encoder.{key}={value}"
        for key, value in (
            ("module", "image_encoder"), ("inputs", "{pixels: image}"), ("outputs", "{embedding: image_embedding}"),
        )
    ]  # fmt: skip


def test_the_engine_that_won_is_named_with_its_options(folder: Path, tmp_path: Path) -> None:
    recipe = load(folder, "components.image_encoder.engine=auto", "components.fusion.engine=auto")
    won = selected("onnxruntime", compressed=True, encoding="uint8_symmetric")
    artifacts = {
        "image_encoder/engine": won,
        "fusion/engine": selected("openvino", compressed=False, graph="float", precision="bf16"),
    }
    found = plain(recipe, tmp_path, artifacts).components
    assert found["image_encoder"].engine == onnxruntime.Options(encoding="uint8_symmetric")
    assert (found["image_encoder"].keep, found["image_encoder"].quantize) == (
        "always", recipe.components["image_encoder"].quantize,
    )  # fmt: skip
    assert found["fusion"].engine == openvino.Options(precision="bf16")
    assert found["fusion"].keep == "always"  # or BF16 would have to prove itself again
    text = (tmp_path / "work" / "runs" / "spoken" / "1" / "plain_recipe.yaml").read_text()
    assert "with FP32 on openvino now" in text


def test_full_precision_that_won_is_not_kept_but_plain(folder: Path, tmp_path: Path) -> None:
    recipe = load(folder, "components.fusion.engine={method: openvino, precision: bf16}")
    won = selected("openvino", compressed=False, graph="float", precision="fp32")
    found = plain(recipe, tmp_path, {"fusion/engine": won}).components["fusion"]
    assert (found.engine, found.keep) == (openvino.Options(), "if_it_pays")


COMPRESSED = (
    "components.image_encoder.prune={method: structured, ratio: 0.4}",
    "components.image_encoder.recover={method: finetune}",
)


def test_what_ships_uncompressed_loses_its_passes(folder: Path, tmp_path: Path) -> None:
    recipe = load(folder, *COMPRESSED)
    won = selected(compressed=False, graph="float")
    found = plain(recipe, tmp_path, {"image_encoder/engine": won}).components["image_encoder"]
    assert not found.compressed
    assert found.engine is None  # the target's own won


def test_what_ships_pruned_but_in_float_loses_only_quantization(folder: Path, tmp_path: Path) -> None:
    recipe = load(folder, *COMPRESSED)
    won = selected(compressed=True, graph="float")
    found = plain(recipe, tmp_path, {"image_encoder/engine": won}).components["image_encoder"]
    assert [section.kind.name for section in torch_sections(found)] == ["prune", "recover"]
    assert (found.quantize, found.keep) == (None, "always")


def test_a_pruning_that_was_searched_is_not_mistaken_for_what_quantization_found(folder: Path, tmp_path: Path) -> None:
    recipe = load(folder, *COMPRESSED)
    ratio = {"method": "structured", "ratio": 0.25}
    artifacts = {"image_encoder/prune": made(plain=ratio), "image_encoder/recover": made(plain=ratio)}
    found = plain(recipe, tmp_path, artifacts).components["image_encoder"]
    assert found.prune is not None
    assert found.prune.model_dump()["ratio"] == 0.25
    assert found.quantize == recipe.components["image_encoder"].quantize


def test_a_search_that_left_it_alone_leaves_no_section(folder: Path, tmp_path: Path) -> None:
    found = plain(load(folder, *COMPRESSED), tmp_path, {"image_encoder/prune": made(plain=None)})
    assert found.components["image_encoder"].prune is None


def test_training_behind_what_ships_otherwise_is_told(folder: Path, tmp_path: Path) -> None:
    recipe = load(folder, *COMPRESSED, "components.fusion.quantize={method: qat}", "components.fusion.keep=always")
    found = plain(recipe, tmp_path, {"image_encoder/engine": selected(compressed=False, graph="float")})
    assert found.components["fusion"].quantize == qat.Options()
    text = (tmp_path / "work" / "runs" / "spoken" / "1" / "plain_recipe.yaml").read_text()
    assert "fusion is trained behind image_encoder as shipped now" in text


def test_it_is_written_as_people_write_recipes(folder: Path, tmp_path: Path) -> None:
    recipe = load(folder, "components.image_encoder.engine=auto", "name=a b".replace("a b", "spoken"))
    plain(recipe, tmp_path, {"image_encoder/engine": selected(compressed=True)})
    path = tmp_path / "work" / "runs" / "spoken" / "1" / "plain_recipe.yaml"
    lines = path.read_text().splitlines()
    assert f"#   mmdeploy build {path}" in lines
    comments = [line for line in lines if line.startswith("#")]
    assert "- image_encoder: winner was chosen by measuring." in "\n".join(comments)
    keys = [line.partition(":")[0] for line in lines if line[0] not in "# -"]
    assert keys == [key for key in Recipe.model_fields if key in keys]
    assert "    inputs: {pixels: image}" in lines
    assert "    quantize: {method: static, calibrator: entropy}" in lines
    assert "  logits: {labels: labels.txt}" in lines
    assert not any("null" in line for line in lines)


def test_a_name_cannot_break_out_of_the_comments(folder: Path, tmp_path: Path) -> None:
    odd = folder.with_name("odd\nname: evil # ")
    folder.rename(odd)
    found = plain(load(odd), tmp_path, {"image_encoder/engine": selected(compressed=True)})
    assert found.name == "spoken"


def test_it_follows_a_recipe_that_names_a_folder(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere" / "deep"
    elsewhere.mkdir(parents=True)
    (elsewhere / "variant.yaml").write_text(SAMPLE + "folder: ../../recipe\n")
    recipe = load_recipe(elsewhere / "variant.yaml")
    found = plain(recipe, tmp_path, {"image_encoder/engine": selected(compressed=True)})
    assert found.root == folder.resolve()


def test_a_folder_that_is_gone_is_told(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot write"):
        plain_recipe.write(load(folder), {"image_encoder/engine": selected(compressed=True)}, tmp_path / "gone")
