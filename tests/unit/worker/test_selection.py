"""What the select step tells of a candidate."""

import pytest

from mmdeploy.core.artifact import Artifact
from mmdeploy.engines import onnxruntime, openvino
from mmdeploy.worker.selection import _candidate

FLOAT = {"label": "x", "graph": "float", "compressed": False}


@pytest.mark.parametrize(
    ("planned", "engine", "original"),
    [
        (FLOAT, onnxruntime.Options(), True),
        (FLOAT, onnxruntime.Options(intra_op_threads=2), True),
        (FLOAT, onnxruntime.Options(graph_level="basic"), False),
        (FLOAT, onnxruntime.Options(provider="cuda"), False),
        (FLOAT, openvino.Options(), False),
        (FLOAT | {"compressed": True}, onnxruntime.Options(), False),
        (FLOAT | {"graph": "quantized", "compressed": True}, onnxruntime.Options(), False),
    ],
)
def test_the_original_is_the_export_as_the_ensemble_around_runs_it(tmp_path, planned, engine, original):
    built = Artifact("onnxruntime", tmp_path / "model.onnx", "", (), (), "test")
    found = _candidate(planned, built, engine, 3)
    assert (found.original, found.simplicity, found.engine) == (original, 3, engine)
