"""Writing the files: all of them, JSON first, and never half of one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from report_samples import failed, passed

from mmdeploy import report as report_package
from mmdeploy.core.errors import StoreError
from mmdeploy.record.report_file import read_report
from mmdeploy.report import html, write_all


def test_all_formats_are_written_and_nothing_else(tmp_path):
    files = write_all(passed(), tmp_path / "new" / "folder")
    assert {kind: path.name for kind, path in files.items()} == {
        "json": "report.json",
        "md": "report.md",
        "junit": "junit.xml",
        "html": "report.html",
    }
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == sorted(
        path.name for path in files.values()
    )
    assert read_report(tmp_path / "new" / "folder") == passed()


def test_a_page_that_cannot_be_rendered_leaves_the_data(tmp_path, monkeypatch):
    def broken(report, earlier):
        raise RuntimeError("template")

    monkeypatch.setattr(html, "render", broken)
    with pytest.raises(RuntimeError):
        write_all(passed(), tmp_path)
    assert read_report(tmp_path) == passed()
    assert (tmp_path / "junit.xml").exists()


@pytest.mark.parametrize("breaks", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, breaks):
    write_all(passed(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os if breaks == "fsync" else Path, breaks, full)
    with pytest.raises(StoreError, match=r"report\.json: No space left on device"):
        write_all(failed(), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write the report"):
        write_all(passed(), tmp_path / "file")


def test_files_are_as_readable_as_the_umask_says(tmp_path):
    files = write_all(passed(), tmp_path)
    umask = os.umask(0)
    os.umask(umask)
    assert files["html"].stat().st_mode & 0o777 == 0o666 & ~umask


def test_importing_the_renderers_loads_nothing_heavy():
    code = (
        "import sys, mmdeploy.report, mmdeploy.report.html, mmdeploy.report.junit, mmdeploy.report.terminal;"
        "print([m for m in ('matplotlib', 'torch', 'onnx', 'onnxruntime', 'jinja2') if m in sys.modules])"
    )
    root = Path(report_package.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "[]"
