"""Files that init writes: whole or not at all, and never over what is there unless that was asked for."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from mmdeploy.core.errors import UsageError

SCHEMA = "recipe.schema.json"


def refuse_existing(paths: Mapping[Path, str | None], *, force: bool) -> None:
    """Say no before any work is done where a file is there already.

    Args:
        paths: Files that will be written, each with the text that it may hold already; None for any other text.
        force: Whether they may be replaced.

    Raises:
        UsageError: Naming the first.
    """
    for path, text in paths.items():
        if path.is_dir():
            raise UsageError(f"{path} is a folder", hint="name a file: --output recipe.yaml")
        if not force and os.path.lexists(path) and not _holds(path, text):
            raise UsageError(
                f"{path} is there already",
                hint="move it away, or --force writes over it"
                if path.suffix == ".py"
                else "--output OTHER.yaml writes beside it, --force writes over it",
            )


def write_files(texts: Mapping[Path, str], *, force: bool) -> tuple[Path, ...]:
    """Write files, all of them or none, in order; each appears whole.

    Returns:
        Those that were written; one that holds its text already is left alone.

    Raises:
        UsageError: When one is there already and may not be replaced, or cannot be written.
    """
    wanted = {path: text for path, text in texts.items() if not _holds(path, text)}
    refuse_existing(wanted, force=force)
    staged, new = {path: path.with_name(f".{path.name}.{os.getpid()}.staging") for path in wanted}, list[Path]()
    try:
        for path, text in wanted.items():  # a full disk shows here, before any of them has appeared
            with _told(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                staged[path].write_text(text, encoding="utf-8")
        for path, staging in staged.items():
            with _told(path):
                before = os.path.lexists(path)
                if force:
                    staging.replace(path)
                else:
                    path.hardlink_to(staging)  # unlike a rename it fails where a file has come meanwhile
                new += [] if before else [path]
    except BaseException:
        _removed(new)
        raise
    finally:
        _removed(staged.values())
    return tuple(wanted)


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Name the file that could not be written."""
    try:
        yield
    except OSError as cause:
        full = cause.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = "make room, or name another place with --output" if full else "name another place with --output"
        raise UsageError(f"{path} cannot be written: {cause.strerror or cause}", hint=hint) from cause


def _removed(paths: Iterable[Path]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _holds(path: Path, text: str | None) -> bool:
    try:
        return text is not None and path.read_text(encoding="utf-8") == text
    except (OSError, UnicodeDecodeError):
        return False


def schema_text() -> str:
    """Return the JSON schema of recipes, as `mmdeploy schema` prints it."""
    from mmdeploy.recipe.json_schema import json_schema

    return json.dumps(json_schema(), indent=2) + "\n"


def is_schema(path: Path) -> bool:
    """Say whether a file is a schema that was written before, maybe by another version."""
    try:
        return bool(json.loads(path.read_text(encoding="utf-8"))["title"] == "Recipe")
    except (OSError, ValueError, KeyError, TypeError):
        return False
