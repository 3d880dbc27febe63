"""A real Triton's processes: killed stubs are noticed, and nothing outlives whoever started it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import living_processes
import numpy as np
import psutil
import pytest
import tiny_triton_repository as tiny
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

import mmdeploy
from mmdeploy.core.errors import InferenceError, ServerError
from mmdeploy.triton import server
from mmdeploy.triton.control_key import ControlKey, kept_key, known_key
from mmdeploy.triton.http import ask_json
from mmdeploy.triton.tending import Tending

pytestmark = pytest.mark.triton


@pytest.fixture
def repository(tmp_path):
    configs = [tiny.config(name) for name in ("positive", "negated", "summed")]
    return tiny.write(tmp_path / "repository", *configs, tiny.ensemble())


def family(pid):
    return [psutil.Process(pid), *living_processes.below(pid)]


def traces(processes):
    """Return what the processes' servers keep in /dev/shm and the temporary folder."""
    prefixes = {
        argument.rpartition("=")[2]
        for process in processes
        for argument in living_processes.command(process)
        if "shm-region-prefix-name" in argument
    }
    folders = {folder for process in processes if (folder := living_processes.folder(process))}
    assert len(prefixes) == 1
    assert list(Path("/dev/shm").glob(f"{next(iter(prefixes))}*")), "the server has no shared memory?"
    return prefixes.pop(), folders


def assert_nothing_left(processes, prefix, folders):
    living_processes.assert_ended(processes)
    deadline = time.monotonic() + living_processes.ENDED_S
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


def test_a_start_in_which_the_machine_stands_still_is_tried_again(repository, tmp_path):
    """Triton takes a stub that did not answer for a second for dead, and in the middle of a load that ends it."""
    before = set(living_processes.below(os.getpid()))

    def new(processes):
        return [process for process in processes if process not in before]

    def stand_still():
        until(lambda: new(living_processes.stubs(os.getpid())))
        time.sleep(0.3)  # it imports
        stopped = new(living_processes.below(os.getpid()))
        try:
            living_processes.send(stopped, signal.SIGSTOP)
            time.sleep(1.5)
        finally:
            living_processes.send(stopped, signal.SIGCONT)

    def answered(log):
        with ThreadPoolExecutor(1) as pool:
            stall = pool.submit(stand_still)
            started = server.start(
                [repository], log=log, model_control="explicit", load=["difference"], ready_timeout_s=60
            )
            with started as running:
                stall.result()
                running.heal()  # it may have stood still just behind a load, which was not tried again then
                return running.probe()

    for attempt in range(3):
        try:
            answers = answered(tmp_path / f"triton-{attempt}.log")
        except ServerError as error:  # now and then Triton waits for a stub for good, and the start says so
            if attempt == 2 or "was not ready in time" not in error.message:
                raise
        else:
            assert answers == ("negated", "positive", "summed", "difference")
            return


def test_a_killed_stub_is_noticed_by_the_probe_only_and_healed(repository, tmp_path):
    started = server.start([repository], log=tmp_path / "triton.log", model_control="explicit", load=["difference"])
    with started as running:
        assert running.probe() == ("negated", "positive", "summed", "difference")
        living_processes.stub(running.pid, "negated").kill()
        ask_json(f"{running.http_url}/v2/health/ready")
        ask_json(f"{running.http_url}/v2/models/negated/ready")
        with pytest.raises(ServerError, match=r"do not answer a probe:\n  negated: .*not healthy"):
            running.probe()
        assert running.heal() == ("negated",)
        assert running.probe() == ("negated", "positive", "summed", "difference")


def test_one_dead_instance_of_two_is_noticed(repository, tmp_path):
    """The other one answers every probe, and clients would go on to lose a part of their requests."""
    config = repository / "negated" / "config.pbtxt"
    config.write_text(config.read_text().replace("count: 1", "count: 2"))
    started = server.start([repository], log=tmp_path / "triton.log", model_control="explicit", load=["difference"])
    with started as running:
        tending = Tending(running, restarts=0)
        assert list(tending.look()) == []
        living_processes.stub(running.pid, "negated").kill()
        told = list(until(lambda: list(tending.look())))
        assert told == ["negated lost a process and was loaded again"]
        until(lambda: len(living_processes.stubs(running.pid, "negated")) == 2)
        assert [list(tending.look()) for _ in range(4)] == [[]] * 4
        running.unload("difference")
        running.unload("summed")
        assert [list(tending.look()) for _ in range(4)] == [[]] * 4, "what is unloaded on purpose stays so"


