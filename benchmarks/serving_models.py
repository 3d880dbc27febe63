"""The ensembles that `embedded_serving.py` measures: three tiny steps, and a ViT-S with a text encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Feed = dict[str, npt.NDArray[Any]]
Tensors = Mapping[str, tuple[str, list[int]]]

MAX_BATCH_SIZE = 8


@dataclass(frozen=True)
class Step:
    """A composing model.

    Attributes:
        inputs: Triton type and dims by input name.
        outputs: Likewise.
        input_map: Ensemble tensor by input name.
        output_map: Ensemble tensor by output name.
        threads: Of its session.
        instances: Of its model in Triton.
    """

    inputs: Tensors
    outputs: Tensors
    input_map: Mapping[str, str]
    output_map: Mapping[str, str]
    threads: int = 1
    instances: int = 1

    @property
    def parameters(self) -> dict[str, str]:
        """Session options, as config.pbtxt has them."""
        return {"intra_op_thread_count": str(self.threads), "session.intra_op.allow_spinning": "0"}


@dataclass(frozen=True)
class Case:
    """An ensemble with its steps in order, what to feed it, and how to write its graphs."""

    name: str
    steps: Mapping[str, Step]
    inputs: Tensors
    outputs: Tensors
    feed: Callable[[int], Feed]
    write_graphs: Callable[[Path], None]
    blocks: Mapping[tuple[int, int], int]  # requests in a block, by (batch, concurrency)


def tiny_case() -> Case:
    """Return three steps that do next to nothing: what is measured is the way."""
    vector: Tensors = {"x": ("FP32", [16])}
    steps = {
        "left": Step(vector, {"y": ("FP32", [16])}, {"x": "u"}, {"y": "left_y"}),
        "right": Step(vector, {"y": ("FP32", [16])}, {"x": "v"}, {"y": "right_y"}),
        "sum": Step(
            {"p": ("FP32", [16]), "q": ("FP32", [16])},
            {"z": ("FP32", [16])},
            {"p": "left_y", "q": "right_y"},
            {"z": "z"},
        ),
    }
    generator = np.random.default_rng(0)

    def feed(batch: int) -> Feed:
        return {name: generator.standard_normal((batch, 16), np.float32) for name in ("u", "v")}

    inputs = {"u": ("FP32", [16]), "v": ("FP32", [16])}
    blocks = {(1, 1): 300, (8, 1): 300, (1, 8): 800, (8, 8): 800}
    return Case("tiny", steps, inputs, {"z": ("FP32", [16])}, feed, _write_tiny, blocks)


def _write_tiny(folder: Path) -> None:
    import onnx
    from onnx import parser

    head = '<ir_version: 10, opset_import: ["" : 20]> g '
    bodies = {
        "left": "(float[N,16] x) => (float[N,16] y) { y = Relu(x) }",
        "right": "(float[N,16] x) => (float[N,16] y) { y = Neg(x) }",
        "sum": "(float[N,16] p, float[N,16] q) => (float[N,16] z) { z = Add(p, q) }",
    }
    for name, body in bodies.items():
        onnx.save(parser.parse_model(head + body), folder / f"{name}.onnx")


def vit_case(threads: int, instances: int) -> Case:
    """Return a ViT-S/16 at 224 pixels, a text encoder of 6 layers, and a small fusion; weights are random."""
    steps = {
        "image": Step(
            {"pixels": ("UINT8", [3, 224, 224])},
            {"pooled": ("FP32", [384])},
            {"pixels": "pixels"},
            {"pooled": "image_embedding"},
            threads,
            instances,
        ),
        "text": Step(
            {"tokens": ("INT64", [32])},
            {"pooled": ("FP32", [384])},
            {"tokens": "tokens"},
            {"pooled": "text_embedding"},
            threads,
            instances,
        ),
        "fusion": Step(
            {"image": ("FP32", [384]), "text": ("FP32", [384])},
            {"logits": ("FP32", [10])},
            {"image": "image_embedding", "text": "text_embedding"},
            {"logits": "logits"},
        ),
    }
    generator = np.random.default_rng(0)

    def feed(batch: int) -> Feed:
        pixels = generator.integers(0, 256, (batch, 3, 224, 224), np.uint8)
        return {"pixels": pixels, "tokens": generator.integers(0, 1000, (batch, 32))}

    inputs = {"pixels": ("UINT8", [3, 224, 224]), "tokens": ("INT64", [32])}
    blocks = {(1, 1): 12, (8, 1): 3, (1, 8): 32, (8, 8): 16}
    return Case("vit_s", steps, inputs, {"logits": ("FP32", [10])}, feed, _write_vit, blocks)


def _write_vit(folder: Path) -> None:
    import torch

    torch.manual_seed(0)
    modules, examples = _vit_modules()
    for name, module in modules.items():
        inputs = examples[name]
        batch = torch.export.Dim("batch", min=1, max=MAX_BATCH_SIZE)
        torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            folder / f"{name}.onnx",
            dynamo=True,
            external_data=False,
            verbose=False,
            input_names=list(inputs),
            output_names=["logits" if name == "fusion" else "pooled"],
            dynamic_shapes=tuple({0: batch} for _ in inputs),
        )


def _vit_modules() -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    import torch
    from torch import nn

    def encoder(layers: int) -> nn.Module:
        layer = nn.TransformerEncoderLayer(384, 6, 1536, 0.0, "gelu", batch_first=True, norm_first=True)
        return nn.TransformerEncoder(layer, layers, nn.LayerNorm(384), enable_nested_tensor=False)

    class Image(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 384, 16, 16)
            self.positions = nn.Parameter(torch.randn(1, 196, 384) * 0.02)
            self.encoder = encoder(12)

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            patches = self.patches(pixels.float() / 127.5 - 1.0).flatten(2).transpose(1, 2)
            return self.encoder(patches + self.positions).mean(1)  # type: ignore[no-any-return]

    class Text(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(1000, 384)
            self.encoder = encoder(6)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.encoder(self.table(tokens)).mean(1)  # type: ignore[no-any-return]

    class Fusion(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(768, 256), nn.GELU(), nn.Linear(256, 10))

        def forward(self, image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
            return self.layers(torch.cat([image, text], 1))  # type: ignore[no-any-return]

    examples = {
        "image": {"pixels": torch.zeros(2, 3, 224, 224, dtype=torch.uint8)},
        "text": {"tokens": torch.zeros(2, 32, dtype=torch.int64)},
        "fusion": {"image": torch.zeros(2, 384), "text": torch.zeros(2, 384)},
    }
    return {"image": Image(), "text": Text(), "fusion": Fusion()}, examples


def write_repository(case: Case, graphs: Path, repository: Path) -> None:
    """Write a Triton repository that serves a case's graphs as the ensemble ``ensemble``."""
    import shutil

    from tritonclient.grpc.model_config_pb2 import ModelConfig

    def tensors(config: Any, inputs: Tensors, outputs: Tensors) -> None:
        for side, specs in ((config.input, inputs), (config.output, outputs)):
            for name, (dtype, dims) in specs.items():
                side.add(name=name, data_type=f"TYPE_{dtype}", dims=dims)

    ensemble = ModelConfig(name="ensemble", platform="ensemble", max_batch_size=MAX_BATCH_SIZE)
    tensors(ensemble, case.inputs, case.outputs)
    configs = [ensemble]
    for name, step in case.steps.items():
        config = ModelConfig(name=name, backend="onnxruntime", max_batch_size=MAX_BATCH_SIZE)
        tensors(config, step.inputs, step.outputs)
        for key, value in step.parameters.items():
            config.parameters[key].string_value = value
        config.instance_group.add(count=step.instances, kind="KIND_CPU")
        config.dynamic_batching.SetInParent()
        scheduled = ensemble.ensemble_scheduling.step.add(model_name=name, model_version=1)
        scheduled.input_map.update(step.input_map)
        scheduled.output_map.update(step.output_map)
        configs.append(config)
    for config in configs:
        version = repository / config.name / "1"
        version.mkdir(parents=True)
        (repository / config.name / "config.pbtxt").write_text(str(config))
        if config.name in case.steps:
            shutil.copy(graphs / f"{config.name}.onnx", version / "model.onnx")
