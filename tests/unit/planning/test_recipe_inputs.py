"""What a recipe's model and data are made of is noticed by content, and nothing else is."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from test_planner import fixed_fingerprints

from mmdeploy.core.artifact import file_sha256
from mmdeploy.core.errors import UsageError
from mmdeploy.core.store import Store
from mmdeploy.model.reads import Reading, Readings
from mmdeploy.model.tensors import OTHERS
from mmdeploy.model.watching import BLIND
from mmdeploy.planning.planner import make_plan
from mmdeploy.planning.recipe_inputs import (
    UNREAD,
    RecipeInputs,
    changed_inputs,
    codes_of,
    completed,
    differs_in_reads_only,
    digest_of,
    flat,
    same_model,
    source_of,
    take_inputs,
)
from mmdeploy.recipe.loader import load_recipe

Action = Callable[[], object]


def texts(inputs: RecipeInputs) -> dict[str, str]:
    """Every label of the inputs, of data under the key of the callable."""
    found = flat(inputs.model)[0]
    for key, labels in inputs.data.items():
        found |= {f"{key}: {label}": value for label, value in flat(labels)[0].items()}
    return found | {f"weights of {name}": digest_of(part) for name, part in inputs.weights.items()}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "work" / "store")


@pytest.fixture
def changed_by(tiny_recipe: Path, store: Store) -> Callable[..., set[str]]:
    """Says which labels an action changes."""

    def run(action: Action, *overrides: str) -> set[str]:
        before = texts(take_inputs(load_recipe(tiny_recipe, overrides), store))
        action()
        after = texts(take_inputs(load_recipe(tiny_recipe, overrides), store))
        return {label for label in {*before, *after} if before.get(label) != after.get(label)}

    return run


def append(path: Path, text: str = "\nmore = 1\n") -> Action:
    def run() -> None:
        with path.open("a") as stream:
            stream.write(text)

    return run


def seen_to_read(recipe: Path, store: Store, reference: str, *names: str, **more: object) -> None:
    """Note that a callable read some files of the recipe's folder as they are now."""
    loaded = load_recipe(recipe)
    source = digest_of(source_of(codes_of(loaded, store.facts)[reference], store.facts))
    files = {name: file_sha256(recipe.parent / name) for name in names}
    Readings(store, loaded.root.resolve()).keep(
        reference,
        source,
        Reading(files=files, **more),
        whole=True,  # type: ignore[arg-type]
    )


CODE = {"calibration: code of data.py:calibration", "evaluation: code of data.py:evaluation"}


def test_times_and_comments_are_no_change(tiny_recipe: Path, changed_by: Callable[..., set[str]]) -> None:
    def touch() -> None:
        append(tiny_recipe.with_name("model.py"), "\n# a remark\n")()
        for path in tiny_recipe.parent.iterdir():
            os.utime(path, (1, 1))

    assert changed_by(touch) == set()


def test_a_moved_folder_and_one_behind_a_link_are_the_same(tiny_recipe: Path, store: Store, tmp_path: Path) -> None:
    (tiny_recipe.parent / "arch.json").write_text("x")
    seen_to_read(tiny_recipe, store, "model.py:build", "arch.json")
    before = take_inputs(load_recipe(tiny_recipe), store)
    shutil.copytree(tiny_recipe.parent, tmp_path / "elsewhere" / "entirely")
    (tmp_path / "link").symlink_to(tiny_recipe.parent)
    for folder in (tmp_path / "elsewhere" / "entirely", tmp_path / "link"):
        assert take_inputs(load_recipe(folder / "recipe.yaml"), store) == before


def test_sources_are_followed_to_what_uses_them(tiny_recipe: Path, changed_by: Callable[..., set[str]]) -> None:
    folder = tiny_recipe.parent
    assert changed_by(append(folder / "model.py")) == {"code of model.py:build", *CODE}, "data.py imports it"
    assert changed_by(append(folder / "data.py")) == CODE
    (folder / "layers.py").write_text("width = 8\n")
    append(folder / "model.py", "\nimport layers\n")()
    assert changed_by(append(folder / "layers.py")) == {"code of model.py:build", *CODE}
    (folder / "unrelated.py").write_text("x = 1\n")
    assert changed_by(append(folder / "unrelated.py")) == set()


def test_what_was_never_read_is_not_known(tiny_recipe: Path, store: Store) -> None:
    inputs = take_inputs(load_recipe(tiny_recipe), store)
    assert inputs.model["read by model.py:build"] == UNREAD
    assert take_inputs(load_recipe(tiny_recipe)) == inputs, "no store knows no more"


