"""Graphs as ONNX text, made into the artifacts and contexts that an engine's step gets."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmdeploy.core.artifact import DTYPE_BY_NUMPY, Artifact, TensorSpec, file_sha256
from mmdeploy.core.contracts import Encoding, StepContext
from mmdeploy.core.target import Target

MakeOnnx = Callable[..., Artifact]
MakeContext = Callable[..., StepContext]


@pytest.fixture
def make_onnx(tmp_path: Path) -> MakeOnnx:
    """Turn the text of a graph into an ONNX artifact; the specs are read from the graph."""
    import onnx

    def spec(info: Any) -> TensorSpec:
        tensor = info.type.tensor_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
        shape = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim[1:])
        return TensorSpec(info.name, DTYPE_BY_NUMPY[dtype], shape)

    def make(text: str, *, opset: int = 20, weights: dict[str, Any] | None = None) -> Artifact:
        model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": {opset}, "my.domain": 1]>\n{text}')
        for name, values in (weights or {}).items():
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(values), name))
        path = tmp_path / "source.onnx"
        onnx.save(model, path)
        inputs, outputs = tuple(map(spec, model.graph.input)), tuple(map(spec, model.graph.output))
        return Artifact("onnx", path, file_sha256(path), inputs, outputs, "test")

    return make


@pytest.fixture
def make_context(tmp_path: Path) -> MakeContext:
    """Make the context of a step whose examples are seeded random arrays."""

    def make(artifact: Artifact, **overrides: Any) -> StepContext:
        workdir = tmp_path / "work"
        workdir.mkdir(exist_ok=True)

        def examples(batch: int) -> dict[str, Any]:
            generator = np.random.default_rng(7)
            return {
                spec.name: (generator.random((batch, *(abs(size) for size in spec.shape))) * 4 - 1).astype(
                    spec.numpy_dtype
                )
                for spec in artifact.inputs
            }

        fields: dict[str, Any] = {
            "component": "encoder",
            "workdir": workdir,
            "target": Target.CPU,
            "encoding": Encoding.INT8_SYMMETRIC,
            "max_batch_size": 8,
            "seed": 0,
            "threads": 1,
            "examples": examples,
        }
        return StepContext(**fields | overrides)

    return make
