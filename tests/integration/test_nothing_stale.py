"""A build never hands out yesterday's model: whatever its code reads is noticed, and what it does not read is not."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from stale_recipe import MODEL, build, planned, write_clip, write_project, write_weights

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that was built once, with its store beside it; not to be changed."""
    folder = tmp_path_factory.mktemp("built")
    build(write_project(folder / "project"), folder / "store")
    return folder


@pytest.fixture
def project(built: Path, tmp_path: Path) -> Path:
    """A copy of the project and its store, elsewhere, with new times."""
    shutil.copytree(built, tmp_path / "copy", copy_function=shutil.copyfile)
    return tmp_path / "copy"


def recipe(project: Path) -> Path:
    return project / "project" / "recipe" / "recipe.yaml"


def edit(project: Path, name: str, old: str, new: str) -> None:
    path = recipe(project).parent / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_nothing_changed_nothing_runs_wherever_the_project_and_the_store_lie(project: Path) -> None:
    assert planned(recipe(project), project / "store") == {}
    (project / "link").symlink_to(project / "project")
    assert planned(project / "link" / "recipe" / "recipe.yaml", project / "store") == {}
    for path in (project / "project").rglob("*"):
        os.utime(path, (1, 1))
    assert planned(recipe(project), project / "store") == {}
    edit(project, "model.py", "def build():", "# a remark\n\n\ndef build():")
    assert planned(recipe(project), project / "store") == {}
    ran, _ = build(recipe(project), project / "store")
    assert ran == []


def test_what_a_store_has_of_another_folder_is_loaded_with_the_code_of_this_one(project: Path, tmp_path: Path) -> None:
    pruned = "components.tower.prune={method: magnitude, sparsity: 0.5}"
    ran, _ = build(recipe(project), project / "store", pruned)
    assert "tower/prune" in ran
    clone = tmp_path / "clone"
    shutil.copytree(project / "project", clone)
    edit(project, "layers_of_stale.py", "def scaled(x):", "raise RuntimeError('of another folder')\n\ndef scaled(x):")
    ran, _ = build(clone / "recipe" / "recipe.yaml", project / "store", pruned, "components.tower.export.opset=19")
    assert "tower/prune" not in ran and "tower/export" in ran


EXPORTS = ["tower/export", "head/export"]
READS = {
    "a file": ("arch.json changed (read by model.py:build)", EXPORTS),
    "native code outside": ("../ckpts/extra.safetensors changed (read by model.py:build)", EXPORTS),
    "was absent": ("override.json is there now (read by model.py:build)", EXPORTS),
    "is gone": ("arch.json is gone (read by model.py:build)", EXPORTS),
    "a sibling": ("layers_of_stale.py changed (code of model.py:build)", EXPORTS),
    "a variable": ("environment STALE_OFFSET changed", EXPORTS),
    "head.bias": ("head.bias changed (w.safetensors, tensors of head)", ["head/export"]),
    "a clip": ("clips/one.npy changed (read by data.py:calibration)", ["data/calibration"]),
    "one clip more": ("clips/ lists other files (read by data.py:calibration)", ["data/calibration"]),
    "its data code": ("data.py changed (code of data.py:calibration)", ["data/calibration"]),
}