def until(found, timeout_s=60):
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := found():
            return value
        time.sleep(0.1)
    raise AssertionError("not within the time")


CONTROL = {
    "repository/index": b"{}",
    "repository/models/evil/load": json.dumps(
        {"parameters": {"config": "{}", "file:1/model.py": "cHJpbnQoKQ=="}}
    ).encode(),
    "repository/models/positive/unload": b"{}",
    "systemsharedmemory/status": None,
    "cudasharedmemory/region/x/register": b"{}",
    "trace/setting": b'{"trace_file": "/tmp/written"}',
    "models/positive/trace/setting": b"{}",
    "logging": b'{"log_file": "/tmp/written"}',
}


def test_control_endpoints_want_a_key_that_nobody_can_read(repository, tmp_path):
    """Without it, a page in a browser could load Python into the server: text/plain needs no leave of any origin."""
    log = tmp_path / "triton.log"
    key_file = tmp_path / "control.key"
    key_file.write_text("another/process+may=know==\n")
    key_file.chmod(0o600)
    key = kept_key(key_file)
    with server.start([repository], log=log, model_control="explicit", load=["positive"], key=key) as running:
        for path, body in CONTROL.items():
            request = urllib.request.Request(f"{running.http_url}/v2/{path}", body, {"Content-Type": "text/plain"})
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(request, timeout=60)
            assert refused.value.code == 403, path
        client = InferenceServerClient(running.grpc_url)
        for call in (
            client.get_model_repository_index, client.get_trace_settings, client.get_log_settings,
            client.get_system_shared_memory_status, lambda: client.unload_model("positive"),
        ):  # fmt: skip
            with pytest.raises(InferenceServerException, match="This protocol is restricted"):
                call()
        assert client.get_model_repository_index(headers=dict(key.grpc_metadata)).models
        assert client.get_inference_statistics().model_stats, "what is no control is open"
        client.close()
        for wrong in (None, ControlKey()):
            with pytest.raises(ServerError, match=r"cannot unload 'positive'.*403"):
                server.attach(running.http_url, http_url=running.http_url, key=wrong).unload("positive")
        other = server.attach(running.grpc_url, http_url=running.http_url, key=known_key(key_file))
        for knowing in (running, other):
            knowing.unload("positive")
            knowing.load("positive")
        assert running.probe() == ("positive",)
        words = [word for process in family(running.pid) for word in living_processes.command(process)]
        assert any("http-restricted-api" in word for word in words)
        assert not any(key.secret in word for word in words)
        assert key.secret not in log.read_text() + repr(running)
        left = [path for path in Path(running._processes.folder.path).rglob("*") if path.is_file()]
        assert not any(key.secret.encode() in path.read_bytes() for path in left)


ODD = "a b'$(touch ran);(c)&"


def test_paths_that_a_shell_would_read_differently(repository, tmp_path, monkeypatch):
    odd = tmp_path / ODD
    odd.mkdir()
    repository.rename(odd / "repository")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(odd))
    (odd / "repository" / "negated" / "1" / "model.onnx").write_bytes(b"no protobuf")
    with pytest.raises(ServerError) as refused:
        server.start([odd / "repository"], log=odd / "triton.log")
    assert f"{odd}/repository/negated/1/model.onnx" in refused.value.message
    shutil.rmtree(odd / "repository" / "negated")
    shutil.rmtree(odd / "repository" / "difference")
    with server.start([odd / "repository"], log=odd / "triton.log") as running:
        assert running.probe() == ("positive", "summed")
    assert not list(tmp_path.rglob("ran"))


