"""Measure what the gateway adds over asking Triton directly.

    python benchmarks/gateway.py model_repository/spoken_digits [--rounds 5] [--requests 200] [--json result.json]

A gateway is started on a published release as its users start it, and the sample that the release knows is asked in
turns, a block each a round, in an order that turns: of Triton by gRPC and by HTTP as KServe v2 JSON, of the gateway as
JSON and as a form of .npy files or files. What is added, and every ratio, is the median over the rounds of what the
blocks of one round come to: what else runs on the machine hits both. Ends with 1 where one client waits more than
`--limit` times as long for the gateway's answer to a form as for Triton's own to JSON.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from mmdeploy.core.target import this_hardware
from mmdeploy.triton.client import GrpcRunner, HttpRunner
from mmdeploy.triton.known_samples import read_samples
from mmdeploy.triton.outer_ensembles import outer_ensembles
from mmdeploy.triton.repository import resolve

Ask = Callable[[], object]
Sample = Mapping[str, Any]
WAYS = ("Triton, gRPC", "Triton, JSON", "gateway, JSON", "gateway, form")


def ways(url: str, grpc: str, http: str, model: str, sample: Sample) -> dict[str, Ask]:
    """Return the ways to ask, each with a connection of its own."""
    batch = {name: array[None] for name, array in sample.items()}
    by_grpc, by_http = GrpcRunner(grpc, model), HttpRunner(http, model)
    client = httpx.Client(base_url=url, timeout=60, trust_env=False)
    inputs = {name: _as_json(array) for name, array in sample.items()}
    form = {name: ("file", _as_file(array)) for name, array in sample.items()}

    def asked(**body: Any) -> None:
        client.post("/infer", params={"model": model}, **body).raise_for_status()

    return {
        "Triton, gRPC": lambda: by_grpc.infer(batch),
        "Triton, JSON": lambda: by_http.infer(batch),
        "gateway, JSON": lambda: asked(json={"inputs": inputs}),
        "gateway, form": lambda: asked(files=form),
    }


def _as_json(array: Any) -> Any:
    if array.dtype == object:
        return {"base64": base64.b64encode(array.reshape(-1)[0]).decode()}
    return array.tolist()


def _as_file(array: Any) -> bytes:
    if array.dtype == object:
        return bytes(array.reshape(-1)[0])
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def block(asks: list[Ask], requests: int) -> tuple[float, float]:
    """Ask by several clients at once; return the median latency in ms, and requests a second."""

    def one(ask: Ask) -> list[float]:
        latencies = []
        for _ in range(requests // len(asks)):
            started = time.perf_counter()
            ask()
            latencies.append((time.perf_counter() - started) * 1000)
        return latencies

    started = time.perf_counter()
    with ThreadPoolExecutor(len(asks)) as pool:
        latencies = [latency for found in pool.map(one, asks) for latency in found]
    return statistics.median(latencies), len(latencies) / (time.perf_counter() - started)


def measure(
    started: tuple[str, str, str], model: str, sample: Sample, given: argparse.Namespace
) -> list[dict[str, Any]]:
    """Return a row for each way and number of clients."""
    rows = []
    for clients in (1, 8):
        opened = [ways(*started, model, sample) for _ in range(clients)]
        found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
        for way in WAYS:
            block([one[way] for one in opened], 5 * clients)
        for at in range(given.rounds):
            for way in (*WAYS[at % len(WAYS) :], *WAYS[: at % len(WAYS)]):
                found[way].append(block([one[way] for one in opened], given.requests))
        for way in WAYS:
            pairs = [*zip(found[way], found["Triton, gRPC"], strict=True)]
            rows.append(
                {
                    "clients": clients,
                    "way": way,
                    "p50_ms": statistics.median(own[0] for own in found[way]),
                    "of_json": statistics.median(
                        own[0] / json_[0] for own, json_ in zip(found[way], found["Triton, JSON"], strict=True)
                    ),
                    "added_ms": statistics.median(own[0] - direct[0] for own, direct in pairs),
                    "requests_per_s": statistics.median(own[1] for own in found[way]),
                    "throughput_ratio": statistics.median(own[1] / direct[1] for own, direct in pairs),
                }
            )
    return rows


def main() -> int:
    """Measure, print a table, and judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("repository", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--limit", type=float, default=2.0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was started here is stopped then, too
    repositories = resolve(given.repository)
    model = outer_ensembles(repositories)[0].name
    sample = read_samples(repositories)[model]
    sample = {name: array for name, array in sample.items() if not name.endswith("_present")}
    command = [sys.executable, "-m", "mmdeploy", "gateway", str(given.repository.resolve()), "--port", "0"]
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=os.environ, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            assert process.stdout is not None
            said = "".join(iter(process.stdout.readline, "Ctrl-C stops it.\n"))
            found = re.search(r"(http://\S+).*Triton +(\S+), (\S+)\n", said, re.DOTALL)
            assert found is not None, said
            rows = measure((found[1], found[2], found[3]), model, sample, given)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
    print(f"{model} on {this_hardware()}")
    for row in rows:
        print(
            f"{row['clients']} clients  {row['way']:15} p50 {row['p50_ms']:7.2f} ms  added {row['added_ms']:+6.2f} ms  "
            f"{row['requests_per_s']:7.1f}/s  {row['throughput_ratio']:.2f} of gRPC's"
        )
    if given.json:
        given.json.write_text(json.dumps({"hardware": str(this_hardware()), "model": model, "rows": rows}, indent=1))
    ratio = next(row["of_json"] for row in rows if row["clients"] == 1 and row["way"] == "gateway, form")
    print(f"a form takes {ratio:.2f} times as long as Triton's own JSON; the limit is {given.limit:g}")
    return 0 if ratio <= given.limit else 1


if __name__ == "__main__":
    sys.exit(main())
