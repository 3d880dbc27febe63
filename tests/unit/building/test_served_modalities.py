"""What is served of inputs that may be missing: the step that takes them and the models that it asks, with goldens.

After a change on purpose, rewrite the goldens with
``UPDATE_GOLDEN=1 pytest tests/unit/building/test_served_modalities.py`` and read the diff.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from mmdeploy.building.media_steps import served_steps
from mmdeploy.building.served_modalities import with_modalities
from mmdeploy.core.artifact import Artifact, TensorSpec
from mmdeploy.core.errors import UsageError
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.recipe.schema import Recipe
from mmdeploy.triton.buckets import bucketed
from mmdeploy.triton.config import ServedComponent, ServedEnsemble, ensemble_config, step_config, to_text
from mmdeploy.triton.lint import lint
from mmdeploy.triton.repository import stage

TESTS = Path(__file__).parents[2]
GOLDEN = TESTS / "golden" / "triton"
SENSES, MEDIA = TESTS / "missing_recipe/recipe.yaml", TESTS / "media_recipe/optional.yaml"
PADDED = TESTS / "padded_recipe/optional.yaml"
#: Shape of what components write.
SHAPES = {
    "features": (16,), "sight": (16,), "sound": (16,), "touch": (16,), "logits": (3,), "seen": (8,), "heard": (8,),
    "embedding": (8,), "text_embedding": (8,), "sound_embedding": (8,), "scores": (3,),
}  # fmt: skip


def component(recipe: Recipe, name: str, folder: Path) -> ServedComponent:
    """Describe a component with a file that stands for its engine."""
    part, path = recipe.components[name], folder / name / "model.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(name.encode())
    sources = {spec.name: spec for spec in recipe.source_specs}
    inputs, outputs = (
        {key: wire.tensor for key, wire in side.items()} for side in (part.inputs, part.outputs)
    )  # fmt: skip
    takes = tuple(
        TensorSpec(key, sources[tensor].dtype, sources[tensor].shape)
        if tensor in sources
        else TensorSpec(key, *(("FP32", SHAPES[tensor]) if tensor in SHAPES else ("BOOL", (1,))))
        for key, tensor in inputs.items()
    )
    gives = tuple(TensorSpec(key, "FP32", SHAPES[tensor]) for key, tensor in outputs.items())
    made = Artifact("onnxruntime", path, "", takes, gives, "test")
    model = f"{recipe.name}.{name}"
    return ServedComponent(model, "onnxruntime", "model.onnx", made, inputs, outputs, part.serving)


def served(path: Path, folder: Path, *overrides: str) -> ServedEnsemble:
    """Describe what is served of a recipe, whose engines are not built."""
    recipe = load_recipe(path, overrides)
    components = tuple(component(recipe, name, folder) for name in recipe.components)
    written = {
        part.outputs[spec.name]: TensorSpec(part.outputs[spec.name], spec.dtype, spec.shape)
        for part in components
        for spec in part.artifact.outputs
    }
    steps, known = served_steps(recipe, written, {})
    outputs = tuple(known[name] for name in recipe.outputs)
    whole = ServedEnsemble(recipe.name, recipe.input_specs, outputs, components, steps=steps)
    whole = bucketed(whole, {name: spec.bucket for name, spec in recipe.sizes.items() if spec.bucket is not None})
    stand_ins = folder / "stand_ins.npz"
    np.savez(stand_ins, **{name: np.zeros(np.abs(spec.shape), np.float32) for name, spec in written.items()})
    return with_modalities(recipe, whole, stand_ins)


def texts(ensemble: ServedEnsemble) -> Mapping[str, str]:
    """Return config.pbtxt of what serves missing inputs, by model."""
    found = {one.name: to_text(ensemble_config(one)) for one in (ensemble, *ensemble.branches)}
    step = next(step for step in ensemble.steps if step.name.endswith("_modalities"))
    return {**found, step.name: to_text(step_config(step))}


@pytest.mark.parametrize(
    ("path", "models"),
    [
        (SENSES, {"three_senses", "three_senses.seen_branch", "three_senses_modalities"}),
        (MEDIA, {"optional_media", "optional_media_modalities"}),
    ],
    ids=["tensors", "files"],
)
def test_golden(path, models, tmp_path):
    found = texts(served(path, tmp_path))
    assert found.keys() == models
    for name, text in found.items():
        golden = GOLDEN / f"{name}.config.pbtxt"
        if os.environ.get("UPDATE_GOLDEN"):
            golden.write_text(text)
        assert text == golden.read_text()


def asked(ensemble: ServedEnsemble, name: str) -> dict[str, object]:
    step = next(step for step in ensemble.steps if step.name.endswith("_modalities"))
    found: dict[str, object] = json.loads(json.dumps(step.options))["inputs"][name]
    return found


def test_steps_and_components_are_one_model_unless_steps_tell_what_is_there(tmp_path):
    plain = served(MEDIA, tmp_path / "plain", "inputs.clip.missing.detect={empty: true}")
    assert asked(plain, "clip")["model"] == "optional_media.clip_branch" and "steps" not in asked(plain, "clip")
    [branch] = plain.branches
    assert [part.name for part in branch.parts] == ["optional_media.hear", "optional_media.read_clip"]
    told = served(MEDIA, tmp_path / "told")
    assert asked(told, "clip")["model"] == "optional_media.hear" and not told.branches
    assert asked(told, "clip")["steps"] == {
        "model": "optional_media.read_clip", "version": 1, "max_batch_size": 4, "inputs": {"data": "clip"},
        "outputs": {"sound": "samples"}, "tensor": "sound", "detect": {"min_rms": 0.001}, "invalid": False,
    }  # fmt: skip


def test_of_several_steps_and_components_each_side_is_an_ensemble_that_lint_takes(tmp_path):
    """What is looked at need not be what the component reads."""
    ensemble = served(
        MEDIA, tmp_path,
        "preprocess.read_clip.outputs={samples: raw}",
        "preprocess.even={method: normalise, inputs: {values: raw}, outputs: {values: sound}, mean: [0.0], std: [0.1]}",
        "inputs.clip.missing.detect={tensor: raw, min_rms: 0.001, invalid: true}",
    )  # fmt: skip
    [first] = ensemble.branches
    assert first.name == "optional_media.clip_steps"
    assert {spec.name for spec in first.outputs} == {"raw", "sound"}
    assert asked(ensemble, "clip")["steps"]["tensor"] == "raw"  # type: ignore[index]
    stage(tmp_path / "repository", ensemble)
    assert [one for one in lint(tmp_path / "repository") if one.severity == "error"] == []


def test_what_is_padded_is_part_of_its_branch(tmp_path):
    frames, ids = served(PADDED, tmp_path).branches[::-1]
    assert [part.name.partition(".")[2] for part in ids.parts] == ["text", "pad-tokens"]
    assert [part.name.partition(".")[2] for part in frames.parts] == ["sound", "mask-frames", "pad-frames"]
    assert frames.components[0].inputs == {"frames": "frames.padded", "mask": "heard.padded"}


def test_a_branch_that_ends_in_many_lengths_is_not_padded(tmp_path, monkeypatch):
    monkeypatch.setitem(SHAPES, "sound_embedding", (-1, 8))
    with pytest.raises(UsageError, match="'sound_embedding', which is made of 'frames' alone, varies in length"):
        served(PADDED, tmp_path)
