"""Graphs whose weights lie outside of them: what is copied or saved again still loads."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from mmdeploy.engines import graph_files

TEXT = """<ir_version: 10, opset_import: ["": 20]>
g (float[b,4,64] x) => (float[b,64] z) <int64[1] axes = {1}>
{ y = MatMul(x, w) z = ReduceMean <keepdims = 0> (y, axes) }
"""


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A graph with its weights in a file beside it, as an export above 2 GiB leaves it."""
    model = onnx.parser.parse_model(TEXT)
    weights = np.arange(64 * 64, dtype=np.float32).reshape(64, 64) / 4096
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    path = tmp_path / "exported.onnx"
    onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data")
    return path


def answer(path: Path) -> np.ndarray:
    return ort.InferenceSession(str(path)).run(None, {"x": np.ones((2, 4, 64), np.float32)})[0]


def test_a_copy_loads_from_a_folder_of_its_own(outside: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy" / "model.onnx"
    copy.parent.mkdir()
    graph_files.copy_graph(outside, copy)
    assert {path.name for path in copy.parent.iterdir()} == {"model.onnx", "model.onnx.data"}
    expected = answer(outside)
    outside.with_name("exported.onnx.data").unlink()
    np.testing.assert_array_equal(answer(copy), expected)


def test_a_graph_near_protobufs_limit_is_saved_with_its_weights_outside(
    outside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_files, "INLINE_LIMIT_BYTES", 1000)
    saved = tmp_path / "saved.onnx"
    graph_files.save_graph(graph_files.load_graph(outside), saved)
    assert saved.with_name("saved.onnx.data").stat().st_size >= 4 * 64 * 64
    np.testing.assert_array_equal(answer(saved), answer(outside))
