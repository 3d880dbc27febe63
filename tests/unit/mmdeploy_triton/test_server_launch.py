"""Ports, and the supervisor at work on processes that are cheaper than Triton."""

import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import living_processes
import psutil
import pytest
from free_ports import free_port

from mmdeploy.core.errors import EnvironmentUnfitError, ServerError, UsageError
from mmdeploy.triton import launch, server, supervisor
from mmdeploy.triton.client import GrpcRunner, HttpRunner, request_json
from mmdeploy.triton.http import ask_json


def test_chosen_ports_are_free_and_differ():
    ports = launch.Ports.choose("127.0.0.1", 0, 0, 0)
    numbers = {ports.http, ports.grpc, ports.metrics}
    assert len(numbers) == 3
    for number in numbers:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", number))
    assert f"--grpc-port={ports.grpc}" in ports.options()
    assert "--metrics-address=127.0.0.1" in ports.options()


def test_a_taken_port_is_named_with_who_listens():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        with pytest.raises(EnvironmentUnfitError) as caught:
            launch.Ports.choose("127.0.0.1", 0, port, 0)
    assert f"127.0.0.1:{port}" in caught.value.message
    assert f"process {os.getpid()}" in caught.value.message


def test_a_host_that_is_not_ours_is_refused():
    with pytest.raises(EnvironmentUnfitError, match=r"cannot listen on 192\.0\.2\.1:0"):
        launch.Ports.choose("192.0.2.1", 0)


# A server that ignores SIGTERM, with a child that has left the session, as stubs might.
STUBBORN = "trap '' TERM; setsid sleep 1000 & sleep 1000 & wait; wait"


def supervised(parent, folder, prefix, *command, grace_s="0"):
    script = Path(supervisor.__file__)
    return [sys.executable, "-I", "-S", str(script), str(parent), grace_s, prefix, str(folder), *command]


def wait_for_children(pid, count):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        children = living_processes.below(pid)
        if len(children) >= count:
            return children
        time.sleep(0.02)
    raise AssertionError("the children did not start")


@pytest.fixture
def remains(tmp_path):
    """A run folder and a shared-memory prefix with a region, as a server has them."""
    folder, prefix = tmp_path / "run", f"mmdeploy_test_{os.getpid()}_"
    folder.mkdir()
    region = Path("/dev/shm", f"{prefix}region")
    region.write_bytes(b"1")
    yield folder, prefix, region
    region.unlink(missing_ok=True)


def test_sigterm_ends_every_descendant_and_removes_what_they_leave(remains):
    folder, prefix, region = remains
    process = subprocess.Popen(supervised(os.getpid(), folder, prefix, "sh", "-c", STUBBORN))
    children = wait_for_children(process.pid, 3)
    process.terminate()
    assert process.wait(60) == 128 + signal.SIGKILL
    living_processes.assert_ended(children)
    assert not folder.exists()
    assert not region.exists()


def test_the_end_of_the_parent_ends_every_descendant(remains):
    folder, prefix, region = remains
    program = "import subprocess, sys, os, time; i = sys.argv.index('PARENT'); sys.argv[i] = str(os.getpid())\n"
    program += "print(subprocess.Popen(sys.argv[1:]).pid, flush=True); time.sleep(1000)"
    command = supervised("PARENT", folder, prefix, "sh", "-c", STUBBORN)
    parent = subprocess.Popen([sys.executable, "-c", program, *command], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    processes = [psutil.Process(pid), *wait_for_children(pid, 3)]
    parent.kill()
    parent.wait()
    living_processes.assert_ended(processes)
    assert not folder.exists()
    assert not region.exists()


@pytest.mark.parametrize(("command", "code"), [("exit 7", 7), ("kill -9 $$", 137), ("true", 0)])
def test_the_exit_code_is_passed_on(remains, command, code):
    folder, prefix, _ = remains
    done = subprocess.run(supervised(os.getpid(), folder, prefix, "sh", "-c", command), timeout=60, check=False)
    assert done.returncode == code


def test_nobody_there_is_a_server_error():
    port = free_port()
    for ask in (
        lambda: GrpcRunner(f"127.0.0.1:{port}", "model", timeout_s=5),
        lambda: HttpRunner(f"http://127.0.0.1:{port}", "model"),
        lambda: ask_json(f"http://127.0.0.1:{port}/v2"),
        lambda: server.attach(f"127.0.0.1:{port}"),
    ):
        with pytest.raises(ServerError, match="does not answer"):
            ask()


def test_a_port_that_accepts_and_says_nothing_times_out():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ServerError, match="does not answer"):
            ask_json(f"http://{address}/v2", timeout_s=0.2)
        with pytest.raises(ServerError, match=r"no answer within 0\.5 s|does not answer"):
            GrpcRunner(address, "model", timeout_s=0.5)


class _Silent(http.server.BaseHTTPRequestHandler):
    """Does what it is asked to, and does not say whether a model is ready."""

    def do_POST(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_GET(self) -> None:
        """Say nothing."""

    def log_message(self, *words: object) -> None:
        """Keep quiet."""


def test_a_model_of_which_a_server_says_nothing_is_not_taken_for_unloaded():
    with http.server.HTTPServer(("127.0.0.1", 0), _Silent) as silent:
        threading.Thread(target=silent.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        asked = server.Server(f"http://127.0.0.1:{silent.server_port}", "127.0.0.1:9")
        with pytest.raises(ServerError, match="encoder/ready: the server does not answer"):
            asked.unload("encoder", timeout_s=60)
        silent.shutdown()


@pytest.mark.parametrize("url", ["", "nowhere", "https://h:1", "grpc://h", "http://h:port"])
def test_attach_refuses_what_is_no_address(url):
    with pytest.raises(UsageError, match="is not the address of a server"):
        server.attach(url)


def test_start_refuses_a_repository_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="absent is not a folder"):
        server.start([tmp_path / "absent"], log=tmp_path / "log")


def test_request_json_is_kserve_v2():
    import numpy as np

    body = request_json({"x": np.array([[1, 2], [3, 4]], np.uint8), "flag": np.array([True])})
    assert body == {
        "inputs": [
            {"name": "x", "datatype": "UINT8", "shape": [2, 2], "data": [1, 2, 3, 4]},
            {"name": "flag", "datatype": "BOOL", "shape": [1], "data": [True]},
        ]
    }
