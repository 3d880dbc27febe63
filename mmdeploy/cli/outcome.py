"""How a command ends: its exit code, and what is printed when something went wrong."""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmdeploy.cli.output import LOGGER, Output
from mmdeploy.cli.text import columns, printable, wrapped_lines
from mmdeploy.core.errors import (
    EXIT_BUG,
    EXIT_ENVIRONMENT,
    EXIT_INTERRUPTED,
    EXIT_PASS,
    EXIT_STEP_FAILED,
    EXIT_USAGE,
    MmdeployError,
    RecipeError,
    StoreError,
    UsageError,
)

if TYPE_CHECKING:
    from types import TracebackType

logger = logging.getLogger(__name__)

#: What a shell reports of a process that SIGPIPE ended.
EXIT_READER_GONE = 141
#: Where it is written to is full: standard output may be a file.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
#: What stands for signs in an encoding that has none of them.
_PLAIN = {"→": "->", "≥": ">=", "≤": "<=", "∞": "inf", "–": "-", "—": "-", "…": "...", "×": "x", "─": "-", "━": "-"}
_VERSIONS_OF = (
    "multimodal-deploy", "click", "numpy", "nvidia-pytriton", "onnx", "onnxruntime", "onnxruntime-gpu",
    "onnx-ir", "onnxscript", "openvino", "polygraphy", "pydantic", "tensorrt", "tensorrt-rtx", "torch", "torchmetrics",
    "tritonclient",
)  # fmt: skip


class ReaderGone(Exception):  # noqa: N818 - not an error: whoever read our output has seen enough
    """Standard output was closed by its reader, such as ``head``."""


def run(commands: click.Command, argv: Sequence[str]) -> int:
    """Run the command line and return its exit code; whatever goes wrong is told on standard error."""
    output, level = Output(), LOGGER.level
    output.as_json = "--json" in _options_of(argv)  # as early as that, for a command line that is wrong, too
    try:
        code = commands.main(args=list(argv), prog_name="mmdeploy", standalone_mode=False, obj=output)
        sys.stdout.flush()
    except (ReaderGone, BrokenPipeError):
        return _reader_gone()
    except (Exception, KeyboardInterrupt, SystemExit) as error:  # noqa: BLE001 - the one place where a bug ends
        fields = _ending(error, argv)
        _tell(fields)
        try:
            if output.as_json and not output.documented:
                output.document({"error": fields})
            sys.stdout.flush()
        except OSError:  # neither it nor what is left of the answer can be written
            _write_no_more()
        return int(fields["exit_code"])
    finally:
        LOGGER.setLevel(level)
    return code if isinstance(code, int) else EXIT_PASS


def take_any_text() -> None:
    """Let what is printed be written in the terminal's encoding, whichever it is: signs by what stands for them."""
    codecs.register_error("mmdeploy", _in_ascii)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower().replace("-", "") != "utf8":
            stream.reconfigure(errors="mmdeploy")


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character = error.object[error.start]
    return _PLAIN.get(character) or character.encode("ascii", "backslashreplace").decode("ascii"), error.start + 1


def _options_of(argv: Sequence[str]) -> Sequence[str]:
    return argv[: list(argv).index("--")] if "--" in argv else argv


def _reader_gone() -> int:
    _write_no_more()
    return EXIT_READER_GONE


