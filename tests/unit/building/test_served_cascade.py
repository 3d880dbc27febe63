"""What is served of a cascade: the step that decides and the model that it asks, with goldens.

After a change on purpose, rewrite the goldens with
``UPDATE_GOLDEN=1 pytest tests/unit/building/test_served_cascade.py`` and read the diff.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from mmdeploy.building.media_steps import served_steps
from mmdeploy.building.served_cascade import with_cascade, without_cascade
from mmdeploy.core.artifact import Artifact, TensorSpec
from mmdeploy.core.errors import UsageError
from mmdeploy.gateway.catalogue import described
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.recipe.schema import Recipe
from mmdeploy.rollout.generation import generation_of
from mmdeploy.triton.config import ServedComponent, ServedEnsemble, ensemble_config, parse, step_config, to_text
from mmdeploy.triton.lint import lint
from mmdeploy.triton.options import ResponseCache
from mmdeploy.triton.response_cache import cached
from mmdeploy.triton.served_step import ServedStep
from mmdeploy.triton.staging import stage

TESTS = Path(__file__).parents[2]
GOLDEN = TESTS / "golden" / "triton"
CASCADE, MEDIA = TESTS / "tiny_recipe/cascade.yaml", TESTS / "media_recipe/recipe.yaml"
SHAPES = {
    "a": (8,), "b": (8,), "left_embedding": (16,), "right_embedding": (16,), "quick_logits": (4,), "logits": (4,),
}  # fmt: skip


def plain(
    folder: Path, *overrides: str, path: Path = CASCADE, **shapes: tuple[int, ...]
) -> tuple[Recipe, ServedEnsemble]:
    """Describe a recipe's ensemble as if it had no cascade, with files that stand for engines."""
    recipe, known = load_recipe(path, overrides), SHAPES | shapes
    components, dtypes = [], {spec.name: spec.dtype for spec in recipe.source_specs}
    for name, part in recipe.components.items():
        file = folder / name / "model.onnx"
        file.parent.mkdir(parents=True)
        file.write_bytes(name.encode())
        sides = [{key: wire.tensor for key, wire in side.items()} for side in (part.inputs, part.outputs)]
        specs = [
            tuple(TensorSpec(key, dtypes.get(tensor, "FP32"), known[tensor]) for key, tensor in side.items())
            for side in sides
        ]
        made = Artifact("onnxruntime", file, "", *specs, "test")
        model = f"{recipe.name}.{name}"
        components.append(ServedComponent(model, "onnxruntime", "model.onnx", made, *sides, part.serving))
    outputs = tuple(TensorSpec(name, "FP32", known[name]) for name in recipe.outputs)
    return recipe, ServedEnsemble(recipe.name, recipe.input_specs, outputs, tuple(components))


def with_files(folder: Path) -> ServedEnsemble:
    """Describe a cascade whose rest reads a sound that a step decodes; what answers early reads a picture."""
    quick = (
        "components.quick={module: fusion, inputs: {seen: seen, heard: seen, ids: ids, mask: mask, counts: counts}, "
        "outputs: {logits: quick_logits, embedding: quick_embedding}, serving: {max_batch_size: 4}}"
    )
    answers = "answers: {logits: quick_logits, embedding: quick_embedding}"
    overrides = (
        quick,
        "cascade={when: margin(quick_logits) < 0.2, " + answers + "}",
        "gates=[{method: early_exit, min_left_early: 0.1}]",
    )
    shapes = {
        "image": (3, 16, 16), "sound": (1600,), "ids": (8,), "mask": (8,), "counts": (2,), "seen": (8,), "heard": (8,),
        "logits": (3,), "quick_logits": (3,), "embedding": (8,), "quick_embedding": (8,), "probabilities": (3,),
        "labels": (2,), "scores": (2,), "unit": (8,),
    }  # fmt: skip
    recipe, ensemble = plain(folder, *overrides, path=MEDIA, **shapes)
    written = {
        part.outputs[spec.name]: replace(spec, name=part.outputs[spec.name])
        for part in ensemble.components
        for spec in part.artifact.outputs
    }
    steps, known = served_steps(recipe, written, {})
    outputs = tuple(known[name] for name in recipe.outputs)
    return with_cascade(recipe, replace(ensemble, outputs=outputs, steps=steps))


def test_files_that_only_the_rest_reads_are_decoded_only_where_it_is_asked(tmp_path):
    served = with_files(tmp_path)
    [rest] = served.branches
    assert {part.name for part in rest.parts} == {"media.read_clip", "media.hear", "media.fusion"}
    assert {spec.name for spec in rest.inputs} == {"clip", "seen", "ids", "mask", "counts"}
    assert [spec.dtype for spec in rest.inputs if spec.name == "clip"] == ["BYTES"]
    wired = {part.name for part in served.wired}
    assert {"media.read_photo", "media.read_caption", "media.count_words", "media.best", "media.unit"} < wired
    assert "media.read_clip" not in wired
    stage(tmp_path / "repository", served)
    assert [one for one in lint(tmp_path / "repository") if one.severity == "error"] == []


