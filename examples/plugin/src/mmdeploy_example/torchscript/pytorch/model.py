"""Triton's ``pytorch`` backend for servers that have only the python backend.

Inputs go to the module in the order of config.pbtxt, as the native backend does where names are no indices. The stub
that runs this finds mmdeploy, and nothing of a package that is not installed where the server's python3 is.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmdeploy.triton.backends.batch import BatchedModel, string_parameters


class TritonPythonModel:
    """One instance of one model version."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the module; what is raised here is Triton's reason for refusing the model."""
        config = json.loads(args["model_config"])
        torch.set_num_threads(int(string_parameters(config).get("INTRA_OP_THREAD_COUNT", "1")))
        folder = Path(args["model_repository"]) / args["model_version"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._module = torch.jit.load(str(folder / config["default_model_filename"]), map_location="cpu").eval()
        self._model = BatchedModel(config, self._run)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer the requests of one batch."""
        return self._model.execute(requests)

    def _run(self, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        with torch.inference_mode():
            answered = self._module(*(torch.from_numpy(feed[name].copy()) for name in self._model.inputs))
        tensors = answered if isinstance(answered, tuple | list) else (answered,)
        return [tensor.numpy() for tensor in tensors]
