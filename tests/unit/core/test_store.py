"""The artifact store: whole or not there, verified when read, shared by builds at once."""

import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from mmdeploy.core import digests
from mmdeploy.core.artifact import Artifact, TensorSpec, file_sha256
from mmdeploy.core.errors import StoreError
from mmdeploy.core.store import Store, translated

KEY = "a" * 64


def put(store: Store, key: str = KEY, content: bytes = b"graph", **how: bool) -> Artifact:
    with store.staging() as folder:
        path = folder / "model.onnx"
        path.write_bytes(content)
        spec = TensorSpec("x", "FP32", (3, -1))
        artifact = Artifact("onnx", path, file_sha256(path), (spec,), (), "test", {"opset": 20})
        return store.add(key, artifact, {"option opset": "20"}, **how)


def test_an_added_artifact_comes_back_equal(tmp_path: Path) -> None:
    added = put(Store(tmp_path))
    found = Store(tmp_path).get(KEY)
    assert found == added
    assert found is not None
    assert found.path.read_bytes() == b"graph"
    assert found.inputs == (TensorSpec("x", "FP32", (3, -1)),)


@pytest.mark.parametrize("how", ["added", "readdressed"])
def test_what_was_read_to_seal_an_entry_is_not_read_again_to_take_it(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "_LARGE_BYTES", 1)  # as of a graph: it waits until its times can be believed
    store = Store(tmp_path)
    put(store)
    if how == "readdressed":
        store.readdress(KEY, "b" * 64, {"option opset": "20"})
    store.facts.save()
    read: list[Path] = []
    monkeypatch.setattr(digests, "file_sha256", lambda path: (read.append(path), file_sha256(path))[1])
    later = Store(tmp_path)
    assert later.get(KEY if how == "added" else "b" * 64) is not None
    assert not read
    path = later.entry(KEY) / "model.onnx"
    path.write_bytes(b"grapH")
    assert later.get(KEY) is None, "one that was changed is read"
    assert path in read


def test_an_unknown_key_is_not_there(tmp_path: Path) -> None:
    assert Store(tmp_path).get(KEY) is None
    assert not Store(tmp_path).has(KEY)