def test_what_was_seen_to_be_read_is_all_that_counts(
    tiny_recipe: Path, store: Store, changed_by: Callable[..., set[str]]
) -> None:
    folder = tiny_recipe.parent
    for name in ("arch.json", "samples.npy", "unread.npy", "w.safetensors"):
        (folder / name).write_text("x")
    seen_to_read(tiny_recipe, store, "model.py:build", "arch.json")
    seen_to_read(tiny_recipe, store, "data.py:calibration", "samples.npy")
    seen_to_read(tiny_recipe, store, "data.py:evaluation")
    assert changed_by(append(folder / "arch.json")) == {"read by model.py:build"}
    assert changed_by(append(folder / "samples.npy")) == {"calibration: read by data.py:calibration"}
    assert changed_by(append(folder / "unread.npy")) == set()
    assert changed_by(append(folder / "w.safetensors")) == set(), "a model's file is no data"


def test_named_files_count_beside_what_was_seen(
    tiny_recipe: Path, tmp_path: Path, changed_by: Callable[..., set[str]]
) -> None:
    folder, shared = tiny_recipe.parent, tmp_path / "shared"
    (folder / "clips" / "deep").mkdir(parents=True)
    shared.mkdir()
    paths = [folder / "clips" / "deep" / "one.wav", shared / "samples.npy", folder / "table.bin"]
    for path in paths:
        path.write_text("x")
    named = ["data.files=['clips/**/*.wav', '../shared/*.npy']", f"model.files=['table.bin', '{shared}/*.npy']"]
    data = {"calibration: data.files", "evaluation: data.files"}
    assert changed_by(append(paths[0]), *named) == data
    assert changed_by(append(paths[1]), *named) == {*data, "model.files"}
    assert changed_by(append(paths[2]), *named) == {"model.files"}
    assert changed_by(lambda: (folder / "clips" / "two.wav").write_text("y"), *named) == data
    assert changed_by(lambda: paths[0].rename(folder / "clips" / "three.wav"), *named) == data


def test_where_native_code_is_not_seen_every_file_beside_the_recipe_counts(
    tiny_recipe: Path, store: Store, changed_by: Callable[..., set[str]]
) -> None:
    folder = tiny_recipe.parent
    for name in ("samples.bin", "w.safetensors", "other.pt", "notes.md", ".hidden", "table.bin"):
        (folder / name).write_text("x")
    for reference in ("model.py:build", "data.py:calibration", "data.py:evaluation"):
        seen_to_read(tiny_recipe, store, reference, unseen=(f"{BLIND}, since the limit is reached",))
    named = ["model.files=['table.bin']"]
    beside = "files beside the recipe"
    both = {f"calibration: {beside}", f"evaluation: {beside}"}
    assert changed_by(append(folder / "samples.bin"), *named) == {beside, *both}
    for name in ("w.safetensors", "other.pt"):
        assert changed_by(append(folder / name), *named) == {beside}, "a model's file is no data"
    assert changed_by(append(folder / "table.bin"), *named) == {beside, "model.files"}
    for name in ("notes.md", ".hidden"):
        assert changed_by(append(folder / name), *named) == set()


def test_environment_variables_that_are_asked_for_count_and_are_not_shown(
    tiny_recipe: Path, changed_by: Callable[..., set[str]], monkeypatch: pytest.MonkeyPatch, store: Store
) -> None:
    append(tiny_recipe.with_name("model.py"), "\nimport os\nsize = os.environ.get('TOWER_SIZE')\n")()
    label = "environment TOWER_SIZE"
    told = {label, f"calibration: {label}", f"evaluation: {label}"}
    assert changed_by(lambda: monkeypatch.setenv("TOWER_SIZE", "secret-large")) == told
    assert "secret" not in str(texts(take_inputs(load_recipe(tiny_recipe), store)))
    assert changed_by(lambda: monkeypatch.setenv("TOWER_SIZE", "small")) == told
    assert changed_by(lambda: monkeypatch.setenv("OTHER", "1")) == set()


def installed(site: Path, version: str, content: str = "one") -> Action:
    def run() -> None:
        shutil.rmtree(site, ignore_errors=True)
        (site / "mytower_lib").mkdir(parents=True)
        (site / "mytower_lib" / "__init__.py").write_text(content)
        folder = site / f"mytower_lib-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: mytower_lib\nVersion: {version}\n")
        (folder / "RECORD").write_text(
            f"mytower_lib/__init__.py,sha256={content},3\nmytower_lib-{version}.dist-info/RECORD,,\n../../bin/x,sha256=y,1\n"
        )

    return run


