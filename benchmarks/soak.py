"""Bad weather for ``mmdeploy serve``: do good clients get right answers, does it come back, does its memory stay?

    python benchmarks/soak.py RELEASE [--requests 50000] --workdir DIR [--out FIGURES.json]

While good clients ask samples whose answers are known, the server gets malformed requests over HTTP and gRPC
(`malformed_requests`), clients that never finish what they say, more distinct requests than its response cache holds,
killed stubs, killed servers, and the two requests that crash the wheel's Triton.
Bad requests, slow clients and the cache may not cost a good client one answer. After what kills, each good
client is answered again within `RECOVERY_S`. No answer may be wrong at any time, and memory may not grow by more than
`GROWTH` of what it was per 10,000 malformed requests, fitted over the second half, once each of Triton's threads has
taken up what it keeps (in 2.51 some 160 MiB in all, by batches that are too large).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from malformed_requests import FATAL, KINDS, Malformed, Model, requests
from malformed_senders import Sender, model_of

from mmdeploy.core.contracts import FeedDict
from mmdeploy.core.errors import InferenceError, ServerError
from mmdeploy.core.target import this_hardware
from mmdeploy.triton.client import GrpcRunner, HttpRunner

RECOVERY_S = 10.0
_PATIENCE_S = 6 * RECOVERY_S
#: Between two strikes all clients are answered for so long.
PAUSE_S = 1.0
GROWTH = 0.05
_TOLERANCE = 1e-3


@dataclass
class Served:
    """A ``mmdeploy serve`` that runs; a context manager that stops it."""

    process: subprocess.Popen[str]
    grpc: str
    http: str
    said: list[str] = field(default_factory=list)

    @classmethod
    def start(cls, repository: Path, folder: Path, *options: object) -> Served:
        """Serve a repository on free ports, its work folder in ``folder``."""
        ports = [word for door in ("http", "grpc", "metrics") for word in (f"--{door}-port", "0")]
        process = subprocess.Popen(
            [sys.executable, "-m", "mmdeploy", "serve", str(repository), *ports, *map(str, options)],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert process.stdout is not None and process.stderr is not None
        found: dict[str, str] = {}
        for line in process.stdout:
            if match := re.match(r"  (gRPC|HTTP) +(\S+)$", line):
                found[match[1]] = match[2]
            if "Ctrl-C" in line:
                break
        if len(found) != 2:
            raise SystemExit(f"mmdeploy serve did not start: {process.stderr.read()}")
        served = cls(process, found["gRPC"], found["HTTP"])
        threading.Thread(target=lambda: served.said.extend(process.stderr or ()), daemon=True).start()
        return served

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        finally:
            self.process.kill()

    def family(self, name: str) -> list[psutil.Process]:
        """Return the living processes below it whose name holds ``name``."""
        below = psutil.Process(self.process.pid).children(recursive=True)
        found = []
        for process in below:
            with contextlib.suppress(psutil.NoSuchProcess):
                if name in process.name() and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def memory_mib(self) -> float:
        """Return the memory of the server and its stubs, shared pages counted once."""
        total = 0
        for process in (*self.family("tritonserver"), *self.family("stub")):
            with contextlib.suppress(psutil.Error):
                total += process.memory_full_info().pss
        return total / 2**20


@dataclass
class GoodClients:
    """Clients that ask samples whose answers are known, until they are stopped; a context manager.

    Attributes:
        wrong: Answers that were not what they should be.
        failed: When a request failed, by client and the clock, with what was said.
        answered: When a request was last answered, by client.
    """

    served: Served
    model: str
    feeds: Sequence[FeedDict]
    wants: Sequence[Mapping[str, Any]]
    wrong: list[str] = field(default_factory=list)
    failed: list[tuple[int, float, str]] = field(default_factory=list)
    answered: dict[int, float] = field(default_factory=dict)
    count: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> GoodClients:
        kinds: tuple[Callable[[], GrpcRunner | HttpRunner], ...] = (
            lambda: GrpcRunner(self.served.grpc, self.model, timeout_s=5),
            lambda: HttpRunner(self.served.http, self.model, timeout_s=5),
            lambda: GrpcRunner(self.served.grpc, self.model, timeout_s=5),
        )
        for number, connect in enumerate(kinds):
            self._threads.append(threading.Thread(target=self._ask, args=(number, connect), daemon=True))
            self._threads[-1].start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(20)

    def await_answers(self, since: float) -> float:
        """Wait until each client was answered a request that it sent after ``since``; return how long that took."""
        while True:
            last = [self.answered.get(number, 0.0) for number in range(len(self._threads))]
            if min(last) > since:
                return max(last) - since
            if time.monotonic() - since > _PATIENCE_S:
                raise AssertionError(f"not all clients are answered again: {self.failed[-3:]}, {self.served.said[-3:]}")
            time.sleep(0.02)

    def await_more(self, count: int) -> None:
        """Wait until more than ``count`` requests were answered in all."""
        deadline = time.monotonic() + _PATIENCE_S
        while self.count <= count:
            assert time.monotonic() < deadline, f"{self.count} answers: {self.failed[-3:]}"
            time.sleep(0.02)

    def stand(self, seconds: float) -> None:
        """Wait until all clients were answered without a failure for so long."""
        until = time.monotonic()
        while time.monotonic() - until < seconds:
            time.sleep(0.02)
            until = max([until, *(at for _, at, _ in self.failed[-1:])])

    def failures_since(self, since: float) -> list[str]:
        """Return what was said of the requests that failed since then."""
        return [reason for _, at, reason in self.failed if at >= since]

    def _ask(self, number: int, connect: Callable[[], GrpcRunner | HttpRunner]) -> None:
        source, runner = np.random.default_rng(number), None
        while not self._stop.is_set():
            which = int(source.integers(len(self.feeds)))
            sent = time.monotonic()
            try:
                runner = runner or connect()
                given = runner.infer(self.feeds[which])
            except (InferenceError, ServerError) as error:
                self.failed.append((number, sent, error.message))
                runner = None
                self._stop.wait(0.05)
                continue
            if (fault := misfit(given, self.wants[which])) is not None:
                self.wrong.append(f"sample {which}: {fault}")
            self.answered[number] = max(sent, self.answered.get(number, 0.0))
            self.count += 1
            self._stop.wait(0.002)


def misfit(given: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    """Say how an answer differs from what it should be: batches that requests share may change the last bits."""
    for name, want in wanted.items():
        if given[name].shape != want.shape:
            return f"{name} is {given[name].shape}, not {want.shape}"
        away = float(np.abs(given[name] - want).max()) / max(float(np.abs(want).max()), 1e-6)
        if not away <= _TOLERANCE:
            return f"{name} is {away:.3g} away"
    return None


def known_answers(served: Served, model: str, feeds: Sequence[FeedDict]) -> list[Mapping[str, Any]]:
    """Ask each sample alone, before anything is wrong; answers to different samples must differ."""
    with GrpcRunner(served.grpc, model) as runner:
        wants = [{name: np.array(array) for name, array in runner.infer(feed).items()} for feed in feeds]
    assert all(misfit(wants[0], other) for other in wants[1:]), "samples are told apart by their answers"
    return wants


@contextlib.contextmanager
def slow_clients(served: Served, model: Model, count: int) -> Iterator[list[socket.socket]]:
    """Hold connections open that never finish what they began to say, a byte now and then."""
    doors = [served.http.removeprefix("http://"), served.grpc]
    head = f"POST /v2/models/{model.name}/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n".encode()
    beginnings = [[head, b"", head + b"\r\n{", b"GET /v2"], [b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00", b"P"]]
    with contextlib.ExitStack() as held:
        connections = []
        for number in range(count):
            door = number % 2
            host, _, port = doors[door].rpartition(":")
            connections.append(held.enter_context(socket.create_connection((host, int(port)), timeout=5)))
            connections[-1].sendall(beginnings[door][number // 2 % len(beginnings[door])])
        yield connections


def drip(connections: Sequence[socket.socket]) -> None:
    """Say one more byte on each connection that is still open."""
    for connection in connections:
        with contextlib.suppress(OSError):
            connection.send(b"x")


def lives(process: psutil.Process) -> bool:
    """Return whether a process runs; one that is dead and not yet buried does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def growth(points: Sequence[tuple[int, float]]) -> float:
    """Return the share by which memory grows per 10,000 requests: a line through the second half of the points."""
    half = np.array(points[len(points) // 2 :], np.float64)
    slope = np.polyfit(half[:, 0], half[:, 1], 1)[0]
    return float(slope * 10_000 / half[:, 1].mean())


@dataclass
class Weather:
    """What a server goes through, and what that cost its good clients."""

    served: Served
    model: Model
    clients: GoodClients
    answers: Counter[str] = field(default_factory=Counter)
    memory: list[tuple[int, float]] = field(default_factory=list)
    recovered_s: dict[str, list[float]] = field(default_factory=dict)

    def warm_up(self, number: int = 600) -> None:
        """Have each thread of the server allocate once what the largest of these requests ask for: it keeps that."""
        self.malformed(number, kinds=("large batch", "values"))
        self.memory.clear()
        self.answers.clear()

    def malformed(
        self, number: int, *, seed: int = 0, senders: int = 4, every: int = 200, kinds: Sequence[str] = ()
    ) -> None:
        """Send malformed requests from several threads, and look at the memory now and then."""
        sent = Counter[str]()
        lock = threading.Lock()

        def send(share: int) -> None:
            with Sender(self.served.grpc, self.served.http, patience_s=0.1) as sender:
                for _, request in zip(
                    range(number // senders), requests(self.model, seed + share, kinds=kinds), strict=False
                ):
                    said = sender.send(request)
                    with lock:
                        self.answers[f"{request.door} {said}"] += 1
                        sent["all"] += 1

        threads = [threading.Thread(target=send, args=(share,), daemon=True) for share in range(senders)]
        for thread in threads:
            thread.start()
        looked = 0
        while any(thread.is_alive() for thread in threads):
            if sent["all"] >= looked:
                self.memory.append((sent["all"], self.served.memory_mib()))
                looked = sent["all"] + every
            time.sleep(0.02)

    def fill_cache(self, number: int, seed: int = 0) -> None:
        """Ask random values of the inputs that are numbers: each request is another key of the response cache."""
        source = np.random.default_rng(seed)
        with GrpcRunner(self.served.grpc, self.model.name) as runner:
            for _ in range(number):
                feed = {name: np.array(array) for name, array in self.clients.feeds[0].items()}
                for array in feed.values():
                    flat = array.reshape(-1)
                    flat[...] = source.permutation(flat)
                    if array.dtype.kind == "f":
                        flat[0] *= np.float32(source.uniform(0.5, 1.0))
                runner.infer(feed)

    def struck(self, what: str, strike: Callable[[], object], struck: psutil.Process) -> float:
        """Do what kills a process, and wait until every good client is answered again; return how long that took."""
        strike()
        patience = time.monotonic() + _PATIENCE_S
        while lives(struck):  # what it still answers is no recovery
            assert time.monotonic() < patience, f"{what}: it lives"
            time.sleep(0.005)
        since = time.monotonic()
        took = self.clients.await_answers(since)
        self.recovered_s.setdefault(what, []).append(took)
        self.clients.stand(PAUSE_S)
        return took

    def kill_stub(self, number: int) -> float:
        """Kill a stub; which one, by its number."""
        stubs = self.served.family("stub")
        stub = stubs[number % len(stubs)]
        return self.struck("a killed stub", stub.kill, stub)

    def kill_server(self) -> float:
        """Kill tritonserver."""
        server = self.served.family("tritonserver")[0]
        return self.struck("a killed server", server.kill, server)

    def crash(self, what: str) -> float:
        """Send what crashes the wheel's server."""
        data = FATAL[what](self.model)

        def strike() -> None:
            with Sender(self.served.grpc, self.served.http, patience_s=3) as sender:
                sender.send(Malformed(what, "http", data))

        return self.struck(what, strike, self.served.family("tritonserver")[0])


def feeds_of(release: Path) -> list[FeedDict]:
    """Return requests of batch 1 from the samples beside a release."""
    import base64

    from mmdeploy.core.artifact import NUMPY_BY_DTYPE

    config = json.loads((release / "sample_request.json").read_text())
    dtypes = {tensor["name"]: NUMPY_BY_DTYPE[tensor["datatype"]] for tensor in config["inputs"]}
    rows = json.loads((release / "perf_analyzer.json").read_text())["data"]
    return [
        {
            name: np.frombuffer(base64.b64decode(one["b64"]), dtypes[name]).reshape(1, *one["shape"])
            for name, one in row.items()
        }
        for row in rows
    ]


def soak(release: Path, given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run everything on one release, and return the figures."""
    name = json.loads((release / "manifest.json").read_text())["name"]
    feeds = feeds_of(release)
    options = ("--restarts", 1000, "--cache-mib", given.cache_mib)
    with Served.start(release, folder, *options) as served:
        model = model_of(served.grpc, name, feeds[0])
        clients = GoodClients(served, name, feeds, known_answers(served, name, feeds))
        weather = Weather(served, model, clients)
        figures: dict[str, Any] = {"hardware": this_hardware().to_json(), "model": name, "kinds": len(KINDS)}
        with clients:
            figures["calm"] = calm(weather, given)
            for number in range(given.kills):
                weather.kill_stub(number)
                if number % 4 == 0:
                    weather.kill_server()
                if number % 4 == 2:
                    for what in FATAL:
                        weather.crash(what)
            figures["after"] = {"answered": clients.count, "wrong": len(clients.wrong)}
        figures["recovered_s"] = {
            what: {"times": len(took), "median": float(np.median(took)), "most": max(took)}
            for what, took in weather.recovered_s.items()
        }
        figures["longest_recovery_s"] = max(map(max, weather.recovered_s.values()))
    return figures


def calm(weather: Weather, given: argparse.Namespace) -> dict[str, Any]:
    """Put a server through what may cost no good client anything."""
    clients, began = weather.clients, time.monotonic()
    weather.warm_up()
    with slow_clients(weather.served, weather.model, given.slow) as connections:
        for part in range(4):
            weather.malformed(given.requests // 4, seed=1000 * part)
            drip(connections)
            weather.fill_cache(given.requests // 40, seed=part)
    took = time.monotonic() - began
    parts = np.array_split(np.array([size for _, size in weather.memory]), 4)
    points = [(number * given.requests / len(weather.memory), size) for number, (_, size) in enumerate(weather.memory)]
    return {
        "malformed": sum(weather.answers.values()),
        "slow": given.slow,
        "seconds": took,
        "answers": dict(weather.answers.most_common()),
        "answered": clients.count,
        "failed": len(clients.failures_since(began)),
        "failures": sorted(set(clients.failures_since(began)))[:5],
        "wrong": len(clients.wrong),
        "memory_mib_by_quarter": [float(part.mean()) for part in parts],
        "growth_per_10000": growth(points),
    }


def main() -> int:
    """Run, print, write the figures where asked, and say by the exit code whether all bounds are kept."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("release", type=Path)
    options.add_argument("--requests", type=int, default=50_000)
    options.add_argument("--slow", type=int, default=200)
    options.add_argument("--kills", type=int, default=12)
    options.add_argument("--cache-mib", type=int, default=1)
    options.add_argument("--workdir", type=Path, required=True)
    options.add_argument("--out", type=Path)
    given = options.parse_args()
    given.workdir.mkdir(parents=True, exist_ok=True)
    figures = soak(given.release.resolve(), given, given.workdir)
    text = json.dumps(figures, indent=2)
    print(text)
    if given.out:
        given.out.write_text(f"{text}\n")
    kept = {
        "no failure": figures["calm"]["failed"] == 0,
        "no wrong answer": figures["after"]["wrong"] == 0,
        "memory": figures["calm"]["growth_per_10000"] <= GROWTH,
        "recovery": figures["longest_recovery_s"] <= RECOVERY_S,
    }
    print(*(f"{name}: {'kept' if one else 'BROKEN'}" for name, one in kept.items()), sep="\n")
    return 0 if all(kept.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
