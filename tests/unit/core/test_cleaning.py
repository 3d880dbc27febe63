"""Cleaning a work folder: what no build needs goes, what one needs or is making stays."""

import json
import os
import time
from pathlib import Path

import pytest

from mmdeploy.core.artifact import Artifact, TensorSpec, file_sha256
from mmdeploy.core.cleaning import clean, size_of, spare
from mmdeploy.core.errors import StoreError
from mmdeploy.core.store import Store

DAY = 86400.0


def put(store: Store, letter: str, *, idle_days: float, size: int = 1000) -> str:
    key = letter * 64
    with store.staging() as folder:
        path = folder / "model.onnx"
        path.write_bytes(letter.encode() * size)
        artifact = Artifact("onnx", path, file_sha256(path), (TensorSpec("x", "FP32", (3,)),), (), "test", {})
        store.add(key, artifact, {"letter": letter})
    age(store.entry(key), idle_days)
    return key


def age(path: Path, days: float) -> None:
    os.utime(path, (time.time() - days * DAY, time.time() - days * DAY))


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    """Results of use today, 10 and 40 days ago; and one of 90 that the last build of a recipe was made of."""
    store = Store(tmp_path / "store")
    for letter, days in (("a", 0), ("b", 10), ("c", 40), ("d", 90)):
        put(store, letter, idle_days=days)
    store.remember("pair", "image/export", {"letter": "d"}, {"digest": {"file": "1"}})
    return tmp_path


def letters(found: tuple[object, ...]) -> list[str]:
    return [one.name[0] for one in found]  # type: ignore[attr-defined]


def test_what_was_of_no_use_for_long_goes_and_what_the_last_build_was_made_of_stays(workdir: Path) -> None:
    assert letters(spare(workdir, idle_days=30)) == ["c"]
    assert letters(spare(workdir, idle_days=5)) == ["c", "b"]
    assert letters(clean(workdir, idle_days=30)) == ["c"]
    store = Store(workdir / "store")
    assert [store.has(letter * 64) for letter in "abcd"] == [True, True, False, True]
    assert store.get("d" * 64) is not None


def test_what_a_build_takes_is_of_use_again(workdir: Path) -> None:
    assert Store(workdir / "store").get("c" * 64) is not None
    assert spare(workdir, idle_days=30) == ()


def test_down_to_a_size_what_was_of_use_longest_ago_goes_first_and_never_what_is_needed(workdir: Path) -> None:
    each = size_of(Store(workdir / "store").entry("a" * 64))
    assert letters(spare(workdir, idle_days=365, most_bytes=3 * each)) == ["c"]
    assert letters(spare(workdir, idle_days=365, most_bytes=2 * each)) == ["c", "b"]
    assert letters(spare(workdir, idle_days=365, most_bytes=0)) == ["c", "b", "a"]


def test_nothing_goes_while_a_build_runs(workdir: Path) -> None:
    store = Store(workdir / "store")
    with store.in_use(), store.in_use(), pytest.raises(StoreError, match="a build is running"):
        clean(workdir, idle_days=0)
    assert store.has("a" * 64)
    assert letters(clean(workdir, idle_days=30)) == ["c"]


def test_runs_and_stopped_steps_go_but_each_recipes_last_run(workdir: Path) -> None:
    for run in ("20260101-000000-aaaaaa", "20260102-000000-bbbbbb"):
        (workdir / "runs" / "pair" / run).mkdir(parents=True)
        age(workdir / "runs" / "pair" / run, 50)
    (workdir / "runs" / "pair" / "latest").symlink_to("20260102-000000-bbbbbb")
    scratch = Store(workdir / "store").scratch("e" * 64)
    (scratch / "checkpoint.pt").write_bytes(b"1234")
    age(scratch, 50)
    found = clean(workdir, idle_days=45)
    assert [(one.kind, one.name[-6:]) for one in found] == [("scratch", "eeeeee"), ("run", "aaaaaa")]
    assert sorted(path.name for path in (workdir / "runs" / "pair").iterdir()) == ["20260102-000000-bbbbbb", "latest"]
    assert not scratch.exists()


def test_locks_and_parts_that_nothing_needs_go(workdir: Path) -> None:
    store = Store(workdir / "store")
    for letter in "cd":
        with store.claimed(letter * 64):
            pass
    store.remember("pair", "image/quantize", {"letter": "x", "weights": "known"}, {"known": {"file": "2"}})
    clean(workdir, idle_days=30)
    assert [path.name for path in (store.root / "locks").iterdir()] == [f"{'d' * 64}.lock"]
    assert json.loads((store.root / "parts" / "known.json").read_text()) == {"file": "2"}
    assert not (store.root / "parts" / "digest.json").exists()


def test_a_folder_without_a_store_stays_without(tmp_path: Path) -> None:
    assert clean(tmp_path / "none", idle_days=0) == ()
    assert not (tmp_path / "none").exists()
