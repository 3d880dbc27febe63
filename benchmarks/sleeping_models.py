"""A repository of steps that only sleep: Triton's queues and batches without a processor that others use too."""

from __future__ import annotations

from pathlib import Path

from tritonclient.grpc import model_config_pb2

MODEL = """
import json
import time

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        parameters = json.loads(args["model_config"])["parameters"]
        self.each, self.row = (float(parameters[name]["string_value"]) for name in ("each_ms", "row_ms"))

    def execute(self, requests):
        tensors = [pb_utils.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        time.sleep((self.each + self.row * sum(map(len, tensors))) / 1e3)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", tensor)]) for tensor in tensors]
"""
#: By name: milliseconds an execution, and more for each of its rows; microseconds of delay, None for no batching.
STEPS = {"left": (6.0, 1.0, 2000), "right": (9.0, 0.5, 0), "head": (3.0, 0.0, None)}


def write(repository: Path) -> Path:
    """Write the ensemble ``sleeping``: left and right side by side, then the head, which reads left's answer."""
    for name, (each_ms, row_ms, delay_us) in STEPS.items():
        config = _config(name)
        config.backend = "python"
        config.instance_group.add(count=1, kind="KIND_CPU")
        config.parameters["each_ms"].string_value, config.parameters["row_ms"].string_value = str(each_ms), str(row_ms)
        if delay_us is not None:
            config.dynamic_batching.max_queue_delay_microseconds = delay_us
        (repository / name / "1").mkdir(parents=True)
        (repository / name / "1" / "model.py").write_text(MODEL)
        (repository / name / "config.pbtxt").write_text(str(config))
    whole = _config("sleeping")
    whole.platform = "ensemble"
    whole.output.add(name="z", data_type="TYPE_FP32", dims=[2])
    for name, taken, given in (("left", "x", "l"), ("right", "x", "z"), ("head", "l", "y")):
        step = whole.ensemble_scheduling.step.add(model_name=name, model_version=1)
        step.input_map["x"] = taken
        step.output_map["y"] = given
    (repository / "sleeping" / "1").mkdir(parents=True)
    (repository / "sleeping" / "config.pbtxt").write_text(str(whole))
    return repository


def _config(name: str) -> model_config_pb2.ModelConfig:
    config = model_config_pb2.ModelConfig(name=name, max_batch_size=8)
    config.input.add(name="x", data_type="TYPE_FP32", dims=[2])
    config.output.add(name="y", data_type="TYPE_FP32", dims=[2])
    return config
