"""Measure the embedded ensemble against the same ONNX Runtime sessions in process.

    python benchmarks/embedded_serving.py [--case tiny vit_s] [--points 1x1 8x8] [--rounds 5] [--out result.json]

Three ways to run the same chain of sessions, with the same session options, are measured in turn, a block
each a round, in an order that turns: in process, over gRPC, over HTTP with binary tensors. At concurrency n,
n threads ask at once; served, each has a connection of its own, and Triton batches. Ratios are medians over
the rounds, so that what else runs on the machine hits both sides of a ratio.

Where the time goes is told by Triton's own statistics (queue, compute) and by the session's time in process:
what is left of a model's compute is the way to its stub process and back, what is left of the whole is
client, network and ensemble.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from serving_models import Case, Feed, tiny_case, vit_case, write_repository

from mmdeploy.core.sessions import open_session
from mmdeploy.core.target import this_hardware
from mmdeploy.triton import server
from mmdeploy.triton.client import GrpcRunner, HttpRunner
from mmdeploy.triton.http import ask_json

Ask = Callable[[Feed], Mapping[str, Any]]
POINTS = ((1, 1), (8, 1), (1, 8), (8, 8))
WAYS = ("in_process", "grpc", "http")


@dataclass
class Way:
    """Measurements of one way at one batch size and concurrency, a block a round."""

    latencies_ms: list[list[float]] = field(default_factory=list)
    samples_per_s: list[float] = field(default_factory=list)

    def percentile_ms(self, percent: float) -> list[float]:
        """Return the percentile of each block."""
        return [float(np.percentile(block, percent)) for block in self.latencies_ms]


@dataclass(frozen=True)
class Row:
    """One line of the table: a served way against in process, medians over the rounds."""

    case: str
    batch: int
    concurrency: int
    way: str
    p50_ms: float
    p95_ms: float
    added_p50_ms: float
    added_p95_ms: float
    p50_ratio: float
    throughput_per_s: float
    throughput_ratio: float


class Chain:
    """The case's sessions in process, run one after the other."""

    def __init__(self, case: Case, graphs: Path) -> None:
        self.case = case
        self.sessions = {
            name: open_session(graphs / f"{name}.onnx", step.parameters) for name, step in case.steps.items()
        }
        self.seconds = dict.fromkeys(case.steps, 0.0)
        self.runs = 0

    def __call__(self, feed: Feed) -> Feed:
        """Answer as the ensemble does."""
        tensors = dict(feed)
        for name, step in self.case.steps.items():
            start = time.perf_counter()
            inputs = {key: tensors[tensor] for key, tensor in step.input_map.items()}
            answers = self.sessions[name].run(list(step.output_map), inputs)
            tensors |= zip(step.output_map.values(), answers, strict=True)
            self.seconds[name] += time.perf_counter() - start
        self.runs += 1
        return tensors


def block(asks: list[Ask], feeds: list[Feed], requests: int) -> tuple[list[float], float]:
    """Send requests from as many threads as there are asks; return latencies in ms and the wall time in s."""
    share = requests // len(asks)
    barrier = threading.Barrier(len(asks) + 1)

    def work(ask: Ask) -> list[float]:
        times = []
        barrier.wait()
        for index in range(share):
            feed = feeds[index % len(feeds)]
            start = time.perf_counter()
            ask(feed)
            times.append((time.perf_counter() - start) * 1e3)
        return times

    with ThreadPoolExecutor(len(asks)) as pool:
        futures = [pool.submit(work, ask) for ask in asks]
        barrier.wait()
        start = time.perf_counter()
        latencies = [value for future in futures for value in future.result()]
        return latencies, time.perf_counter() - start