@pytest.mark.parametrize("what", READS)
def test_a_change_of_what_is_read_is_noticed_and_named(
    project: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = recipe(project).parent
    match what:
        case "a file":
            edit(project, "arch.json", "0.0", "1.0")
        case "native code outside":
            save_file({"extra": torch.ones(4)}, folder.parent / "ckpts" / "extra.safetensors")
        case "was absent":
            (folder / "override.json").write_text("{}")
        case "is gone":
            (folder / "arch.json").unlink()
        case "a sibling":
            edit(project, "layers_of_stale.py", "2.0", "3.0")
        case "a variable":
            monkeypatch.setenv("STALE_OFFSET", "1")
        case "head.bias":
            write_weights(folder, head=1.0)
        case "a clip":
            write_clip(folder, "one", 2)
        case "one clip more":
            write_clip(folder, "two", 2)
        case "its data code":
            edit(project, "data.py", '"*.npy"', '"o*.npy"')
    reason, first = READS[what]
    told = planned(recipe(project), project / "store")
    assert {step: told.get(step) for step in first} == dict.fromkeys(first, reason)
    if what == "head.bias":
        assert set(told) == {"head/export", "head/engine"}


def test_an_adapter_is_part_of_the_model_that_is_loaded(project: Path) -> None:
    from peft import LoraConfig, get_peft_model

    folder, named = recipe(project).parent, ("model.adapters={tower: ../lora}",)
    lora = folder.parent / "lora"
    torch.manual_seed(0)
    tower = torch.nn.ModuleDict({"body": torch.nn.Linear(4, 4)})
    get_peft_model(tower, LoraConfig(r=2, target_modules=["body"], init_lora_weights=False)).save_pretrained(lora)
    told = planned(recipe(project), project / "store", *named)
    assert all(told[step].startswith("adapter of tower changed") for step in EXPORTS)
    ran, merged = build(recipe(project), project / "store", *named)
    assert {*EXPORTS} <= {*ran}
    assert planned(recipe(project), project / "store", *named) == {}
    shutil.copytree(project, project.parent / "moved", copy_function=shutil.copyfile)
    assert planned(recipe(project.parent / "moved"), project.parent / "moved" / "store", *named) == {}
    for name, change in (
        ("adapter_config.json", lambda text: text.replace(b'"lora_alpha": 8', b'"lora_alpha": 4')),
        ("adapter_model.safetensors", lambda data: data[:-1] + bytes([data[-1] ^ 1])),
    ):
        before = (lora / name).read_bytes()
        (lora / name).write_bytes(change(before))
        told = planned(recipe(project), project / "store", *named)
        assert {told.get(step) for step in EXPORTS} == {f"{name} changed (adapter of tower)"}
        if name.endswith(".json"):
            (lora / name).write_bytes(before)
    assert build(recipe(project), project / "store", *named)[1] != merged
    (lora / "README.md").write_text("of the same adapter")
    assert planned(recipe(project), project / "store", *named) == {}


SCALED = "def scaled(x):\n    return x * {}\n"


def written(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


EDITS: dict[str, Callable[[Path], object]] = {
    "nothing": lambda folder: None,
    "arch a": written("arch.json", '{"offset": 1.0}'),
    "arch b": written("arch.json", '{"offset": 0.0}'),
    "layers a": written("layers_of_stale.py", SCALED.format(3.0)),
    "layers b": written("layers_of_stale.py", SCALED.format(2.0)),
    "comment": written("model.py", f"# said\n{MODEL}"),
    "checkpoint": lambda folder: save_file(
        {"extra": torch.full((4,), 0.125)}, folder.parent / "ckpts" / "extra.safetensors"
    ),
    "head": lambda folder: write_weights(folder, head=2.0),
    "tower": lambda folder: write_weights(folder, tower=2.0),
    "clip": lambda folder: write_clip(folder, "one", 3),
    "more clips": lambda folder: write_clip(folder, "two", 4),
    "override": written("override.json", "{}"),
    "no override": lambda folder: (folder / "override.json").unlink(missing_ok=True),
}
OPTIONS = ((), ("seed=3",), ("components.tower.quantize.per_channel=false",), ("components.head.export.opset=20",))


@settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=st.lists(st.tuples(st.sampled_from(sorted(EDITS)), st.sampled_from(OPTIONS)), min_size=1, max_size=3))
def test_an_incremental_build_equals_a_clean_one_byte_by_byte(
    built: Path, tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, tuple[str, ...]]]
) -> None:
    folder = tmp_path_factory.mktemp("edited")
    shutil.copytree(built, folder, dirs_exist_ok=True)
    for name, options in steps:
        EDITS[name](recipe(folder).parent)
        _, incremental = build(recipe(folder), folder / "store", *options)
    _, clean = build(recipe(folder), folder / "clean", *options)
    assert incremental == clean
    ran, again = build(recipe(folder), folder / "store", *options)
    assert (ran, again) == ([], clean), "an edit to nothing reuses everything"
    sys.modules.pop("layers_of_stale", None)
