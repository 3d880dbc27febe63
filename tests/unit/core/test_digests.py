"""Facts about files: taken once, believed only as long as the file cannot have changed."""

import hashlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdeploy.core.artifact import file_sha256
from mmdeploy.core.digests import FileFacts


def counting() -> tuple[list[Path], Callable[[Path], str]]:
    taken: list[Path] = []

    def take(path: Path) -> str:
        taken.append(path)
        return path.read_text()

    return taken, take


def aged(path: Path, seconds: float = 60) -> Path:
    """Wait until the file system's clock has ticked, and set another time than that of the last edit."""
    os.utime(path, ns=(time.time_ns() - int(seconds * 1e9),) * 2)
    time.sleep(0.08)
    return path


def test_a_fact_is_taken_once_and_kept_over_processes(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_text("one")
    aged(path)
    taken, take = counting()
    facts = FileFacts(tmp_path / "facts.json")
    assert [facts.of(path, "content", take) for _ in range(3)] == ["one"] * 3
    facts.save()
    assert FileFacts(tmp_path / "facts.json").of(path, "content", take) == "one"
    assert taken == [path]
    assert FileFacts(tmp_path / "facts.json").of(path, "length", lambda path: "3") == "3", "another fact"


@pytest.mark.parametrize("edit", ["longer", "same size", "same size and time", "another file", "through a symlink"])
def test_an_edited_file_is_read_again(tmp_path: Path, edit: str) -> None:
    real, path = tmp_path / "real.bin", tmp_path / "weights.bin"
    real.write_text("one")
    path.symlink_to(real)
    before = aged(real).stat()
    facts = FileFacts()
    assert facts.sha256(path) == file_sha256(path)
    match edit:
        case "longer":
            real.write_text("longer")
        case "same size":
            real.write_text("two")
        case "same size and time":
            real.write_text("two")
            os.utime(real, ns=(before.st_atime_ns, before.st_mtime_ns))
        case "another file":
            (tmp_path / "other").write_text("two")
            (tmp_path / "other").replace(path)
        case "through a symlink":
            (tmp_path / "other").write_text("two")
            path.unlink()
            path.symlink_to(tmp_path / "other")
    assert facts.sha256(path) == file_sha256(path)


def test_a_large_file_that_has_just_been_written_is_waited_for_and_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmdeploy.core.digests._LARGE_BYTES", 3)
    path = tmp_path / "weights.bin"
    path.write_text("one")
    taken, take = counting()
    facts = FileFacts()
    assert [facts.of(path, "content", take) for _ in range(2)] == ["one"] * 2
    assert taken == [path]


def test_a_file_that_has_just_been_written_is_not_believed_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmdeploy.core.file_state.TICK_NS", 10**12)  # however long it takes to get there
    path = tmp_path / "weights.bin"
    path.write_text("one")
    taken, take = counting()
    facts = FileFacts()
    facts.of(path, "content", take)
    facts.of(path, "content", take)
    assert len(taken) == 2


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note each time that a file, all of them being large, is read for its digest."""
    read: list[int] = []
    digest = hashlib.file_digest

    def noted(stream: BinaryIO, name: str) -> object:
        read.append(1)
        return digest(stream, name)

    monkeypatch.setattr("mmdeploy.core.artifact._LARGE_BYTES", 3)
    monkeypatch.setattr(hashlib, "file_digest", noted)
    return read


def test_a_process_reads_a_large_file_once_as_long_as_it_stays_as_it_is(tmp_path: Path, reads: list[int]) -> None:
    path = tmp_path / "weights.bin"
    path.write_text("one")
    before = aged(path).stat()
    assert {file_sha256(path) for _ in range(3)} == {hashlib.sha256(b"one").hexdigest()}
    assert len(reads) == 1
    path.write_text("two")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file_sha256(path) == hashlib.sha256(b"two").hexdigest()


def test_a_process_reads_a_large_file_again_that_has_just_been_written(
    tmp_path: Path, reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmdeploy.core.file_state.TICK_NS", 10**12)
    path = tmp_path / "weights.bin"
    path.write_text("one")
    assert file_sha256(path) == file_sha256(path)
    assert len(reads) == 2


def test_new_times_alone_change_no_digest(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_text("one")
    facts = FileFacts()
    before = facts.sha256(path)
    os.utime(path, (1, 1))
    assert facts.sha256(path) == before


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 0, "facts": {}}', '{"version": 1, "facts": 3}'])
def test_a_damaged_or_old_collection_is_passed_over(tmp_path: Path, content: str) -> None:
    (tmp_path / "facts.json").write_text(content)
    path = tmp_path / "weights.bin"
    path.write_text("one")
    assert FileFacts(tmp_path / "facts.json").sha256(path) == file_sha256(path)


def test_two_that_save_lose_nothing_of_each_other(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a", "b")]
    for path in paths:
        path.write_text(path.name)
        aged(path)
    both = [FileFacts(tmp_path / "facts.json") for _ in paths]
    for facts, path in zip(both, paths, strict=True):
        facts.sha256(path)
    for facts in both:
        facts.save()
    kept = FileFacts(tmp_path / "facts.json")
    taken, take = counting()
    for path in paths:
        kept.of(path, "sha256", take)
    assert taken == []


def test_several_files_are_read_side_by_side(tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(4)]
    for path in paths:
        path.write_text(path.name)
    facts = FileFacts()
    seen: set[int] = set()
    original = facts.sha256
    facts.sha256 = lambda path: seen.add(threading.get_ident()) or original(path)  # type: ignore[method-assign]
    assert facts.sha256_of(paths) == {path: file_sha256(path) for path in paths}
    assert threading.get_ident() in seen
    assert len(seen) > 1


@settings(deadline=None, max_examples=40)
@given(edits=st.lists(st.sampled_from(["a", "b", "aa", ""]), min_size=1, max_size=8))
def test_a_digest_is_always_that_of_the_content(tmp_path_factory: pytest.TempPathFactory, edits: list[str]) -> None:
    """Edits follow each other within one tick of the clock."""
    path = tmp_path_factory.mktemp("facts") / "file"
    facts = FileFacts()
    for content in edits:
        path.write_text(content)
        assert facts.sha256(path) == file_sha256(path)
