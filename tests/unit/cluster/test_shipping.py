"""The recipe's folder on its way to a node, and a node where something of it is other."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from mmdeploy.cluster.remote import Job, require_same
from mmdeploy.cluster.shipping import at, keep_readings, readings_of, send_folder, take_folder, variables_of
from mmdeploy.core.errors import EnvironmentUnfitError, StoreError
from mmdeploy.core.shared_store import SharedStore
from mmdeploy.core.store import Store
from mmdeploy.model.reads import Reading
from mmdeploy.planning.fingerprints import take_fingerprints
from mmdeploy.planning.planner import make_plan
from mmdeploy.planning.recipe_inputs import take_inputs
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.worker.task import Task


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "disk").mkdir()
    return Store(tmp_path / "home" / "store", SharedStore(f"file://{tmp_path}/disk/shared"))


def test_a_folder_arrives_as_it_is_without_what_is_no_part_of_it(
    tiny_recipe: Path, store: Store, tmp_path: Path
) -> None:
    folder, shared = tiny_recipe.parent, store.shared
    assert shared is not None
    (folder / "data").mkdir()
    (folder / "data" / "a.bin").write_bytes(b"a" * 1000)
    (folder / "linked.bin").symlink_to(folder / "data" / "a.bin")
    for beside in (".git/config", ".mmdeploy/store/entries/x", "models/.releases/y", "venv/pyvenv.cfg", "venv/lib/z.py",
                   "__pycache__/model.pyc"):  # fmt: skip
        (folder / beside).parent.mkdir(parents=True, exist_ok=True)
        (folder / beside).write_text("no")
    recipe = load_recipe(tiny_recipe)
    shared.require()
    key = send_folder(recipe, store)
    taken = take_folder(key, SharedStore(str(shared)), tmp_path / "cache")
    names = {path.relative_to(taken).as_posix(): path.read_bytes() for path in taken.rglob("*") if path.is_file()}
    assert sorted(names) == ["cascade.yaml", "data.py", "data/a.bin", "linked.bin", "model.py", "recipe.yaml"]
    assert names["linked.bin"] == names["data/a.bin"] == b"a" * 1000
    assert send_folder(recipe, store) == key
    assert at(recipe, taken).root == taken
    assert recipe.root == folder
    (folder / "model.py").write_text((folder / "model.py").read_text() + "\nX = 1\n")
    assert send_folder(recipe, store) != key


@pytest.mark.parametrize("written", ["../lora", "lora", "{}/lora"])
def test_an_adapter_beside_the_folder_is_the_same_on_a_node(
    tiny_recipe: Path, store: Store, tmp_path: Path, written: str
) -> None:
    lora = (tiny_recipe.parent / written.format(tmp_path)).resolve()
    lora.mkdir()
    (lora / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (lora / "adapter_model.safetensors").write_bytes(b"tensors")
    recipe = load_recipe(tiny_recipe, [f"model.adapters={{left: {written.format(tmp_path)}}}"])
    assert store.shared is not None
    store.shared.require()
    taken = take_folder(send_folder(recipe, store), SharedStore(str(store.shared)), tmp_path / "cache")
    moved, elsewhere = at(recipe, taken), Store(tmp_path / "elsewhere" / "store")
    assert (moved.root / moved.model.adapters["left"] / "adapter_model.safetensors").read_bytes() == b"tensors"
    assert (moved.root / "model.py").read_bytes() == (tiny_recipe.parent / "model.py").read_bytes()
    task = replace(task_of(tiny_recipe, store), recipe=recipe, inputs=take_inputs(recipe, store))
    label = "adapter of left"
    task = replace(task, step=replace(task.step, identity={**task.step.identity, label: "of the build"}))
    require_same(task, take_inputs(moved, elsewhere))
    (moved.root / moved.model.adapters["left"] / "adapter_model.safetensors").unlink()
    with pytest.raises(EnvironmentUnfitError, match=f"{label}: adapter_config.json, adapter_model.safetensors$"):
        require_same(task, take_inputs(moved, Store(tmp_path / "third" / "store")))


@pytest.mark.parametrize("written", ["../tables/*.txt", "{beside}/*.txt", "{inside}/tables/**/*.txt"])
def test_files_that_globs_find_are_the_same_on_a_node(
    tiny_recipe: Path, store: Store, tmp_path: Path, written: str
) -> None:
    beside, inside = tiny_recipe.parent.parent / "tables", tiny_recipe.parent
    pattern = written.format(beside=beside, inside=inside)
    place = inside / "tables" if "inside" in written else beside
    place.mkdir()
    (place / "a.txt").write_text("1")
    recipe = load_recipe(tiny_recipe, [f"model.files=['{pattern}']"])
    assert store.shared is not None
    store.shared.require()
    taken = take_folder(send_folder(recipe, store), SharedStore(str(store.shared)), tmp_path / "cache")
    here, moved = take_inputs(recipe, store), at(recipe, taken)
    there = take_inputs(moved, Store(tmp_path / "elsewhere" / "store"))
    assert len(here.model["model.files"]) == 1
    assert there.model["model.files"] == here.model["model.files"]
    if "beside" not in written:  # what is absolute lies on every node at the same path
        (moved.root / ("tables" if "inside" in written else "../tables") / "a.txt").write_text("2")
        changed = take_inputs(moved, Store(tmp_path / "third" / "store"))
        assert changed.model["model.files"] != here.model["model.files"]


def test_weights_two_levels_up_travel_with_what_lies_beside_them(
    tiny_recipe: Path, store: Store, tmp_path: Path
) -> None:
    folder = tmp_path / "projects" / "tiny"
    shutil.copytree(tiny_recipe.parent, folder)
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "checkpoint" / "config.json").write_text("{}")
    recipe = load_recipe(folder / "recipe.yaml", ["model.weights=../../checkpoint"])
    assert store.shared is not None
    store.shared.require()
    taken = take_folder(send_folder(recipe, store), SharedStore(str(store.shared)), tmp_path / "cache")
    moved = at(recipe, taken)
    assert (moved.root / "../../checkpoint/config.json").read_text() == "{}"
    assert (moved.root / "../../checkpoint").resolve() == taken / "checkpoint"
    assert (moved.root / "data.py").is_file()


def test_a_folder_that_is_not_there(store: Store, tmp_path: Path) -> None:
    assert store.shared is not None
    with pytest.raises(StoreError, match="the recipe's folder is not at"):
        take_folder("0" * 64, store.shared, tmp_path / "cache")
    assert not list((tmp_path / "cache" / "recipes").iterdir())


def task_of(recipe_file: Path, store: Store) -> Task:
    recipe = load_recipe(recipe_file)
    fingerprints = take_fingerprints(recipe, store)
    step = make_plan(recipe, fingerprints).step("left/export")
    return Task(step, recipe, store.root, {}, 1, inputs=fingerprints.inputs)


def test_what_differs_on_a_node_is_named(tiny_recipe: Path, store: Store) -> None:
    task = task_of(tiny_recipe, store)
    same = take_inputs(task.recipe, store)
    require_same(task, same)
    label = "code of model.py:build"
    other = replace(same, model={**same.model, label: {"model.py": "0" * 64}})
    with pytest.raises(EnvironmentUnfitError, match=f"is refused, .*: {label}: model.py$"):
        require_same(task, other)
    assert task.inputs is not None
    planned = replace(task.inputs, model={**task.inputs.model, "package einops": "0.8.0"})
    needs = replace(task.step, identity={**task.step.identity, "package einops": "0.8.0"})
    with pytest.raises(EnvironmentUnfitError, match=r"package einops is not there, and 0\.8\.0 where the build was"):
        require_same(replace(task, step=needs, inputs=planned), same)


def test_what_was_read_and_variables_that_are_asked_for_travel(
    tiny_recipe: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_recipe.parent / "model.py"
    model.write_text("import os\nWIDTH = os.environ.get('WIDTH', '4')\n" + model.read_text())
    (tiny_recipe.parent / "table.txt").write_text("1")
    recipe = load_recipe(tiny_recipe)
    monkeypatch.setenv("WIDTH", "8")
    assert variables_of(recipe, store) == {"WIDTH": "8"}
    monkeypatch.delenv("WIDTH")
    assert variables_of(recipe, store) == {"WIDTH": None}
    assert readings_of(recipe, store) == {}
    table = store.facts.sha256(tiny_recipe.parent / "table.txt")
    keep_readings(recipe, store, {"model.py:build": Reading(files={"table.txt": table})})
    found = readings_of(recipe, store)
    assert found["model.py:build"].files == {"table.txt": table}
    elsewhere = Store(tmp_path / "elsewhere" / "store")
    keep_readings(recipe, elsewhere, found)
    assert readings_of(recipe, elsewhere) == found
    assert Job(task_of(tiny_recipe, store), None, "", found, {}).readings == found
