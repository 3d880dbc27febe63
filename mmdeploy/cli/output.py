"""What a verb prints, and where: one convention for people, scripts and programs.

- Standard output holds the answer, and nothing else: text, with ``--quiet`` only what a script needs, with ``--json``
  exactly one JSON document with a ``schema_version``, whatever the exit code.
- Standard error holds what is being done, warnings and errors; ``--quiet`` leaves the errors, ``-v`` adds a log.
- What went wrong is told in words on standard error; with ``--json`` also as ``{"error": {...}}`` on standard output,
  unless the verb's own document is there already.

Every verb has `output_options` and prints by the `Output` that it is given.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mmdeploy.cli.text import printable

if TYPE_CHECKING:
    from mmdeploy.record.observer import Observer

#: Of the documents that are made here; a field that is new does not change it, one that is gone or means another does.
SCHEMA_VERSION = 1
LOGGER = logging.getLogger("mmdeploy")

Result = TypeVar("Result")


class Output:
    """How much a command prints, and in which form.

    Attributes:
        as_json: Whether it prints JSON.
        quiet: Whether it prints only what a script needs.
        documented: Whether its one JSON document is printed.
    """

    def __init__(self) -> None:
        self.as_json = self.quiet = self.documented = False

    def answer(
        self, *, text: Callable[[], str], fields: Callable[[], Mapping[str, Any]], quiet: Iterable[str] = ()
    ) -> None:
        """Print the answer in the form that was asked for: as text, as one JSON document, or the lines of ``quiet``."""
        if self.as_json:
            self.document(fields())
        elif not self.quiet:
            click.echo(text())
        else:
            for line in quiet:
                click.echo(printable(line))

    def document(self, fields: Mapping[str, Any] | str) -> None:
        """Print the one JSON document: fields, or a file's text that has its own version."""
        if not isinstance(fields, str):
            from mmdeploy.record.plain_json import jsonable

            fields = json.dumps(jsonable({"schema_version": SCHEMA_VERSION} | dict(fields)), indent=2)
        self.documented = True
        click.echo(fields.rstrip("\n").encode("utf-8") + b"\n", nl=False)  # JSON is UTF-8, whatever the locale

    def tell(self, text: str) -> None:
        """Tell people something on standard output; programs and scripts need it not."""
        if not (self.as_json or self.quiet):
            click.echo(text)

    def step(self, text: str) -> None:
        """Tell people a step of what is being done: on standard output, with ``--json`` on standard error."""
        if not self.quiet:
            click.echo(text, err=self.as_json)

    def progress(self, text: str) -> None:
        """Say on standard error what is being done."""
        if not self.quiet:
            click.echo(text, err=True)

    @contextlib.contextmanager
    def display(self, *, on_stderr: bool = True) -> Iterator[Observer]:
        """Give what shows how a build goes on; with ``--json`` always on standard error."""
        from mmdeploy.record.observer import Silent

        if self.quiet:
            yield Silent()
            return
        from rich.console import Console

        from mmdeploy.report.display import BuildDisplay

        with BuildDisplay(Console(stderr=on_stderr or self.as_json)) as display:
            yield display


def output_options(*, quiet: str) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """Add ``--json``, ``--quiet`` and ``--verbose``; the verb's ``output: Output``.

    Args:
        quiet: What is left to be printed with ``--quiet``, such as ``the releases' ids, one a line``.
    """

    def decorate(function: Callable[..., Result]) -> Callable[..., Result]:
        @functools.wraps(function)
        def called(*args: Any, **given: Any) -> Result:
            return function(*args, output=click.get_current_context().ensure_object(Output), **given)

        left = quiet if quiet.startswith("nothing") else f"only {quiet}"
        for option in reversed(_options(f"Print {left}; no progress, no warnings.")):
            called = option(called)
        return called

    return decorate


def group_options(group: click.Group) -> None:
    """Let the same options be given before the verb."""
    for option in _options("Print only what a script needs: see the verb's --help."):
        option(group)


def _options(quiet: str) -> list[Callable[[Any], Any]]:
    return [
        click.option(
            "--json", "as_json", is_flag=True, expose_value=False, callback=_set_json,
            help="Print one JSON document, an error too.",
        ),
        click.option("-q", "--quiet", is_flag=True, expose_value=False, callback=_set_quiet, help=quiet),
        click.option(
            "-v", "--verbose", count=True, expose_value=False, callback=_set_verbose,
            help="Say what is being done; twice for more.",
        ),
    ]  # fmt: skip


def _set_json(ctx: click.Context, parameter: click.Parameter, given: bool) -> None:
    if given:
        ctx.ensure_object(Output).as_json = True


def _set_quiet(ctx: click.Context, parameter: click.Parameter, given: bool) -> None:
    if given:
        ctx.ensure_object(Output).quiet = True
        if not LOGGER.isEnabledFor(logging.INFO):  # what -v asks for is said all the same
            _set_level(ctx, logging.ERROR)


def _set_verbose(ctx: click.Context, parameter: click.Parameter, times: int) -> None:
    if times:
        _set_level(ctx, logging.INFO if times == 1 else logging.DEBUG)


def _set_level(ctx: click.Context, level: int) -> None:
    """Set how much is logged while a command runs: whoever calls it from Python has the level of before again."""
    before = LOGGER.level
    ctx.call_on_close(lambda: LOGGER.setLevel(before))
    LOGGER.setLevel(level)
