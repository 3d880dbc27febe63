"""Small float graphs with weights, and what tests of quantization do with them."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
from onnx import numpy_helper

from mmdeploy.core.artifact import Artifact, file_sha256
from mmdeploy.core.contracts import Array, Encoding, StepContext
from mmdeploy.core.target import Target
from mmdeploy.quantize import static

#: A linear layer, a GELU-free MLP: two products with constants, one of them as Gemm.
MLP = """
<ir_version: 10, opset_import: ["" : 20]>
mlp (float[batch, 16] x) => (float[batch, 8] y)
<float[16, 32] w1, float[32] b1, float[8, 32] w2, float[8] b2>
{
  [first] h = Gemm (x, w1, b1)
  [act] a = Tanh (h)
  [second] y = Gemm <transB = 1> (a, w2, b2)
}
"""

CONV = """
<ir_version: 10, opset_import: ["" : 20]>
conv (float[batch, 3, 8, 8] x) => (float[batch, 4, 6, 6] y)
<float[4, 3, 3, 3] w, float[4] b>
{
  [c__Conv] h = Conv (x, w, b)
  [c__Relu] y = Relu (h)
}
"""

#: A transformer block as the exporter writes it: pre-norm, two heads, MLP.
VIT = """
<ir_version: 10, opset_import: ["" : 20]>
vit (float[batch, 9, 16] x) => (float[batch, 9, 16] y)
<float[16] g1, float[16] n1, float[16, 16] wq, float[16, 16] wk, float[16, 16] wv, float[16, 16] wo,
 float[16] bq, float[16] bk, float[16] bv, float[16] bo, float[16] g2, float[16] n2,
 float[16, 32] wu, float[32] bu, float[32, 16] wd, float[16] bd,
 int64[4] split = {-1, 9, 2, 8}, int64[3] join = {-1, 9, 16}, float root = {2.828427}>
{
  [norm1__LayerNormalization] z = LayerNormalization <axis = -1> (x, g1, n1)
  [attention_query__MatMul] q0 = MatMul (z, wq)
  [attention_query__Add] q1 = Add (q0, bq)
  [attention_key__MatMul] k0 = MatMul (z, wk)
  [attention_key__Add] k1 = Add (k0, bk)
  [attention_value__MatMul] v0 = MatMul (z, wv)
  [attention_value__Add] v1 = Add (v0, bv)
  [attention__Reshape] q2 = Reshape (q1, split)
  [attention__Transpose] q = Transpose <perm = [0, 2, 1, 3]> (q2)
  [attention__Reshape_1] k2 = Reshape (k1, split)
  [attention__Transpose_1] k = Transpose <perm = [0, 2, 3, 1]> (k2)
  [attention__Reshape_2] v2 = Reshape (v1, split)
  [attention__Transpose_2] v = Transpose <perm = [0, 2, 1, 3]> (v2)
  [attention__MatMul] s0 = MatMul (q, k)
  [attention__Div] s1 = Div (s0, root)
  [attention__Softmax] p = Softmax <axis = -1> (s1)
  [attention__MatMul_1] f0 = MatMul (p, v)
  [attention__Transpose_3] f1 = Transpose <perm = [0, 2, 1, 3]> (f0)
  [attention__Reshape_3] f2 = Reshape (f1, join)
  [attention_output__MatMul] f3 = MatMul (f2, wo)
  [attention_output__Add] f = Add (f3, bo)
  [Add] r = Add (x, f)
  [norm2__LayerNormalization] t = LayerNormalization <axis = -1> (r, g2, n2)
  [mlp_0__MatMul] u0 = MatMul (t, wu)
  [mlp_0__Add] u1 = Add (u0, bu)
  [mlp_1__Gelu] u = Gelu (u1)
  [mlp_2__MatMul] d0 = MatMul (u, wd)
  [mlp_2__Add] d = Add (d0, bd)
  [Add_1] y = Add (r, d)
}
"""
GRAPHS = {"mlp": (MLP, (16,)), "conv": (CONV, (3, 8, 8)), "vit": (VIT, (9, 16))}


def built(text: str, path: Path) -> Artifact:
    """Parse a graph, fill its declared weights with reproducible numbers, and infer types.

    ONNX text knows no slash in a name: ``a__B`` is written for ``a/B``.
    """
    model = onnx.parser.parse_model(text)
    for node in model.graph.node:
        node.name = node.name.replace("__", "/")
    random = np.random.default_rng(7)
    for value in model.graph.value_info:  # declared without numbers
        shape = tuple(size.dim_value for size in value.type.tensor_type.shape.dim)
        numbers = random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]) or 1)
        model.graph.initializer.append(numpy_helper.from_array(numbers.astype(np.float32), value.name))
    del model.graph.value_info[:]
    model = onnx.shape_inference.infer_shapes(model)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return Artifact("onnx", path, file_sha256(path), (), (), "test")


def samples(shape: tuple[int, ...], count: int = 64, seed: int = 0) -> Array:
    random = np.random.default_rng(seed)
    return (random.standard_normal((count, *shape)) + 0.3).astype(np.float32)


def batches_of(feed: Mapping[str, Array], size: int):
    def iterate() -> Iterator[dict[str, Array]]:
        total = len(next(iter(feed.values())))
        for start in range(0, total, size):
            yield {name: array[start : start + size] for name, array in feed.items()}

    return iterate


def context_of(work: Path, feed, *, encoding: Encoding = Encoding.UINT8_ASYMMETRIC, batch: int = 16) -> StepContext:
    """Return the context of a step whose calibration data is ``feed``: arrays by name, a callable, or None."""
    work.mkdir(parents=True, exist_ok=True)
    calibration = feed if callable(feed) or feed is None else batches_of(feed, batch)
    return StepContext(
        component="part", workdir=work, target=Target.CPU, encoding=encoding, max_batch_size=8, seed=0, threads=1,
        examples=lambda size: first_of(calibration, size), calibration=calibration, calibration_batches=4,
    )  # fmt: skip


def first_of(calibration, size: int) -> dict[str, Array]:
    """Return the first samples of calibration data, fewer where its first batch has fewer; nothing without any."""
    first = next(calibration(), {}) if calibration else {}
    return {name: array[:size] for name, array in first.items()}


def quantized(
    artifact: Artifact, work: Path, feed, *, encoding: Encoding = Encoding.UINT8_ASYMMETRIC, batch: int = 16, **options
) -> Artifact:
    """Quantize statically, and try nothing unless it is asked for."""
    given = {"equalize": None, "calibrator": "percentile"} | options
    return static.run(artifact, static.Options(**given), context_of(work, feed, encoding=encoding, batch=batch))


def answers(path: Path, x: Array) -> Array:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(str(path), options).run(None, {"x": x})[0]


def sqnr_db(reference: Array, answer: Array) -> float:
    noise = float(np.square(reference.astype(np.float64) - answer).sum())
    return 10 * float(np.log10(np.square(reference.astype(np.float64)).sum() / noise)) if noise else np.inf


def activations_of(model: onnx.ModelProto, names: Iterable[str], x: Array) -> dict[str, Array]:
    """Run the graph and return some of its tensors."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    inner = [name for name in names if name != "x"]
    del watched.graph.output[:]
    watched.graph.output.extend(onnx.helper.make_tensor_value_info(name, 1, None) for name in inner)
    found = ort.InferenceSession(watched.SerializeToString()).run(inner, {"x": x}) if inner else []
    return {"x": x} | dict(zip(inner, found, strict=True))
