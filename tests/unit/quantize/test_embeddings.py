"""Embedding tables in INT8: the rows that they were, in a quarter of the bytes, where it costs next to nothing."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from float_graphs import built, context_of, quantized
from onnx import numpy_helper

from mmdeploy.core.artifact import file_sha256
from mmdeploy.core.contracts import Encoding
from mmdeploy.core.facts import find
from mmdeploy.core.target import Target
from mmdeploy.quantize import dynamic, embeddings, graphs, static
from mmdeploy.quantize.coverage import COVERAGE, Coverage
from mmdeploy.quantize.embeddings import Embeddings

TEXT = """
<ir_version: 10, opset_import: ["" : 20]>
text (int64[batch, 6] ids) => (float[batch, 8] y)
<float[1000, 16] table, float[16, 8] w, int64[1] axis = {1}>
{
  [words__Gather] e = Gather <axis = 0> (table, ids)
  [ReduceMean] m = ReduceMean <keepdims = 0> (e, axis)
  [head__MatMul] y = MatMul (m, w)
}
"""
#: The table is the matrix of the output too, as in language models.
TIED = TEXT.replace(
    "[head__MatMul] y = MatMul (m, w)",
    "[turn] t = Transpose <perm = [1, 0]> (table)\n  [head__MatMul] y = MatMul (m, t)",
).replace("float[batch, 8] y", "float[batch, 1000] y")


def ids(count: int = 64, seed: int = 0):
    return np.random.default_rng(seed).integers(0, 1000, (count, 6))


def said(artifact) -> Embeddings:
    found = find(Embeddings, artifact.metadata)
    assert found is not None
    return found


@pytest.fixture
def artifact(tmp_path):
    made = built(TEXT, tmp_path / "float.onnx")
    model = onnx.load(made.path)
    table = next(one for one in model.graph.initializer if one.name == "table")
    values = numpy_helper.to_array(table).copy()
    values[7] = 0.0  # padding
    table.CopyFrom(numpy_helper.from_array(values, "table"))
    onnx.save(model, made.path)
    return made


def test_rows_are_within_half_a_step_of_what_they_were(artifact):
    before = graphs.load(artifact.path)
    after = embeddings.with_int8(before, ["table"])
    onnx.checker.check_model(after, full_check=True)
    table = numpy_helper.to_array(next(one for one in before.graph.initializer if one.name == "table"))
    after.graph.output.append(onnx.helper.make_tensor_value_info("e", 1, None))
    rows = ort.InferenceSession(after.SerializeToString()).run(["e"], {"ids": np.arange(996).reshape(-1, 6)})[0]
    steps = np.abs(table[:996]).max(axis=1, keepdims=True) / 127
    assert (np.abs(rows.reshape(996, 16) - table[:996]) <= steps / 2 + 1e-7).all()
    assert not rows.reshape(996, 16)[7].any()


@pytest.mark.parametrize("method", ["static", "dynamic"])
def test_a_table_is_int8_where_it_costs_little(artifact, tmp_path, method):
    if method == "static":
        made = quantized(artifact, tmp_path / "q", {"ids": ids()})
    else:
        from dataclasses import replace

        context = replace(context_of(tmp_path / "q", None), examples=lambda size: {"ids": ids(size)})
        made = dynamic.run(artifact, dynamic.Options(), context)
    assert said(made).int8_tables == ("table",) and said(made).tables_lost_db < 6
    assert made.path.stat().st_size < 0.45 * artifact.path.stat().st_size
    found = find(Coverage, made.metadata, under=COVERAGE)
    assert found is not None and (found.layers, found.int8_layers) == (2, 2)


def test_it_can_be_left_out_or_asked_for(artifact, tmp_path):
    for number, options in enumerate(({"embeddings": "float"}, {"exclude": ("words/*",)})):
        assert not said(quantized(artifact, tmp_path / str(number), {"ids": ids()}, **options)).int8_tables
    asked = quantized(artifact, tmp_path / "asked", {"ids": ids()}, embeddings="int8")
    assert said(asked) == Embeddings(("table",), "asked for")


def test_a_table_that_costs_much_stays_as_it_is(artifact):
    model = graphs.load(artifact.path)
    noise = {id(model): 40.0}
    shipped, what = embeddings.settle(
        model, static.Options(), context_of(artifact.path.parent / "c", None), lambda one: noise.get(id(one), 30.0)
    )
    assert shipped is model and what.int8_tables == () and "cost 10.0 dB" in what.tables_because


def test_what_is_multiplied_too_or_small_or_for_tensorrt_is_left(tmp_path):
    from dataclasses import replace

    tied = graphs.load(built(TIED, tmp_path / "tied.onnx").path)
    small = graphs.load(built(TEXT.replace("1000, 16", "600, 16"), tmp_path / "small.onnx").path)
    assert embeddings.find(tied, static.Options()) == embeddings.find(small, static.Options()) == []
    model = graphs.load(built(TEXT, tmp_path / "text.onnx").path)
    context = replace(context_of(tmp_path / "c", None), target=Target.TENSORRT_RTX)
    shipped, what = embeddings.settle(model, static.Options(embeddings="int8"), context, None)
    assert shipped is model and "TensorRT" in what.tables_because


def test_openvino_answers_the_same(artifact, tmp_path):
    openvino = pytest.importorskip("openvino")
    made = quantized(artifact, tmp_path / "q", {"ids": ids()}, embeddings="int8")
    assert made.sha256 == file_sha256(made.path)
    given = ids(4, seed=5)
    wanted = ort.InferenceSession(made.path).run(None, {"ids": given})[0]
    compiled = openvino.Core().compile_model(str(made.path), "CPU")
    np.testing.assert_allclose(compiled({"ids": given})[0], wanted, atol=0.03 * np.abs(wanted).max())


def written(artifact, first, folder, options):
    return static.write(artifact, first, options, context_of(folder, {"ids": ids()}, encoding=Encoding.INT8_SYMMETRIC))


@pytest.mark.parametrize("tables", ["auto", "int8", "float"])
def test_tables_are_settled_once_for_all_encodings(artifact, tmp_path, monkeypatch, tables):
    options = static.Options(calibrator="minmax", equalize=None, embeddings=tables)
    first = static.run(artifact, options, context_of(tmp_path / "first", {"ids": ids()}))
    anew = static.run(
        artifact, options, context_of(tmp_path / "anew", {"ids": ids()}, encoding=Encoding.INT8_SYMMETRIC)
    )
    monkeypatch.setattr(embeddings, "settle", None if said(first).int8_tables else embeddings.settle)
    again = written(artifact, first, tmp_path / "again", options)
    assert said(again) == said(first)
    assert again.sha256 == anew.sha256
    assert again.metadata["sqnr_db"] == anew.metadata["sqnr_db"]


def test_tables_that_leave_too_little_in_another_encoding_are_settled_there(artifact, tmp_path):
    options = static.Options(calibrator="minmax", equalize=None, rounding="nearest")
    first = static.run(artifact, options, context_of(tmp_path / "first", {"ids": ids()}))
    with_tables = written(artifact, first, tmp_path / "with", options).metadata["sqnr_db"]["y"]
    without = written(artifact, first, tmp_path / "without", options.model_copy(update={"embeddings": "float"}))
    assert said(without).int8_tables == ("table",)  # what was settled is not asked again
    floats = quantized(
        artifact, tmp_path / "floats", {"ids": ids()}, encoding=Encoding.INT8_SYMMETRIC, calibrator="minmax",
        embeddings="float",
    )  # fmt: skip
    left = floats.metadata["sqnr_db"]["y"]
    assert with_tables < left
    asked = options.model_copy(update={"min_sqnr_db": (with_tables + left) / 2})
    settled = written(artifact, first, tmp_path / "settled", asked)
    assert not said(settled).int8_tables
    assert settled.sha256 == floats.sha256
