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


@pytest.mark.parametrize("location", ["weights.bin", "parts/w"])
def test_a_copy_has_weights_that_lie_in_a_file_of_another_name(outside: Path, tmp_path: Path, location: str) -> None:
    model, source = graph_files.load_graph(outside), tmp_path / "named" / "model.onnx"
    (source.parent / location).parent.mkdir(parents=True)
    onnx.save(model, source, save_as_external_data=True, location=location)
    copy = tmp_path / "copy" / "model.onnx"
    copy.parent.mkdir()
    graph_files.copy_graph(source, copy)
    np.testing.assert_array_equal(answer(copy), answer(outside))


def test_a_graph_beside_notes_alone_is_not_read_to_be_copied(outside: Path, tmp_path: Path, monkeypatch) -> None:
    model, source = graph_files.load_graph(outside), tmp_path / "whole" / "model.onnx"
    source.parent.mkdir()
    onnx.save(model, source)
    for note in ("artifact.json", "own-answers.npz"):
        (source.parent / note).write_text("{}")
    monkeypatch.setattr(graph_files, "load_graph", None)
    graph_files.copy_graph(source, tmp_path / "copied.onnx")
    assert (tmp_path / "copied.onnx").read_bytes() == source.read_bytes()


def test_a_graph_near_protobufs_limit_is_saved_with_its_weights_outside(
    outside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_files, "INLINE_LIMIT_BYTES", 1000)
    saved = tmp_path / "saved.onnx"
    graph_files.save_graph(graph_files.load_graph(outside), saved)
    assert saved.with_name("saved.onnx.data").stat().st_size >= 4 * 64 * 64
    np.testing.assert_array_equal(answer(saved), answer(outside))
