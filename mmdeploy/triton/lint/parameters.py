"""Rules on the parameters that Triton and its python backend read themselves (core: backend_model; python_backend)."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from mmdeploy.triton.lint.finding import Hit
from mmdeploy.triton.lint.reading import Model, Repositories

_SWITCH, _ENVIRONMENT = "FORCE_CPU_ONLY_INPUT_TENSORS", "EXECUTION_ENV_PATH"
_STRATEGY, _STRATEGY_FILE = "TRITON_BATCH_STRATEGY_PATH", "batchstrategy.so"
_MODEL_FOLDER = "$$TRITON_MODEL_DIRECTORY"


def python_parameter(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find switches of the python backend that are neither yes nor no, and environments that are not there."""
    if model.backend != "python":
        return
    given = {key: value.string_value for key, value in model.parsed.parameters.items()}
    if _SWITCH in given and given[_SWITCH] not in ("yes", "no"):
        yield Hit(f"{_SWITCH} is {given[_SWITCH]!r}", 'use "yes" or "no"', "parameters")
    if named := given.get(_ENVIRONMENT):
        path = Path(named.replace(_MODEL_FOLDER, str(model.folder)))
        if not path.exists():
            yield Hit(f"{_ENVIRONMENT}: there is no {path}", "put the packed environment there", "parameters")
        elif path.is_file() and not (tarfile.is_tarfile(path) or zipfile.is_zipfile(path)):
            yield Hit(f"{_ENVIRONMENT}: {path} is no archive", "pack the environment with conda-pack", "parameters")


def batch_strategy(model: Model, repositories: Repositories) -> Iterator[Hit]:
    """Find libraries for custom batching that are named and not there, or are there and no libraries."""
    if model.is_ensemble:
        return
    if named := model.parsed.parameters[_STRATEGY].string_value if _STRATEGY in model.parsed.parameters else "":
        path = Path(named)
        if not path.is_file():
            yield Hit(f"{_STRATEGY}: there is no {path}", "put the library there, by its absolute path", "parameters")
            return
        found = [path]
    else:
        versions = [model.versions[version] for version in model.served_versions]
        found = [folder / _STRATEGY_FILE for folder in (*versions, model.folder)]
    for path in found:
        if path.is_file() and not path.read_bytes().startswith(b"\x7fELF"):
            yield Hit(f"{path} is no shared library", "build it again, or remove it")