def measure(
    case: Case, graphs: Path, running: server.Server, *, rounds: int, points: list[tuple[int, int]]
) -> tuple[list[Row], dict[str, Any]]:
    """Measure points (batch, concurrency) of a case; return the table and where the time goes."""
    rows: list[Row] = []
    chain = Chain(case, graphs)
    most = max(concurrency for _, concurrency in points)
    grpc = [GrpcRunner(running.grpc_url, "ensemble") for _ in range(most)]
    http = [HttpRunner(running.http_url, "ensemble", binary=True) for _ in range(most)]
    asks: dict[str, list[Ask]] = {
        "in_process": [chain] * most,
        "grpc": [runner.infer for runner in grpc],
        "http": [runner.infer for runner in http],
    }
    _require_equal(case, asks)
    for batch, concurrency in points:
        requests = case.blocks[batch, concurrency]
        feeds = [case.feed(batch) for _ in range(4)]
        results = {way: Way() for way in WAYS}
        for round_ in range(-1, rounds):  # the first warms up
            for way in WAYS[round_ % 3 :] + WAYS[: round_ % 3]:
                latencies, wall_s = block(asks[way][:concurrency], feeds, requests)
                if round_ >= 0:
                    results[way].latencies_ms.append(latencies)
                    results[way].samples_per_s.append(len(latencies) * batch / wall_s)
        rows += [_row(case.name, batch, concurrency, way, results) for way in WAYS]
        for row in rows[-len(WAYS) :]:
            print_row(row)
    shares = {way: where_time_goes(case, chain, asks[way][0], running) for way in ("grpc", "http")}
    for runner in (*grpc, *http):
        runner.close()
    return rows, shares


def _require_equal(case: Case, asks: Mapping[str, list[Ask]]) -> None:
    feed = case.feed(2)
    expected = asks["in_process"][0](feed)
    for way in ("grpc", "http"):
        for name, array in asks[way][0](feed).items():
            np.testing.assert_array_equal(array, expected[name], err_msg=f"{way}: {name}")


def _row(case: str, batch: int, concurrency: int, way: str, results: Mapping[str, Way]) -> Row:
    ours, base = results[way], results["in_process"]
    p50, base_p50 = ours.percentile_ms(50), base.percentile_ms(50)
    p95, base_p95 = ours.percentile_ms(95), base.percentile_ms(95)

    def median(values: Any) -> float:
        return round(statistics.median(values), 4)

    pairs = list(zip(p50, base_p50, strict=True))
    rates = list(zip(ours.samples_per_s, base.samples_per_s, strict=True))
    return Row(
        case=case,
        batch=batch,
        concurrency=concurrency,
        way=way,
        p50_ms=median(p50),
        p95_ms=median(p95),
        added_p50_ms=median(a - b for a, b in pairs),
        added_p95_ms=median(a - b for a, b in zip(p95, base_p95, strict=True)),
        p50_ratio=median(a / b for a, b in pairs),
        throughput_per_s=median(ours.samples_per_s),
        throughput_ratio=median(a / b for a, b in rates),
    )


def where_time_goes(case: Case, chain: Chain, ask: Ask, running: server.Server) -> dict[str, Any]:
    """Split the mean latency at batch 1, concurrency 1; milliseconds."""
    requests = case.blocks[1, 1]
    feeds = [case.feed(1)]
    before, seconds, runs = _statistics(running), dict(chain.seconds), chain.runs
    latencies, _ = block([ask], feeds, requests)
    after = _statistics(running)
    block([chain], feeds, requests)
    runs = chain.runs - runs
    whole = statistics.fmean(latencies)
    parts: dict[str, Any] = {"latency_ms": round(whole, 3), "steps": {}}
    served = 0.0
    for model in (*case.steps, "ensemble"):
        spent = {key: (after[model][key] - before[model][key]) / requests / 1e6 for key in after[model]}
        if model == "ensemble":
            served = spent["success"]
            continue
        session = (chain.seconds[model] - seconds[model]) / runs * 1e3
        parts["steps"][model] = {
            "queue_ms": round(spent["queue"], 3),
            "session_ms": round(session, 3),
            "stub_process_ms": round(spent["compute_infer"] - session, 3),
            "tensors_ms": round(spent["compute_input"] + spent["compute_output"], 3),
        }
    parts["ensemble_ms"] = round(served, 3)
    parts["client_and_network_ms"] = round(whole - served, 3)
    return parts


def _statistics(running: server.Server) -> dict[str, dict[str, int]]:
    answer = ask_json(f"{running.http_url}/v2/models/stats")
    keys = ("success", "queue", "compute_input", "compute_infer", "compute_output")
    return {
        model["name"]: {key: int(model["inference_stats"][key]["ns"]) for key in keys}
        for model in answer["model_stats"]
    }


