"""Triton's ``openvino`` backend for servers that have only the python backend.

Triton loads this file for every model whose config.pbtxt says ``backend: "openvino"`` when it lies in
``<backend-directory>/openvino/model.py``. Of what the native backend reads it takes ``default_model_filename`` and
the parameters INFERENCE_NUM_THREADS, NUM_STREAMS and HINT_BF16, and besides them FIXED_BATCHES. Two differences:
without HINT_BF16 it computes in FP32 (the native one in what OpenVINO finds fastest, held to FP32 by marks in the IR),
and it runs each batch in its own size (the native one pads to max_batch_size). Batches and checks:
`mmdeploy.triton.backends.batch`.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmdeploy.core.artifact import TensorSpec
from mmdeploy.engines.openvino import FILENAME, open_model
from mmdeploy.triton.backends.batch import BatchedModel, string_parameters


class TritonPythonModel:
    """One instance of one model version."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Compile the model; anything raised here is Triton's reason for refusing it."""
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"]) / args["model_version"]
        filename = config.get("default_model_filename") or FILENAME
        self.runner = open_model(folder / filename, string_parameters(config))
        model = BatchedModel(config, lambda feed: self._in_order(self.runner.infer(feed)))
        _require_names(model.inputs, self.runner.inputs, "input")
        _require_names(model.outputs, self.runner.outputs, "output")
        self.model = model
        # What is loaded now lives as long as the process; the collector would walk it again and again.
        gc.collect()
        gc.freeze()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer the requests of one batch."""
        return self.model.execute(requests)

    def finalize(self) -> None:
        """Free the model."""
        self.runner.close()

    def _in_order(self, answers: Mapping[str, Any]) -> list[Any]:
        return [answers[name] for name in self.model.outputs]


def _require_names(names: Sequence[str], specs: Sequence[TensorSpec], side: str) -> None:
    present = [spec.name for spec in specs]
    unknown = [name for name in names if name not in present]
    if unknown or (side == "input" and len(names) < len(present)):
        raise ValueError(f"config.pbtxt has the {side}s {list(names)}, the model has {present}")
