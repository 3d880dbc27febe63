"""Ctrl-C at any moment: exit code 130, one line, no process left, nothing half-written."""

import socket
from pathlib import Path

import pytest
from filelock import FileLock
from user_view import press_ctrl_c, read_until, replaced, started, wait_until

import mmdeploy
from mmdeploy.building.settings import Settings
from mmdeploy.record.report_file import read_report

pytestmark = [pytest.mark.triton, pytest.mark.slow, pytest.mark.xdist_group("builds")]


@pytest.fixture
def published(tiny_recipe: Path, shared_workdir: Path) -> Path:
    """A folder with a release of the tiny recipe, built without gates."""
    recipe = mmdeploy.load_recipe(tiny_recipe, ["gates=[]"])
    root = tiny_recipe.parents[1] / "model_repository"
    mmdeploy.build(recipe, Settings(workdir=shared_workdir, destination=root))
    return root


def store_is_clean(workdir: Path) -> bool:
    entries = workdir / "store" / "entries"
    return not list((workdir / "store" / "staging").iterdir()) and all(
        (entry / "seal.json").is_file() for entry in entries.iterdir()
    )


def test_while_quantizing(tiny_recipe: Path, published: Path, shared_workdir: Path, tmp_path: Path) -> None:
    begun = tmp_path / "calibrating"
    replaced(
        tiny_recipe.with_name("data.py"),
        "    return _samples(1, 64)",
        f"    import pathlib, time\n    pathlib.Path({str(begun)!r}).touch()\n    time.sleep(300)",
    )
    process = started("build", tiny_recipe, "--workdir", shared_workdir, "--set", "gates=[]", cwd=tmp_path)
    wait_until(begun.exists, "calibration")
    rest, errors = press_ctrl_c(process)
    assert process.returncode == 130
    assert errors.strip() == "error: interrupted"
    assert "two_towers stopped: interrupted" in rest
    assert store_is_clean(shared_workdir)


def test_while_publishing(tiny_recipe: Path, published: Path, shared_workdir: Path, tmp_path: Path) -> None:
    live, releases = published / "two_towers", published / ".releases" / "two_towers"
    before = live.readlink()
    latest = shared_workdir / "runs" / "two_towers" / "latest"
    earlier = latest.readlink()
    tiny_recipe.write_text(tiny_recipe.read_text() + "# else there is nothing to publish\n")
    with FileLock(releases / ".lock"):  # as if another build were publishing: ours waits for it
        process = started(
            "build", tiny_recipe, "--workdir", shared_workdir, "--output", published, "--set", "gates=[]", cwd=tmp_path
        )
        wait_until(lambda: latest.readlink() != earlier and (latest / "staged" / "manifest.json").is_file(), "staging")
        _, errors = press_ctrl_c(process)
    assert process.returncode == 130
    assert errors.strip() == "error: interrupted"
    assert live.readlink() == before
    assert [path.name for path in releases.glob("[!.]*")] == [before.name]
    assert read_report(latest).published is None


@pytest.mark.parametrize("moment", ["starting", "serving"])
def test_while_serving(published: Path, tmp_path: Path, moment: str) -> None:
    ports = [word for name in ("http", "grpc", "metrics") for word in (f"--{name}-port", "0")]
    (tmp_path / "tmp").mkdir()
    if moment == "starting":  # a server that takes its time
        binary = tmp_path / "tritonserver"
        binary.write_text("#!/bin/sh\necho starting\nexec sleep 300\n")
        binary.chmod(0o755)
        ports += ["--server", str(binary)]
    process = started("serve", published, *ports, cwd=tmp_path, environment={"TMPDIR": str(tmp_path / "tmp")})
    if moment == "starting":
        logs = tmp_path / ".mmdeploy" / "serve"
        wait_until(lambda: any(log.read_text() for log in logs.glob("*.log")), "the server's start")
    else:
        read_until(process, "Ctrl-C stops it.")
    rest, errors = press_ctrl_c(process)
    assert process.returncode == 130, errors
    assert errors.strip() == ("error: interrupted" if moment == "starting" else "")
    assert rest == ("" if moment == "starting" else "stopping\n")
    wait_until(lambda: not list((tmp_path / "tmp").glob("mmdeploy*")), "the removal of the server's folder")


@pytest.mark.parametrize("scheme", ["", "http://"])
def test_while_waiting_for_an_answer(tmp_path: Path, scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"{scheme}127.0.0.1:{mute.getsockname()[1]}"
        process = started("infer", "two_towers", "a=a.npy", "--url", address, cwd=tmp_path)
        connection, _ = mute.accept()
        with connection:
            _, errors = press_ctrl_c(process)
    assert process.returncode == 130
    assert errors.strip() == "error: interrupted"
