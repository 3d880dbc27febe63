"""A real Prometheus that reads a Triton, with rules of ours in short windows, and clients that keep it busy."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import living_processes
import numpy as np
import tiny_triton_repository as tiny
from free_ports import free_port
from prometheus_binaries import binary
from tritonclient.grpc import model_config_pb2

from mmdeploy.core.errors import InferenceError
from mmdeploy.gateway.problems import Refused
from mmdeploy.gateway.upstream import Upstream
from mmdeploy.packaging.monitoring.measured import Measured, Part
from mmdeploy.packaging.monitoring.options import MonitoringOptions
from mmdeploy.packaging.monitoring.rules import groups_of, prometheus_config, rule_file
from mmdeploy.triton.server import Server

#: What the machine does besides is nothing that a test of alerts may depend on.
OF_THE_MACHINE = {"MmdeployMemoryHigh", "MmdeployMemoryGrowing", "MmdeployGpuMemoryHigh"}
#: More requests than it answers in time wait. That models compute longer then, too, is the machine's.
OF_OVERLOAD = {"MmdeployQueueLong", "MmdeployLatencyHigh", "MmdeployLatencyVeryHigh", "MmdeployComponentSlow"}
#: At this scale half a second in which the machine does something else is told of.
OF_A_BUSY_MACHINE = OF_OVERLOAD | {"MmdeployTritonDown", "MmdeployGatewayDown", "MmdeployGatewaySlow"}
BOUND = 100.0
_PARTS = ("positive", "negated", "summed")


def known(**changes: object) -> Measured:
    """Return what is known of the ensemble ``pair``, with limits that a busy machine keeps."""
    parts = tuple(Part(f"pair.{name}", 5.0, 0.0, 1, 8, False) for name in _PARTS)
    allowed = {"mean": 40.0, "p50": 40.0, "p95": 60.0, "p99": 80.0}
    fields: dict[str, object] = {"allowed_ms": allowed, "allowed_by": "a test"}
    return Measured("pair", "a-build", "this machine", parts, **(fields | changes))  # type: ignore[arg-type]


def repository(folder: Path) -> Path:
    """Write an ensemble ``pair``: relu(u) - v, where v is refused beyond some bounds."""
    parts = [tiny.config(name) for name in _PARTS]
    for part in parts:
        if part.name == "negated":
            part.parameters["mmdeploy.inputs"].string_value = json.dumps({"x": {"range": [-BOUND, BOUND]}})
    whole = tiny.ensemble()
    tiny.write(folder, *parts, whole)
    for model in (*parts, whole):
        _rename(folder, model)
    return folder


def _rename(folder: Path, model: model_config_pb2.ModelConfig) -> None:
    from google.protobuf import text_format

    old, model.name = model.name, "pair" if model.name == "difference" else f"pair.{model.name}"
    for step in model.ensemble_scheduling.step:
        step.model_name = f"pair.{step.model_name}"
    (folder / old).rename(folder / model.name)
    (folder / model.name / "config.pbtxt").write_text(text_format.MessageToString(model))


def feeds(v: float = 1.0) -> dict[str, np.ndarray]:
    return {"u": np.ones((1, 4), np.float32), "v": np.full((1, 4), v, np.float32)}


@dataclass
class Clients:
    """Threads that ask in a loop until they are told to end.

    Attributes:
        answered: Requests that were answered.
        failed: Requests that were not.
    """

    server: Server
    answered: int = 0
    failed: int = 0
    _end: threading.Event = field(default_factory=threading.Event)

    def ask(self, v: float, pause_s: float) -> None:
        with self.server.runner("pair", timeout_s=60) as runner:
            while not self._end.is_set():
                try:
                    runner.infer(feeds(v))
                    self.answered += 1
                except InferenceError:
                    self.failed += 1
                self._end.wait(pause_s)


@contextlib.contextmanager
def asking(server: Server, clients: int = 4, *, v: float = 1.0, pause_s: float = 0.02) -> Iterator[Clients]:
    """Keep a server busy."""
    asked = Clients(server)
    threads = [threading.Thread(target=asked.ask, args=(v, pause_s)) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield asked
    finally:
        asked._end.set()
        for thread in threads:
            thread.join()


@contextlib.contextmanager
def slowed(server: Server, model: str, *, stopped_s: float = 0.1, running_s: float = 0.003) -> Iterator[None]:
    """Let a model's process run a small share of the time only."""
    process, end = living_processes.stub(server.pid, model), threading.Event()

    def hold() -> None:
        while not end.is_set():
            process.send_signal(signal.SIGSTOP)
            time.sleep(stopped_s)
            process.send_signal(signal.SIGCONT)
            time.sleep(running_s)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()
        process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def flooded(server: Server, in_flight: int = 500) -> Iterator[None]:
    """Keep more requests under way than the server answers in time."""
    end = threading.Event()

    async def ask(upstream: Upstream) -> None:
        while not end.is_set():
            with contextlib.suppress(Refused):
                await upstream.infer("pair", feeds())

    async def flood() -> None:
        upstream = Upstream(server.grpc_url, timeout_s=60)
        await asyncio.gather(*(ask(upstream) for _ in range(in_flight)))
        await upstream.close()

    thread = threading.Thread(target=lambda: asyncio.run(flood()))
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus."""

    url: str

    def query(self, expr: str, at: float | None = None) -> dict[str, float]:
        """Return the values of an expression, by the alert's name or the labels as text."""
        asked = {"query": expr} | ({} if at is None else {"time": str(at)})
        with urllib.request.urlopen(f"{self.url}/api/v1/query?{urllib.parse.urlencode(asked)}", timeout=60) as reply:
            result = json.load(reply)["data"]["result"]
        return {
            one["metric"].get("alertname") or json.dumps(one["metric"], sort_keys=True): float(one["value"][1])
            for one in result
        }

    def fired(self, since: float) -> set[str]:
        """Return the alerts that fired at any time since, without those of the machine."""
        ago = max(1, round((time.time() - since) * 1000))
        found = self.query(f'count by (alertname) (count_over_time(ALERTS{{alertstate="firing"}}[{ago}ms]))')
        return set(found) - OF_THE_MACHINE

    def firing(self) -> set[str]:
        """Return the alerts that fire now."""
        return set(self.query('count by (alertname) (ALERTS{alertstate="firing"})')) - OF_THE_MACHINE

    def wait_until(self, condition: Callable[[], bool], within_s: float) -> bool:
        """Wait for something; return whether it came."""
        deadline = time.monotonic() + within_s
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.2)
        return True


@contextlib.contextmanager
def prometheus(folder: Path, measured: Measured, options: MonitoringOptions) -> Iterator[Prometheus]:
    """Start a Prometheus on the rules of a release."""
    folder.mkdir(parents=True)
    (folder / "rules.yml").write_text(rule_file(measured, groups_of(measured, options)))
    (folder / "prometheus.yml").write_text(prometheus_config(options, "rules.yml"))
    port = free_port()
    command = [
        binary("prometheus"), f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn",
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        running = Prometheus(f"http://127.0.0.1:{port}")
        assert running.wait_until(lambda: _ready(running, process), 60), (folder / "log").read_text()
        # It takes some seconds before it looks for targets, which are a long time at this scale.
        assert running.wait_until(lambda: bool(running.query("up == 1")), 60)
        unwatched = {"MmdeployTritonUnwatched"} if options.triton_targets else set()
        assert running.wait_until(lambda: not running.firing() & unwatched, 60)
        yield running
    finally:
        process.terminate()
        process.wait(60)


def _ready(running: Prometheus, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, "Prometheus ended"
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{running.url}/-/ready", timeout=10):
        return True
    return False
