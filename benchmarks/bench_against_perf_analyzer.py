"""Whether `mmdeploy bench` and NVIDIA's perf_analyzer say the same of one server, asked by both in turns.

perf_analyzer 2.46 is in the wheel tritonclient==2.46.0 (``pip download --no-deps``, then unzip; it lies under
``data/bin``). It wants libcudart.so.12, which nvidia-cuda-runtime-cu12 has, on LD_LIBRARY_PATH.

    python benchmarks/bench_against_perf_analyzer.py --perf-analyzer PATH --release model_repository/spoken_digits
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from mmdeploy.core.target import this_hardware
from mmdeploy.performance.generator import Loop
from mmdeploy.performance.measure import Limits, measure
from mmdeploy.performance.perf_files import write_perf_files
from mmdeploy.performance.samples import Asked, find
from mmdeploy.performance.target import Target, open_target
from mmdeploy.triton import server

#: Within this of perf_analyzer, as a share.
LIMIT = 0.05
#: Of both, for three windows to agree: rounds are short and many, so that what else a machine does meets both alike.
STABILITY = 0.3
FIGURES = {"throughput_per_s": "Inferences/Second", "p50_ms": "p50 latency", "p90_ms": "p90 latency",
           "p95_ms": "p95 latency", "p99_ms": "p99 latency"}  # fmt: skip

Figures = dict[str, float]
Pairs = list[tuple[Figures, Figures]]


def by_perf_analyzer(binary: Path, target: Target, data: Path, loop: Loop, window_s: float) -> Figures | None:
    """Ask by perf_analyzer and return its figures, in milliseconds and a second; None where it was never steady."""
    with tempfile.TemporaryDirectory(dir=data.parent) as folder:
        table = Path(folder) / "figures.csv"
        load = (
            ["--request-rate-range", f"{loop.rate_per_s:g}", "--request-distribution", "poisson"]
            if loop.is_open
            else ["--concurrency-range", str(loop.concurrency)]
        )
        command = [
            str(binary), "-m", target.model, "-u", target.address, "-i", target.protocol, "--input-data", str(data),
            *load, "--measurement-interval", str(round(window_s * 1000)), "--stability-percentage",
            str(round(100 * STABILITY)), "-f", str(table),
        ]  # fmt: skip
        told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        if "Failed to obtain stable measurement" in told.stdout + told.stderr:
            return None
        if not table.is_file():
            raise RuntimeError(f"perf_analyzer gave no figures: {told.stdout[-800:]} {told.stderr[-800:]}")
        (row,) = csv.DictReader(table.read_text().splitlines())
    return {own: float(row[theirs]) / (1.0 if own.endswith("per_s") else 1e3) for own, theirs in FIGURES.items()}


def by_mmdeploy(target: Target, asked: Asked, loop: Loop, window_s: float) -> Figures:
    """Ask by mmdeploy and return the same figures."""
    prepared = [target.prepared(feed) for feed in asked.feeds]
    told = measure(
        target, prepared, loop, Limits(window_s=window_s, max_seconds=10 * window_s, stability=STABILITY)
    ).to_json()
    return {name: float(told[name]) for name in FIGURES}


def compared(pairs: Pairs, seed: int = 0) -> dict[str, dict[str, float]]:
    """Return the ratio mmdeploy / perf_analyzer of each figure: the geometric mean with its 95 % interval."""
    random, found = np.random.default_rng(seed), {}
    for name in FIGURES:
        logs = np.array([math.log(own[name] / theirs[name]) for own, theirs in pairs])
        means = logs[random.integers(len(logs), size=(2000, len(logs)))].mean(axis=1)
        low, high = np.exp(np.percentile(means, [2.5, 97.5]))
        found[name] = {
            "ratio": float(np.exp(logs.mean())),
            "low": float(low),
            "high": float(high),
            "mmdeploy": float(np.median([own[name] for own, _ in pairs])),
            "perf_analyzer": float(np.median([theirs[name] for _, theirs in pairs])),
        }
    return found


def interleaved(
    binary: Path, target: Target, asked: Asked, data: Path, loop: Loop, *, rounds: int, window_s: float
) -> Pairs:
    """Ask by both in turns, in the pattern ABBA; rounds in which perf_analyzer was never steady are left out."""
    pairs = []
    for number in range(rounds):
        if number % 2:
            theirs = by_perf_analyzer(binary, target, data, loop, window_s)
            own = by_mmdeploy(target, asked, dataclasses.replace(loop, seed=number), window_s)
        else:
            own = by_mmdeploy(target, asked, dataclasses.replace(loop, seed=number), window_s)
            theirs = by_perf_analyzer(binary, target, data, loop, window_s)
        if theirs is None:
            print(f"{loop}: perf_analyzer was never steady", file=sys.stderr)
            continue
        pairs.append((own, theirs))
        print(f"{loop}: {own['throughput_per_s']:.0f} and {theirs['throughput_per_s']:.0f} a second", file=sys.stderr)
    return pairs


def told(results: dict[str, dict[str, dict[str, float]]], rounds: int) -> str:
    """Return the result as Markdown."""
    lines = [
        "| load | figure | mmdeploy bench | perf_analyzer | ratio | 95 % interval |",
        "|---|---|---:|---:|---:|---|",
    ]
    for load, figures in results.items():
        for name, one in figures.items():
            lines.append(
                f"| {load} | {name} | {one['mmdeploy']:.2f} | {one['perf_analyzer']:.2f} | {one['ratio']:.3f} | "
                f"{one['low']:.3f} to {one['high']:.3f} |"
            )
    loads = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    lines += ["", f"{time.strftime('%Y-%m-%d')}, {this_hardware()}; {rounds} rounds in turns, medians; load {loads}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--perf-analyzer", type=Path, required=True)
    arguments.add_argument("--release", type=Path, required=True)
    arguments.add_argument("--concurrency", type=int, nargs="*", default=[1, 4, 8])
    arguments.add_argument("--rate", type=float, nargs="*", default=[])
    arguments.add_argument("--protocol", choices=("grpc", "http"), default="grpc")
    arguments.add_argument("--rounds", type=int, default=12)
    arguments.add_argument("--window", type=float, default=0.5)
    arguments.add_argument("--out", type=Path, help="Markdown file to write")
    given = arguments.parse_args()
    loops = [Loop(concurrency=one) for one in given.concurrency] + [Loop(rate_per_s=one) for one in given.rate]
    with (
        tempfile.TemporaryDirectory() as folder,
        server.start([given.release], log=Path(folder) / "triton.log") as running,
    ):
        target = open_target(running.http_url if given.protocol == "http" else running.grpc_url)
        asked = find(target, release=given.release)
        data, _ = write_perf_files(Path(folder), target, asked, release=given.release)
        results = {}
        for loop in loops:
            pairs = interleaved(
                given.perf_analyzer, target, asked, data, loop, rounds=given.rounds, window_s=given.window
            )
            name = f"{loop.rate_per_s:g}/s" if loop.is_open else f"{loop.concurrency} clients"
            results[f"{given.protocol}, {name}"] = compared(pairs)
    text = told(results, given.rounds)
    print(text)
    if given.out:
        given.out.write_text(text)
        given.out.with_suffix(".json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
