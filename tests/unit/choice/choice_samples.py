"""Small real engines to choose between, and a bench on which the test says how fast each is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mmdeploy import engines
from mmdeploy.choice.candidates import Candidate
from mmdeploy.choice.engine_process import EngineProcess
from mmdeploy.choice.measure import Bench
from mmdeploy.core.artifact import Artifact, TensorSpec, file_sha256
from mmdeploy.core.contracts import Encoding, FusedOutput, MethodOptions, StepContext, method_of
from mmdeploy.core.target import Target

WIDTH = 192
INPUTS, OUTPUTS = (TensorSpec("x", "FP32", (WIDTH,)),), (TensorSpec("y", "FP32", (WIDTH,)),)


def examples(batch: int) -> dict[str, Any]:
    return {"x": np.random.default_rng(3).normal(size=(batch, WIDTH)).astype(np.float32)}


def write_graph(path: Path, layers: int) -> Artifact:
    """Write a chain of MatMul and Tanh."""
    random = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(random.normal(size=(WIDTH, WIDTH)).astype(np.float32) / WIDTH**0.5, f"w{index}")
        for index in range(layers)
    ]
    nodes, last = [], "x"
    for index in range(layers):
        nodes.append(helper.make_node("MatMul", [last, f"w{index}"], [f"h{index}"]))
        last = "y" if index == layers - 1 else f"t{index}"
        nodes.append(helper.make_node("Tanh", [f"h{index}"], [last]))
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", WIDTH]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "chain", tensors[:1], tensors[1:], weights)
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return Artifact("onnx", path, file_sha256(path), INPUTS, OUTPUTS, "test")


def context(workdir: Path, *, fused: FusedOutput | None = None, calibrated: bool = False) -> StepContext:
    workdir.mkdir(parents=True, exist_ok=True)
    return StepContext(
        component="chain", workdir=workdir, target=Target.CPU, encoding=Encoding.INT8_SYMMETRIC, max_batch_size=8,
        seed=0, threads=1, examples=examples, fused=fused,
        calibration=(lambda: iter([examples(8), examples(3)])) if calibrated else None,
    )  # fmt: skip


def candidate(folder: Path, label: str, options: MethodOptions, *, layers: int, **fields: Any) -> Candidate:
    """Build a real engine from a chain of some layers."""
    name = label.replace(" ", "-")
    graph = write_graph(folder / "graphs" / name / "model.onnx", layers)
    artifact = engines.METHODS[method_of(options)].run(graph, options, context(folder / "engines" / name))
    given = {"graph": "float", "compressed": False, "simplicity": 0} | fields
    return Candidate(label, artifact, options, **given)


def bench(costs_ms: Mapping[str, float]) -> Bench:
    """Return a bench on which a request costs what is given by label; engines are loaded and asked all the same."""

    class Costed(EngineProcess):
        def __init__(self, artifact, options, requests):
            super().__init__(artifact, options, requests)
            self.label = artifact.path.parent.name.replace("-", " ")

        def time(self, first, count):
            assert len(super().time(first, count)) == count
            return [costs_ms[self.label]] * count

    return Bench(Costed, clock=lambda: 0.0)