def verdicts(rows: list[Row]) -> dict[str, dict[str, Any]]:
    """Compare with the targets, for each served way."""

    def find(case: str, batch: int, concurrency: int, way: str) -> Row | None:
        wanted = (case, batch, concurrency, way)
        return next((row for row in rows if (row.case, row.batch, row.concurrency, row.way) == wanted), None)

    found: dict[str, dict[str, Any]] = {}
    for way in ("grpc", "http"):
        tiny, vit, busy = find("tiny", 1, 1, way), find("vit_s", 1, 1, way), find("vit_s", 1, 8, way)
        if tiny:
            met = tiny.added_p50_ms <= 1.0
            found[f"{way}: tiny, added at p50 <= 1.0 ms"] = {"measured": tiny.added_p50_ms, "met": met}
        if vit:
            met = vit.p50_ratio <= 1.10
            found[f"{way}: vit_s, p50 ratio <= 1.10"] = {"measured": vit.p50_ratio, "met": met}
        if busy:
            met = busy.throughput_ratio >= 0.85
            found[f"{way}: vit_s, throughput ratio at concurrency 8 >= 0.85"] = {
                "measured": busy.throughput_ratio,
                "met": met,
            }
    return found


HEAD = (
    f"{'case':6} {'batch':>5} {'conc':>4} {'way':10} {'p50 ms':>9} {'p95 ms':>9} {'+p50 ms':>8} "
    f"{'p50 ratio':>9} {'samples/s':>9} {'kept':>6}"
)


def print_row(row: Row) -> None:
    """Print one line of the table."""
    print(
        f"{row.case:6} {row.batch:5} {row.concurrency:4} {row.way:10} {row.p50_ms:9.2f} {row.p95_ms:9.2f} "
        f"{row.added_p50_ms:8.2f} {row.p50_ratio:9.2f} {row.throughput_per_s:9.1f} {row.throughput_ratio:6.2f}",
        flush=True,
    )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", choices=("tiny", "vit_s"), default=["tiny", "vit_s"])
    names = [f"{batch}x{concurrency}" for batch, concurrency in POINTS]
    parser.add_argument("--points", nargs="+", choices=names, default=names, help="batch x concurrency")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of each encoder's session")
    parser.add_argument("--instances", type=int, default=2, help="of each encoder in Triton")
    parser.add_argument("--graphs", type=Path, help="folder to keep exported graphs in")
    parser.add_argument("--out", type=Path, help="file to write the results to, as JSON")
    arguments = parser.parse_args()
    cases = {"tiny": tiny_case(), "vit_s": vit_case(arguments.threads, arguments.instances)}
    points = [point for point, name in zip(POINTS, names, strict=True) if name in arguments.points]
    rows: list[Row] = []
    shares: dict[str, Any] = {}
    print(HEAD)
    with tempfile.TemporaryDirectory() as temporary:
        for name in arguments.case:
            case = cases[name]
            graphs = (arguments.graphs or Path(temporary)) / f"{name}_graphs"
            if not graphs.exists():
                graphs.mkdir(parents=True)
                case.write_graphs(graphs)
            repository = Path(temporary) / name
            write_repository(case, graphs, repository)
            with server.start([repository], log=Path(temporary) / f"{name}.log") as running:
                more, shares[name] = measure(case, graphs, running, rounds=arguments.rounds, points=points)
            rows += more
    targets = verdicts(rows)
    print("\nwhere the time goes, mean of batch 1, concurrency 1, ms")
    for name, ways in shares.items():
        for way, parts in ways.items():
            print(f"{name} over {way}: {json.dumps(parts)}")
    print("\ntargets")
    for target, verdict in targets.items():
        print(f"{'met   ' if verdict['met'] else 'NOT MET'} {target}: {verdict['measured']}")
    if arguments.out:
        result = {
            "hardware": this_hardware().to_json(),
            "rounds": arguments.rounds,
            "threads": arguments.threads,
            "instances": arguments.instances,
            "rows": [asdict(row) for row in rows],
            "where_the_time_goes": shares,
            "targets": targets,
        }
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
