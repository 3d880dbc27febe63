"""Bad input to ``mmdeploy serve`` and ``mmdeploy infer``, and to a served ensemble: refused, and serving goes on."""

import base64
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import urllib.request
import wave
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import living_processes
import numpy as np
import psutil
import pytest
from PIL import Image
from user_view import REPOSITORY, read_until, started, without

import mmdeploy
from mmdeploy.building.settings import Settings
from mmdeploy.core.errors import InferenceError, MmdeployError
from mmdeploy.triton.client import GrpcRunner, HttpRunner

pytestmark = [pytest.mark.triton, pytest.mark.slow, pytest.mark.xdist_group("builds")]

Command = Callable[..., "subprocess.CompletedProcess[str]"]
PORTS = [word for name in ("http", "grpc", "metrics") for word in (f"--{name}-port", "0")]


@dataclass(frozen=True)
class Served:
    """What ``mmdeploy serve`` of the tiny recipe announced."""

    process: "subprocess.Popen[str]"
    grpc: str
    http: str
    log: Path


def served_by_command(published: Path, folder: Path) -> Served:
    process = started("serve", published, *PORTS, cwd=folder)
    said = "".join(read_until(process, "Ctrl-C stops it."))
    grpc, http, log = (re.search(rf"^  {name} +(\S+)$", said, re.MULTILINE)[1] for name in ("gRPC", "HTTP", "log"))
    return Served(process, grpc, http, folder / log)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, shared_workdir: Path) -> Path:
    root = tmp_path_factory.mktemp("published")
    recipe = mmdeploy.load_recipe(REPOSITORY / "tests" / "tiny_recipe" / "recipe.yaml", ["gates=[]"])
    mmdeploy.build(recipe, Settings(workdir=shared_workdir, destination=root))
    return root


