import importlib.util
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import mmdeploy
from mmdeploy.core.errors import EnvironmentUnfitError
from mmdeploy.triton import install

wheel = pytest.mark.skipif(importlib.util.find_spec("pytriton") is None, reason="nvidia-pytriton is not installed")


@pytest.fixture(autouse=True)
def nothing_on_path(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))


def executable(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


@wheel
def test_the_wheels_binary_is_found_without_importing_its_package():
    found = install.find_installation()
    assert found.embedded
    assert os.access(found.binary, os.X_OK)
    program = "import sys; from mmdeploy.triton import install; install.find_installation(); print(*sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(Path(mmdeploy.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert {"pytriton", "gevent", "grpc"}.isdisjoint(done.stdout.split())


def test_a_tritonserver_on_path_comes_before_the_wheel(monkeypatch, tmp_path):
    binary = executable(tmp_path / "bin" / "tritonserver")
    monkeypatch.setenv("PATH", str(binary.parent))
    assert install.find_installation() == install.Installation(binary, None)


def test_a_named_binary_comes_first_and_uses_the_backends_beside_it(tmp_path):
    binary = executable(tmp_path / "opt" / "bin" / "tritonserver")
    found = install.find_installation(binary)
    assert not found.embedded
    assert install.assemble_backends(found, tmp_path / "unused") is None
    (tmp_path / "opt" / "backends").mkdir()
    assert install.assemble_backends(found, tmp_path / "unused") == tmp_path / "opt" / "backends"


@wheel
def test_the_wheels_binary_is_recognized_when_named():
    found = install.find_installation()
    assert install.find_installation(found.binary) == found


def test_a_named_binary_that_cannot_run_is_refused(tmp_path):
    (tmp_path / "tritonserver").write_text("")
    for path in (tmp_path / "tritonserver", tmp_path / "absent", tmp_path):
        with pytest.raises(EnvironmentUnfitError, match="is not an executable file"):
            install.find_installation(path)


def test_a_missing_wheel_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentUnfitError, match="nvidia-pytriton is not installed") as caught:
        install.find_installation()
    assert "multimodal-deploy[cpu]" in caught.value.hint
    assert caught.value.exit_code == 4


@wheel
def test_numpy_2_is_refused_with_the_reason(monkeypatch):
    monkeypatch.setattr(metadata, "version", lambda name: "2.4.1")
    with pytest.raises(EnvironmentUnfitError, match=r"NumPy 2\.4\.1 .* outputs of size 0") as caught:
        install.find_installation()
    assert "numpy>=1.26,<2" in caught.value.hint


@wheel
def test_an_interpreter_without_a_stub_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 42, 0, "final", 0))
    with pytest.raises(EnvironmentUnfitError, match=r"no stub for Python 3\.42; it has .*3\.11"):
        install.find_installation()


@wheel
def test_backends_are_laid_out_with_the_stub_and_the_stand_ins(tmp_path):
    folder = install.assemble_backends(install.find_installation(), tmp_path / "backends")
    assert os.access(folder / "python" / install.STUB, os.X_OK)
    assert not (folder / "python" / "libtriton_python.so").is_symlink(), "Triton refuses it"
    assert (folder / "onnxruntime" / "model.py").is_file()


@wheel
def test_the_stub_is_given_this_python(monkeypatch):
    monkeypatch.setenv("LD_LIBRARY_PATH", "/mine")
    environment = install.server_environment(install.find_installation())
    assert environment["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)
    libraries = environment["LD_LIBRARY_PATH"].split(os.pathsep)
    assert libraries[0].endswith("nvidia_pytriton.libs")
    assert libraries[-1] == "/mine"


@pytest.mark.parametrize(
    ("text", "complete"),
    [
        ('backend: "b" input { name: "x" } output { name: "y" }', True),
        ('platform: "ensemble" input { name: "x" } output { name: "y" }', True),
        ('backend: "b" input { name: "x" }', False),
        ('input { name: "x" } output { name: "y" }', False),
        ("garbage {", False),
        (None, False),
    ],
)
def test_a_repository_is_complete_when_every_config_is(tmp_path, text, complete):
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "config.pbtxt").write_text('backend: "b" input { name: "x" } output { name: "y" }')
    (tmp_path / "tested").mkdir()
    if text is not None:
        (tmp_path / "tested" / "config.pbtxt").write_text(text)
    assert install.is_complete(tmp_path) is complete
