"""Paths and names that Triton's python backend hands to a shell."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdeploy.core.errors import UsageError
from mmdeploy.triton import server, shell_paths
from mmdeploy.triton.shell_paths import survives_shell


@given(st.text("ab /.-_$()`'\"\\;&|<>*?[]{}!#~^\n\täß中", min_size=1, max_size=12))
def test_what_survives_comes_out_of_a_shell_as_it_went_in(text):
    if survives_shell(text):
        given_out = subprocess.run(["sh", "-c", f"printf %s /x{text}"], capture_output=True, check=True).stdout
        assert given_out.decode() == f"/x{text}"


@pytest.mark.parametrize("name", ["a b", "$(touch x)", "`x`", "a;b", "a&b", "it's", 'a"b', "(a)", "a\nb", "a*", ""])
def test_what_a_shell_would_read_differently_does_not_survive(name):
    assert not survives_shell(name)


def test_a_repository_with_an_unsafe_path_is_linked_and_others_are_not(tmp_path):
    safe, unsafe = tmp_path / "safe", tmp_path / "a $(b)"
    safe.mkdir()
    unsafe.mkdir()
    (unsafe / "model").mkdir()
    found = shell_paths.linked([safe, unsafe], tmp_path)
    assert list(found.values()) == [safe, unsafe]
    assert all(survives_shell(str(path)) for path in found)
    assert [path.name for path in list(found)[1].iterdir()] == ["model"]


def test_hidden_folders_of_a_repository_are_no_models(tmp_path):
    repository, folder = tmp_path / "served", tmp_path / "run"
    for name in ("model", ".mmdeploy", ".git"):
        (repository / name / "1").mkdir(parents=True)
    folder.mkdir()
    ((given_path, path),) = shell_paths.linked([repository], folder).items()
    assert path == repository
    assert [child.name for child in given_path.iterdir()] == ["model"]
    assert (given_path / "model" / "1").is_dir()


def test_a_temporary_folder_with_an_unsafe_path_is_not_taken(tmp_path, monkeypatch):
    unsafe = tmp_path / "a $(b)"
    unsafe.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(unsafe))
    folder = shell_paths.hold_safe_folder("test")
    try:
        assert survives_shell(str(folder.path))
        assert folder.path.is_dir()
        assert not list(unsafe.iterdir())
    finally:
        folder.remove()


def one_model(root: Path, name: str, more: str = "") -> Path:
    (root / name / "1").mkdir(parents=True)
    (root / name / "config.pbtxt").write_text(f'backend: "onnxruntime" max_batch_size: 8\n{more}')
    return root


@pytest.mark.parametrize(
    ("name", "more"), [("$(touch ran)", ""), ("a b", ""), ("model", 'default_model_filename: "$(touch ran).onnx"')]
)
def test_no_server_is_started_on_names_that_a_shell_would_run(tmp_path, monkeypatch, name, more):
    monkeypatch.chdir(tmp_path)
    repository = one_model(tmp_path / "served", name, more)
    with pytest.raises(UsageError, match=r"cannot serve that safely:\n.*does not survive; use letters"):
        server.start([repository], log=tmp_path / "log")
    assert not (tmp_path / "ran").exists()


def test_no_server_is_started_on_a_step_whose_queue_can_overflow(tmp_path):
    repository = one_model(tmp_path, "encoder", "dynamic_batching { default_queue_policy { max_queue_size: 4 } }")
    one_model(tmp_path, "other")
    (tmp_path / "both" / "1").mkdir(parents=True)
    steps = "".join(f'step {{ model_name: "{name}" }} ' for name in ("encoder", "other"))
    (tmp_path / "both" / "config.pbtxt").write_text(f'platform: "ensemble" ensemble_scheduling {{ {steps} }}')
    with pytest.raises(UsageError, match="the queue of 'encoder' takes 4 requests"):
        server.start([repository], log=tmp_path / "log")
