"""``mmdeploy cache-plan``: replay a trace of requests, and say which answers are worth keeping."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmdeploy.cli.options import destination_option, recipe_argument, set_option, workdir_option
from mmdeploy.cli.output import Output, output_options
from mmdeploy.core.errors import EXIT_GATE_FAILED, EXIT_PASS, UsageError

if TYPE_CHECKING:
    from mmdeploy.caching.plan import CachePlan
    from mmdeploy.caching.verify import Verification


@click.command()
@recipe_argument
@click.option(
    "--trace", required=True, type=click.Path(path_type=Path, dir_okay=False), help="Requests, as JSON lines."
)
@set_option
@destination_option
@workdir_option
@click.option("--max-mib", type=click.IntRange(1), default=1024, show_default=True, help="Most memory of the cache.")
@click.option(
    "--half-life",
    "half_life_s",
    type=float,
    help="Seconds in which a request's worth halves; a quarter of the trace by default.",
)
@click.option(
    "--answer-bytes",
    "row_bytes",
    metavar="COMPONENT=BYTES",
    multiple=True,
    help="Bytes of a row of an answer whose size varies. Repeatable.",
)
@click.option("--verify", "verified", is_flag=True, help="Ask a real Triton the same trace and compare its counters.")
@output_options(quiet="the names of the components that are worth it, one a line")
def command(
    *,
    recipe: Path,
    trace: Path,
    overrides: tuple[str, ...],
    destination: Path,
    workdir: Path,
    max_mib: int,
    half_life_s: float | None,
    row_bytes: tuple[str, ...],
    verified: bool,
    output: Output,
) -> int:
    """Replay a trace of requests, and say which encoders' answers are worth keeping in how much memory.

    Each line of the trace is a request: {"time": 12.5, "inputs": {"image": "a hash", "audio": {"sample": 3}}}. Equal
    hashes are equal bytes; {"sample": 3} is that sample of data.evaluation, {"file": "x.npy"} a file beside the trace.
    What computing costs is taken from the latest build of the recipe, and the sizes of answers from its release.

    With --verify the release is served with the cache that is advised, asked the same requests one after the other, and
    the exit code is 1 where a share of hits is more than 5 points from what was reckoned.

    \b
    Example:
      mmdeploy cache-plan recipes/spoken_digits --trace requests.jsonl
      mmdeploy cache-plan recipe.yaml --trace requests.jsonl --max-mib 256 \\
        --verify
    """  # noqa: D301
    from mmdeploy.caching.plan import make_plan, verify_plan
    from mmdeploy.recipe.loader import load_recipe

    loaded = load_recipe(recipe, overrides)
    release = destination / loaded.name
    plan = make_plan(
        loaded,
        trace,
        release=release if release.is_dir() else None,
        row_bytes=dict(map(_bytes_of, row_bytes)),
        max_mib=max_mib,
        half_life_s=half_life_s,
    )
    found = None
    if verified:
        if not release.is_dir():
            raise UsageError(
                f"--verify serves the release {release}, and it is not there", hint="build the recipe first"
            )
        found = verify_plan(loaded, plan, trace, release, log=workdir / "cache-plan" / "triton.log")
    output.answer(
        text=lambda: _told(plan, found), fields=lambda: plan.to_json(found), quiet=map(str, plan.advice.cached)
    )
    return EXIT_PASS if found is None or found.agrees else EXIT_GATE_FAILED


def _bytes_of(text: str) -> tuple[str, int]:
    name, equals, value = text.partition("=")
    if not equals or not value.isdecimal():
        raise click.UsageError(f"--answer-bytes {text!r} is not COMPONENT=BYTES")
    return name, int(value)


def _told(plan: CachePlan, found: Verification | None) -> str:
    from mmdeploy.cli.text import table, wrapped

    parts = [plan.heading, "", table(plan.POTENTIAL_HEAD, plan.potential_rows()), ""]
    parts += [wrapped(sentence) for sentence in plan.sentences()]
    if plan.advice.cached:
        parts += ["", table(plan.ADVICE_HEAD, plan.advice_rows()), "", "answered from the cache together:"]
        parts += [table(plan.JOINT_HEAD, plan.joint_rows()), "", "in the recipe:", *plan.recipe_lines()]
    if found is not None:
        parts += ["", "a real Triton, asked the same requests:", table(plan.VERIFIED_HEAD, plan.verified_rows(found))]
    return "\n".join(parts)
