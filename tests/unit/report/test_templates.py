"""Compiled templates are kept in the user's own folder, and a page does not depend on that."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from jinja2 import BytecodeCache
from jinja2.bccache import Bucket, FileSystemBytecodeCache

from mmdeploy.report import templates


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of temporary files of this test alone."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    templates._compiled.cache_clear()
    yield tmp_path
    templates._compiled.cache_clear()


def compiled() -> BytecodeCache | None:
    return templates.environment("mmdeploy", "report").bytecode_cache


def test_a_template_is_compiled_once(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    templates.environment("mmdeploy.studies", ".").get_template("study.html.j2")
    (kept,) = temporary.glob("_jinja2-cache-*/*.cache")
    assert kept.parent.stat().st_mode & 0o077 == 0, "nobody else can write what is executed"

    again = templates.environment("mmdeploy.studies", ".")
    monkeypatch.setattr(again, "compile", None)  # it would not be callable
    assert again.get_template("study.html.j2").name == "study.html.j2"


@pytest.mark.parametrize("what", ["dump_bytecode", "load_bytecode"])
def test_a_page_is_made_although_nothing_can_be_kept(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    def full(self: FileSystemBytecodeCache, bucket: Bucket) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(FileSystemBytecodeCache, what, full)
    made = templates.environment("mmdeploy.studies", ".")
    assert made.get_template("study.html.j2").name == "study.html.j2"


def test_a_folder_of_somebody_else_is_not_used(temporary: Path) -> None:
    (temporary / "elsewhere").mkdir()
    (temporary / f"_jinja2-cache-{os.getuid()}").symlink_to(temporary / "elsewhere")
    assert compiled() is None
