"""The store that machines share: whole or not there, verified when taken, made again where it is damaged."""

import contextlib
import errno
import importlib
import json
import multiprocessing
import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdeploy.core.artifact import Artifact, file_sha256
from mmdeploy.core.errors import EnvironmentUnfitError, MmdeployError, StoreError, UsageError
from mmdeploy.core.shared_cleaning import clean_shared, spare_shared
from mmdeploy.core.shared_place import SharedPlace
from mmdeploy.core.shared_store import SharedStore
from mmdeploy.core.store import Store

KEY = "a" * 64
DAY = 86400


class Killed(BaseException):
    """The process is no more."""


@pytest.fixture
def url() -> str:
    return f"memory://{uuid.uuid4().hex}/store"


def put(store: Store, key: str = KEY, content: bytes = b"graph", *, replace: bool = False) -> Artifact:
    with store.staging() as folder:
        path = folder / "model.onnx"
        path.write_bytes(content)
        (folder / "weights").mkdir()
        (folder / "weights" / "first.bin").write_bytes(content * 3)
        return store.add(key, Artifact("onnx", path, file_sha256(path), (), (), "test"), {"seed": "0"}, replace=replace)


def machine(folder: Path, url: str, *, read_only: bool = False) -> Store:
    return Store(folder, SharedStore(url, read_only=read_only))


def files_of(entry: Path) -> dict[str, bytes]:
    return {str(path.relative_to(entry)): path.read_bytes() for path in sorted(entry.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("where", ["memory", "file", "path"])
def test_what_one_machine_made_another_takes_byte_for_byte(tmp_path: Path, url: str, where: str) -> None:
    url = {"memory": url, "file": f"file://{tmp_path}/shared", "path": str(tmp_path / "shared")}[where]
    one, other = machine(tmp_path / "one", url), machine(tmp_path / "other", url)
    made = put(one)
    assert one.share(KEY)
    assert other.has(KEY)
    assert not other.is_here(KEY)
    taken = other.get(KEY)
    assert taken is not None
    assert other.is_here(KEY)
    assert files_of(taken.path.parent) == files_of(made.path.parent)
    assert not other.share(KEY), "it is known to be there"


def test_some_files_of_an_entry_are_taken_without_the_rest(tmp_path: Path, url: str) -> None:
    one, other = machine(tmp_path / "one", url), machine(tmp_path / "other", url)
    put(one)
    one.share(KEY)
    assert files_of(other.folder_with(KEY, "model.onnx")) == {"model.onnx": b"graph"}
    assert not other.is_here(KEY)


def test_equal_contents_are_sent_once(tmp_path: Path, url: str) -> None:
    store = machine(tmp_path, url)
    for key in (KEY, "b" * 64):
        put(store, key)
        store.share(key)
    assert store.shared is not None
    blobs = store.shared.place.files("blobs")
    assert len(blobs) == 4 + 2  # the graph, the weights, artifact.json and identity.json; and each its seal


def test_a_pull_request_takes_and_sends_nothing(tmp_path: Path, url: str) -> None:
    one, reader = machine(tmp_path / "one", url), machine(tmp_path / "reader", url, read_only=True)
    put(one)
    one.share(KEY)
    assert one.shared is not None
    assert reader.shared is not None
    before = one.shared.place.files("")
    reader.shared.require()
    assert reader.get(KEY) is not None
    assert one.shared.place.files("") == before


def harmed(place: SharedPlace, harm: str) -> None:
    seal_name = f"entries/{KEY}.json"
    seal = json.loads(place.read(seal_name) or b"")
    blob = f"blobs/{seal['files']['model.onnx']['sha256'][:2]}/{seal['files']['model.onnx']['sha256']}"
    match harm:
        case "flipped":
            place.write(blob, b"grapH")
        case "cut off":
            place.write(blob, b"gra")
        case "missing":
            place.remove([blob])
        case "seal cut off":
            place.write(seal_name, (place.read(seal_name) or b"")[:50])
        case "another entry's seal":
            place.write(seal_name, json.dumps(seal | {"key": "b" * 64}).encode())
        case "a file elsewhere":
            seal["files"]["../../outside"] = seal["files"].pop("model.onnx")
            place.write(seal_name, json.dumps(seal).encode())
        case "a file more":
            seal["files"]["more"] = seal["files"]["model.onnx"]
            place.write(seal_name, json.dumps(seal).encode())


HARMS = ["flipped", "cut off", "missing", "seal cut off", "another entry's seal", "a file elsewhere", "a file more"]


@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_entry_is_refused_by_name_and_sent_again(
    tmp_path: Path, url: str, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = machine(tmp_path / "one", url), machine(tmp_path / "other", url)
    put(one)
    one.share(KEY)
    assert one.shared is not None
    harmed(one.shared.place, harm)
    assert other.get(KEY) is None
    assert not other.has(KEY)
    assert f"entry {KEY[:12]} of {url} is damaged" in caplog.text
    assert not (tmp_path / "outside").exists()
    put(other)
    assert other.share(KEY)
    third = machine(tmp_path / "third", url).get(KEY)
    assert third is not None
    assert third.path.read_bytes() == b"graph"


class Dying(SharedPlace):
    """A place at which a process dies after so many writes, the next one half done where files can be half there."""

    def __init__(self, url: str, writes: int) -> None:
        super().__init__(url)
        self.left = writes

    def _alive(self, name: str) -> None:
        self.left -= 1
        if self.left >= 0:
            return
        with self._asked("write") as (fs, root), self._whole(fs, f"{root}/{name}") as path:
            if path != f"{root}/{name}":
                fs.pipe_file(path, b"half")
            raise Killed

    def write(self, name: str, content: bytes) -> None:
        self._alive(name)
        super().write(name, content)

    def upload(self, file: Path, name: str) -> None:
        self._alive(name)
        super().upload(file, name)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 7), max_size=4), st.sampled_from(["memory", "file"]), st.booleans())
