"""Two inputs of one size that different components read: where what these write meets, it must be equally long."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from mmdeploy.building.served_ensemble import candidate_ensemble
from mmdeploy.core.artifact import Artifact, TensorSpec, file_sha256
from mmdeploy.core.facts import as_metadata
from mmdeploy.core.sizes import Size
from mmdeploy.engines.built_from import BuiltFrom
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.triton.config import component_config
from mmdeploy.worker.examples import ExampleFile

STEPS, HALF = Size("steps", 4, 40), Size("h_0(steps)", 2, 20)
VARIES = dict.fromkeys(("left", "right", "l", "r"), (STEPS,)) | {"alone": (HALF,)}
RECIPE = """
schema_version: 1
name: pair
target: cpu
model: {factory: model.py:build}
data: {evaluation: model.py:samples}
sizes: {steps: {min: 4, max: 40}}
inputs: {left: {dtype: FP32, shape: [steps]}, right: {dtype: FP32, shape: [steps]}}
components:
  one: {module: one, inputs: {left: left}, outputs: {l: l, alone: alone}}
  two: {module: two, inputs: {right: right}, outputs: {r: r}}
  head: {module: head, inputs: {l: l, r: r, alone: alone}, outputs: {y: y}}
outputs: {y: {}}
gates: [{method: parity, min_cosine: 0.9}]
"""


def test_the_component_where_they_meet_holds_them_against_each_other(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("def build():\n    ...\n\n\ndef samples():\n    ...\n")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    recipe = load_recipe(tmp_path / "recipe.yaml")
    np.savez(tmp_path / "example.npz", **{str(index): np.zeros(4, np.float32) for index in range(3)})
    about = as_metadata(BuiltFrom("model.onnx")) | as_metadata(ExampleFile("example.npz"))
    path = tmp_path / "model.onnx"
    path.write_bytes(b"a graph")

    def spec(name: str) -> TensorSpec:
        whole = TensorSpec(name, "FP32", (4,))
        return replace(whole, shape=(-1,), sizes=VARIES[name]) if name in VARIES else whole

    made = {
        f"{name}/{step}": Artifact(
            "onnxruntime", path, file_sha256(path), tuple(map(spec, part.inputs)), tuple(map(spec, part.outputs)),
            "test", about,
        )
        for name, part in recipe.components.items()
        for step in ("engine", "export")
    }  # fmt: skip
    configs = {part.name: component_config(part) for part in candidate_ensemble(recipe, made).components}
    rules = {name: json.loads(config.parameters["mmdeploy.inputs"].string_value) for name, config in configs.items()}
    held = {
        name: {key: [size["name"] for size in rule["sizes"]] for key, rule in rules[name].items()} for name in rules
    }
    assert held["pair.head"] == {"l": ["steps"], "r": ["steps"]}
    assert held["pair.one"] == {"left": ["steps"]}
