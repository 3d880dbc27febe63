"""The programs of a package's image and the options that it starts Triton with, on a real Triton."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import living_processes
import pytest
import tiny_triton_repository as tiny
from settled_counts import settled
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from mmdeploy.core.errors import InferenceError
from mmdeploy.packaging.image import probe as probe_program
from mmdeploy.packaging.image import start as start_program
from mmdeploy.packaging.server_options import ServerSettings, server_options
from mmdeploy.packaging.subject import read_subject
from mmdeploy.triton.client import request_json
from mmdeploy.triton.http import ask_json
from mmdeploy.triton.install import assemble_backends, find_installation, link_package, server_environment
from mmdeploy.triton.launch import Ports
from mmdeploy.triton.staging import write_manifest

pytestmark = pytest.mark.triton
KEY = "0123456789abcdef0123456789abcdef"
#: Version of the wheel's server; the images' know options that it does not.
WHEEL = "2.51.0"


def release_in(folder: Path) -> Path:
    """Write a release as a build leaves it, of tiny models."""
    tiny.write(folder, *map(tiny.config, ("positive", "negated", "summed")), tiny.ensemble())
    (folder / "difference/1/README.txt").write_text("keeps the folder")
    request = request_json({"u": tiny.rows(2.0), "v": tiny.rows(1.0)})
    (folder / "sample_request.json").write_text(json.dumps(request))
    (folder / "sample_request.headers").write_text("Content-Type: application/json\n")
    write_manifest(folder, "difference")
    return folder


class Started:
    """A server that the image's own program has started."""

    def __init__(self, release: Path, folder: Path, *further: str, model_control: str = "none"):
        installation = find_installation()
        ports = Ports.choose("127.0.0.1", 0, 0, 0)
        settings = ServerSettings(str(release), model_control, "127.0.0.1")
        options = server_options(read_subject(release), WHEEL, settings)
        for name, port in (("http", ports.http), ("grpc", ports.grpc), ("metrics", ports.metrics)):
            options = [f"--{name}-port={port}" if one.startswith(f"--{name}-port=") else one for one in options]
        (folder / "tritonserver.args").write_text("\n".join(options) + "\n")
        (folder / "key").write_text(f"{KEY}\n")
        link_package(folder)
        backends = assemble_backends(installation, folder / "backends")
        program = [sys.executable, "-I", start_program.__file__, "--release", release, "--server", installation.binary]
        program += ["--options", folder / "tritonserver.args", "--key-file", folder / "key"]
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [*map(str, program), f"--backend-directory={backends}", *further],
                stdout=log, stderr=log, cwd=folder, env=server_environment(installation), start_new_session=True,
            )  # fmt: skip
        self.metrics = f"http://127.0.0.1:{ports.metrics}"
        self.url, self.grpc = f"http://127.0.0.1:{ports.http}", f"127.0.0.1:{ports.grpc}"
        self.release, self.log = release, folder / "log"

    def probe(self, *options: str) -> int:
        """Run the image's probe."""
        argv = ["--release", str(self.release), "--url", self.url, *options]
        return probe_program.main(argv)

    def wait(self) -> None:
        deadline = time.monotonic() + 60
        while self.probe():
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """A packaged release as `package` starts it, key and all."""
    folder = tmp_path_factory.mktemp("image")
    running = Started(release_in(tmp_path_factory.mktemp("release")), folder)
    try:
        running.wait()
        yield running
    finally:
        assert running.stop() == 0


