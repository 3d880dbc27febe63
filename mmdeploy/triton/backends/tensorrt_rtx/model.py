"""A ``tensorrt_rtx`` backend for Triton, which has none: plans of TensorRT for RTX, run in a python stub.

Needs an NVIDIA GPU that the plan was built for, its driver, ``tensorrt-rtx`` and a PyTorch built for CUDA.
Tensors go through host memory, as the python backend passes them; the GPU of the instance is used. A plan is
native code: serve your own only. Batches and checks: `mmdeploy.triton.backends.batch`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmdeploy.core.artifact import TensorSpec
from mmdeploy.core.errors import EngineError, EnvironmentUnfitError
from mmdeploy.engines.tensorrt_rtx import FLAVOR
from mmdeploy.engines.trt_build import PLAN_FILENAME, import_tensorrt
from mmdeploy.engines.trt_run import TensorRTRunner
from mmdeploy.triton.backends.batch import BatchedModel


class TritonPythonModel:
    """One instance of one model version."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Deserialize the plan; anything raised here is Triton's reason for refusing the model."""
        config = json.loads(args["model_config"])
        if args["model_instance_kind"] != "GPU":
            raise EnvironmentUnfitError("a TensorRT plan needs an NVIDIA GPU: instance_group { kind: KIND_GPU }")
        os.environ["CUDA_VISIBLE_DEVICES"] = args["model_instance_device_id"]  # a process serves one instance
        path = Path(args["model_repository"]) / args["model_version"]
        self.runner = _load(path / (config.get("default_model_filename") or PLAN_FILENAME), config)
        model = BatchedModel(config, lambda feed: list(self.runner.infer(feed).values()))
        self.model = model

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer the requests of one batch."""
        return self.model.execute(requests)

    def finalize(self) -> None:
        """Free the engine."""
        self.runner.close()


def _load(plan: Path, config: Mapping[str, Any]) -> TensorRTRunner:
    trt = import_tensorrt(FLAVOR)
    logger = trt.Logger(trt.Logger.WARNING)  # writes to the server's log
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan.read_bytes())
    if engine is None:
        raise EngineError(f"TensorRT for RTX {trt.__version__} could not load {plan}; see the lines above in the log")
    return TensorRTRunner(engine, inputs=_specs(config["input"]), outputs=_specs(config["output"]), trt=trt)


def _specs(tensors: Sequence[Mapping[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(tensor["name"], tensor["data_type"].removeprefix("TYPE_"), tuple(map(int, tensor["dims"])))
        for tensor in tensors
    )
