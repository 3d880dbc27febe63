"""``mmdeploy bench``: put a load on a served model, and say how it bears it."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmdeploy.cli.options import Finite
from mmdeploy.cli.output import Output, output_options
from mmdeploy.core.errors import EXIT_GATE_FAILED, EXIT_INCONCLUSIVE, EXIT_INTERRUPTED, EXIT_PASS

if TYPE_CHECKING:
    from mmdeploy.performance.bench import Bench
    from mmdeploy.performance.generator import Loop
    from mmdeploy.performance.point import Point
    from mmdeploy.performance.samples import Asked
    from mmdeploy.performance.target import Target

_MOST_LOADS = 64


class _Numbers(click.ParamType[tuple[float, ...]]):
    """Numbers above 0, a list or a range."""

    name = "numbers"

    def __init__(self, *, whole: bool) -> None:
        self._whole = whole

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        try:
            found = tuple(number for part in str(value).split(",") for number in _ranged(part, self._whole))
        except ValueError:
            kind = "whole number" if self._whole else "number"
            self.fail(f"{value!r} is no {kind} above 0, list of them (1,4,8) or range (1:16:5)", param, ctx)
        if len(found) > _MOST_LOADS:
            self.fail(f"{value!r} is more than {_MOST_LOADS} loads", param, ctx)
        return found


def _ranged(part: str, whole: bool) -> list[float]:
    """Read ``4``, or ``start:end[:step]`` with the end included, as perf_analyzer has it."""
    bounds = [int(one) if whole else float(one) for one in part.split(":")]
    if not 1 <= len(bounds) <= 3 or not all(0 < one < 1e6 for one in bounds):
        raise ValueError(part)
    start, end, step = bounds[0], bounds[1] if len(bounds) > 1 else bounds[0], bounds[2] if len(bounds) > 2 else 1
    if end < start:
        raise ValueError(part)
    return [start + number * step for number in range(min(int((end - start) / step + 1e-9) + 1, _MOST_LOADS + 1))]


@click.command()
@click.argument("url")
@click.option("--model", help="Name of the served model; the ensemble where there is one.")
@click.option(
    "--concurrency",
    type=_Numbers(whole=True),
    metavar="N",
    help="Clients that each wait for an answer: 4, 1,4,8 or 1:16:4 (from:to:step). 1,2,4,8 where no load is named.",
)
@click.option(
    "--rate",
    type=_Numbers(whole=False),
    metavar="R",
    help="Requests a second at random (Poisson) times, answered or not: 50, 50,100 or 50:200:50.",
)
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Rows of a request.")
@click.option("--data", type=click.Path(path_type=Path, exists=True), help="Samples: .npz, a folder of .npy, or JSON.")
@click.option(
    "--release",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of the release, for its samples; model_repository/MODEL where it is there.",
)
@click.option("--window", "window_s", type=Finite(0.05), default=1.0, show_default=True, help="Seconds.")
@click.option(
    "--stability", type=Finite(0.1, 100), default=10.0, show_default=True,
    help="Percent that each of the last three windows may be from their mean.",
)  # fmt: skip
@click.option("--max-seconds", type=Finite(0.1), default=20.0, show_default=True, help="Longest time of a load.")
@click.option(
    "--max-requests", type=click.IntRange(1, 1_000_000), default=200_000, show_default=True, help="Most of a load."
)
@click.option("--timeout", "timeout_s", type=Finite(0.01), default=10.0, show_default=True, help="Of a request.")
@click.option(
    "--write-perf-analyzer",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Put no load; write the samples for perf_analyzer and a configuration for Model Analyzer into this folder.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the random times.")
@output_options(quiet="nothing; the exit code tells whether it is steady")
def command(
    *,
    url: str,
    model: str | None,
    concurrency: tuple[int, ...] | None,
    rate: tuple[float, ...] | None,
    batch: int,
    data: Path | None,
    release: Path | None,
    window_s: float,
    stability: float,
    max_seconds: float,
    max_requests: int,
    timeout_s: float,
    folder: Path | None,
    seed: int,
    output: Output,
) -> int:
    """Put a load on a served model, and say how it bears it: throughput, latencies, and where the time goes.

    URL is host:port for gRPC, http://host:port for HTTP. With --rate a latency runs from when a request was due, so a
    server that stalls is charged for all who would have come meanwhile. Each load is watched in windows until the last
    three agree; where they do not in its time, it is said to be unstable and the exit code is 5. Ctrl-C ends a load and
    shows what was measured until then. Requests that fail are counted, and the exit code is 1 where all do.

    \b
    Example:
      mmdeploy bench 127.0.0.1:8001
      mmdeploy bench 127.0.0.1:8001 --concurrency 1:16:5 --rate 50,100 \\
        --release model_repository/spoken_digits
      mmdeploy bench 127.0.0.1:8001 --write-perf-analyzer perf
      mmdeploy bench http://127.0.0.1:8000 --model spoken_digits --rate 200 \\
        --data requests.npz --json
    """  # noqa: D301
    from mmdeploy.performance.bench import require_sequences, run
    from mmdeploy.performance.measure import Limits
    from mmdeploy.performance.samples import find, holds_samples
    from mmdeploy.performance.target import open_target
    from mmdeploy.triton.repository import DESTINATION

    target = open_target(url, model, timeout_s=timeout_s, chunks=folder is None)
    loops = _loops(concurrency, rate, seed)
    require_sequences(target, loops, batch)
    if release is None and data is None:
        beside = DESTINATION / target.model
        release = beside if holds_samples(beside) else None
    if folder is not None:
        return _write(
            folder,
            find(target, data=data, release=release),
            release,
            target=target,
            concurrency=concurrency,
            output=output,
        )
    asked = find(target, batch=batch, data=data, release=release)
    limits = Limits(window_s=window_s, stability=stability / 100, max_seconds=max_seconds, max_requests=max_requests)
    show = functools.partial(_show, output)
    measured = run(target, asked, loops, limits, batch=batch, progress=functools.partial(_progress, show))
    show("")
    output.answer(text=lambda: _told(measured), fields=measured.to_json)
    if measured.interrupted:
        return EXIT_INTERRUPTED
    if any(point.requests == point.failed for point in measured.points):
        return EXIT_GATE_FAILED
    return EXIT_PASS if measured.stable else EXIT_INCONCLUSIVE


def _write(
    folder: Path,
    asked: Asked,
    release: Path | None,
    *,
    target: Target,
    concurrency: tuple[int, ...] | None,
    output: Output,
) -> int:
    from mmdeploy.performance.perf_files import commands, write_perf_files

    written = [*map(str, write_perf_files(folder, target, asked, release=release))]
    ways = [
        *commands(target, folder, concurrency or (1, 2, 4, 8)).splitlines(),
        f"model-analyzer profile -f {folder / 'model_analyzer.yaml'}",
    ]
    output.answer(
        text=lambda: "\n".join([*(f"wrote {path}" for path in written), *ways]),
        fields=lambda: {"written": written, "commands": ways},
        quiet=written,
    )
    return EXIT_PASS


def _loops(concurrency: tuple[int, ...] | None, rate: tuple[float, ...] | None, seed: int) -> list[Loop]:
    from mmdeploy.performance.generator import Loop

    if concurrency is None and rate is None:
        concurrency = (1, 2, 4, 8)
    closed = [Loop(concurrency=int(one)) for one in concurrency or ()]
    return closed + [Loop(rate_per_s=one, seed=seed) for one in rate or ()]


def _progress(show: Callable[[str], None], loop: Loop, windows: int) -> None:
    load = f"{loop.rate_per_s:g}/s" if loop.is_open else f"{loop.concurrency} in flight"
    show(f"{load}: {windows} windows")


def _show(output: Output, what: str) -> None:
    """Write what is being done on a terminal, in the place of what was written before."""
    if sys.stderr.isatty() and not output.quiet:
        click.echo(f"\r\x1b[K{what}", nl=False, err=True)


def _told(measured: Bench) -> str:
    from mmdeploy.cli.text import counted, table, wrapped

    target = measured.target
    heading = (
        f"{target.model} at {target.url} over {target.protocol}, {counted(measured.batch, 'row')} a request, "
        f"{counted(measured.asked.samples, 'different sample')} from {measured.asked.source}; "
        f"the load is from {measured.hardware}"
    )
    head = ("load", "requests", "failed", "per s", "p50 ms", "p90", "p95", "p99", "max", "stable")
    parts = [wrapped(heading), "", table(head, [_row(point) for point in measured.points])]
    for point in measured.points:
        rows = [_component_row(name, point) for name in point.components]
        parts += ["", f"where the time of a request goes, {point.name}, means in ms:"]
        parts += [table(("model", "queue", "input", "infer", "output", "runs", "batch", "cached"), rows)]
    if notes := [*measured.notes()]:
        parts += ["", *(wrapped(f"note: {note}") for note in notes)]
    return "\n".join(parts)


def _row(point: Point) -> tuple[str, ...]:
    latencies = [point.percentile_ms(percent) for percent in (50, 90, 95, 99, 100)]
    return (
        point.name,
        str(point.requests),
        str(point.failed),
        f"{point.throughput_per_s:.1f}",
        *("-" if value is None else f"{value:.2f}" for value in latencies),
        "yes" if point.stable else "no",
    )


def _component_row(name: str, point: Point) -> tuple[str, ...]:
    one = point.components[name]
    looked = one.cache_hits + one.cache_misses
    return (
        name,
        *(f"{value:.2f}" for value in (one.queue_ms, one.input_ms, one.infer_ms, one.output_ms)),
        str(one.executions),
        f"{one.batch:.1f}",
        f"{one.cache_hits / looked:.0%}" if looked else "-",
    )
