"""Which tensor is which: after quantizers, after equalization, and in PyTorch."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from debug_graphs import float_chain, samples
from onnx import parser

from mmdeploy.core.artifact import Artifact, TensorSpec, file_sha256
from mmdeploy.core.contracts import Encoding, StepContext
from mmdeploy.core.facts import find
from mmdeploy.core.target import Target
from mmdeploy.debugging import pairs
from mmdeploy.debugging.pairs import Pair
from mmdeploy.debugging.tensors import TensorGraph
from mmdeploy.quantize import dynamic, static
from mmdeploy.quantize.equalize import Equalization


def _artifact(model, path: Path) -> Artifact:
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    spec = TensorSpec("x", "FP32", (8,))
    return Artifact("onnx", path, file_sha256(path), (spec,), (spec,), "test")


def _context(folder: Path, encoding: Encoding) -> StepContext:
    batches = [samples(count=16, seed=seed) for seed in range(4)]
    folder.mkdir()
    return StepContext(
        component="c", workdir=folder, target=Target.CPU, encoding=encoding, max_batch_size=16, seed=0, threads=1,
        examples=lambda size: samples(count=size), calibration=lambda: iter(batches), calibration_batches=4,
    )  # fmt: skip


@pytest.mark.parametrize("encoding", Encoding)
def test_every_tensor_of_a_float_graph_is_found_in_its_int8_graph(tmp_path, encoding):
    artifact = _artifact(float_chain(3), tmp_path / "float.onnx")
    made = static.run(artifact, static.Options(samples=64), _context(tmp_path / "q", encoding))
    before = TensorGraph(onnx.load(artifact.path))
    found = pairs.quantized(TensorGraph(onnx.load(made.path)), {*before.computed, *before.inputs})
    assert {pair.reference for pair in found if not pair.is_rounded} == set(before.computed)
    assert {pair.reference for pair in found if pair.is_rounded} == {"x", "t0", "t1"}


def test_an_output_that_is_rounded_has_both_values():
    model = parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 20]>
        g (float[n, 4] x) => (float[n, 4] y) <float s = {0.1}, int8 z = {0}> {
            y_QuantizeLinear_Input = Relu(x)
            q = QuantizeLinear(y_QuantizeLinear_Input, s, z)
            y = DequantizeLinear(q, s, z)
        }""")
    assert pairs.quantized(TensorGraph(model), {"x", "y"}) == [
        Pair("y_QuantizeLinear_Input", "y"),
        Pair("y", "y", is_rounded=True),
    ]


def test_dynamic_quantization_keeps_the_names_of_what_nodes_give(tmp_path):
    artifact = _artifact(float_chain(2), tmp_path / "float.onnx")
    made = dynamic.run(artifact, dynamic.Options(), _context(tmp_path / "q", Encoding.UINT8_ASYMMETRIC))
    found = pairs.quantized(TensorGraph(onnx.load(made.path)), {"x", "g0", "t0", "g1", "t1"})
    assert [pair.reference for pair in found] == ["g0", "t0", "g1", "t1"]


def test_tensors_that_equalization_divided_are_other_tensors(tmp_path):
    model = parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 20]>
        g (float[n, 8] x) => (float[n, 8] z) {
            y = LayerNormalization <axis = -1> (x, scale, shift)
            z = MatMul(y, w)
        }""")
    random = np.random.default_rng(0)
    wide = np.array([1, 1, 1, 40, 1, 1, 1, 1], np.float32)
    for name, value in (("scale", wide), ("shift", wide * 0.1), ("w", random.standard_normal((8, 8)))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value, np.float32), name))
    for node in model.graph.node:
        node.name = node.op_type
    options = static.Options(samples=64, equalize=0.5)
    made = static.run(_artifact(model, tmp_path / "f.onnx"), options, _context(tmp_path / "q", Encoding.INT8_SYMMETRIC))
    assert made.metadata["equalized"][0]["how"] == "folded"
    graph = TensorGraph(onnx.load(made.path))
    assert [pair.reference for pair in pairs.quantized(graph, {"x", "y", "z"}, find(Equalization, made.metadata))] == [
        "z"
    ]
    assert {pair.reference for pair in pairs.quantized(graph, {"x", "y", "z"})} == {"y", "z"}


def test_a_submodule_is_known_by_the_one_tensor_that_leaves_it():
    model = parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 20]>
        g (float[n, 4] x) => (float[n, 4] z) {
            a = Relu(x)
            b = Neg(a)
            c = Abs(b)
            d = Exp(b)
            z = Add(c, d)
        }""")
    for node, scope in zip(model.graph.node, ("block.first/", "block/", "two/", "two/", ""), strict=True):
        node.name = f"{scope}{node.op_type}"
    assert dict(pairs.module_outputs(TensorGraph(model))) == {"block": "b", "block.first": "a"}