def test_the_probe_asks_the_release_s_sample(started, capsys):
    assert started.probe() == 0 and started.probe("--alive") == 0
    stats = functools.partial(ask_json, f"{started.url}/v2/models/difference/stats")
    before = settled(stats)["model_stats"][0]["inference_count"]
    assert started.probe() == 0
    assert settled(stats)["model_stats"][0]["inference_count"] == before + 1
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("v2/repository/index", {}),
        ("v2/repository/models/difference/unload", {}),
        ("v2/repository/models/evil/load", {"parameters": {"file:1/model.py": "cHJpbnQoMSk="}}),
        ("v2/systemsharedmemory/status", None),
        ("v2/systemsharedmemory/region/mine/register", {"key": "/x", "offset": 0, "byte_size": 4}),
        ("v2/trace/setting", {"trace_file": "/tmp/written"}),
        ("v2/logging", {"log_file": "/tmp/written"}),
    ],
)
def test_strangers_control_nothing(started, path, body):
    with pytest.raises(InferenceError, match=r"403|restricted"):
        ask_json(f"{started.url}/{path}", body=body)
    assert started.probe() == 0


def test_the_key_opens_them_over_both_protocols(started):
    header = {"mmdeploy-control-key": KEY}
    index = ask_json(f"{started.url}/v2/repository/index", body={}, headers=header)
    assert {one["name"] for one in index} == {"difference", "negated", "positive", "summed"}
    with InferenceServerClient(started.grpc) as client:
        with pytest.raises(InferenceServerException, match=r"[Rr]estricted|expecting header"):
            client.get_model_repository_index()
        opened = client.get_model_repository_index(headers={"triton-grpc-protocol-mmdeploy-control-key": KEY})
        assert len(opened.models) == 4


def test_the_metrics_that_the_autoscaler_is_fed_by_are_there(started):
    with urllib.request.urlopen(f"{started.metrics}/metrics", timeout=60) as answer:
        text = answer.read().decode()
    assert 'nv_inference_request_success{model="difference"' in text
    assert all(f'nv_inference_queue_duration_us{{model="{name}"' in text for name in ("positive", "summed"))
    assert 'nv_inference_request_summary_us{model="positive"' in text


def test_without_model_control_nobody_loads_even_with_the_key(started):
    with pytest.raises(InferenceError, match=r"not allowed|polling"):
        ask_json(f"{started.url}/v2/repository/models/difference/load", body={}, headers={"mmdeploy-control-key": KEY})


def test_a_model_that_refuses_is_neither_ready_nor_alive(started, tmp_path, capsys):
    (tmp_path / "manifest.json").write_text(json.dumps({"name": "difference"}))
    (tmp_path / "sample_request.headers").write_text("Content-Type: application/json\n")
    (tmp_path / "sample_request.json").write_text(json.dumps(request_json({"w": tiny.rows(2.0)})))
    argv = ["--release", str(tmp_path), "--url", started.url]
    assert probe_program.main(argv) == 1 and probe_program.main([*argv, "--alive"]) == 1
    assert "difference answers with 400" in capsys.readouterr().out


def test_a_dead_step_is_neither_ready_nor_alive_though_triton_says_it_is(tmp_path):
    (tmp_path / "image").mkdir()
    # A server whose step has died waits in vain for what it was asked when it is to end.
    quick = "--exit-timeout-secs=1"
    running = Started(release_in(tmp_path / "release"), tmp_path / "image", quick, model_control="explicit")
    try:
        running.wait()
        living_processes.stub(running.process.pid, "positive").kill()
        deadline = time.monotonic() + 60
        while running.probe("--alive") == 0:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert running.probe() == 1
        assert ask_json(f"{running.url}/v2/health/ready") is None  # 200: ready, says Triton
        for request in ("unload", "load"):
            ask_json(
                f"{running.url}/v2/repository/models/positive/{request}", body={},
                headers={"mmdeploy-control-key": KEY},
            )  # fmt: skip
        assert running.probe() == 0
    finally:
        running.stop()


def test_nothing_starts_on_a_release_that_was_changed(tmp_path):
    release = release_in(tmp_path / "release")
    (release / "positive/1/extra.py").write_text("")
    program = [sys.executable, "-I", start_program.__file__, "--release", str(release), "--server", "/bin/true"]
    ended = subprocess.run(program, capture_output=True, text=True, check=False, env=os.environ)
    assert ended.returncode == 3 and "positive/1/extra.py is not in manifest.json" in ended.stderr
