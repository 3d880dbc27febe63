"""Which interpreter the scripts of ci/ take, and what they say where there is none."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
MISSING = "NOT FOUND HERE, nothing was run"
TOOLS = ("bash", "sh", "dirname", "env")


def machine(folder: Path, *versions: str) -> None:
    """Fill a folder with the tools that the scripts need, and with interpreters of some versions."""
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found is not None
        (folder / tool).symlink_to(found)
    for version in versions:  # the last argument of what `ci/python` runs holds the version that it wants
        interpreter = folder / f"python{version}"
        interpreter.write_text(f"#!/bin/sh\ncase $2 in *\"!= '{version}'\"*) exit 0;; esac\nexit 1\n")
        interpreter.chmod(0o755)


@pytest.mark.parametrize(
    ("python", "told"),
    [
        ("echo 3.13", "is Python 3.13, for which ci/locks has no versions; set PYTHON to 3.11 or 3.12"),
        ("exit 127", "does not run"),
    ],
)
def test_an_interpreter_without_a_lock_is_refused_before_anything_is_made(tmp_path: Path, python: str, told: str):
    interpreter = tmp_path / "python"
    interpreter.write_text(f"#!/bin/sh\n{python}\n")
    interpreter.chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", f". {REPOSITORY}/ci/environment; echo went on"],
        env=os.environ | {"PYTHON": str(interpreter), "VENV": str(tmp_path / "venv")},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (4, "")
    assert told in done.stderr
    assert not (tmp_path / "venv").exists()


def test_a_machine_without_a_supported_interpreter_is_told_what_is_needed(tmp_path: Path):
    machine(tmp_path)
    variables = {name: value for name, value in os.environ.items() if name != "PYTHON"}
    done = subprocess.run(
        ["/bin/bash", "-c", f". {REPOSITORY}/ci/environment; echo went on"],
        env=variables | {"PATH": str(tmp_path), "VENV": str(tmp_path / "venv")},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr == "mmdeploy needs Python 3.11 or 3.12; set PYTHON to one\n"


@pytest.mark.parametrize(
    ("versions", "failing", "code", "told"),
    [
        (("3.11", "3.12"), "none", 0, ["Python 3.11: passed", "Python 3.12: passed"]),
        (("3.11",), "none", 0, ["Python 3.11: passed", f"Python 3.12: {MISSING}"]),
        (("3.12",), "none", 0, [f"Python 3.11: {MISSING}", "Python 3.12: passed"]),
        (("3.11", "3.12"), "python3.11", 3, ["Python 3.11: FAILED, exit code 3", "Python 3.12: passed"]),
        ((), "none", 4, [f"Python 3.11: {MISSING}", f"Python 3.12: {MISSING}"]),
    ],
)  # fmt: skip
def test_all_pythons_that_are_found_are_tested_and_the_others_named(
    tmp_path: Path, versions: tuple[str, ...], failing: str, code: int, told: list[str]
):
    scripts = tmp_path / "ci"
    scripts.mkdir()
    for name in ("python", "test-all-pythons"):
        shutil.copy(REPOSITORY / "ci" / name, scripts)
    (scripts / "test").write_text(
        f'#!/bin/sh\necho "tests: ${{PYTHON##*/}} in $VENV: $*"\n[ "${{PYTHON##*/}}" != {failing} ] || exit 3\n'
    )
    (scripts / "test").chmod(0o755)
    machine(tmp_path, *versions)
    done = subprocess.run(
        [str(scripts / "test-all-pythons"), "-k", "x"],
        env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr, lines[-2:]) == (code, "", told)
    folders = [".venv", ".venv-py312"]
    assert [line for line in lines if line.startswith("tests")] == [
        f"tests: python{version} in {folder}: -k x" for version, folder in zip(versions, folders, strict=False)
    ]


def test_a_machine_without_prometheus_and_without_packages_goes_on_and_is_told(tmp_path: Path):
    machine(tmp_path)
    done = subprocess.run(
        ["/bin/bash", str(REPOSITORY / "ci" / "tools")],
        env={"PATH": str(tmp_path), "VENV": str(tmp_path / "venv")},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "")
    assert "no Prometheus for the tests: neither on the PATH, nor is there an apt-get" in done.stderr
    assert not (tmp_path / "venv").exists()
