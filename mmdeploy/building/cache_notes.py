"""What whoever serves a release must know of its response cache: for the report, and as a file beside the release."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mmdeploy.triton.config import ServedEnsemble
from mmdeploy.triton.response_cache import CacheSettings, answer_bytes, settings_of

#: Beside a release: the options that a tritonserver must be started with, one a line.
OPTIONS_FILE = "tritonserver.options"


def cache_notes(repository: Path, ensemble: ServedEnsemble) -> Iterator[str]:
    """Give sentences for the report; none where nothing is cached."""
    settings = settings_of([repository])
    if not settings.models:
        return
    yield (
        f"Answers of {', '.join(settings.models)} are cached, in {settings.bytes / 2**20:g} MiB: `mmdeploy serve` does "
        f"so, another server must be started with {settings.option}. The gates measured without a cache."
    )
    outputs = {part.name: part.artifact.outputs for part in ensemble.components} | {ensemble.name: ensemble.outputs}
    for model in settings.models:
        entry = answer_bytes(outputs[model], 1)
        if entry is not None and entry > settings.bytes:
            yield f"An answer of {model} takes {entry / 2**20:.3g} MiB: it never fits into that cache."


def write_server_options(folder: Path, repository: Path) -> dict[str, Path]:
    """Write the options for a repository that caches; return the file by its name beside the release."""
    settings: CacheSettings = settings_of([repository])
    if not settings.models:
        return {}
    (folder / OPTIONS_FILE).write_text(f"{settings.option}\n", encoding="utf-8")
    return {OPTIONS_FILE: folder / OPTIONS_FILE}
