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
from mmdeploy.triton.config import ServedEnsemble

logger = logging.getLogger(__name__)

#: One sample of a model's inputs, without a batch axis, by model.
Samples: TypeAlias = Mapping[str, Mapping[str, Array]]

#: In a repository's folder, beside the models'.
SAMPLES = "samples.npz"


def write_samples(folder: Path, ensemble: ServedEnsemble) -> None:
    """Write down one sample of each component whose sample is known, and of the ensemble if all are.

    Args:
        folder: The repository.
        ensemble: What it serves.
    """
    samples = {part.name: dict(part.sample) for part in ensemble.components if part.sample}
    sent = {
        tensor: part.sample[name]
        for part in ensemble.components
        for name, tensor in part.inputs.items()
        if name in part.sample
    }
    if all(spec.name in sent for spec in ensemble.inputs):
        samples[ensemble.name] = {spec.name: sent[spec.name] for spec in ensemble.inputs}
    arrays = {f"{model}/{name}": array for model, one in samples.items() for name, array in one.items()}
    if arrays:
        np.savez(folder / SAMPLES, **arrays)


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
                    model, _, name = key.partition("/")
                    found.setdefault(model, {})[name] = arrays[key]
        except (OSError, EOFError, ValueError, zipfile.BadZipFile) as problem:
            logger.warning("%s cannot be read, models are probed with made-up values: %s", path, problem)
    return found