def test_a_writer_that_dies_anywhere_leaves_nothing_or_all(
    tmp_path_factory: pytest.TempPathFactory, deaths: list[int], where: str, differs: bool
) -> None:
    folder = tmp_path_factory.mktemp("machines")
    url = f"memory://{uuid.uuid4().hex}" if where == "memory" else f"file://{folder}/shared"
    contents = set()
    for index, writes in enumerate([*deaths, 100]):
        writer = machine(folder / f"writer-{index}", url)
        content = b"graph-%d" % index if differs else b"graph"
        made = put(writer, content=content)
        contents.add(tuple(files_of(made.path.parent).items()))
        assert writer.shared is not None
        writer.shared.place = Dying(url, writes)
        if writes < 100:
            with contextlib.suppress(Killed):
                writer.share(KEY)
        else:
            writer.share(KEY)
        reader = machine(folder / f"reader-{index}", url)
        taken = reader.get(KEY)
        if taken is not None:
            assert tuple(files_of(taken.path.parent).items()) in contents
    assert taken is not None


def _send(folder: Path, url: str, content: bytes, barrier: Any) -> None:
    store = machine(folder, url)
    put(store, content=content)
    barrier.wait()
    store.share(KEY)


def test_two_processes_that_send_the_same_entry_at_once_leave_one_of_them(tmp_path: Path) -> None:
    context, url = multiprocessing.get_context("fork"), f"file://{tmp_path}/shared"
    contents, barrier = [bytes([index]) * 3_000_000 for index in (1, 2)], context.Barrier(2)
    arguments = [(tmp_path / str(content[0]), url, content, barrier) for content in contents]
    processes = [context.Process(target=_send, args=one) for one in arguments]
    for process in processes:
        process.start()
    reader, seen = machine(tmp_path / "reader", url), set()
    while any(process.is_alive() for process in processes):
        assert reader.shared is not None
        reader.shared._seals.clear()
        seen.add(reader.has(KEY) and (reader.get(KEY) is not None))
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    taken = machine(tmp_path / "last", url).get(KEY)
    assert taken is not None
    assert taken.path.read_bytes() in contents
    assert len(list((tmp_path / "shared" / "blobs").rglob(".*"))) == 0


