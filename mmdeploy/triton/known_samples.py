"""One real sample of each model of a repository, kept beside them: what a probe asks.

A probe of made-up values proves little and can be wrong: a text of nothing but padding, or ids outside of the
vocabulary, are refused by models that answer every real request.
"""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np

from mmdeploy.core.artifact import Array
from mmdeploy.core.strings import packed, unpacked
from mmdeploy.triton.config import ServedEnsemble

logger = logging.getLogger(__name__)

#: One sample of a model's inputs, without a batch axis, by model.
Samples: TypeAlias = Mapping[str, Mapping[str, Array]]

#: How keys begin of what strings are written as; a model's name has no colon.
_STRINGS, _SHAPE = "strings:", "shape:"
#: In a repository's folder, beside the models'.
SAMPLES = "samples.npz"
#: Likewise: several samples of the ensemble's inputs, as ``perf_analyzer --input-data`` reads them.
PERF_SAMPLES = "perf_analyzer.json"


def write_samples(folder: Path, ensemble: ServedEnsemble) -> None:
    """Write down one sample of each component whose sample is known, and of the ensemble if all are.

    Args:
        folder: The repository.
        ensemble: What it serves.
    """
    samples = {part.name: dict(part.sample) for part in ensemble.parts if part.sample}
    sent = {
        tensor: part.sample[name]
        for part in ensemble.parts
        for name, tensor in part.inputs.items()
        if name in part.sample
    }
    for one in (*ensemble.branches, ensemble):
        needed = [spec.name for spec in one.inputs if spec.name not in one.optional]
        if all(name in sent for name in needed):
            known = {spec.name: sent[spec.name] for spec in one.inputs if spec.name in sent}
            samples |= {one.name: known} if known else {}
    save_samples(folder / SAMPLES, samples)


def save_samples(path: Path, samples: Samples) -> None:
    """Write samples down; none make no file."""
    arrays: dict[str, Array] = {}
    for model, sample in samples.items():
        for name, array in sample.items():
            arrays |= _written(f"{model}/{name}", array)
    if arrays:
        np.savez(path, **arrays)


def _written(key: str, array: Array) -> dict[str, Array]:
    """Return an array as ``.npz`` holds it without pickle: strings as their bytes, beside their shape."""
    if array.dtype != object:
        return {key: array}
    content, shape = np.frombuffer(packed(array), np.uint8), np.array(array.shape, np.int64)
    return {f"{_STRINGS}{key}": content, f"{_SHAPE}{key}": shape}


def read_samples(repositories: Iterable[Path]) -> dict[str, dict[str, Array]]:
    """Return what repositories know of samples; a file that cannot be read is passed over."""
    found: dict[str, dict[str, Array]] = {}
    for repository in repositories:
        path = repository / SAMPLES
        if not path.is_file():
            continue
        try:
            with np.load(path, allow_pickle=False) as arrays:
                for key in arrays.files:
                    if key.startswith(_SHAPE):
                        continue
                    strings = key.startswith(_STRINGS)
                    own = key.removeprefix(_STRINGS) if strings else key
                    model, _, name = own.partition("/")
                    array = unpacked(arrays[key].tobytes(), arrays[f"{_SHAPE}{own}"]) if strings else arrays[key]
                    found.setdefault(model, {})[name] = array
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as problem:
            logger.warning("%s cannot be read, models are probed with made-up values: %s", path, problem)
    return found
