"""A real Triton's processes: killed stubs are noticed, and nothing outlives whoever started it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import tiny_triton_repository as tiny

import mmdeploy
from mmdeploy.core.errors import ServerError
from mmdeploy.triton import server
from mmdeploy.triton.http import ask_json

pytestmark = pytest.mark.triton


@pytest.fixture
def repository(tmp_path):
    configs = [tiny.config(name) for name in ("positive", "negated", "summed")]
    return tiny.write(tmp_path / "repository", *configs, tiny.ensemble())


def family(pid):
    return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]


def stub_of(running, model):
    for process in psutil.Process(running.pid).children(recursive=True):
        if "stub" in process.name() and f"/{model}/" in process.cmdline()[1]:
            return process
    raise AssertionError(f"no stub serves {model}")


def traces(processes):
    """Return what the processes' servers keep in /dev/shm and the temporary folder."""
    prefixes = {
        argument.rpartition("=")[2]
        for process in processes
        for argument in process.cmdline()
        if "shm-region-prefix-name" in argument
    }
    folders = {Path(process.cwd()) for process in processes}
    assert len(prefixes) == 1
    assert list(Path("/dev/shm").glob(f"{next(iter(prefixes))}*")), "the server has no shared memory?"
    return prefixes.pop(), folders


def assert_nothing_left(processes, prefix, folders):
    _, alive = psutil.wait_procs(processes, timeout=20)
    assert not alive
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        left = [*Path("/dev/shm").glob(f"{prefix}*"), *(folder for folder in folders if folder.exists())]
        if not left:
            return
        time.sleep(0.1)
    raise AssertionError(f"left behind: {left}")


def test_stop_leaves_nothing(repository, tmp_path):
    with server.start([repository], log=tmp_path / "triton.log") as running:
        processes = family(running.pid)
        assert len(processes) >= 5, "a supervisor, a server and three stubs"
        prefix, folders = traces(processes)
    assert_nothing_left(processes, prefix, folders)
    running.stop()
    with pytest.raises(ServerError, match="Triton ended"):
        running.probe()


def test_a_killed_stub_is_noticed_by_the_probe_only_and_healed(repository, tmp_path):
    started = server.start([repository], log=tmp_path / "triton.log", model_control="explicit", load=["difference"])
    with started as running:
        assert running.probe() == ("negated", "positive", "summed", "difference")
        stub_of(running, "negated").kill()
        ask_json(f"{running.http_url}/v2/health/ready")
        ask_json(f"{running.http_url}/v2/models/negated/ready")
        with pytest.raises(ServerError, match=r"do not answer a probe:\n  negated: .*not healthy"):
            running.probe()
        assert running.heal() == ("negated",)
        assert running.probe() == ("negated", "positive", "summed", "difference")


def test_a_server_that_dies_is_noticed(repository, tmp_path):
    with server.start([repository], log=tmp_path / "triton.log") as running:
        processes = family(running.pid)
        prefix, folders = traces(processes)
        processes[1].kill()
        deadline = time.monotonic() + 10
        while processes[0].status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
            time.sleep(0.05)
        with pytest.raises(ServerError, match="exit code 137"):
            running.probe()
    assert_nothing_left(processes, prefix, folders)


PARENT = """
import signal, sys, time
from pathlib import Path
from mmdeploy.triton import server
with server.start([Path(sys.argv[1])], log=Path(sys.argv[2])) as running:
    print(running.pid, flush=True)
    time.sleep(1000)
"""


@pytest.mark.parametrize(
    ("number", "to_group"),
    [(signal.SIGKILL, False), (signal.SIGTERM, False), (signal.SIGINT, True)],
    ids=["killed", "terminated", "ctrl_c"],
)
def test_nothing_outlives_the_parent(repository, tmp_path, number, to_group):
    environment = os.environ | {"PYTHONPATH": str(Path(mmdeploy.__file__).parents[1])}
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, repository, tmp_path / "triton.log"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        env=environment,
    )
    try:
        processes = family(int(parent.stdout.readline()))
        prefix, folders = traces(processes)
        if to_group:
            os.killpg(parent.pid, number)
        else:
            parent.send_signal(number)
        parent.wait(20)
        assert_nothing_left(processes, prefix, folders)
    finally:
        parent.kill()
        parent.wait()


def test_a_killed_supervisor_takes_the_server_with_it(repository, tmp_path):
    with server.start([repository], log=tmp_path / "triton.log") as running:
        processes = family(running.pid)
        prefix, folders = traces(processes)
        processes[0].kill()
        _, alive = psutil.wait_procs(processes, timeout=20)
        assert not alive
    assert_nothing_left(processes, prefix, folders)


def test_python_by_absolute_path_needs_no_active_environment(repository, tmp_path):
    program = (
        "import sys; from pathlib import Path; from mmdeploy.triton import server\n"
        "with server.start([Path(sys.argv[1])], log=Path(sys.argv[2])) as s: print(*s.probe())"
    )
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(mmdeploy.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", program, repository, tmp_path / "triton.log"],
        capture_output=True, text=True, env=environment, cwd="/", timeout=120, check=False,
    )  # fmt: skip
    assert done.stdout.split() == ["negated", "positive", "summed", "difference"], done.stderr
