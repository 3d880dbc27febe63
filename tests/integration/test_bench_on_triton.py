"""A real Triton under load: what is counted, what goes over the wire, and what perf_analyzer says of it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny_triton_repository as tiny
import yaml
from click.testing import CliRunner

from mmdeploy.cli.bench import command
from mmdeploy.core.errors import InferenceError
from mmdeploy.performance.bench import run
from mmdeploy.performance.generator import Loop
from mmdeploy.performance.grpc_wire import WireConnection
from mmdeploy.performance.measure import Limits, measure
from mmdeploy.performance.perf_files import write_perf_files
from mmdeploy.performance.prepared import Prepared
from mmdeploy.performance.samples import find
from mmdeploy.performance.target import GrpcTarget, open_target
from mmdeploy.triton import server

pytestmark = pytest.mark.triton

SHORT = Limits(window_s=0.2, max_seconds=60.0, stability=100.0)


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loaded")
    cached = tiny.config("looked_up")
    cached.response_cache.enable = True
    parts = [tiny.config(name) for name in ("positive", "negated", "summed", "sized")]
    repository = tiny.write(folder / "repository", *parts, cached, tiny.ensemble())
    with server.start([repository], log=folder / "triton.log", response_cache_bytes=2**20) as started:
        yield started


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "rows.npz"
    rows = np.arange(20, dtype=np.float32).reshape(5, 4)
    np.savez(path, u=rows, v=rows + 1)
    return path


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_every_request_is_counted_by_the_models_that_it_meets(running, data, protocol):
    target = open_target(running.grpc_url if protocol == "grpc" else running.http_url, "difference")
    assert set(target.steps()) == {"positive", "negated", "summed"}
    measured = run(target, find(target, data=data), [Loop(concurrency=2), Loop(rate_per_s=100)], SHORT)
    assert measured.stable
    for point in measured.points:
        assert point.failed == 0
        whole, sink = point.components["difference"], point.components["summed"]
        # What was in flight at the ends of the windows, and what came while a busy machine was asked for statistics.
        assert whole.count == pytest.approx(point.requests, rel=0.4, abs=20)
        assert sink.count == pytest.approx(whole.count, rel=0.1, abs=20)
        assert sink.rows == sink.executions * sink.batch
        assert sum(batch.executions for batch in sink.batches) == sink.executions
        assert 0 < sink.compute_ms < point.mean_ms


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_it_is_told_that_a_cache_answered(running, tmp_path, protocol):
    np.savez(tmp_path / "ids.npz", tokens=np.array([[0, 1], [2, 3], [4, 4]]))
    target = open_target(running.grpc_url if protocol == "grpc" else running.http_url, "looked_up")
    measured = run(target, find(target, data=tmp_path / "ids.npz"), [Loop(concurrency=1)], SHORT)
    assert any("the response cache answered 100% of the requests to looked_up" in note for note in measured.notes())
    assert measured.to_json()["closed"][0]["components"]["looked_up"]["cache_hits"] > 0


def test_refusals_by_the_wire_are_those_of_the_library(running):
    target = open_target(running.grpc_url, "positive")
    wrong = target.prepared({"x": np.zeros((1, 3), np.float32)})
    with target.connect(1) as connections:
        assert isinstance(connections[0], WireConnection)
        with pytest.raises(InferenceError) as by_wire:
            connections[0].ask(wrong)
        connections[0].ask(target.prepared({"x": np.zeros((1, 4), np.float32)}))  # the connection goes on
    with pytest.raises(InferenceError) as by_library, running.runner("positive") as runner:
        runner.infer({"x": np.zeros((1, 3), np.float32)})
    assert by_wire.value.message in by_library.value.message
    assert by_wire.value.message.endswith("(INVALID_ARGUMENT)")


def test_a_request_beyond_every_window_of_the_protocol_arrives(running):
    target = open_target(running.grpc_url, "sized")
    large = target.prepared({"x": np.ones((8, 250_000), np.float32)})
    with target.connect(1) as connections:
        for _ in range(3):
            connections[0].ask(large)
    point = measure(target, [large], Loop(concurrency=2), SHORT)
    assert point.failed == 0
    assert point.components["sized"].rows == 8 * point.components["sized"].count


def test_where_the_wire_is_not_understood_the_library_asks(running, monkeypatch):
    monkeypatch.setattr(WireConnection, "understands", lambda self: False)
    target = open_target(running.grpc_url, "positive")
    good, wrong = (target.prepared({"x": np.zeros((1, size), np.float32)}) for size in (4, 3))
    with target.connect(3) as connections:
        assert not any(isinstance(one, WireConnection) for one in connections)
        connections[2].ask(good)
        with pytest.raises(InferenceError, match="INVALID_ARGUMENT"):
            connections[0].ask(wrong)


def test_bytes_that_are_no_request_are_refused_and_the_server_lives(running):
    target = open_target(running.grpc_url, "positive")
    with target.connect(1) as connections, pytest.raises(InferenceError):
        connections[0].ask(Prepared(b"\xff" * 100))
    assert isinstance(open_target(running.grpc_url, "positive"), GrpcTarget)


def test_the_command_says_all_of_it(running, data):
    arguments = [running.grpc_url, "--model", "difference", "--data", str(data), "--concurrency", "1,2", "--rate", "50"]
    quick = ["--window", "0.2", "--max-seconds", "1", "--stability", "100"]
    told = CliRunner().invoke(command, [*arguments, *quick], standalone_mode=False)
    assert told.return_value == 0, told.output
    assert max(map(len, told.output.splitlines())) <= 110
    for word in ("1 client ", "2 clients", "50/s", "summed", "5 different samples"):
        assert word in told.output
    as_json = CliRunner().invoke(command, [*arguments, *quick, "--json"], standalone_mode=False)
    assert [point["concurrency"] for point in json.loads(as_json.output)["closed"]] == [1, 2]


def test_what_never_settles_ends_with_exit_code_5(running, data):
    arguments = [running.grpc_url, "--model", "difference", "--data", str(data), "--concurrency", "1"]
    never = ["--window", "0.1", "--max-seconds", "0.2"]  # fewer windows than must agree
    told = CliRunner().invoke(command, [*arguments, *never], standalone_mode=False)
    assert told.return_value == 5
    assert "unstable" in told.output


def test_ctrl_c_shows_what_was_measured(running, data, tmp_path):
    arguments = [
        running.grpc_url,
        "--model",
        "difference",
        "--data",
        str(data),
        "--concurrency",
        "1",
        "--stability",
        "0.1",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "mmdeploy", "bench", *arguments, "--window", "0.2", "--max-seconds", "100", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    before = open_target(running.grpc_url, "difference")
    counted = len(before.statistics())
    assert counted
    asked = sum(int(one.get("inference_count", 0)) for one in before.statistics())
    while sum(int(one.get("inference_count", 0)) for one in before.statistics()) < asked + 200:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    (point,) = json.loads(output)["closed"]
    assert point["interrupted"] is True
    assert point["requests"] > 0


def test_the_tools_of_nvidia_get_files_that_they_read(running, data, tmp_path):
    target = open_target(running.grpc_url, "difference")
    rows, analyzer = write_perf_files(tmp_path, target, find(target, data=data), release=tmp_path)
    assert find(target, data=rows).samples == 5
    told = yaml.safe_load(analyzer.read_text())
    assert told["profile_models"]["difference"]["perf_analyzer_flags"]["input-data"] == [str(rows)]
    assert told["cpu_only_composing_models"] == ["negated", "positive", "summed"]


def test_perf_analyzer_says_the_same_of_the_same_server(running, data, tmp_path):
    """Only that both count the same things: how close they are is measured by a benchmark, on a quiet machine."""
    binary = shutil.which(os.environ.get("MMDEPLOY_PERF_ANALYZER", "perf_analyzer"))
    if binary is None:
        pytest.skip("perf_analyzer is not on PATH, and MMDEPLOY_PERF_ANALYZER does not name it")
    target = open_target(running.grpc_url, "difference")
    rows, _ = write_perf_files(tmp_path, target, find(target, data=data), release=None)
    ours = measure(
        target, [target.prepared(feed) for feed in find(target, data=data).feeds], Loop(concurrency=2), SHORT
    )
    asked = [binary, "-m", "difference", "-u", target.address, "-i", "grpc", "--input-data", str(rows)]
    load = ["--concurrency-range", "2", "--measurement-interval", "300", "--stability-percentage", "90"]
    theirs = subprocess.run(
        [*asked, *load, "-f", str(tmp_path / "out.csv")], capture_output=True, text=True, check=False
    )
    assert theirs.returncode == 0, theirs.stdout + theirs.stderr
    head, values = (line.split(",") for line in (tmp_path / "out.csv").read_text().splitlines()[:2])
    throughput = float(values[head.index("Inferences/Second")])
    assert 0.3 < ours.throughput_per_s / throughput < 3
