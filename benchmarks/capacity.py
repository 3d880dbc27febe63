"""Whether the latencies that `mmdeploy capacity` reckons are those of a real Triton, at three loads.

Service times are measured as the command does it; then the server is asked at three rates of which none was measured,
and the simulation is. Two ensembles: steps that only sleep, which shows whether Triton's queues and batches are
understood, and a release, if one is named, where what runs shares the machine's cores with all else.

    python benchmarks/capacity.py --release model_repository/spoken_digits
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import sleeping_models

from mmdeploy.core.target import this_hardware
from mmdeploy.performance.generator import Loop
from mmdeploy.performance.measure import Limits, measure
from mmdeploy.performance.point import Point
from mmdeploy.performance.queueing import simulate
from mmdeploy.performance.samples import find
from mmdeploy.performance.service_measure import measure_service_times
from mmdeploy.performance.target import open_target
from mmdeploy.triton import server

#: Shares of what the server can take; the service times are measured at another.
LOADS = (0.2, 0.45, 0.65)
LIMIT = 0.15
#: Each load is put so often, in turns; figures are medians, so that what else a machine does is in few of them.
#: Steps that sleep take no core: to the simulation there are more than they can fill.
BLOCKS, SLEEPING_CORES = 5, 8


def compared(repository: Path, log: Path, *, seconds: float, release: Path | None) -> dict[str, Any]:
    """Measure the service times of a repository, then ask it and the simulation the same rates."""
    with server.start([repository], log=log) as running:
        target = open_target(running.grpc_url)
        times = measure_service_times(
            target,
            Limits(window_s=0.7, max_seconds=6),
            release=release,
            cores=None if release else SLEEPING_CORES,
            progress=lambda what: print(what, file=sys.stderr),
        )
        prepared = [target.prepared(feed) for feed in find(target, release=release).feeds]
        most = times.measured["full"]["throughput_per_s"]
        blocks: dict[float, list[Point]] = {share: [] for share in LOADS}
        whole = Limits(window_s=seconds / 3, max_seconds=seconds, stability=100.0)
        for number in range(BLOCKS):
            for share in LOADS:
                loop = Loop(rate_per_s=share * most, seed=number)
                blocks[share].append(measure(target, prepared, loop, whole))
        rows = []
        for share, points in blocks.items():
            reckoned = simulate(times.network(), rate_per_s=share * most, requests=20_000, seed=7)
            rows.append({
                "load": share, "rate_per_s": share * most, "requests": sum(point.requests for point in points),
                "mean_ms": [median(point.mean_ms for point in points), 1e3 * float(reckoned.latencies_s.mean())],
                **{
                    f"p{p}_ms": [median(point.percentile_ms(p) for point in points), 1e3 * reckoned.percentile_s(p)]
                    for p in (50, 95, 99)
                },
            })  # fmt: skip
            print(rows[-1], file=sys.stderr)
    return {"model": target.model, "most_per_s": most, "stable": times.measured["stable"], "loads": rows}


def told(results: list[dict[str, Any]]) -> str:
    """Return the result as Markdown."""
    lines = [
        "| ensemble | load | a second | figure | Triton, ms | reckoned, ms | ratio |",
        "|---|---|---:|---|---:|---:|---:|",
    ]
    for result in results:
        for row in result["loads"]:
            for name in ("mean_ms", "p50_ms", "p95_ms", "p99_ms"):
                real, reckoned = row[name]
                lines.append(
                    f"| {result['model']} | {row['load']:.0%} | {row['rate_per_s']:.0f} | {name.removesuffix('_ms')} | "
                    f"{real:.2f} | {reckoned:.2f} | {reckoned / real:.2f} |"
                )
    loads = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    lines += ["", f"{time.strftime('%Y-%m-%d')}, {this_hardware()}; load average of the machine {loads}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--release", type=Path)
    arguments.add_argument("--seconds", type=float, default=4.0, help="of a block")
    arguments.add_argument("--no-sleeping", action="store_true", help="only the release")
    arguments.add_argument("--out", type=Path, help="Markdown file to write")
    given = arguments.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        if not given.no_sleeping:
            sleeping = sleeping_models.write(Path(folder) / "sleeping")
            results.append(compared(sleeping, Path(folder) / "triton.log", seconds=given.seconds, release=None))
        if given.release:
            log = Path(folder) / "triton.log"
            results.append(compared(given.release, log, seconds=given.seconds, release=given.release))
    text = told(results)
    print(text)
    if given.out:
        given.out.write_text(text)
        given.out.with_suffix(".json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
