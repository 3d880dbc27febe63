"""A small component as passes and engines are given it: its PyTorch module, its graph, the context of a step.

It takes ``tokens`` (FP32 [4, 8]) and ``pixels`` (UINT8 [8]) and gives ``scores`` (FP32 [4, 4]), attention-like, and
``scaled`` (FP32 [8]); `answers` computes the same in NumPy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmdeploy.core.artifact import Array, Artifact, TensorSpec, file_sha256
from mmdeploy.core.contracts import Encoding, StepContext
from mmdeploy.core.target import Target

INPUTS = (TensorSpec("tokens", "FP32", (4, 8)), TensorSpec("pixels", "UINT8", (8,)))
OUTPUTS = (TensorSpec("scores", "FP32", (4, 4)), TensorSpec("scaled", "FP32", (8,)))
_BATCHES, _BATCH = 4, 16
_HEAD = """<ir_version: 10, opset_import: ["": 20]>
g (float[batch,4,8] tokens, uint8[batch,8] pixels) => (float[batch,4,4] scores, float[batch,8] scaled)
<float s = {0.03}, int8 z = {0}, float unit = {255.0}, float zero = {0.0}>
"""
_PAIR = "q = QuantizeLinear(tokens, s, z) d = DequantizeLinear(q, s, z)"
_BODY = """
    wide = MatMul(d, widen)
    rectified = Relu(wide)
    h = MatMul(rectified, narrow)
    t = Transpose <perm = [0, 2, 1]> (h)
    p = MatMul(h, t)
    scores = Softmax(p)
    f = Cast <to = 1> (pixels)
    scaled = Div(f, unit)
"""
_MODEL = '''"""The small component in PyTorch."""

import numpy as np
import torch
from torch import nn


class Component(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.widen, self.narrow = nn.Linear(8, 32, bias=False), nn.Linear(32, 8, bias=False)

    def forward(self, tokens, pixels):
        hidden = self.narrow(torch.relu(self.widen(tokens)))
        return torch.softmax(hidden @ hidden.transpose(1, 2), dim=-1), pixels.to(torch.float32) / 255


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.component = Component()


def build() -> nn.Module:
    model = Model()
    state = {f"component.{name}.weight": np.load(f"{__file__}.{name}.npy").T for name in ("widen", "narrow")}
    model.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in state.items()})
    return model
'''


def weights() -> dict[str, Array]:
    """Return the component's weights, each as ``x @ weight`` takes it."""
    random = np.random.default_rng(5)
    return {
        "widen": random.normal(size=(8, 32)).astype(np.float32) / 4,
        "narrow": random.normal(size=(32, 8)).astype(np.float32) / 8,
    }


def answers(feeds: Mapping[str, Array], used: Mapping[str, Array] | None = None) -> dict[str, Array]:
    """Return what the component answers, with its own weights or others."""
    used = used or weights()
    hidden = np.maximum(feeds["tokens"] @ used["widen"], 0) @ used["narrow"]
    products = np.exp(hidden @ hidden.transpose(0, 2, 1))
    return {
        "scores": products / products.sum(axis=-1, keepdims=True),
        "scaled": feeds["pixels"].astype(np.float32) / 255,
    }


def examples(batch: int, seed: int = 11) -> dict[str, Array]:
    """Return a feed dict of the component."""
    random = np.random.default_rng(seed)
    return {
        "tokens": random.normal(size=(batch, 4, 8)).astype(np.float32),
        "pixels": random.integers(0, 256, size=(batch, 8), dtype=np.uint8),
    }


def context(workdir: Path, **changes: Any) -> StepContext:
    """Return the context of a step that writes into a new folder, with calibration data; ``changes`` replace fields."""
    workdir.mkdir(parents=True)

    def calibration() -> Iterator[dict[str, Array]]:
        return (examples(_BATCH, seed) for seed in range(_BATCHES))

    fields: dict[str, Any] = {
        "component": "component",
        "workdir": workdir,
        "target": Target.CPU,
        "encoding": Encoding.INT8_SYMMETRIC,
        "max_batch_size": 4,
        "seed": 0,
        "threads": 1,
        "examples": examples,
        "calibration": calibration,
        "calibration_batches": _BATCHES,
    }
    return StepContext(**(fields | changes))


def graph(folder: Path, *, quantized: bool = False) -> Artifact:
    """Write the component's graph into a new folder; ``quantized`` puts a Q/DQ pair around an input."""
    import onnx

    text = _HEAD + "{" + (_PAIR if quantized else "d = Identity(tokens)") + _BODY + "}"
    model = onnx.parser.parse_model(text)
    for name, array in weights().items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    folder.mkdir(parents=True)
    path = folder / "model.onnx"
    onnx.save(model, path)
    return Artifact("onnx", path, file_sha256(path), INPUTS, OUTPUTS, "testing")


def module(folder: Path) -> Artifact:
    """Write the component's PyTorch module into a new folder, as a recipe's factory would give it."""
    folder.mkdir(parents=True)
    path = folder / "testing_component.py"
    path.write_text(_MODEL, encoding="utf-8")
    for name, array in weights().items():
        np.save(f"{path}.{name}.npy", array)
    facts = {
        "factory": f"{path.name}:build", "root": str(folder), "weights": None, "module": "component",
        "inputs": [spec.name for spec in INPUTS], "outputs": [spec.name for spec in OUTPUTS], "allow_pickle": False,
    }  # fmt: skip
    return Artifact("torch", path, file_sha256(path), INPUTS, OUTPUTS, "recipe", facts)


def source(folder: Path, kind: str, *, quantized: bool = False) -> Artifact:
    """Write what a pass or an engine consumes: the ``onnx`` graph or the ``torch`` module."""
    return module(folder) if kind == "torch" else graph(folder, quantized=quantized)
