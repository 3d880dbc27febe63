"""TensorRT's parser and builder take what the quantizer writes for it, and refuse the CPU's encoding."""

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from mmdeploy.core.artifact import Artifact, file_sha256
from mmdeploy.core.contracts import Encoding, StepContext
from mmdeploy.core.target import Target
from mmdeploy.quantize import static

trt = pytest.importorskip("tensorrt_rtx", reason="needs tensorrt_rtx (it builds on a CPU)")

#: A convolution, a linear layer with attention-like products, and a Gemm: all that is quantized by default.
GRAPH = """
<ir_version: 10, opset_import: ["" : 20]>
part (float[batch, 3, 8, 8] x) => (float[batch, 5] y)
<float[16, 3, 2, 2] wc, float[16] bc, float[16, 16] wq, float[16, 16] wk, float[5, 16] wh, float[5] bh,
 int64[3] join = {-1, 16, 16}, int64[1] axis = {1}>
{
  [patch] c = Conv <strides = [2, 2]> (x, wc, bc)
  [join] r = Reshape (c, join)
  [tokens] t = Transpose <perm = [0, 2, 1]> (r)
  [query] q = MatMul (t, wq)
  [key] k0 = MatMul (t, wk)
  [turn] k = Transpose <perm = [0, 2, 1]> (k0)
  [scores] s = MatMul (q, k)
  [weights] p = Softmax <axis = -1> (s)
  [mix] m = MatMul (p, t)
  [pool] v = ReduceMean <keepdims = 0> (m, axis)
  [head] y = Gemm <transB = 1> (v, wh, bh)
}
"""


def quantized(tmp_path: Path, encoding: Encoding, **options) -> bytes:
    model = onnx.parser.parse_model(GRAPH)
    random = np.random.default_rng(3)
    for value in model.graph.value_info:
        shape = tuple(size.dim_value for size in value.type.tensor_type.shape.dim)
        model.graph.initializer.append(
            numpy_helper.from_array(random.standard_normal(shape).astype(np.float32) / 4, value.name)
        )
    del model.graph.value_info[:]
    path = tmp_path / "float.onnx"
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    work = tmp_path / "work"
    work.mkdir()
    batches = [{"x": random.standard_normal((8, 3, 8, 8)).astype(np.float32)} for _ in range(4)]
    context = StepContext(
        component="part", workdir=work, target=Target.TENSORRT_RTX, encoding=encoding, max_batch_size=8, seed=0,
        threads=1, examples=lambda size: {"x": batches[0]["x"][:size]}, calibration_batches=4,
        calibration=lambda: iter(batches),
    )  # fmt: skip
    artifact = Artifact("onnx", path, file_sha256(path), (), (), "test")
    return static.run(artifact, static.Options(**options), context).path.read_bytes()


def build(graph: bytes) -> tuple[int, list[str]]:
    """Return the bytes of an engine for compute capability 8.6, and what the parser objected to."""
    log = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    if not parser.parse(graph):
        return 0, [str(parser.get_error(index).desc()) for index in range(parser.num_errors)]
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    profile = builder.create_optimization_profile()
    profile.set_shape("x", (1, 3, 8, 8), (4, 3, 8, 8), (8, 3, 8, 8))
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    return (engine.nbytes if engine is not None else 0), []


@pytest.mark.parametrize("attention", [False, True])
def test_symmetric_int8_is_built_into_an_engine(tmp_path, attention):
    size, errors = build(quantized(tmp_path, Encoding.INT8_SYMMETRIC, quantize_attention=attention))
    assert not errors
    assert size > 0


def test_uint8_is_refused_by_the_parser(tmp_path):
    _, errors = build(quantized(tmp_path, Encoding.UINT8_ASYMMETRIC))
    assert errors
