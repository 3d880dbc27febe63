"""How a command ends: its exit code, and what is printed when something went wrong."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mmdeploy.cli.text import printable
from mmdeploy.core.errors import (
    EXIT_BUG,
    EXIT_ENVIRONMENT,
    EXIT_INTERRUPTED,
    EXIT_PASS,
    EXIT_USAGE,
    MmdeployError,
    RecipeError,
)

if TYPE_CHECKING:
    from types import TracebackType

logger = logging.getLogger(__name__)

#: What a shell reports of a process that SIGPIPE ended.
EXIT_READER_GONE = 141
_VERSIONS_OF = (
    "multimodal-deploy", "click", "numpy", "nvidia-pytriton", "onnx", "onnxruntime", "onnxruntime-gpu",
    "onnx-ir", "onnxscript", "openvino", "polygraphy", "pydantic", "tensorrt", "tensorrt-rtx", "torch", "torchmetrics",
    "tritonclient",
)  # fmt: skip


class ReaderGone(Exception):  # noqa: N818 - not an error: whoever read our output has seen enough
    """Standard output was closed by its reader, such as ``head``."""


def run(commands: click.Command, argv: Sequence[str]) -> int:
    """Run the command line and return its exit code; whatever goes wrong is told on standard error."""
    try:
        code = commands.main(args=list(argv), prog_name="mmdeploy", standalone_mode=False)
        sys.stdout.flush()
    except MmdeployError as error:
        logger.debug("%s", error.message, exc_info=error)
        return _tell(error)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "mmdeploy"
        _say("error", error.format_message())
        _say("hint", f"{command} --help shows what is accepted")
        return EXIT_USAGE
    except click.ClickException as error:
        _say("error", error.format_message())
        return EXIT_USAGE
    except (click.Abort, KeyboardInterrupt):
        _say("error", "interrupted")
        return EXIT_INTERRUPTED
    except (ReaderGone, BrokenPipeError):
        # Python flushes standard output once more at exit: give it something that can be written to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_READER_GONE
    except MemoryError:
        _say("error", "out of memory")
        _say("hint", "use fewer calibration or evaluation samples, or a machine with more memory")
        return EXIT_ENVIRONMENT
    except Exception as error:  # noqa: BLE001 - the one place where a bug ends
        return _report_bug(error, argv)
    return code if isinstance(code, int) else EXIT_PASS


def _tell(error: MmdeployError) -> int:
    step = f"step {error.step} failed: " if error.step else ""
    _say("error", f"{step}{error.message}")
    if error.hint:
        _say("hint", error.hint)
    if error.log:
        _say("log", error.log)
    if isinstance(error, RecipeError) and os.environ.get("GITHUB_ACTIONS"):
        from mmdeploy.report import github

        for annotation in github.of_problems(error.problems):
            click.echo(annotation, err=True)
    return error.exit_code


def _say(label: str, text: str) -> None:
    """Print a line to standard error, its label in colour on a terminal that wants it (no-color.org)."""
    colour = {"error": "red", "hint": "cyan"}.get(label, "yellow")
    plain = bool(os.environ.get("NO_COLOR")) or not sys.stderr.isatty()
    shown = label if plain else click.style(label, fg=colour, bold=True)
    click.echo(f"{shown}: {printable(text)}", err=True)


def _report_bug(error: Exception, argv: Sequence[str]) -> int:
    summary = f"{type(error).__name__}: {error}".splitlines()[0]
    text = _bug_report(error, error.__traceback__, argv)
    try:
        path = _save(text)
    except OSError:
        click.echo(text, err=True)
        _say("error", f"a bug in mmdeploy ({summary}); please report what is printed above")
    else:
        _say("error", f"a bug in mmdeploy ({summary}); please report it with {path}")
    return EXIT_BUG


def _bug_report(error: Exception, trace: TracebackType | None, argv: Sequence[str]) -> str:
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
