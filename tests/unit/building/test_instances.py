"""On what the models that a build stages are served: where their engines run, and a substitute where it can."""

from pathlib import Path

import numpy as np
import pytest

from mmdeploy.building.served_ensemble import candidate_ensemble, substitute_ensemble
from mmdeploy.core.artifact import Artifact, TensorSpec, file_sha256
from mmdeploy.core.facts import as_metadata
from mmdeploy.engines.built_from import BuiltFrom
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.recipe.schema import Recipe
from mmdeploy.triton.config import ServedEnsemble, component_config
from mmdeploy.worker.examples import ExampleFile

RECIPE = Path(__file__).parents[3] / "recipes" / "spoken_digits" / "recipe.yaml"


def artifacts(recipe: Recipe, folder: Path) -> dict[str, Artifact]:
    path = folder / "model.onnx"
    path.write_bytes(b"a graph")
    np.savez(folder / "example.npz", **{"0": np.zeros(4, np.float32), "1": np.zeros(4, np.float32)})
    about = as_metadata(BuiltFrom("model.onnx")) | as_metadata(ExampleFile("example.npz"))
    return {
        f"{name}/{step}": Artifact(
            "onnxruntime", path, file_sha256(path), tuple(TensorSpec(key, "FP32", (4,)) for key in component.inputs),
            tuple(TensorSpec(key, "FP32", (4,)) for key in component.outputs), "test", about,
        )
        for name, component in recipe.components.items()
        for step in ("engine", "export")
    }  # fmt: skip


def groups(ensemble: ServedEnsemble) -> dict[str, tuple[str, int, tuple[int, ...]]]:
    found = {}
    for component in ensemble.components:
        [group] = component_config(component).instance_group
        found[component.name.partition(".")[2]] = (group.Kind.Name(group.kind), group.count, tuple(group.gpus))
    return found


@pytest.mark.parametrize(("target", "kind"), [("cpu", "KIND_CPU"), ("cuda", "KIND_GPU")])
def test_a_server_that_has_both_runs_each_model_where_its_engine_was_judged(tmp_path, target: str, kind: str) -> None:
    recipe = load_recipe(RECIPE, (f"target={target}",))
    found = groups(candidate_ensemble(recipe, artifacts(recipe, tmp_path)))
    assert set(found.values()) == {(kind, 1, ())}


def test_a_substitute_needs_no_gpu_even_where_the_recipe_names_one(tmp_path) -> None:
    asked = "components.fusion.serving.instance_group={count: 2, kind: gpu, gpus: [1]}"
    recipe = load_recipe(RECIPE, ("target=cuda", asked))
    made = artifacts(recipe, tmp_path)
    assert groups(candidate_ensemble(recipe, made))["fusion"] == ("KIND_GPU", 2, (1,))
    found = groups(substitute_ensemble(recipe, made, dict.fromkeys(recipe.components, "no GPU")))
    assert found["fusion"] == ("KIND_CPU", 2, ())
    assert found["image_encoder"] == ("KIND_CPU", 1, ())