def step_of(ensemble: ServedEnsemble) -> ServedStep:
    return next(step for step in ensemble.steps if step.name.endswith(".cascade"))


def test_golden(tmp_path):
    served = with_cascade(*plain(tmp_path))
    [rest], step = served.branches, step_of(served)
    texts = {one.name: to_text(ensemble_config(one)) for one in (served, rest)} | {
        step.name: to_text(step_config(step))
    }
    assert texts.keys() == {"sure_towers", "sure_towers.rest", "sure_towers.cascade"}
    for name, text in texts.items():
        golden = GOLDEN / f"{name}.config.pbtxt"
        if os.environ.get("UPDATE_GOLDEN"):
            golden.write_text(text)
        assert text == golden.read_text()


def test_what_is_staged_has_no_error_and_holds_the_condition_beside_the_step(tmp_path):
    stage(tmp_path / "repository", with_cascade(*plain(tmp_path)))
    assert [one for one in lint(tmp_path / "repository") if one.severity == "error"] == []
    assert {path.name for path in (tmp_path / "repository/sure_towers.cascade/1").iterdir()} == {
        "model.py", "condition.py",
    }  # fmt: skip


def test_the_reference_is_the_plain_ensemble(tmp_path):
    recipe, ensemble = plain(tmp_path)
    reference = without_cascade(recipe, ensemble)
    assert [part.name for part in reference.wired] == ["sure_towers.left", "sure_towers.right", "sure_towers.fusion"]
    assert reference.outputs == ensemble.outputs


def test_one_component_alone_is_asked_without_an_ensemble_around_it(tmp_path):
    recipe, ensemble = plain(tmp_path, "cascade.when=max(softmax(quick_logits)) < 0.3 and max(right_embedding) < 9")
    served = with_cascade(recipe, ensemble)
    asked = step_of(served).options["inputs"]["rest"]
    assert (asked["model"], asked["inputs"]) == (
        "sure_towers.fusion", {"left": "left_embedding", "right": "right_embedding"},
    )  # fmt: skip
    assert not served.branches and served.asked == {"sure_towers.fusion"}


def test_rows_of_several_requests_are_joined_only_where_the_rest_batches_and_keeps_no_answers(tmp_path):
    dynamic = [f"components.{name}.serving.dynamic_batching={{}}" for name in ("right", "fusion")]
    sides = (dynamic, dynamic[:1], [*dynamic, "components.right.serving.response_cache=true"])
    found = [
        step_of(with_cascade(*plain(tmp_path / str(number), *overrides))).options["inputs"]["rest"]["joins"]
        for number, overrides in enumerate(sides)
    ]
    assert found == [True, False, False]


def test_class_names_stay_with_the_output(tmp_path):
    shutil.copytree(CASCADE.parent, tmp_path / "recipe")
    (tmp_path / "recipe/names.txt").write_text("one\ntwo\nthree\nfour\n")
    labels = "outputs.logits.labels=names.txt"
    recipe, ensemble = plain(tmp_path, labels, path=tmp_path / "recipe/cascade.yaml")
    served = with_cascade(recipe, ensemble)
    stage(tmp_path / "repository", served)
    folder = tmp_path / "repository/sure_towers.cascade"
    assert (folder / "logits.labels.txt").read_text().splitlines()[0] == "one"
    configs = {path.parent.name: parse(path.read_text(), str(path)) for path in folder.parent.glob("*/config.pbtxt")}
    model = described("sure_towers", configs, [tmp_path / "repository"])
    assert model.outputs["logits"].labels == ("one", "two", "three", "four")
    assert {*model.outputs} == {"logits", "left_early"}


def test_a_promotion_renames_whom_the_step_asks(tmp_path):
    stage(tmp_path / "repository", with_cascade(*plain(tmp_path)))
    parts = {part.plain: part for part in generation_of(tmp_path / "repository").parts}
    assert {"sure_towers.rest", "sure_towers.cascade", "sure_towers.right"} <= parts.keys()
    assert parts["sure_towers.rest"].name in parts["sure_towers.cascade"].config


def test_a_cached_cascade_has_another_version_where_its_condition_is_another(tmp_path):
    versions = []
    for number, limit in enumerate((0.3, 0.4, 0.3)):
        recipe, ensemble = plain(tmp_path / str(number), f"cascade.when=max(softmax(quick_logits)) < {limit}")
        versions.append(with_cascade(recipe, cached(ensemble, ResponseCache(ensemble=True))).version)
    assert versions[0] == versions[2] != versions[1]


def test_an_early_answer_of_another_shape_is_refused_where_the_recipe_does_not_tell(tmp_path):
    recipe, ensemble = plain(tmp_path, quick_logits=(5,))
    with pytest.raises(UsageError, match=r"'quick_logits' is FP32 \[5\], and 'logits' FP32 \[4\]"):
        with_cascade(recipe, replace(ensemble))
