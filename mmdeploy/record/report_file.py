"""Reading a ``report.json`` back: by its schema version, and with words for what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json

from mmdeploy.core.errors import UsageError
from mmdeploy.core.version import __version__
from mmdeploy.record.build_report import FILENAME, SCHEMA_VERSION, BuildReport

#: Older versions of which every report is one of this version, too.
_READ_AS_THIS = (1, 2, 3, 4)


def read_report(path: Path) -> BuildReport:
    """Read a ``report.json``, or the one in a folder.

    Raises:
        UsageError: If there is none, it is damaged, or it was written in a schema version that this one cannot read.
    """
    file = path / FILENAME if path.is_dir() else path
    try:
        content = from_json(file.read_bytes())
    except OSError as cause:
        hint = "give the report.json, or the folder, that `mmdeploy build` named at its end"
        raise UsageError(f"{file}: cannot be read: {cause.strerror}", hint=hint) from cause
    except ValueError as cause:
        hint = "the file is damaged or is no report; build again to write a new one"
        raise UsageError(f"{file}: not JSON: {cause}", hint=hint) from cause
    _refuse_other_versions(file, content)
    try:
        return BuildReport.model_validate({**content, "schema_version": SCHEMA_VERSION})
    except ValidationError as cause:
        found = "\n".join(f"    {_place(error['loc'])}: {error['msg']}" for error in cause.errors()[:5])
        hint = "the file was changed after it was written; build again to write a new one"
        count = f"{cause.error_count()} problem" + ("s" if cause.error_count() != 1 else "")
        message = f"{file}: not a report of schema version {SCHEMA_VERSION}: {count}\n{found}"
        raise UsageError(message, hint=hint) from cause


def _refuse_other_versions(file: Path, content: Any) -> None:
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version in (SCHEMA_VERSION, *_READ_AS_THIS) and not isinstance(version, bool):
        return
    if not isinstance(version, int) or isinstance(version, bool):
        raise UsageError(
            f"{file}: no mmdeploy report: schema_version is missing or no number",
            hint="give the report.json that `mmdeploy build` wrote",
        )
    newer = version > SCHEMA_VERSION
    writer = content.get("mmdeploy_version")
    known = f" ({writer})" if isinstance(writer, str) and writer != __version__ else ""
    raise UsageError(
        f"{file}: schema version {version}, written by {'a newer' if newer else 'an older'} mmdeploy{known} than this "
        f"one ({__version__}), which reads schema versions {min(_READ_AS_THIS)} to {SCHEMA_VERSION}",
        hint="install a newer multimodal-deploy" if newer else "build again to write a new report",
    )


def _place(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location) or "report"
