"""A graph that leaves a step is valid ONNX, in order, and the same to the reference implementation."""

from dataclasses import replace

import numpy as np
import onnx
import pytest

from mmdeploy.core.artifact import Artifact, file_sha256
from mmdeploy.core.errors import QuantizeError
from mmdeploy.engines import conformance

HEAD = '<ir_version: 10, opset_import: ["": 20]> g (float[N, 4] x) => (float[N, 4] y) '
GOOD = "{ h = Relu (x) y = Tanh (h) }"


def graph(path, body, domains="") -> Artifact:
    path.parent.mkdir(exist_ok=True)
    onnx.save(onnx.parser.parse_model(HEAD.replace("20]", f"20{domains}]") + body), path)
    return Artifact("onnx", path, file_sha256(path), (), (), "test")


def examples(size):
    return {"x": np.random.default_rng(0).standard_normal((size, 4)).astype(np.float32)}


def handed_over(made, source):
    return conformance.handed_over(made, source, examples, fails=QuantizeError, component="part")


@pytest.fixture
def source(tmp_path):
    return graph(tmp_path / "before" / "model.onnx", GOOD)


def test_a_good_graph_passes_and_says_by_whom(tmp_path, source):
    made = graph(tmp_path / "after" / "model.onnx", "{ h = Relu (x) g = Tanh (h) y = Identity (g) }")
    assert handed_over(made, source).metadata["conforms"] == "onnx.checker and onnx.reference"


def test_a_copy_is_not_looked_at_again(tmp_path, source):
    made = graph(tmp_path / "after" / "model.onnx", GOOD)
    assert handed_over(made, source) is made


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("{ y = Tanh (h) h = Relu (x) }", "topologically sorted"),
        ("{ y = NoSuchOperator (x) }", "NoSuchOperator"),
        ("<int64[2] w = {1, 2}> { y = Add (x, w) }", r"[Tt]ype"),
        ("{ h = Relu (x) }", "y"),
    ],
    ids=["unsorted", "unknown operator", "types", "output that nothing writes"],
)
def test_a_graph_that_is_not_valid_is_refused_whatever_runs_it(tmp_path, source, body, reason):
    made = graph(tmp_path / "after" / "model.onnx", body)
    with pytest.raises(QuantizeError, match=rf"part: the graph model\.onnx is not valid ONNX: .*{reason}"):
        handed_over(made, source)


def test_graphs_beside_the_main_file_are_looked_at(tmp_path, source):
    graph(tmp_path / "after" / "graph.onnx", "{ y = Tanh (h) h = Relu (x) }")
    (tmp_path / "after" / "model.plan").write_bytes(b"plan")
    with pytest.raises(QuantizeError, match=r"graph\.onnx is not valid"):
        handed_over(replace(source, path=tmp_path / "after" / "model.plan"), source)


def test_external_data_is_found(tmp_path, source):
    path = tmp_path / "after" / "model.onnx"
    made = graph(path, "{ y = Mul (x, w) }")
    model = onnx.load(path)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.arange(4, dtype=np.float32), "w"))
    onnx.save(model, path, save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    assert (tmp_path / "after" / "model.onnx.data").stat().st_size
    assert handed_over(made, source).metadata["conforms"] == "onnx.checker and onnx.reference"


@pytest.mark.parametrize(
    ("body", "domains", "said"),
    [
        ("{ y = com.microsoft.Gelu (x) }", ', "com.microsoft": 1', "operators of com.microsoft"),
        (
            """<int64[4] four = {-1, 1, 2, 2}, int64[2] two = {-1, 4}> {
            i = Reshape (x, four) p = MaxPool <kernel_shape = [1, 1]> (i) y = Reshape (p, two) }""",
            "", "what MaxPool computes is not known",
        ),
    ],
    ids=["foreign", "slow"],
)  # fmt: skip
def test_what_the_reference_is_not_asked_is_said(tmp_path, source, body, domains, said):
    made = graph(tmp_path / "after" / "model.onnx", body, domains)
    assert said in handed_over(made, source).metadata["conforms"]


def test_a_large_graph_is_checked_only(tmp_path, source):
    path = tmp_path / "after" / "model.onnx"
    made = graph(path, "{ y = MatMul (x, w) }")
    model = onnx.load(path)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((4, 3_000_000), np.float32), "w"))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 3_000_000
    onnx.save(model, path)
    assert "larger than 32 MB" in handed_over(made, source).metadata["conforms"]


def test_a_graph_is_asked_at_the_smallest_length_too(tmp_path, source, monkeypatch):
    made, asked = graph(tmp_path / "after" / "model.onnx", "{ h = Relu (x) g = Tanh (h) y = Identity (g) }"), []
    monkeypatch.setattr(conformance, "first_apart", lambda one, other, expected: asked.append(one["y"].shape))
    batches = [({"t": length}, {"x": np.ones((length, 4), np.float32)}) for length in (1, 7, 9)]
    conformance.handed_over(
        made, source, examples, fails=QuantizeError, component="part", at_lengths=lambda batch: iter(batches)
    )
    assert asked == [(2, 4), (1, 4)]
