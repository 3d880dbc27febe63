"""A training that launched processes run, by name."""

import os
import tempfile
from pathlib import Path
from typing import Any

import qat_samples

from mmdeploy.core.contracts import Progress
from mmdeploy.model.torch_component import load_component


def trained(options: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Train a component and return its weights as nested lists, with the scales of its activations."""
    with tempfile.TemporaryDirectory() as folder:
        made = qat_samples.trained("OneAttention", Path(folder) / os.environ.get("RANK", "alone"), **options)
        weights = {name: value.tolist() for name, value in load_component(made).state_dict().items()}
    amax = {layer["name"]: layer["input_amax"] for layer in made.metadata["scales"]["layers"]}
    record = made.metadata["training"]
    return {"weights": weights, "amax": amax, "processes": record["processes"], "best_epoch": record["best_epoch"]}
