"""An ``aot_inductor`` backend for Triton, which has none: packages of torch's ahead-of-time compiler in a python stub.

Needs torch, in the version that built the package, and a processor with the instruction sets that it was built for:
said in words where one is missing. A package is machine code: serve your own only. Batches and checks:
`mmdeploy.triton.backends.batch`.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmdeploy.core.artifact import TensorSpec
from mmdeploy.engines.aot_inductor import FILENAME, THREADS
from mmdeploy.engines.aot_package import open_package
from mmdeploy.triton.backends.batch import BatchedModel, string_parameters


class TritonPythonModel:
    """One instance of one model version."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the package; anything raised here is Triton's reason for refusing the model."""
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"]) / args["model_version"]
        self.runner = open_package(
            folder / (config.get("default_model_filename") or FILENAME),
            inputs=_specs(config, "input"),
            outputs=_specs(config, "output"),
            threads=int(string_parameters(config).get(THREADS, "1")),
        )
        self.model = BatchedModel(config, self._answers)
        # What is loaded now lives as long as the process; the collector would walk it again and again.
        gc.collect()
        gc.freeze()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer the requests of one batch."""
        return self.model.execute(requests)

    def finalize(self) -> None:
        """Free the model."""
        self.runner.close()

    def _answers(self, feed: Mapping[str, Any]) -> list[Any]:
        found = self.runner.infer(feed)
        return [found[name] for name in self.model.outputs]


def _specs(config: Mapping[str, Any], side: str) -> tuple[TensorSpec, ...]:
    found = []
    for tensor in config[side]:
        dims = tuple(map(int, tensor.get("reshape", {}).get("shape", tensor["dims"])))
        dtype = tensor["data_type"].removeprefix("TYPE_")
        found.append(TensorSpec(tensor["name"], dtype, dims if config["max_batch_size"] else dims[1:]))
    return tuple(found)
