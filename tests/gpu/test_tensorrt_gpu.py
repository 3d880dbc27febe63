"""TensorRT engines, built and run on the GPU of this machine; skipped visibly where there is none."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from mmdeploy import engines
from mmdeploy.core.artifact import Artifact, TensorSpec, file_sha256
from mmdeploy.core.contracts import Encoding, StepContext
from mmdeploy.core.errors import InferenceError
from mmdeploy.core.sessions import SessionRunner, open_session
from mmdeploy.core.target import Target

pytestmark = pytest.mark.gpu

GRAPH = """<ir_version: 10, opset_import: ["": 20]>
g (uint8[batch,16] pixels, float[batch,length,16] tokens) => (float[batch,length,16] mixed)
<float unit = {255.0}, float s = {0.03}, int8 z = {0}> {
    f = Cast <to = 1> (pixels)
    p = Div(f, unit)
    axis = Constant <value = int64[1] {1}> ()
    e = Unsqueeze(p, axis)
    a = Add(tokens, e)
    q = QuantizeLinear(a, s, z)
    d = DequantizeLinear(q, s, z)
    dw = DequantizeLinear <axis = 1> (w, ws, wz)
    h = MatMul(d, dw)
    mixed = Softmax(h)
}"""
INPUTS = (TensorSpec("pixels", "UINT8", (16,)), TensorSpec("tokens", "FP32", (-1, 16)))
OUTPUTS = (TensorSpec("mixed", "FP32", (-1, 16)),)
PROFILE = {"shapes": {"tokens": {"min": [1, 16], "opt": [4, 16], "max": [8, 16]}}}


def examples(batch: int, length: int = 3) -> dict[str, Any]:
    generator = np.random.default_rng(batch)
    return {
        "pixels": generator.integers(0, 256, size=(batch, 16), dtype=np.uint8),
        "tokens": generator.normal(size=(batch, length, 16)).astype(np.float32),
    }


@pytest.fixture
def source(tmp_path: Path) -> Artifact:
    model = onnx.parser.parse_model(GRAPH)
    weights = {
        "w": np.random.default_rng(1).integers(-127, 128, size=(16, 16), dtype=np.int8),
        "ws": np.full(16, 0.01, np.float32),
        "wz": np.zeros(16, np.int8),
    }
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in weights.items())
    path = tmp_path / "source.onnx"
    onnx.save(model, path)
    return Artifact("onnx", path, file_sha256(path), INPUTS, OUTPUTS, "test")


@pytest.fixture
def context(tmp_path: Path) -> StepContext:
    return StepContext(
        component="fusion", workdir=tmp_path, target=Target.TENSORRT, encoding=Encoding.INT8_SYMMETRIC,
        max_batch_size=4, seed=0, threads=2, examples=examples,
    )  # fmt: skip


@pytest.fixture(params=["tensorrt", "tensorrt_rtx"])
def engine(request: pytest.FixtureRequest) -> Any:
    chosen = engines.METHODS[request.param]
    if find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    if reason := chosen.unavailable(chosen.Options()):
        pytest.skip(f"{request.param} cannot run here: {reason}")
    return chosen


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_engine_answers_as_onnx_runtime(
    engine: Any, source: Artifact, context: StepContext, precision: str
) -> None:
    options = engine.Options(precision=precision, optimization_profile=PROFILE)
    runner = engine.load(engine.run(source, options, context), options)
    original = SessionRunner(open_session(source.path, {}))
    tolerance = 1e-3 if precision == "fp32" else 2e-2
    for batch, length in ((1, 1), (3, 5), (4, 8)):
        feed = examples(batch, length)
        np.testing.assert_allclose(
            runner.infer(feed)["mixed"], original.infer(feed)["mixed"], rtol=tolerance, atol=tolerance
        )
    runner.close()


def test_what_the_profile_does_not_take_is_refused(engine: Any, source: Artifact, context: StepContext) -> None:
    options = engine.Options(optimization_profile=PROFILE)
    runner = engine.load(engine.run(source, options, context), options)
    with pytest.raises(InferenceError, match=r"optimization profile takes \[1, 1, 16\] to \[4, 8, 16\]"):
        runner.infer(examples(2, 9))
    assert runner.infer(examples(2, 8))["mixed"].shape == (2, 8, 16)
    with pytest.raises(InferenceError, match="dtype is FP64, expected FP32"):
        runner.infer(examples(1) | {"tokens": np.zeros((1, 3, 16))})
    runner.close()
    with pytest.raises(InferenceError, match="closed"):
        runner.infer(examples(1))


def test_a_timing_cache_is_written_and_read_again(source: Artifact, context: StepContext, tmp_path: Path) -> None:
    from mmdeploy.engines import tensorrt

    if reason := tensorrt.unavailable(tensorrt.Options()):
        pytest.skip(f"tensorrt cannot run here: {reason}")
    cache = tmp_path / "cache" / "timing.bin"
    options = tensorrt.Options.model_validate({"timing_cache": str(cache), "optimization_profile": PROFILE})
    tensorrt.run(source, options, context)
    first = cache.read_bytes()
    assert first
    tensorrt.run(source, options, context)
    assert cache.stat().st_size >= len(first)
