"""Renders a `mmdeploy.record.build_report.BuildReport`: terminal, JSON, Markdown, JUnit XML, HTML.

Renderers are pure functions of the report, and of an earlier page that may have the same plots. `write_all` writes the
files: ``report.json`` first, each to a temporary name that is then renamed, so that a reader never meets half a file,
and an older file survives a failure.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable
from functools import partial
from pathlib import Path

from mmdeploy.core.errors import StoreError
from mmdeploy.record.build_report import FILENAME, BuildReport

__all__ = ["unreported", "write_all", "write_file", "write_sensitivity"]


def write_all(report: BuildReport, folder: Path) -> dict[str, Path]:
    """Write every file of a report and return their paths by format: ``json``, ``md``, ``junit``, ``html``.

    Raises:
        StoreError: If the folder cannot be written.
    """
    from mmdeploy.report import drawn, html, junit, markdown

    page = "report.html"
    renderers: dict[str, tuple[str, Callable[[BuildReport], str]]] = {
        "json": (FILENAME, BuildReport.to_json),
        "md": ("report.md", markdown.render),
        "junit": ("junit.xml", junit.render),
        "html": (page, partial(html.render, earlier=drawn.page_before(folder, page))),
    }
    written = {}
    for kind, (name, render) in renderers.items():
        written[kind] = write_file(folder / name, render(report))
    return written


def unreported(error: StoreError, report: BuildReport) -> StoreError:
    """Return the error of a report that cannot be written, with what the build came to: that holds all the same."""
    came_to = f"the verdict is {report.verdict}, and nothing was published"
    if report.published is not None:
        came_to = f"the release is live: {report.published}"
    told = StoreError(f"{came_to}; but {error.message}", hint=error.hint)
    told.__cause__ = error
    return told


def write_sensitivity(report: BuildReport, folder: Path) -> dict[str, Path]:
    """Write ``sensitivity.json`` and ``sensitivity.html``; return their paths by format.

    Raises:
        StoreError: If the folder cannot be written.
    """
    import json

    from mmdeploy.report import html

    measured = {step.component: step.metadata for step in report.steps if step.kind == "sensitivity"}
    content = {"recipe": report.recipe.name, "components": measured}
    return {
        "json": write_file(folder / "sensitivity.json", json.dumps(content, indent=1) + "\n"),
        "html": write_file(folder / "sensitivity.html", html.render_sensitivity(report)),
    }


def write_file(path: Path, text: str) -> Path:
    """Write a file whole or not at all, and return its path.

    Raises:
        StoreError: If it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("x", encoding="utf-8", errors="replace") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as cause:
        raise StoreError(
            f"cannot write the report {path}: {cause.strerror}",
            hint="free space or give another folder; finished steps are in the store and will be reused",
        ) from cause
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return path