SLOW = """
import time
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def execute(self, requests):
        time.sleep(0.05)
        tensors = [pb_utils.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", tensor)]) for tensor in tensors]
"""
BUSY = """
backend: "python" max_batch_size: 1
input { name: "x" data_type: TYPE_FP32 dims: [ 4 ] }
output { name: "y" data_type: TYPE_FP32 dims: [ 4 ] }
dynamic_batching { default_queue_policy { max_queue_size: 1 } }
"""


def test_a_model_whose_queue_is_full_is_not_dead(tmp_path):
    version = tmp_path / "repository" / "slow" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(SLOW)
    (version.parent / "config.pbtxt").write_text(BUSY)
    x, refused, done = tiny.rows(1), [], threading.Event()

    def ask():
        with running.runner("slow") as runner:
            while not done.is_set():
                try:
                    runner.infer({"x": x})
                except InferenceError as error:
                    refused.append(error.message)
                    time.sleep(0.002)

    started = server.start(
        [tmp_path / "repository"], log=tmp_path / "triton.log", model_control="explicit", load=["slow"]
    )
    with started as running:
        threads = [threading.Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
        try:
            until(lambda: refused)
            before = len(refused)
            assert running.heal(timeout_s=60) == ()
            assert running.probe() == ("slow",)
            until(lambda: len(refused) > before)  # its queue is full
        finally:
            done.set()
            for thread in threads:
                thread.join()
    assert all("Exceeds maximum queue size" in message for message in refused)


def test_a_server_that_dies_is_noticed(repository, tmp_path):
    with server.start([repository], log=tmp_path / "triton.log") as running:
        processes = family(running.pid)
        prefix, folders = traces(processes)
        living_processes.kill(living_processes.servers(running.pid))
        living_processes.assert_ended(processes[:1])
        with pytest.raises(ServerError, match="exit code 137"):
            running.probe()
        with pytest.raises(ServerError, match="exit code 137"):
            running.memory_bytes()
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
        parent.wait(60)
        assert_nothing_left(processes, prefix, folders)
    finally:
        parent.kill()
        parent.wait()


def test_a_killed_supervisor_takes_the_server_with_it(repository, tmp_path):
    with server.start([repository], log=tmp_path / "triton.log") as running:
        processes = family(running.pid)
        prefix, folders = traces(processes)
        # as one that waits for a lock which nobody will give back
        living_processes.stub(running.pid, "negated").suspend()
        processes[0].kill()
        living_processes.assert_ended(processes)
    assert_nothing_left(processes, prefix, folders)


def test_python_by_absolute_path_needs_no_active_environment(repository, tmp_path):
    program = (
        "import sys; from pathlib import Path; from mmdeploy.triton import server\n"
        "with server.start([Path(sys.argv[1])], log=Path(sys.argv[2])) as s: print(*s.probe())"
    )
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(mmdeploy.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", program, repository, tmp_path / "triton.log"],
        capture_output=True, text=True, env=environment, cwd="/", timeout=300, check=False,
    )  # fmt: skip
    assert done.stdout.split() == ["negated", "positive", "summed", "difference"], done.stderr


@pytest.mark.parametrize("grace", [True, False])
def test_a_server_that_others_ask_answers_what_is_in_flight_before_it_ends(tmp_path, grace):
    """A request waits two seconds for others to be grouped with; a server of one's own does not wait for it."""
    repository = tiny.write(tmp_path / "repository", tiny.config("positive", queue_delay_us=2_000_000))
    log = tmp_path / "triton.log"
    with server.start([repository], log=log, grace=grace) as running, running.runner("positive") as runner:
        with ThreadPoolExecutor(1) as pool:
            waiting = 'nv_inference_pending_request_count{model="positive",version="1"} 1'
            while True:
                answer = pool.submit(runner.infer, {"x": np.full((1, 4), 3, np.float32)})
                while not (seen := waiting in metrics_of(running)) and not answer.done():
                    time.sleep(0.05)
                if seen:
                    break
            running.stop()
        if grace:
            assert answer.result()["y"].tolist() == [[3, 3, 3, 3]]
        else:
            with pytest.raises(ServerError, match="does not answer"):
                answer.result()


def metrics_of(running):
    with urllib.request.urlopen(running.metrics_url, timeout=60) as response:
        return response.read().decode()