def test_an_installed_package_counts_by_version_and_by_what_was_installed(
    tiny_recipe: Path, changed_by: Callable[..., set[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "venv" / "site-packages"
    monkeypatch.syspath_prepend(str(site))
    installed(site, "1.0")()
    append(tiny_recipe.with_name("data.py"), "\nimport mytower_lib\n")()
    told = {"calibration: package mytower_lib", "evaluation: package mytower_lib"}
    assert changed_by(installed(site, "1.1")) == told
    assert changed_by(installed(site, "1.1")) == set(), "the same, installed again"
    assert changed_by(installed(site, "1.1", "two")) == told, "another build of the same version"


def test_weights_count_by_component(tiny_recipe: Path, store: Store, changed_by: Callable[..., set[str]]) -> None:
    import torch
    from safetensors.torch import save_file

    path = tiny_recipe.with_name("w.safetensors")

    def save(**changes: float) -> None:
        names = ("left.project.weight", "right.project.weight", "fusion.classify.bias", "logit_scale")
        save_file({name: torch.full((2,), changes.get(name.partition(".")[0], 0.0)) for name in names}, path)

    save()
    named = "model.weights=w.safetensors"
    for component in ("left", "fusion"):
        assert changed_by(lambda component=component: save(**{component: 1.0}), named) == {f"weights of {component}"}
        save()
    assert changed_by(lambda: save(logit_scale=1.0), named) == {f"weights of {OTHERS}"}
    save()
    shared = (("fusion.classify.weight", "left.project.weight"),)
    seen_to_read(tiny_recipe, store, "model.py:build", shared=shared)
    assert changed_by(lambda: save(left=1.0), named) == {"weights of left", "weights of fusion"}, "they are tied"
    path.write_text("no safetensors")
    assert changed_by(append(path), named) == {f"weights of {OTHERS}"}, "what cannot be told apart counts for all"


def test_weights_of_shards_count_by_the_place_of_their_tensors(
    tiny_recipe: Path, store: Store, changed_by: Callable[..., set[str]]
) -> None:
    import torch
    from safetensors.torch import save_file

    folder = tiny_recipe.parent / "ckpt"
    folder.mkdir()

    def save(**changed: float) -> None:
        shards = {name: f"model-{name}.safetensors" for name in ("project", "norm")}
        for name, file in shards.items():
            save_file({f"{name}.weight": torch.full((2,), changed.get(name, 0.0))}, folder / file)
        index = {"weight_map": {f"{name}.weight": file for name, file in shards.items()}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    save()
    named = ("model.weights=ckpt", "model.prefix={'': left}")
    assert changed_by(lambda: save(norm=1.0), *named) == {"weights of left"}


def test_a_file_that_cannot_be_read_is_named(tiny_recipe: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read everything, so the refusal of the file system is put in."""
    (tiny_recipe.parent / "samples.npy").write_bytes(b"samples")

    def refusing(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(store.facts, "sha256", refusing)
    with pytest.raises(UsageError, match=r"samples\.npy cannot be read: Permission denied"):
        take_inputs(load_recipe(tiny_recipe, ["data.files=['samples.npy']"]), store)


def test_a_step_s_identity_is_completed_by_what_it_read(tiny_recipe: Path, store: Store) -> None:
    recipe = load_recipe(tiny_recipe)

    def identity(inputs: RecipeInputs) -> Mapping[str, str]:
        return make_plan(recipe, fixed_fingerprints(inputs=inputs)).step("left/export").identity

    (tiny_recipe.parent / "arch.json").write_text("x")
    before = take_inputs(recipe, store)
    seen_to_read(tiny_recipe, store, "model.py:build", "arch.json", libraries={"hypothesis": "1"})
    seen_to_read(tiny_recipe, store, "data.py:evaluation", "arch.json")
    after = take_inputs(recipe, store)
    assert identity(before) != identity(after)
    assert completed(identity(before), after) == identity(after)
    assert differs_in_reads_only(identity(before), identity(after))
    assert not differs_in_reads_only(identity(before), {**identity(after), "seed": "1"})
    assert changed_inputs(identity(before), before, after) == ""
    assert same_model(before, after)
    seen_to_read(tiny_recipe, store, "model.py:build", "data.py")
    assert same_model(after, take_inputs(recipe, store))
    (tiny_recipe.parent / "arch.json").write_text("y")
    assert not same_model(after, take_inputs(recipe, store))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("model.py", "model.py changed"),
        ("data.py", ""),
        ("table.bin", "table.bin changed"),
        ("w.safetensors", "w.safetensors changed"),
    ],
)
def test_what_changes_while_a_step_runs_is_told(tiny_recipe: Path, store: Store, name: str, told: str) -> None:
    for file in ("table.bin", "w.safetensors"):
        (tiny_recipe.parent / file).write_text("x")
    recipe = load_recipe(tiny_recipe, ["model.files=['table.bin']", "model.weights=w.safetensors"])
    before = take_inputs(recipe, store)
    step = make_plan(recipe, fixed_fingerprints(inputs=before)).step("left/export")
    append(tiny_recipe.parent / name)()
    after = take_inputs(recipe, store)
    assert changed_inputs(step.identity, before, after) == told
    assert same_model(before, after) is (told == "")
