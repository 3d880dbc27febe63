"""The command line: one file a verb, loaded when it is called.

A verb is a module of this package with a click command named ``command``, and an entry in `VERBS`. The
command returns its exit code (None is 0) and raises `MmdeployError` for what went wrong;
`mmdeploy.cli.outcome` turns that into a message and an exit code. What it prints goes through
`mmdeploy.cli.output`, whose options every verb has. Libraries log; only this package prints.
"""

from __future__ import annotations

import gc
import importlib
import logging
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

import click

from mmdeploy.cli.outcome import ReaderGone, run, take_any_text
from mmdeploy.cli.output import Output, group_options
from mmdeploy.core.errors import EXIT_USAGE, did_you_mean
from mmdeploy.core.version import __version__

#: Every verb, in the order of a user's day, with its line in ``mmdeploy --help``; its module has its name.
VERBS: Mapping[str, str] = {
    "init": "Look at a model, propose a recipe for it, write it.",
    "validate": "Check a recipe without running its model or its data.",
    "plan": "Show what a build would run or reuse, and why.",
    "build": "Build a recipe, judge what is served, publish it if it passes.",
    "sweep": "Search over a recipe's settings by building it many times.",
    "matrix": "Build one recipe for several classes of hardware, and compare.",
    "sensitivity": "Measure what INT8 costs, layer group by layer group.",
    "debug": "Find the first tensor that goes wrong on its way to the engine.",
    "cache-plan": "Replay a trace of requests: which answers are worth keeping?",
    "serve": "Serve a model repository with Triton on this machine.",
    "infer": "Send files to a served ensemble.",
    "gateway": "Let callers ask by HTTP: files, text and lists in, JSON out.",
    "bench": "Put a load on a served model, and say how it bears it.",
    "capacity": "Say how many replicas a load needs, from measured times.",
    "tune": "Find how a recipe is best served here, within a limit of latency.",
    "report": "Show the report of a build.",
    "compare": "Say what differs between two builds, and which samples flipped.",
    "explain": "Say where it went, of a gate that did not pass.",
    "baseline": "Accept a build as what later ones are judged by.",
    "gate": "Judge a build against a baseline.",
    "releases": "List what was published, and what is live.",
    "diff": "Say what differs between two releases.",
    "promote": "Have a server that runs serve another release, without a gap.",
    "rollback": "Make an earlier release live again.",
    "verify": "Compare releases with their manifests.",
    "sign": "Sign releases with a key of one's own.",
    "package": "Write what runs a release in a container or on Kubernetes.",
    "gc": "Remove old releases, and results that no build needs.",
    "lint": "Check a Triton model repository against the rules of Triton.",
    "list": "List passes, engines and gates with their options.",
    "schema": "Print the JSON schema of a recipe.",
    "doctor": "Say what this machine can build, run and serve.",
}

#: Verbs that are over in a second and hold little: collecting garbage among what they import is a tenth of their time.
_BRIEF = frozenset({"validate", "list", "schema"})
#: New objects after which others collect: at Python's 700, importing modules that all stay is interrupted all the time.
_OBJECTS = 50_000


class Verbs(click.Group):
    """The group of verbs; a verb's module is imported only when the verb is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs' names."""
        return [*VERBS]  # once the verb "list" is imported, that name is a module here

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a verb."""
        if cmd_name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"mmdeploy.cli.{cmd_name.replace('-', '_')}").command
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Find the verb that was asked for."""
        if args[0] not in VERBS and not args[0].startswith("-"):
            raise click.UsageError(f"no such command {args[0]!r}; {did_you_mean(args[0], VERBS)}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([*VERBS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; click would end a broken pipe with exit code 1, which here means a failed gate."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise ReaderGone from error


def _group(ctx: click.Context) -> int | None:
    """Compile trained multimodal PyTorch models into gated, served Triton ensembles.

    \b
    Example:
      mmdeploy validate recipes/spoken_digits/recipe.yaml
      mmdeploy build recipes/spoken_digits/recipe.yaml
    """  # noqa: D301 - \b is click's, not a typo
    if ctx.invoked_subcommand is not None:
        return None
    if ctx.ensure_object(Output).as_json:
        raise click.UsageError("--json is for a verb, and none is named", ctx)
    click.echo(ctx.get_help())
    return EXIT_USAGE


commands = Verbs(
    "mmdeploy",
    callback=click.pass_context(_group),
    invoke_without_command=True,
    help=_group.__doc__,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
    epilog="Exit codes: 0 passed, 1 a gate failed, 2 wrong recipe or command line, 3 a step failed, 4 this "
    "environment cannot do it, 5 inconclusive, 70 a bug, 130 interrupted.",
)
click.version_option(__version__, prog_name="mmdeploy", message="%(prog)s %(version)s (multimodal-deploy)")(commands)
group_options(commands)


def main() -> NoReturn:
    """Run the command line and exit."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    take_any_text()
    if not _BRIEF.isdisjoint(sys.argv[1:2]):
        gc.disable()
    else:
        gc.set_threshold(_OBJECTS)
    sys.exit(run(commands, sys.argv[1:]))