def _write_no_more() -> None:
    # Python flushes standard output once more at exit: give it something that can be written to.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _ending(error: BaseException, argv: Sequence[str]) -> dict[str, Any]:
    """Say what went wrong: ``kind``, ``message``, ``exit_code``, and what is known of ``hint``, ``step``, ``log``."""
    if isinstance(error, MmdeployError):
        logger.debug("%s", error.message, exc_info=error)
        known: dict[str, Any] = {"hint": error.hint, "step": error.step, "log": error.log}
        if isinstance(error, RecipeError):
            known["problems"] = [{"where": one.where, "message": one.message} for one in error.problems]
            _annotate(error)
        return _fields(type(error).__name__, error.message, error.exit_code, known)
    if isinstance(error, click.UsageError):
        command = error.ctx.command_path if error.ctx else "mmdeploy"
        hint = f"{command} --help shows what is accepted"
        return _fields(UsageError.__name__, error.format_message(), EXIT_USAGE, {"hint": hint})
    if isinstance(error, click.ClickException):
        return _fields(UsageError.__name__, error.format_message(), EXIT_USAGE)
    asked_to_end = isinstance(error, SystemExit) and error.code == signal.SIGTERM  # what Ray's handler makes of it
    if asked_to_end or isinstance(error, (click.Abort, KeyboardInterrupt)):
        return _fields("Interrupted", "interrupted", EXIT_INTERRUPTED)
    if isinstance(error, MemoryError):
        hint = "use fewer calibration or evaluation samples, or a machine with more memory"
        return _fields("OutOfMemory", "out of memory", EXIT_ENVIRONMENT, {"hint": hint})
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        hint = "make room, or write elsewhere"
        return _fields(StoreError.__name__, f"cannot write: {error.strerror}", EXIT_STEP_FAILED, {"hint": hint})
    if isinstance(error, SystemExit):
        hint = "look for sys.exit in the code that the command line or the recipe names"
        return _fields("SystemExit", f"code that was run ends the program ({error})", EXIT_STEP_FAILED, {"hint": hint})
    if isinstance(error, FileNotFoundError) and not _stands_somewhere():
        return _fields(
            UsageError.__name__, "the current folder is gone", EXIT_USAGE, {"hint": "cd to one that is there"}
        )
    return _bug(error, argv)


def _stands_somewhere() -> bool:
    with contextlib.suppress(OSError):
        return bool(Path.cwd())
    return False


def _fields(kind: str, message: str, exit_code: int, known: Mapping[str, Any] | None = None) -> dict[str, Any]:
    found = {name: value for name, value in (known or {}).items() if value}
    return {"kind": kind, "message": message, "exit_code": exit_code, **found}


def _tell(fields: Mapping[str, Any]) -> None:
    step = f"step {fields['step']} failed: " if "step" in fields else ""
    _say("error", f"{step}{fields['message']}")
    for label in ("hint", "log"):
        if label in fields:
            _say(label, fields[label])


def _annotate(error: RecipeError) -> None:
    """Let a CI system show each problem of a recipe at its line."""
    if os.environ.get("GITHUB_ACTIONS"):
        from mmdeploy.report import github

        for annotation in github.of_problems(error.problems):
            click.echo(annotation, err=True)


def _say(label: str, text: str) -> None:
    """Print to standard error: wrapped on a terminal, its label in colour where that is wanted (no-color.org).

    In a pipe or a log a line stays one, which can be searched for.
    """
    told = f"{label}: {printable(text)}"
    if sys.stderr.isatty():
        told = "\n".join(wrapped_lines(told.split("\n"), max(40, columns(sys.stderr))))
        if not os.environ.get("NO_COLOR"):
            colour = {"error": "red", "hint": "cyan"}.get(label, "yellow")
            told = click.style(label, fg=colour, bold=True) + told[len(label) :]
    click.echo(told, err=True)


def _bug(error: BaseException, argv: Sequence[str]) -> dict[str, Any]:
    summary = f"{type(error).__name__}: {error}".splitlines()[0]
    text = _bug_report(error, error.__traceback__, argv)
    try:
        path = _save(text)
    except OSError:
        click.echo(text, err=True)
        message = f"a bug in mmdeploy ({summary}); please report what is printed above"
    else:
        message = f"a bug in mmdeploy ({summary}); please report it with {path}"
    return _fields("Bug", message, EXIT_BUG)


def _bug_report(error: BaseException, trace: TracebackType | None, argv: Sequence[str]) -> str:
    import platform
    import shlex
    import traceback
    from importlib import metadata

    lines = [
        f"command: {shlex.join(['mmdeploy', *argv])}",
        f"python: {platform.python_version()} on {platform.platform()}",
    ]
    for name in _VERSIONS_OF:
        try:
            lines.append(f"{name}: {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return "\n".join([*lines, "", *traceback.format_exception(type(error), error, trace)])


def _save(text: str) -> Path:
    import tempfile

    descriptor, name = tempfile.mkstemp(prefix="mmdeploy-bug-", suffix=".txt")
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as stream:
        stream.write(text)
    return Path(name)