@pytest.fixture(scope="module")
def served(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    running = served_by_command(published, tmp_path_factory.mktemp("serve"))
    yield running
    running.process.send_signal(signal.SIGTERM)
    rest, errors = running.process.communicate(timeout=120)
    assert (running.process.returncode, rest, errors) == (0, "stopping\n", "")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """The folder in which `mmdeploy_command` runs, with files that are right and files that are wrong."""
    random = np.random.default_rng(0)
    good = random.standard_normal(8).astype(np.float32)
    np.save(tmp_path / "good.npy", good)
    np.save(tmp_path / "nan.npy", np.where(np.arange(8) == 3, np.nan, good).astype(np.float32))
    np.save(tmp_path / "inf.npy", np.where(np.arange(8) == 3, -np.inf, good).astype(np.float32))
    np.save(tmp_path / "double.npy", good.astype(np.float64))
    np.save(tmp_path / "nine.npy", np.ones(9, np.float32))
    (tmp_path / "fake.png").write_text("not pixels")
    Image.new("L", (8, 8)).save(tmp_path / "grey.png")
    (tmp_path / "objects.json").write_text('{"a": 1}')
    (tmp_path / "half.json").write_text("[1, 2,")
    (tmp_path / "notes.txt").write_text("1 2 3")
    with wave.open(str(tmp_path / "nine.wav"), "wb") as stream:
        stream.setnchannels(1)
        stream.setsampwidth(2)
        stream.setframerate(8000)
        stream.writeframes(bytes(18))
    (tmp_path / "cut.wav").write_bytes((tmp_path / "nine.wav").read_bytes()[:20])
    return tmp_path


WRONG_FILES = {
    "unknown input": (["a=good.npy", "c=good.npy"], "the model has no input 'c'; accepted: a, b"),
    "input left out": (["a=good.npy"], "no file for b: FP32 [8]\nhint: give one INPUT=FILE for each input"),
    "input twice": (["a=good.npy", "a=nine.npy", "b=good.npy"], "two files for a: good.npy and nine.npy"),
    "no pair": (["good.npy"], "'good.npy' is not INPUT=FILE\nhint: the model takes a: FP32 [8], b: FP32 [8]"),
    "missing file": (["a=good.npy", "b=gone.npy"], "b: there is no file gone.npy"),
    "shape": (["a=good.npy", "b=nine.npy"], "b: nine.npy: shape is [9], expected [8]"),
    "dtype": (["a=good.npy", "b=double.npy"], "b: double.npy: dtype is FP64, expected FP32"),
    "no PNG": (["a=good.npy", "b=fake.png"], "b: fake.png cannot be read as an image: what it holds is no picture"),
    "image for a vector": (["a=good.npy", "b=grey.png"], "b: grey.png: the model takes FP32 [8], which is no image"),
    "WAV length": (["a=good.npy", "b=nine.wav"], "b: nine.wav: shape is [9], expected [8]\nhint: --fit "),
    "WAV cut off": (["a=good.npy", "b=cut.wav"], "b: cut.wav cannot be read as a WAV file: the file ends too early"),
    "JSON objects": (["a=good.npy", "b=objects.json"], "b: objects.json cannot be read as numbers in JSON: it holds"),
    "half a JSON": (["a=good.npy", "b=half.json"], "b: half.json cannot be read as numbers in JSON: Expecting value"),
    "unknown type": (["a=good.npy", "b=notes.txt"], "b: notes.txt is of an unknown type; accepted: .png, .jpg, "),
}


@pytest.mark.parametrize("case", WRONG_FILES)
def test_wrong_files_are_refused_before_they_are_sent(
    mmdeploy_command: Command, served: Served, files: Path, case: str
) -> None:
    arguments, told = WRONG_FILES[case]
    done = mmdeploy_command("infer", "two_towers", *arguments, "--url", served.grpc)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith(f"error: {told}")


@pytest.mark.parametrize("scheme", ["grpc", "http"])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_what_is_not_finite_is_refused_with_the_model_and_the_input(
    mmdeploy_command: Command, served: Served, files: Path, value: str, scheme: str
) -> None:
    url = served.http if scheme == "http" else served.grpc
    done = mmdeploy_command("infer", "two_towers", "a=good.npy", f"b={value}.npy", "--url", url)
    assert (done.returncode, done.stdout) == (3, "")
    told = "input 'b' ('values' of this step): 1 of 8 values are NaN or infinite (in two_towers.right)"
    assert told in done.stderr


def test_a_model_that_is_not_served(mmdeploy_command: Command, served: Served, files: Path) -> None:
    for url in (served.grpc, served.http):
        done = mmdeploy_command("infer", "two_tower", "a=good.npy", "--url", url)
        assert done.returncode == 3
        assert "'two_tower' is not found" in done.stderr
        assert "\nhint: did you mean 'two_towers'? accepted: two_towers, two_towers.fusion, " in done.stderr


def test_the_request_beside_a_release_is_answered(served: Served, published: Path) -> None:
    release = published / "two_towers"
    headers = dict(line.split(": ") for line in (release / "sample_request.headers").read_text().splitlines())
    assert headers == {"Content-Type": "application/json"}, "as a form it could crash this server"
    body = (release / "sample_request.json").read_bytes()
    request = urllib.request.Request(f"{served.http}/v2/models/two_towers/infer", body, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert json.load(answer)["outputs"][0]["shape"] == [1, 4]
    samples = json.loads((release / "perf_analyzer.json").read_text())["data"]
    first = {name: np.frombuffer(base64.b64decode(tensor["b64"]), np.float32) for name, tensor in samples[0].items()}
    for tensor in json.loads(body)["inputs"]:
        np.testing.assert_array_equal(first[tensor["name"]], np.array(tensor["data"], np.float32))
        assert np.unique(tensor["data"]).size > 4, "a real sample"


def test_no_server_there(mmdeploy_command: Command, served: Served, files: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for url in (f"127.0.0.1:{port}", f"http://127.0.0.1:{port}"):
        done = mmdeploy_command("infer", "two_towers", "a=good.npy", "--url", url)
        assert done.returncode == 3
        assert "the server does not answer (" in done.stderr
        assert "Connection refused" in done.stderr
        assert "\nhint: start one with mmdeploy serve, or give the address that it printed with --url\n" in done.stderr


def test_an_address_of_the_wrong_kind(mmdeploy_command: Command, served: Served, files: Path) -> None:
    done = mmdeploy_command("infer", "two_towers", "--url", "localhost")
    assert done.returncode == 2
    assert done.stderr == (
        "error: 'localhost' is not the address of a server\n"
        "hint: accepted: host:port or grpc://host:port for gRPC, http://host:port for HTTP\n"
    )
    done = mmdeploy_command("infer", "two_towers", "--url", f"http://{served.grpc}")
    assert done.returncode == 3
    assert "the server does not answer in HTTP (BadStatusLine); is it the gRPC port?\n" in done.stderr
    assert done.stderr.isprintable() or set(filter(lambda c: not c.isprintable(), done.stderr)) == {"\n"}


GOOD = {"a": np.ones((2, 8), np.float32), "b": np.ones((2, 8), np.float32)}
BAD_REQUESTS: Mapping[str, Mapping[str, "np.ndarray | None"]] = {
    "shape": {"a": np.ones((2, 9), np.float32)},
    "rank": {"a": np.ones(8, np.float32)},
    "dtype": {"a": np.ones((2, 8), np.int64)},
    "missing": {"a": None},
    "unknown": {"c": np.ones((2, 8), np.float32)},
    "batches differ": {"a": np.ones((3, 8), np.float32)},
    "batch too large": {name: np.ones((1000, 8), np.float32) for name in "ab"},
    "empty batch": {name: np.ones((0, 8), np.float32) for name in "ab"},
    "NaN": {"a": np.full((2, 8), np.nan, np.float32)},
}


@pytest.mark.parametrize("case", BAD_REQUESTS)
@pytest.mark.parametrize("protocol", [GrpcRunner, HttpRunner])
def test_a_bad_request_gets_an_error_and_the_next_one_its_answer(
    served: Served, case: str, protocol: "type[GrpcRunner | HttpRunner]"
) -> None:
    changed = GOOD | BAD_REQUESTS[case]
    feed_dict = {name: array for name, array in changed.items() if array is not None}
    with protocol(served.http if protocol is HttpRunner else served.grpc, "two_towers") as runner:
        with pytest.raises(InferenceError) as refused:
            runner.infer(feed_dict)
        assert len(refused.value.message) > 40, "it says why"
        assert runner.infer(GOOD)["logits"].shape == (2, 4)


def test_json_that_is_none_and_http_that_is_none(served: Served) -> None:
    for body in (b"{", b"[]", b'{"inputs": 3}', b'{"inputs": [{"name": "a"}]}'):
        request = urllib.request.Request(f"{served.http}/v2/models/two_towers/infer", body)
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=60)
        assert refused.value.code in (400, 500)
        assert json.load(refused.value)["error"]
    host, _, port = served.http.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(b"\x16\x03\x01 garbage\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
    with HttpRunner(served.http, "two_towers") as runner:
        assert runner.infer(GOOD)["logits"].shape == (2, 4)


def test_a_port_that_is_taken(mmdeploy_command: Command, served: Served, published: Path) -> None:
    port = served.http.rpartition(":")[2]
    done = mmdeploy_command("serve", published, "--http-port", port, "--grpc-port", 0, "--metrics-port", 0)
    assert done.returncode == 4
    assert done.stderr.startswith(f"error: cannot listen on 127.0.0.1:{port}: Address already in use")
    assert done.stderr.endswith("\nhint: choose another port, or 0 for a free one\n")


def test_no_triton(mmdeploy_command: Command, published: Path, tmp_path: Path) -> None:
    done = mmdeploy_command("serve", published, environment=without(tmp_path / "hide", "pytriton"))
    assert done.returncode == 4
    assert done.stderr == (
        "error: no Triton Inference Server: tritonserver is not on PATH and nvidia-pytriton is not installed\n"
        "hint: pip install 'multimodal-deploy[cpu]', or name a tritonserver or the URL of a running one\n"
    )


def test_a_numpy_that_the_stub_cannot_take(mmdeploy_command: Command, published: Path, tmp_path: Path) -> None:
    """What is installed is read from metadata, so metadata is what this environment has of NumPy 2."""
    info = tmp_path / "newer" / "numpy-2.1.3.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 2.1.3\n")
    path = os.pathsep.join([str(tmp_path / "newer"), str(REPOSITORY)])
    done = mmdeploy_command("serve", published, *PORTS, environment={"PYTHONPATH": path})
    assert done.returncode == 4
    assert done.stderr == (
        "error: NumPy 2.1.3 is installed, and under NumPy 2 the python stub of nvidia-pytriton gives outputs of "
        "size 0 without an error\nhint: pip install 'numpy>=1.26,<2'\n"
    )


def test_nothing_to_serve(mmdeploy_command: Command, tmp_path: Path) -> None:
    done = mmdeploy_command("serve")
    assert done.returncode == 2
    assert done.stderr == (
        "error: model_repository is not there; expected a Triton model repository\n"
        "hint: build a recipe first: mmdeploy build RECIPE\n"
    )


def test_a_model_that_triton_cannot_load(mmdeploy_command: Command, published: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(published / "two_towers", damaged)
    (damaged / "two_towers.left" / "1" / "model.onnx").write_bytes(b"no graph")
    done = mmdeploy_command("serve", damaged, *PORTS)
    assert done.returncode == 3
    assert "damaged is not what was published:\n  two_towers.left/1/model.onnx was changed" in done.stderr
    (damaged / "manifest.json").unlink()
    done = mmdeploy_command("serve", damaged, *PORTS)
    assert done.returncode == 3
    assert done.stderr.startswith("error: Triton refused to load:\n  two_towers.left: ")
    assert "two_towers.right" not in done.stderr
    log = re.search(r"^log: (.*)$", done.stderr, re.MULTILINE)
    assert log is not None
    assert "two_towers.left" in (tmp_path / log[1]).read_text()


def test_a_server_that_dies_while_loading_shows_its_last_lines(
    mmdeploy_command: Command, published: Path, tmp_path: Path
) -> None:
    binary = tmp_path / "tritonserver"
    binary.write_text("#!/bin/sh\necho loading models\necho 'symbol lookup error: libfancy.so' >&2\nexit 127\n")
    binary.chmod(0o755)
    done = mmdeploy_command("serve", published, *PORTS, "--server", binary)
    assert done.returncode == 3
    assert done.stderr.startswith(
        "error: Triton ended (exit code 127): loading models\nsymbol lookup error: libfancy.so\n"
    )
    assert re.search(r"^log: \.mmdeploy/serve/triton-.*\.log$", done.stderr, re.MULTILINE)


def line(process: "subprocess.Popen[str]", words: str) -> str:
    """Read standard error up to a line that holds ``words``; return the line."""
    assert process.stderr is not None
    found = next((line for line in process.stderr if words in line), None)
    assert found is not None, f"{words!r} was not said"
    return found


def kill_server(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    family = living_processes.below(process.pid)
    servers = living_processes.servers(process.pid)
    assert servers
    living_processes.kill(servers)
    return family


def test_what_is_killed_comes_back_and_too_often_is_told(published: Path, tmp_path: Path) -> None:
    process = started("serve", published, *PORTS, "--restarts", 1, cwd=tmp_path)
    try:
        said = "".join(read_until(process, "Ctrl-C stops it."))
        grpc = re.search(r"gRPC +(\S+)$", said, re.MULTILINE)[1]
        living_processes.stub(process.pid, "two_towers.right").kill()
        assert line(process, "right") == "two_towers.right lost a process and was loaded again\n"
        with GrpcRunner(grpc, "two_towers") as runner:
            assert runner.infer(GOOD)["logits"].shape == (2, 4)
        family = kill_server(process)
        assert line(process, "again") == "Triton ended (exit code 137); starting it again\n"
        assert line(process, "again") == "Triton 2.51.0 is ready again\n"
        with GrpcRunner(grpc, "two_towers") as runner:
            assert runner.infer(GOOD)["logits"].shape == (2, 4), "at the same port"
        (log,) = (tmp_path / ".mmdeploy" / "serve").glob("*.1.log")
        assert "two_towers.right" in log.read_text(), "why it ended is not lost"
        family += kill_server(process)
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 3
    assert errors.startswith("error: Triton ended (exit code 137): "), errors
    assert "Traceback" not in errors
    living_processes.assert_ended(family)


def test_what_was_changed_meanwhile_is_not_served_again(published: Path, tmp_path: Path) -> None:
    release = tmp_path / "release"
    shutil.copytree(published / "two_towers", release)
    running = served_by_command(release, tmp_path)
    try:
        (release / "two_towers.left" / "1" / "model.onnx").write_bytes(b"something else")
        kill_server(running.process)
        _, errors = running.process.communicate(timeout=120)
    finally:
        running.process.kill()
        running.process.wait()
    assert running.process.returncode == 3
    assert "is not what was published:\n  two_towers.left/1/model.onnx was changed" in errors


def test_many_clients_with_bad_requests_do_not_stop_the_good_ones(served: Served) -> None:
    """Failing steps side by side locked this server up once."""
    answered: list[str] = []

    def ask(bad: bool) -> None:
        with GrpcRunner(served.grpc, "two_towers", timeout_s=60) as runner:
            for _ in range(10):
                try:
                    runner.infer(BAD_REQUESTS["NaN"] | {"b": GOOD["b"]} if bad else GOOD)
                    answered.append("good")
                except InferenceError:
                    answered.append("refused")
                except MmdeployError as error:
                    answered.append(str(error))

    threads = [threading.Thread(target=ask, args=(number % 2 == 1,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answered) == ["good"] * 20 + ["refused"] * 20
