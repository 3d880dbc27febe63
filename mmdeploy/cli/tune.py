"""``mmdeploy tune``: find how a recipe is best served on this machine, for a stated limit of latency."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmdeploy.cli.options import destination_option, recipe_argument, workdir_option
from mmdeploy.cli.output import Output, output_options
from mmdeploy.core.errors import EXIT_GATE_FAILED, EXIT_INCONCLUSIVE, EXIT_PASS, UsageError

if TYPE_CHECKING:
    from mmdeploy.performance.contest import Side
    from mmdeploy.performance.tune import Trial, Tuned
    from mmdeploy.recipe.schema import Recipe

_EXITS = {"better": EXIT_PASS, "as good": EXIT_PASS, "missed": EXIT_GATE_FAILED, "undecided": EXIT_INCONCLUSIVE}


@click.command()
@recipe_argument
@click.option("--p95-ms", type=click.FloatRange(0, min_open=True), required=True, help="95 of 100 answers come within.")
@click.option(
    "--throughput",
    type=click.FloatRange(0, min_open=True),
    help="Requests a second, at random times. Without it: as many as --clients that wait for answers can send.",
)
@click.option("--clients", type=click.IntRange(1, 256), default=8, show_default=True, help="Without --throughput.")
@click.option("--minutes", type=click.FloatRange(0), default=5.0, show_default=True, help="Longest time of the search.")
@click.option(
    "--window",
    "window_s",
    type=click.FloatRange(0.1),
    default=1.0,
    show_default=True,
    help="Seconds of load in a turn.",
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="tuned.yaml beside the recipe by default.")
@click.option("--dry-run", is_flag=True, help="Measure, and write nothing.")
@destination_option
@workdir_option
@output_options(quiet="the settings that are better, one a line")
def command(
    *,
    recipe: Path,
    p95_ms: float,
    throughput: float | None,
    clients: int,
    minutes: float,
    window_s: float,
    out: Path | None,
    dry_run: bool,
    output: Output,
    destination: Path,
    workdir: Path,
) -> int:
    """Find how a recipe is best served on this machine, for a stated limit of latency.

    Takes the release of RECIPE that is live, and tries how long requests wait for a batch, preferred batch sizes,
    instances and threads, component by component, each in a real Triton in turns with the best so far. What is found is
    held anew against the settings that are there; only what is surely better within the limit, or keeps it where they
    do not, is written: as a variant with the recipe as its base (tuned.yaml), which mmdeploy build takes. The engines
    stay; only other threads make those of that component anew. Exit code 1 where nothing keeps the limit, 5 where the
    machine is too noisy to tell.

    \b
    Example:
      mmdeploy tune recipes/spoken_digits --p95-ms 20 --throughput 150
      mmdeploy tune recipes/spoken_digits --p95-ms 20 --clients 16 --minutes 10 \\
        --json
    """  # noqa: D301
    from mmdeploy.performance import settings, variant
    from mmdeploy.performance.contest import Goal
    from mmdeploy.performance.tune import tune
    from mmdeploy.recipe.loader import load_recipe

    _require_whole_samples(loaded := load_recipe(recipe))
    out = out or recipe.with_name("tuned.yaml")
    if not dry_run:
        variant.require_writable(recipe, out)
    release = (destination / loaded.name).resolve()
    if not release.is_dir():
        raise UsageError(f"there is no release {destination / loaded.name}", hint=f"mmdeploy build {recipe} first")
    before = settings.present(loaded, release)
    goal = Goal(p95_ms, throughput or 0.0, clients)
    found = tune(
        release,
        loaded.name,
        before,
        goal,
        workdir=workdir,
        seconds=60 * minutes,
        window_s=window_s,
        progress=_teller(output),
    )
    written = found.verdict == "better" and not dry_run
    if written:
        variant.write(recipe, out, settings.sections(before, found.best), [*_remarks(found)])
    output.answer(
        text=lambda: _told(found, out if written else None),
        fields=lambda: {**found.to_json(), "written": str(out) if written else None},
        quiet=[f"{name}={setting}" for name, setting in found.best.items()] if found.verdict == "better" else [],
    )
    return _EXITS[found.verdict]


def _require_whole_samples(recipe: Recipe) -> None:
    if recipe.stream is not None:
        raise UsageError(
            f"{recipe.origin.path} stream: what takes samples in chunks is not tuned: the load is of whole requests",
            hint="mmdeploy bench URL measures chunks",
        )


def _teller(output: Output) -> Callable[[Trial], None]:
    def tell(trial: Trial) -> None:
        output.progress(f"{trial.change}: {'better' if trial.kept else trial.reason or 'not better'}")

    return tell


def _remarks(found: Tuned) -> list[str]:
    from mmdeploy.core.target import this_hardware

    load = (
        f"{found.goal.throughput_per_s:g} requests/s"
        if found.goal.throughput_per_s
        else (f"{found.goal.clients} clients")
    )
    sides = (("before", found.final.first), ("with this", found.final.second))
    return [
        f"For a p95 of at most {found.goal.p95_ms:g} ms at {load} on {this_hardware()}:",
        *(f"{name}: {_side(side)}" for name, side in sides),
    ]


def _side(side: Side) -> str:
    middle, low, high = side.p95_ms
    return f"p95 {middle:.2f} ms ({low:.2f} to {high:.2f}), {side.throughput_per_s:.1f} requests/s: {side.verdict}"


def _told(found: Tuned, written: Path | None) -> str:
    from mmdeploy.cli.text import table

    rows = [_row(trial) for trial in found.trials]
    parts = [table(("change", "p95 ms", "per s", "best so far: p95 ms", "per s", "gain", "kept"), rows), ""]
    parts += [f"{found.left} candidates were left: give it more --minutes", ""] if found.left else []
    parts += [*_remarks(found)]
    middle, low, high = found.final.gain
    parts += [f"gain {middle:.2f} ({low:.2f} to {high:.2f}), in a measurement of its own", ""]
    parts += {
        "better": [*(f"{name}: {setting}" for name, setting in found.best.items())],
        "as good": ["nothing is surely better than what the recipe says, which keeps the limit"],
        "missed": ["nothing that was tried keeps the limit: a larger limit, fewer requests, or a smaller model"],
        "undecided": ["whether the limit is kept cannot be told: the machine is too noisy, or it is too close"],
    }[found.verdict]
    if written is not None:
        parts += ["", f"written: {written}; build it to have it judged and published"]
    return "\n".join(parts)


def _row(trial: Trial) -> tuple[str, ...]:
    if trial.outcome is None:
        return (trial.change, "-", "-", "-", "-", "-", trial.reason)
    first, second = trial.outcome.first, trial.outcome.second
    numbers = (
        second.p95_ms[0],
        second.throughput_per_s,
        first.p95_ms[0],
        first.throughput_per_s,
        trial.outcome.gain[0],
    )
    return (trial.change, *(f"{number:.2f}" for number in numbers), "yes" if trial.kept else "no")
