"""Fingerprints: what decides a step's result is noticed by content, and nothing else is."""

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mmdeploy.core.errors import UsageError
from mmdeploy.planning import fingerprints
from mmdeploy.planning.fingerprints import take_fingerprints
from mmdeploy.planning.steps import Fingerprints
from mmdeploy.recipe.loader import load_recipe


def taken(recipe: Path, *overrides: str) -> Fingerprints:
    return take_fingerprints(load_recipe(recipe, overrides))


def differing(before: Fingerprints, after: Fingerprints) -> set[str]:
    old, new = ({**fields.pop("data"), **fields} for fields in map(dataclasses.asdict, (before, after)))
    return {name for name in old if old[name] != new[name]}


@pytest.fixture
def changed_by(tiny_recipe: Path) -> Callable[..., set[str]]:
    """Says which fingerprints an action changes."""

    def run(action: Callable[[], object], *overrides: str) -> set[str]:
        before = taken(tiny_recipe, *overrides)
        action()
        return differing(before, taken(tiny_recipe, *overrides))

    return run


def test_a_time_stamp_is_no_change(tiny_recipe: Path, changed_by: Callable[..., set[str]]) -> None:
    (tiny_recipe.parent / "samples.npy").write_bytes(b"samples")

    def touch() -> None:
        for path in tiny_recipe.parent.iterdir():
            os.utime(path, (1, 1))

    assert changed_by(touch) == set()


def test_a_moved_folder_keeps_its_fingerprints(tiny_recipe: Path, tmp_path: Path) -> None:
    (tiny_recipe.parent / "samples.npy").write_bytes(b"samples")
    before = taken(tiny_recipe)
    shutil.copytree(tiny_recipe.parent, tmp_path / "elsewhere" / "entirely")
    assert differing(before, taken(tmp_path / "elsewhere" / "entirely" / "recipe.yaml")) == set()


def test_a_renamed_data_file_is_a_change(tiny_recipe: Path, changed_by: Callable[..., set[str]]) -> None:
    path = tiny_recipe.with_name("a.npy")
    path.write_bytes(b"samples")
    assert changed_by(lambda: path.rename(path.with_name("b.npy"))) == {"calibration", "evaluation"}


def append(path: Path, text: str = "\nmore = 1\n") -> Callable[[], None]:
    def run() -> None:
        with path.open("a") as stream:
            stream.write(text)

    return run


def test_sources_are_followed_to_what_uses_them(tiny_recipe: Path, changed_by: Callable[..., set[str]]) -> None:
    folder = tiny_recipe.parent
    assert changed_by(append(folder / "model.py")) == {"model_source", "calibration", "evaluation"}, (
        "data.py imports it"
    )
    assert changed_by(append(folder / "data.py")) == {"calibration", "evaluation"}
    (folder / "layers.py").write_text("width = 8\n")
    append(folder / "model.py", "\nimport layers\n")()
    assert changed_by(append(folder / "layers.py")) == {"model_source", "calibration", "evaluation"}
    (folder / "unrelated.py").write_text("x = 1\n")
    assert changed_by(append(folder / "unrelated.py")) == set()


def test_data_files_beside_the_recipe_are_the_default(tiny_recipe: Path, changed_by: Callable[..., set[str]]) -> None:
    folder = tiny_recipe.parent
    (folder / "clips").mkdir()
    for name in ("clips/one.wav", "notes.md", "settings.yml", ".hidden", "w.safetensors"):
        (folder / name).write_text("x")
    overrides = ["model.weights=w.safetensors"]
    assert changed_by(append(folder / "clips" / "one.wav"), *overrides) == {"calibration", "evaluation"}
    assert changed_by(lambda: (folder / "clips" / "two.wav").write_text("y"), *overrides) == {
        "calibration",
        "evaluation",
    }
    for name in ("notes.md", "settings.yml", ".hidden"):
        assert changed_by(append(folder / name), *overrides) == set(), name
    assert changed_by(append(folder / "w.safetensors"), *overrides) == {"weights"}


def test_named_data_files_are_all_that_count(
    tiny_recipe: Path, tmp_path: Path, changed_by: Callable[..., set[str]]
) -> None:
    folder = tiny_recipe.parent
    (folder / "clips" / "deep").mkdir(parents=True)
    (folder / "clips" / "deep" / "one.wav").write_text("x")
    (folder / "other.npy").write_text("x")
    overrides = ["data.files=['clips/**/*.wav']"]
    assert changed_by(append(folder / "clips" / "deep" / "one.wav"), *overrides) == {"calibration", "evaluation"}
    assert changed_by(append(folder / "other.npy"), *overrides) == set()


def test_data_files_outside_of_the_recipe_s_folder(
    tiny_recipe: Path, tmp_path: Path, changed_by: Callable[..., set[str]]
) -> None:
    (tmp_path / "shared").mkdir()
    outside = tmp_path / "shared" / "samples.npy"
    outside.write_text("x")
    assert changed_by(append(outside), "data.files=['../shared/*.npy']") == {"calibration", "evaluation"}
    assert changed_by(append(outside), f"data.files=['{tmp_path}/shared/*.npy']") == {"calibration", "evaluation"}


def test_a_data_file_that_cannot_be_read_is_named(tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read everything, so the refusal of the file system is put in."""
    (tiny_recipe.parent / "samples.npy").write_bytes(b"samples")
    digest = fingerprints.file_sha256

    def refusing(path: Path) -> str:
        if path.suffix == ".npy":
            raise PermissionError(13, "Permission denied", str(path))
        return digest(path)

    monkeypatch.setattr(fingerprints, "file_sha256", refusing)
    with pytest.raises(UsageError, match=r"samples\.npy cannot be read: Permission denied") as refused:
        taken(tiny_recipe)
    assert refused.value.hint is not None
    assert "data.files" in refused.value.hint


def test_the_code_of_a_pass_and_what_it_imports_counts(tiny_recipe: Path) -> None:
    code = taken(tiny_recipe).code
    assert set(code) == {
        *fingerprints._OWN,
        "mmdeploy.export.onnx_dynamo",
        "mmdeploy.quantize.static",
        "mmdeploy.engines.onnxruntime",
    }
    assert len(set(code.values())) == len(code)


def test_versions_are_those_installed(tiny_recipe: Path) -> None:
    from importlib import metadata

    versions = taken(tiny_recipe).versions
    assert versions["torch"] == metadata.version("torch")
    assert versions["onnx"] == metadata.version("onnx")
    assert fingerprints.version_of("surely-not-installed-here") == ""
