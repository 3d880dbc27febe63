"""Tiny ONNX models in a Triton repository, each a graph that a reader can check in the head."""

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import parser
from tritonclient.grpc import model_config_pb2

HEAD = '<ir_version: 10, opset_import: ["" : 20]> '
GRAPHS = {
    "positive": "g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }",
    "negated": "g (float[N,4] x) => (float[N,4] y) { y = Neg(x) }",
    "summed": "g (float[N,4] p, float[N,4] q) => (float[N,4] z) { z = Add(p, q) }",
    # A vocabulary of 5; Gather takes -1 for the last row, as NumPy does.
    "looked_up": """g (int64[N,2] tokens) => (float[N,2] rows)
        <float[5] table = {10.0, 11.0, 12.0, 13.0, 14.0}> { rows = Gather(table, tokens) }""",
    "negated_fp16": "g (float16[N,4] x) => (float16[N,4] y) { y = Neg(x) }",
    "sized": "g (float[N,K] x) => (float[N,1] total) <int64[1] axis = {1}> { total = ReduceSum(x, axis) }",
}
INPUTS = {
    "positive": {"x": ("FP32", [4])},
    "negated": {"x": ("FP32", [4])},
    "summed": {"p": ("FP32", [4]), "q": ("FP32", [4])},
    "looked_up": {"tokens": ("INT64", [2])},
    "negated_fp16": {"x": ("FP16", [4])},
    "sized": {"x": ("FP32", [-1])},
}
OUTPUTS = {
    "positive": {"y": ("FP32", [4])},
    "negated": {"y": ("FP32", [4])},
    "summed": {"z": ("FP32", [4])},
    "looked_up": {"rows": ("FP32", [2])},
    "negated_fp16": {"y": ("FP16", [4])},
    "sized": {"total": ("FP32", [1])},
}
RULES = {"looked_up": {"tokens": {"range": [0, 4]}}}


def config(name: str, *, queue_delay_us: int = 0) -> model_config_pb2.ModelConfig:
    """Return the config of one of the models above."""
    message = model_config_pb2.ModelConfig(name=name, backend="onnxruntime", max_batch_size=8)
    for side, tensors in ((message.input, INPUTS[name]), (message.output, OUTPUTS[name])):
        for tensor, (dtype, dims) in tensors.items():
            side.add(name=tensor, data_type=f"TYPE_{dtype}", dims=dims)
    message.parameters["intra_op_thread_count"].string_value = "1"
    if name in RULES:
        message.parameters["mmdeploy.inputs"].string_value = json.dumps(RULES[name])
    if queue_delay_us:
        message.dynamic_batching.max_queue_delay_microseconds = queue_delay_us
    message.instance_group.add(count=1, kind="KIND_CPU")
    return message


def ensemble() -> model_config_pb2.ModelConfig:
    """Return the ensemble ``difference``: relu(u) - v."""
    message = model_config_pb2.ModelConfig(name="difference", platform="ensemble", max_batch_size=8)
    for name in ("u", "v"):
        message.input.add(name=name, data_type="TYPE_FP32", dims=[4])
    message.output.add(name="z", data_type="TYPE_FP32", dims=[4])
    wiring = {
        "positive": ({"x": "u"}, {"y": "kept"}),
        "negated": ({"x": "v"}, {"y": "turned"}),
        "summed": ({"p": "kept", "q": "turned"}, {"z": "z"}),
    }
    for model, (inputs, outputs) in wiring.items():
        step = message.ensemble_scheduling.step.add(model_name=model, model_version=1)
        step.input_map.update(inputs)
        step.output_map.update(outputs)
    return message


def write(repository: Path, *messages: model_config_pb2.ModelConfig) -> Path:
    """Write models with their configs as version 1."""
    for message in messages:
        version = repository / message.name / "1"
        version.mkdir(parents=True)
        (repository / message.name / "config.pbtxt").write_text(str(message))
        if message.name in GRAPHS:
            onnx.save(model(message.name), version / "model.onnx")
    return repository


def model(name: str) -> onnx.ModelProto:
    """Return the checked graph of one of the models above."""
    proto = parser.parse_model(HEAD + GRAPHS[name])
    onnx.checker.check_model(proto)
    return proto


def rows(*values: float) -> np.ndarray:
    """Return an array of shape [len(values), 4], each row filled with one value."""
    return np.repeat(np.array(values, np.float32)[:, None], 4, axis=1)