def test_a_place_that_goes_away_after_work_began_holds_nothing_more(
    tmp_path: Path, url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = machine(tmp_path / "one", url), machine(tmp_path / "other", url)
    put(one)
    one.share(KEY)
    assert other.shared is not None
    other.shared.require()

    def gone(*_: object, **__: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.cat_file", gone)
    assert not other.has(KEY)
    assert other.get(KEY) is None
    assert "no route to host" in other.shared.away
    assert caplog.text.count("going on without it") == 1
    fresh = machine(tmp_path / "third", url)
    with pytest.raises(StoreError, match="no route to host"):
        fresh.has(KEY)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://", "names no place"),
        ("sftp://ada:geheim@host/store", "holds a password"),
        ("simplecache::s3://bucket/x", "chained"),
        ("https://host/store?token=geheim", "has a query"),
    ],
)
def test_a_url_that_names_no_place_or_tells_a_secret_is_refused(url: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        SharedStore(url)
    assert "geheim" not in raised.value.message


def test_a_protocol_that_nobody_speaks_is_a_wrong_command_line() -> None:
    with pytest.raises(UsageError, match="nothing is known of nowhere://"):
        SharedStore("nowhere://x/y").require()


@pytest.mark.parametrize(
    ("url", "package", "install"),
    [
        ("s3://bucket/x", "s3fs", "pip install 'multimodal-deploy[remote]'"),
        ("gs://bucket/x", "gcsfs", "pip install gcsfs"),
    ],
)
def test_a_missing_package_is_told_with_what_to_install(
    url: str, package: str, install: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    known = importlib.import_module("fsspec.registry")._registry
    for protocol in ("s3", "gs"):  # what an earlier test has loaded
        monkeypatch.delitem(known, protocol, raising=False)
    with pytest.raises(EnvironmentUnfitError) as raised:
        SharedStore(url).require()
    assert raised.value.hint == install


def test_a_folder_whose_parent_is_not_there_is_no_place(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no place for a store"):
        SharedStore(str(tmp_path / "nfs" / "store")).require()


def test_a_full_disk_there_is_told_as_such(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.pipe_file", full)
    with pytest.raises(StoreError, match="no space left at memory://"):
        SharedStore(url).require()


def test_a_store_of_another_layout_is_not_touched(url: str) -> None:
    SharedPlace(url).write("store.json", b'{"mmdeploy_store": 7}')
    with pytest.raises(StoreError, match="layout 7, this mmdeploy knows 1"):
        SharedStore(url).require()


@pytest.fixture
def aged(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, float]]:
    """Days that have passed since everything was written."""
    import time

    passed, now = {"days": 0.0}, time.time
    monkeypatch.setattr("mmdeploy.core.shared_cleaning.time.time", lambda: now() + passed["days"] * DAY)
    yield passed


def test_a_cleaning_removes_what_no_build_used_and_contents_that_nothing_names(
    tmp_path: Path, url: str, aged: dict[str, float]
) -> None:
    store, other = machine(tmp_path, url), "b" * 64
    put(store)
    put(store, other, b"other")
    store.share(KEY)
    store.share(other)
    assert store.shared is not None
    place = store.shared.place
    place.write(f"blobs/cc/{'c' * 64}", b"of a writer that died")
    assert spare_shared(place, idle_days=30).contents == ()
    aged["days"] = 2
    assert spare_shared(place, idle_days=30).contents == (f"blobs/cc/{'c' * 64}",)
    found = clean_shared(place, idle_days=1.5)
    assert len(found.entries) == 2
    assert found.kept == 0
    assert place.files("blobs") == {}
    assert machine(tmp_path / "new", url).get(KEY) is None


def test_a_cleaning_comes_down_to_a_size_and_what_is_left_is_whole(
    tmp_path: Path, url: str, aged: dict[str, float]
) -> None:
    store = machine(tmp_path, url)
    keys = [letter * 64 for letter in "abc"]
    for key in keys:
        put(store, key, key.encode() * 100)
        store.share(key)
    assert store.shared is not None
    aged["days"] = 2
    found = clean_shared(store.shared.place, idle_days=30, most_bytes=60_000)
    assert 0 < found.kept < 3
    fresh = machine(tmp_path / "new", url)
    assert [fresh.get(key) is not None for key in keys] == [False] * (3 - found.kept) + [True] * found.kept


def test_an_old_entry_is_renewed_by_a_build_that_uses_it(tmp_path: Path, url: str) -> None:
    store = machine(tmp_path, url)
    put(store)
    store.share(KEY)
    assert store.shared is not None
    before = store.shared.place.files("entries")
    (note,) = (tmp_path / "shared").glob(f"*/{KEY}")
    os.utime(note, (0, 0))
    assert not store.share(KEY), "nothing had to be sent"
    after = store.shared.place.files("entries")
    assert [one.changed_at for one in after.values()] > [one.changed_at for one in before.values()]


def test_a_shared_store_crosses_processes_without_its_connections(url: str) -> None:
    import pickle

    found = pickle.loads(pickle.dumps(SharedStore(url, read_only=True)))
    assert str(found) == url
    assert found.read_only


def test_nothing_is_asked_of_a_place_while_all_is_here(tmp_path: Path) -> None:
    store = machine(tmp_path, "s3://no-such-bucket-anywhere/x")
    put(store)
    store.notes.renew(KEY)
    assert store.get(KEY) is not None
    assert store.has(KEY)
    store.expect([KEY])
    store.fetch([KEY])
    assert not store.share(KEY)


def test_errors_keep_their_exit_codes() -> None:
    codes: dict[type[MmdeployError], int] = {UsageError: 2, StoreError: 3, EnvironmentUnfitError: 4}
    assert {kind: kind.exit_code for kind in codes} == codes
