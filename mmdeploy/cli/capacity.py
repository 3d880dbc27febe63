"""``mmdeploy capacity``: how many replicas a load needs, from measured service times."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmdeploy.cli.options import Finite, workdir_option
from mmdeploy.cli.output import Output, output_options
from mmdeploy.core.errors import EXIT_INCONCLUSIVE, EXIT_PASS, UsageError

if TYPE_CHECKING:
    from mmdeploy.performance.capacity import Plan
    from mmdeploy.performance.service_times import ServiceTimes

#: Length of a window, and longest time of each load that is measured.
_WINDOW_S, _MAX_SECONDS = 0.7, 8.0


@click.command()
@click.argument("source", type=click.Path(path_type=Path, exists=True), required=False)
@click.option("--url", help="Measure at this server (host:port or http://host:port) in place of a source.")
@click.option("--model", help="Name of the served model; the ensemble where there is one.")
@click.option("--qps", type=Finite(0, min_open=True), required=True, help="Requests a second.")
@click.option("--p99-ms", type=Finite(0, min_open=True), required=True, help="Most that the p99 may be.")
@click.option("--cores", type=click.IntRange(1), help="Cores of a machine; those that were measured by default.")
@click.option("--machine-memory-gib", type=Finite(0, min_open=True), help="Memory of a machine.")
@click.option("--machines", type=click.IntRange(1), help="Machines that there are.")
@click.option("--keep-instances", is_flag=True, help="Add no instances to those that are configured.")
@click.option("--data", type=click.Path(path_type=Path, exists=True), help="Samples to measure with, as of bench.")
@click.option("--write", "written", type=click.Path(path_type=Path, dir_okay=False), help="Keep what was measured.")
@workdir_option
@output_options(quiet="the number of replicas")
def command(
    *,
    source: Path | None,
    url: str | None,
    model: str | None,
    qps: float,
    p99_ms: float,
    cores: int | None,
    machine_memory_gib: float | None,
    machines: int | None,
    keep_instances: bool,
    data: Path | None,
    written: Path | None,
    workdir: Path,
    output: Output,
) -> int:
    """Say how many replicas a load needs, with how many instances of each model, from measured service times.

    SOURCE is a release, or the report of one: it is served here and measured, which takes a minute, memory
    included; or what an earlier call has written with --write. With --url a server is measured as it runs; its memory
    is not known then. The exit code is 1, with the reason, where the load cannot be met,
    and 5 where the server was not steady while it was measured.

    \b
    Example:
      mmdeploy capacity model_repository/spoken_digits --qps 500 --p99-ms 80 \\
        --write times.json
      mmdeploy capacity times.json --qps 20000 --p99-ms 80 --cores 16 \\
        --machine-memory-gib 64
      mmdeploy capacity --url 127.0.0.1:8001 --qps 500 --p99-ms 80 --machines 3
    """  # noqa: D301
    from mmdeploy.performance.capacity import Wanted, make_plan

    if (source is None) == (url is None):
        raise UsageError(
            "give what to reckon from: a release, a report or what --write has kept; or --url, and not both"
        )
    measure = functools.partial(_measured, model=model, data=data, show=functools.partial(_show, output))
    times = measure(url, release=None) if url is not None else _times(source, workdir, measure)
    if written is not None:
        written.write_text(json.dumps(times.to_json(), indent=2) + "\n", encoding="utf-8")
    memory = None if machine_memory_gib is None else round(machine_memory_gib * 2**30)
    plan = make_plan(times, Wanted(qps, p99_ms, cores, memory, machines, more_instances=not keep_instances))
    output.answer(text=lambda: _told(plan), fields=plan.to_json, quiet=[str(plan.replicas)])
    return EXIT_PASS if times.measured.get("stable", True) else EXIT_INCONCLUSIVE


def _times(source: Path | None, workdir: Path, measure: Callable[..., ServiceTimes]) -> ServiceTimes:
    """Read what was measured, or measure."""
    from mmdeploy.performance.service_times import ServiceTimes

    assert source is not None
    if source.is_file():
        fields = _json(source)
        if "recipe" not in fields:
            return ServiceTimes.read(source)
        source = _release_of(source, fields)
    return _served(source, workdir, measure)


def _json(path: Path) -> dict[str, object]:
    try:
        fields = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as JSON: {error}") from error
    return fields if isinstance(fields, dict) else {}


def _release_of(path: Path, report: dict[str, object]) -> Path:
    """Return the repository that a report is about: beside it, or where it was published or staged."""
    named = [str(report[key]) for key in ("published", "staged") if report.get(key)]
    for folder in (path.parent, *map(Path, named)):
        if any(folder.glob("*/config.pbtxt")):
            return folder
    raise UsageError(f"{path}: the release that it is about is not there", hint="name the folder of the release")


def _served(release: Path, workdir: Path, measure: Callable[..., ServiceTimes]) -> ServiceTimes:
    """Serve a release on this machine, and measure it and its memory."""
    import dataclasses

    from mmdeploy.triton import server

    if not any(release.glob("*/config.pbtxt")):
        raise UsageError(f"{release} is no release: no folder in it has a config.pbtxt")
    with server.start([release], log=workdir / "capacity" / "triton.log") as running:
        times = measure(running.grpc_url, release=release)
        return dataclasses.replace(times, memory_bytes=running.memory_bytes())


def _measured(
    url: str, *, model: str | None, data: Path | None, release: Path | None, show: Callable[[str], None]
) -> ServiceTimes:
    from mmdeploy.performance.measure import Limits
    from mmdeploy.performance.service_measure import measure_service_times
    from mmdeploy.performance.target import open_target
    from mmdeploy.triton.repository import DESTINATION

    target = open_target(url, model)
    if release is None and data is None:
        beside = DESTINATION / target.model
        release = beside if beside.is_dir() else None
    times = measure_service_times(
        target, Limits(window_s=_WINDOW_S, max_seconds=_MAX_SECONDS), data=data, release=release, progress=show
    )
    show("")
    return times


def _show(output: Output, what: str) -> None:
    """Write what is being done on a terminal, in the place of what was written before."""
    if sys.stderr.isatty() and not output.quiet:
        click.echo(f"\r\x1b[K{what}", nl=False, err=True)


def _told(plan: Plan) -> str:
    from mmdeploy.cli.text import counted, table, wrapped

    at, wanted = plan.at_rate, plan.wanted
    memory = "" if plan.memory_bytes is None else f", {plan.memory_bytes / 2**30:.2f} GiB"
    parts = [
        wrapped(
            f"{plan.times.model}: {counted(plan.replicas, 'replica')} on {counted(plan.machines, 'machine')}, "
            f"{plan.replicas_a_machine} a machine, each with {counted(plan.cores, 'core')}{memory}"
        ),
        "",
        wrapped(
            f"at {wanted.rate_per_s:g} requests a second: p50 {1e3 * at.percentile_s(50):.1f} ms, "
            f"p99 {1e3 * at.percentile_s(99):.1f} ms (at most {wanted.p99_ms:g}); "
            f"the p99 breaks at {plan.breaks_at_per_s:.0f} a second, headroom {plan.headroom:.0%}; "
            f"busiest: {plan.bottleneck}"
        ),
        "",
        table(
            ("model", "instances", "busy", "batch", "queue ms"),
            [
                (
                    name,
                    str(plan.instances[name]),
                    f"{one.utilization:.0%}",
                    f"{one.batch:.1f}",
                    f"{1e3 * one.queue_s:.2f}",
                )
                for name, one in at.stages.items()
            ]
            + [("the cores", str(plan.cores), f"{at.cores_busy:.0%}", "", "")],
        ),
        "",
        *(wrapped(f"note: {note}") for note in plan.notes()),
    ]
    return "\n".join(parts)
