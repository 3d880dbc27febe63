"""What a server is asked: real samples, of a release or of the caller, as requests that are ready to be sent."""

from __future__ import annotations

import base64
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmdeploy.core.artifact import NUMPY_BY_DTYPE
from mmdeploy.core.contracts import Array, FeedDict
from mmdeploy.core.errors import UsageError, did_you_mean
from mmdeploy.core.samples import Samples, column_of
from mmdeploy.core.strings import unpacked
from mmdeploy.performance.target import Target
from mmdeploy.scoring.ask import requests as requests_of
from mmdeploy.triton.known_samples import PERF_SAMPLES, SAMPLES, read_samples
from mmdeploy.triton.probe import declared_ranges, probe_inputs

#: Most samples that are taken of a file: enough to differ, and they are held in memory.
MOST_SAMPLES = 256
_ACCEPTED = (
    "perf_analyzer's JSON, an .npz file or a folder of .npy files, an array an input with the samples along axis 0"
)


@dataclass(frozen=True)
class Asked:
    """What a server is asked, in turns.

    Attributes:
        feeds: The requests.
        samples: How many different samples are in them.
        source: Where they are from, in words.
    """

    feeds: Sequence[FeedDict]
    samples: int
    source: str


def find(target: Target, *, batch: int = 1, data: Path | None = None, release: Path | None = None) -> Asked:
    """Find samples to ask a model: those that are given, those of a release, or made-up ones.

    Args:
        target: The model.
        batch: Rows of a request.
        data: A file or folder of samples.
        release: Folder of a release.

    Raises:
        UsageError: If they cannot be read or are not what the model takes, or the batch is larger than it takes.
    """
    if batch > max(1, target.max_batch_size):
        raise UsageError(f"--batch {batch}: {target.model} takes at most {max(1, target.max_batch_size)} rows")
    if data is not None:
        rows, source = _read(data, target), str(data)
    elif release is not None:
        rows, source = _of_release(release, target), f"the release {release}"
        if not rows:
            raise UsageError(
                f"{release} has no sample of {target.model} beside it",
                hint="give the folder of its release, or samples with --data; made-up values are asked without either",
            )
    else:
        rows, source = [], ""
    if not rows:
        return Asked([_made_up(target, batch)], 1, "made-up values")
    for row in rows:
        for name in row:
            if name not in target.inputs:
                raise UsageError(f"{source}: {target.model} has no input {name!r}; {did_you_mean(name, target.inputs)}")
    if not target.max_batch_size:
        return Asked(rows, len(rows), source)
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = Samples({name: column_of([row.get(name) for row in rows]) for name in names})
    return Asked(requests_of(columns, batch), len(rows), source)


def holds_samples(release: Path) -> bool:
    """Say whether samples lie beside a release."""
    return any((release / name).is_file() for name in (PERF_SAMPLES, SAMPLES))


def _of_release(release: Path, target: Target) -> list[dict[str, Array]]:
    """Return the samples beside a release: several of the ensemble, for perf_analyzer, or the one that probes ask."""
    sample = read_samples([release]).get(target.model, {})
    path = release / PERF_SAMPLES
    if path.is_file() and not (sample and _is_of_another(path, target)):
        return _of_perf_analyzer(path, target)
    lead = () if target.max_batch_size else (1,)
    return [{name: array.reshape(*lead, *(array.shape or (1,))) for name, array in sample.items()}] if sample else []


def _is_of_another(path: Path, target: Target) -> bool:
    """Say whether samples are of another model, such as the ensemble that one is a component of."""
    rows = json.loads(path.read_text("utf-8"))["data"]
    return not {name for row in rows for name in row} <= {tensor["name"] for tensor in target.config["input"]}


def _read(path: Path, target: Target) -> list[dict[str, Array]]:
    try:
        if path.suffix == ".json":
            return _of_perf_analyzer(path, target)
        return _rows(dict(_arrays(path)), path)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UsageError(f"{path} holds no samples: {reason}", hint=f"accepted: {_ACCEPTED}") from error


def _arrays(path: Path) -> Iterator[tuple[str, Array]]:
    if path.is_dir():
        for file in sorted(path.glob("*.npy")):
            yield file.stem, np.load(file, mmap_mode="r", allow_pickle=False)
    else:
        with np.load(path, allow_pickle=False) as arrays:
            for name in arrays.files:
                yield name, arrays[name]


def _rows(arrays: Mapping[str, Array], path: Path) -> list[dict[str, Array]]:
    counts = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    if len(set(counts.values())) != 1 or not min(counts.values()):
        raise UsageError(
            f"{path}: inputs must have the same number of samples along axis 0, at least one; it holds {counts}",
            hint=f"accepted: {_ACCEPTED}",
        )
    most = min(next(iter(counts.values())), MOST_SAMPLES)
    return [{name: np.ascontiguousarray(array[row]) for name, array in arrays.items()} for row in range(most)]


def _of_perf_analyzer(path: Path, target: Target) -> list[dict[str, Array]]:
    """Read what ``perf_analyzer --input-data`` reads: tensors in base64 or as lists."""
    tensors = {tensor["name"]: tensor for tensor in target.config["input"]}
    rows = json.loads(path.read_text("utf-8"))["data"][:MOST_SAMPLES]
    unknown = sorted({name for row in rows for name in row} - set(tensors))
    if unknown:
        raise UsageError(
            f"{path}: {target.model} has no input {unknown[0]!r}; {did_you_mean(unknown[0], tensors)}",
            hint="is it the release of this model?",
        )
    return [{name: _tensor(value, tensors[name]) for name, value in row.items()} for row in rows]


def _tensor(value: Any, tensor: Mapping[str, Any]) -> Array:
    dtype = str(tensor["data_type"]).removeprefix("TYPE_")
    fields = value if isinstance(value, dict) else {"content": value}
    shape = [int(size) for size in fields.get("shape", [abs(int(size)) for size in tensor["dims"]])]
    if "b64" in fields:
        raw = base64.b64decode(fields["b64"], validate=True)
        return unpacked(raw, shape) if dtype == "STRING" else np.frombuffer(raw, NUMPY_BY_DTYPE[dtype]).reshape(shape)
    if dtype == "STRING":
        strings = np.empty(len(fields["content"]), dtype=object)
        strings[:] = [str(one).encode() for one in fields["content"]]
        return strings.reshape(shape)
    return np.array(fields["content"], NUMPY_BY_DTYPE[dtype]).reshape(shape)


def _made_up(target: Target, batch: int) -> FeedDict:
    configs = {target.model: target.config} | target.steps()
    feed = probe_inputs(target.config, declared_ranges(target.model, configs), {})
    if feed is None:
        raise UsageError(
            f"{target.model} cannot be asked made-up values",
            hint="give samples with --data, or the folder of its release with --release",
        )
    return {name: np.repeat(array, batch, axis=0) if target.max_batch_size else array for name, array in feed.items()}
