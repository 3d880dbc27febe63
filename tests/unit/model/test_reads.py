"""What is kept of a callable's reads: found again in the same world, and told apart from every other."""

import json
import shutil
from pathlib import Path

import pytest

from mmdeploy.core.store import Store
from mmdeploy.model.reads import ABSENT, Reading, Readings, changes, content_of


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "project" / "recipe"
    folder.mkdir(parents=True)
    return folder


def reading_of(store: Store, root: Path, *names: str, **more: object) -> Reading:
    """Read files by their names as they are now; a name that ends with a slash is a folder that is listed."""
    files = {
        name: content_of(str((root / name).resolve()), folder=name.endswith("/"), facts=store.facts, own=store.root)
        for name in names
    }
    places = {name: str((root / name).resolve()) for name in names if name.startswith("..")}
    return Reading(files=files, places=places, **more)  # type: ignore[arg-type]


def test_a_callable_that_has_not_run_reads_nobody_knows_what(tmp_path: Path, root: Path) -> None:
    assert Readings(Store(tmp_path / "s"), root).now("model.py:build", "source") is None


def test_what_was_read_is_found_again_as_long_as_it_is_the_same(tmp_path: Path, root: Path) -> None:
    store = Store(tmp_path / "s")
    (root / "arch.json").write_text("1")
    seen = reading_of(store, root, "arch.json", "override.json")
    Readings(store, root).keep("model.py:build", "source", seen, whole=True)
    kept = Readings(Store(tmp_path / "s"), root)
    assert kept.now("model.py:build", "source") == seen
    assert kept.now("model.py:build", "other source") is None
    assert kept.now("model.py:other", "source") is None
    (root / "arch.json").write_text("2")
    now = kept.now("model.py:build", "source")
    assert now is not None
    assert changes(seen.files, now.files) == ["arch.json changed"]
    (root / "override.json").write_text("1")
    (root / "arch.json").unlink()
    now = kept.now("model.py:build", "source")
    assert now is not None
    assert changes(seen.files, now.files) == ["arch.json is gone", "override.json is there now"]


def test_the_reading_of_each_world_is_kept(tmp_path: Path, root: Path) -> None:
    """arch.json says which file is read: going back to the first finds the first again."""
    store, kept = Store(tmp_path / "s"), Readings(Store(tmp_path / "s"), root)
    seen = []
    for arch in ("a", "b"):
        (root / "arch.json").write_text(arch)
        (root / f"{arch}.bin").write_text(arch)
        seen.append(reading_of(store, root, "arch.json", f"{arch}.bin"))
        kept.keep("model.py:build", "source", seen[-1], whole=True)
    for arch, one in zip("ab", seen, strict=True):
        (root / "arch.json").write_text(arch)
        assert kept.now("model.py:build", "source") == one


def test_two_runs_in_one_world_know_what_both_saw(tmp_path: Path, root: Path) -> None:
    store = Store(tmp_path / "s")
    kept = Readings(store, root)
    for name in ("a", "b"):
        (root / name).write_text(name)
        kept.keep("data.py:samples", "source", reading_of(store, root, name), whole=False)
    now = kept.now("data.py:samples", "source")
    assert now is not None
    assert set(now.files) == {"a", "b"}


def test_what_only_one_of_several_whole_runs_saw_another_process_open_is_no_input(tmp_path: Path, root: Path) -> None:
    store = Store(tmp_path / "s")
    kept = Readings(store, root)
    for name in ("arch.json", "w.safetensors", "noise"):
        (root / name).write_text(name)
    both = ("arch.json", "w.safetensors")
    kept.keep("f", "s", reading_of(store, root, *both, "noise", uncertain=("noise", "w.safetensors")), whole=True)
    kept.keep("f", "s", reading_of(store, root, *both, uncertain=("w.safetensors",)), whole=True)
    now = kept.now("f", "s")
    assert now is not None
    assert set(now.files) == {"arch.json", "w.safetensors"}
    kept.keep("f", "s", reading_of(store, root, "noise"), whole=True)
    now = kept.now("f", "s")
    assert now is not None
    assert "noise" in now.files, "this time it was the callable itself"


def test_a_moved_project_and_its_copy_find_their_reads(tmp_path: Path, root: Path) -> None:
    store = Store(tmp_path / "s")
    (root.parent / "ckpts").mkdir()
    for path in (root / "arch.json", root.parent / "ckpts" / "w"):
        path.write_text(path.name)
    seen = reading_of(store, root, "arch.json", "../ckpts/w")
    Readings(store, root).keep("f", "s", seen, whole=True)
    shutil.copytree(root.parent, tmp_path / "far" / "away")
    moved = tmp_path / "far" / "away" / "recipe"
    now = Readings(store, moved).now("f", "s")
    assert now is not None
    assert now.files == seen.files
    shutil.rmtree(tmp_path / "far" / "away" / "ckpts")
    now = Readings(store, moved).now("f", "s")
    assert now is not None
    assert now.files == seen.files, "a place outside that code names in full"


def test_a_file_that_may_be_one_of_two_is_neither_where_they_differ(tmp_path: Path, root: Path) -> None:
    store = Store(tmp_path / "s")
    (root.parent / "w").write_text("one")
    seen = reading_of(store, root, "../w")
    Readings(store, root).keep("f", "s", seen, whole=True)
    shutil.copytree(root.parent, tmp_path / "copy")
    (tmp_path / "copy" / "w").write_text("two")
    now = Readings(store, tmp_path / "copy" / "recipe").now("f", "s")
    assert now is not None
    assert now.files != seen.files


def test_a_library_of_another_version_is_another_world(tmp_path: Path, root: Path) -> None:
    store = Store(tmp_path / "s")
    seen = Reading(libraries={"hypothesis": "0.1"})
    Readings(store, root).keep("f", "s", seen, whole=True)
    now = Readings(store, root).now("f", "s")
    assert now is not None
    assert now.libraries["hypothesis"] not in ("", "0.1")


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"readings": 3}', '{"readings": [{}]}', '{"readings": [{"files": 1}]}']
)
def test_a_damaged_note_is_none(tmp_path: Path, root: Path, content: str) -> None:
    store = Store(tmp_path / "s")
    Readings(store, root).keep("f", "s", Reading(), whole=True)
    (note,) = (store.root / "reads").glob("*.json")
    note.write_text(content)
    assert Readings(store, root).now("f", "s") is None


def test_the_number_of_readings_kept_is_bounded(tmp_path: Path, root: Path) -> None:
    store = Store(tmp_path / "s")
    for number in range(40):
        (root / "a").write_text(str(number))
        Readings(store, root).keep("f", "s", reading_of(store, root, "a"), whole=True)
    (note,) = (store.root / "reads").glob("*.json")
    assert len(json.loads(note.read_text())["readings"]) == 16


def test_changes_name_what_they_are_of() -> None:
    before = {"a": "1", "b": ABSENT, "c": "1", "d/": "1", "e": "1"}
    after = {"a": "2", "b": "1", "c": ABSENT, "d/": "2", "f": "1"}
    assert changes(before, after) == [
        "a changed", "b is there now", "c is gone", "d/ lists other files", "e is not read any more", "f is read now",
    ]  # fmt: skip