@pytest.mark.parametrize("harm", ["flip", "truncate", "delete", "extra", "seal", "artifact"])
def test_a_damaged_entry_is_noticed_and_moved_away(tmp_path: Path, harm: str, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(tmp_path)
    path = put(store).path
    match harm:
        case "flip":
            path.write_bytes(b"grapH")
        case "truncate":
            path.write_bytes(b"")
        case "delete":
            path.unlink()
        case "extra":
            path.with_name("model.onnx.data").write_bytes(b"?")
        case "seal":
            path.with_name("seal.json").write_text("{")
        case "artifact":
            path.with_name("artifact.json").write_text("{}")
    assert store.get(KEY) is None
    assert "damaged" in caplog.text
    assert not store.has(KEY)
    assert put(store).path.read_bytes() == b"graph"
    assert store.get(KEY) is not None


def test_what_is_staged_but_not_added_is_removed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(ValueError, match="interrupted"), store.staging() as folder:
        (folder / "half").write_bytes(b"written")
        raise ValueError("interrupted")
    assert list((tmp_path / "staging").iterdir()) == []


def test_leftovers_of_a_killed_build_are_swept_and_a_living_one_is_left_alone(tmp_path: Path) -> None:
    Store(tmp_path)
    child = multiprocessing.get_context("fork").Process(target=os._exit, args=(0,))
    child.start()
    child.join()
    dead, living = (tmp_path / "staging" / f"{pid}-x" for pid in (child.pid, os.getpid()))
    dead.mkdir()
    living.mkdir()
    Store(tmp_path)
    assert not dead.exists()
    assert living.exists()


def test_the_second_of_two_equal_additions_keeps_the_first(tmp_path: Path) -> None:
    store = Store(tmp_path)
    put(store, content=b"first")
    assert put(store, content=b"second").path.read_bytes() == b"first"
    assert list((tmp_path / "staging").iterdir()) == []


def _make_once(root: Path, made: "multiprocessing.Queue[int]", barrier: object) -> None:
    store = Store(root)
    barrier.wait()  # type: ignore[attr-defined]
    with store.claimed(KEY):
        if store.get(KEY) is None:
            put(store)
            made.put(os.getpid())


def test_of_several_builds_at_once_one_makes_the_entry(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    made, barrier = context.Queue(), context.Barrier(4)
    processes = [context.Process(target=_make_once, args=(tmp_path, made, barrier)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    made.get(timeout=60)
    assert made.empty()
    assert Store(tmp_path).get(KEY) is not None


def test_the_latest_identity_is_remembered_by_recipe_and_step(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.latest_identity("digits", "image/export") is None
    store.remember("digits", "image/export", {"weights": "1"})
    store.remember("digits", "image/export", {"weights": "2"})
    assert store.latest_identity("digits", "image/export") == {"weights": "2"}
    assert store.latest_identity("other", "image/export") is None


def test_no_space_left_is_told_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no space left under") as raised, translated(tmp_path):
        Path("/dev/full").write_bytes(b"x" * 10)
    assert "--workdir" in str(raised.value.hint)


def test_a_store_without_permission_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store(tmp_path)
    tmp_path.joinpath("staging").chmod(0o500)
    # root may write anywhere: then only access() can be asked to answer as it would for a user
    if os.getuid() == 0:
        monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(StoreError, match="no permission to write"):
        Store(tmp_path)


def test_the_seal_names_every_file(tmp_path: Path) -> None:
    path = put(Store(tmp_path)).path
    seal = json.loads(path.with_name("seal.json").read_text())
    assert seal["key"] == KEY
    assert sorted(seal["files"]) == ["artifact.json", "identity.json", "model.onnx"]


def test_entries_that_changed_places_are_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store, other = Store(tmp_path), "b" * 64
    put(store, content=b"one")
    put(store, other, content=b"two")
    entries = tmp_path / "entries"
    (entries / KEY).rename(entries / "aside")
    (entries / other).rename(entries / KEY)
    (entries / "aside").rename(entries / other)
    assert store.get(KEY) is None
    assert Store(tmp_path).get(other) is None
    assert "another key, bbbbbbbbbbbb" in caplog.text
    assert not store.has(KEY)


def test_a_seal_that_names_no_key_is_no_seal(tmp_path: Path) -> None:
    store = Store(tmp_path)
    seal = put(store).path.with_name("seal.json")
    seal.write_text(json.dumps(json.loads(seal.read_text())["files"]))
    assert store.get(KEY) is None


def test_an_entry_is_replaced_where_that_is_asked_for(tmp_path: Path) -> None:
    store = Store(tmp_path)
    put(store, content=b"first")
    put(store, content=b"second", replace=True)
    found = store.get(KEY)
    assert found is not None
    assert found.path.read_bytes() == b"second"


def test_an_entry_that_has_a_second_key_is_whole_under_both(tmp_path: Path) -> None:
    store, second = Store(tmp_path), "b" * 64
    put(store)
    store.readdress(KEY, second, {"option opset": "20", "read": "a"})
    for key in (KEY, second):
        found = Store(tmp_path).get(key)
        assert found is not None
        assert found.path.read_bytes() == b"graph"
    assert json.loads((tmp_path / "entries" / second / "identity.json").read_text())["read"] == "a"
    store.readdress("c" * 64, "d" * 64, {})
    assert not store.has("d" * 64), "what is not there gets no second key"


def test_what_was_verified_and_not_touched_is_not_read_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = put(store).path
    time.sleep(0.1)  # what was written this very moment is read again
    assert store.get(KEY) is not None
    store.facts.save()
    opened = Store(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digests, "file_sha256", lambda path: pytest.fail(f"{path} was read"))
        assert opened.get(KEY) is not None
    status = path.stat()
    path.write_bytes(b"grapH")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert Store(tmp_path).get(KEY) is None, "times can be set, but not the time of the change"
