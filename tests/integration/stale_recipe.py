"""A small recipe whose code reads whatever a recipe can: files, weights, a package, a variable; built in process."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from mmdeploy.building.live_plan import LivePlan
from mmdeploy.building.served_ensemble import candidate_ensemble
from mmdeploy.building.staged import staged
from mmdeploy.core.artifact import Artifact
from mmdeploy.core.store import Store
from mmdeploy.planning.steps import explain
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.worker.run_step import run_task
from mmdeploy.worker.task import Task

MODEL = """
import json, os
from pathlib import Path
import torch
from safetensors.torch import load_file
from torch import nn
import layers_of_stale

HERE = Path(__file__).parent

class Tower(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(4, 4)
        self.offset = 0.0

    def forward(self, x):
        return layers_of_stale.scaled(self.body(x)) + self.offset

class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.tower, self.head = Tower(), nn.Linear(4, 2)

def build():
    torch.manual_seed(0)
    pair = Pair()
    offset = json.loads((HERE / "arch.json").read_text())["offset"]
    extra = load_file(str(HERE.parent / "ckpts" / "extra.safetensors"))["extra"]
    if (HERE / "override.json").exists():
        offset += 1
    pair.tower.offset = offset + float(extra.mean()) + float(os.environ.get("STALE_OFFSET", "0")) + 0.5
    return pair
"""
LAYERS = "def scaled(x):\n    return x * 2.0\n"
DATA = """
from pathlib import Path
import numpy as np

def calibration():
    for path in sorted((Path(__file__).parent / "clips").glob("*.npy")):
        for row in np.load(path):
            yield {"x": row}
"""
RECIPE = """
schema_version: 1
name: stale
target: cpu
model: {factory: model.py:build, weights: w.safetensors}
data: {calibration: data.py:calibration}
inputs: {x: {dtype: FP32, shape: [4]}}
components:
  tower: {module: tower, inputs: {x: x}, outputs: {e: e}, quantize: {method: static}, keep: always}
  head: {module: head, inputs: {input: e}, outputs: {y: y}}
outputs: {y: {}}
"""


def write_project(folder: Path) -> Path:
    """Write the recipe with all that it reads; return its YAML file."""
    recipe = folder / "recipe"
    (recipe / "clips").mkdir(parents=True)
    (folder / "ckpts").mkdir()
    texts = {"model.py": MODEL, "layers_of_stale.py": LAYERS, "data.py": DATA, "recipe.yaml": RECIPE}
    for name, text in {**texts, "arch.json": '{"offset": 0.0}'}.items():
        (recipe / name).write_text(text)
    write_weights(recipe)
    write_clip(recipe, "one", 1)
    save_file({"extra": torch.zeros(4)}, folder / "ckpts" / "extra.safetensors")
    return recipe / "recipe.yaml"


def write_weights(recipe: Path, *, tower: float = 0.5, head: float = 0.25) -> None:
    state = {
        "tower.body.weight": torch.eye(4), "tower.body.bias": torch.full((4,), tower),
        "head.weight": torch.arange(8.0).reshape(2, 4), "head.bias": torch.full((2,), head),
    }  # fmt: skip
    save_file(state, recipe / "w.safetensors")


def write_clip(recipe: Path, name: str, seed: int) -> None:
    np.save(recipe / "clips" / f"{name}.npy", np.random.default_rng(seed).standard_normal((8, 4)).astype(np.float32))


def build(recipe_file: Path, store_root: Path, *overrides: str) -> tuple[list[str], dict[str, str]]:
    """Build with a store; return the steps that ran, and the digest of each file of the staged repository."""
    store, recipe = Store(store_root), load_recipe(recipe_file, overrides)
    live = LivePlan(recipe, store, "build", None)
    artifacts: dict[str, Artifact] = {}
    ran = []
    for step_id in [step.id for step in live.plan.steps]:
        step = live.step(step_id)
        task = Task(
            step, recipe, store.root, {need: artifacts[need] for need in step.needs}, 2,
            inputs=live.fingerprints.inputs,
        )  # fmt: skip
        artifacts[step_id], made = run_task(task, lambda *_: None)
        ran += [step_id] if made else []
        live.learn(step_id)
        live.remember(live.step(step_id))
    live.settle(artifacts)
    store.facts.save()
    folder = store_root.parent / f"{store_root.name}-staged"
    shutil.rmtree(folder, ignore_errors=True)
    staged(folder, candidate_ensemble(recipe, artifacts))
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return ran, {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}


def planned(recipe_file: Path, store_root: Path, *overrides: str) -> dict[str, str]:
    """Return why each step would run that a build would not reuse."""
    store = Store(store_root)
    live = LivePlan(load_recipe(recipe_file, overrides), store, "build", None)
    return {one.step.id: one.why for one in explain(live.plan, store) if not one.reuse}
