"""Timing the graphs of a search: engines are really built and asked, and cost what the test says."""

from pathlib import Path

import pytest
from choice_samples import bench, context, write_graph

from mmdeploy.choice.graphs import timed
from mmdeploy.core.errors import EngineError
from mmdeploy.engines import onnxruntime, openvino

#: By the number of the graph, which is the name of its engine's folder.
COSTS_MS = {"0": 4.0, "1": 1.0, "2": 8.0}


@pytest.fixture
def graphs(tmp_path: Path):
    return {label: write_graph(tmp_path / label / "model.onnx", 2).path for label in ("FP32", "INT8", "half")}


@pytest.mark.parametrize("engine", [onnxruntime.Options(), openvino.Options()], ids=lambda engine: engine.method)
def test_each_is_compared_with_the_first(graphs, engine, tmp_path: Path):
    found = timed(graphs, engine, context(tmp_path / "work"), bench=bench(COSTS_MS))
    assert {label: one.median_ms for label, one in found.items()} == {"FP32": 4.0, "INT8": 1.0, "half": 8.0}
    assert {label: one.ratio for label, one in found.items()} == {"FP32": 1.0, "INT8": 0.25, "half": 2.0}
    for one in found.values():
        assert one.ratio_interval[0] <= one.ratio <= one.ratio_interval[1]
    assert list((tmp_path / "work").iterdir()) == []


def test_a_graph_that_cannot_be_timed_is_named(graphs, tmp_path: Path):
    refusing = bench(COSTS_MS)

    def refuse(self, first, count):
        raise EngineError("gone")

    refusing.start.time = refuse
    with pytest.raises(EngineError, match="chain: FP32 could not be timed: gone"):
        timed(graphs, onnxruntime.Options(), context(tmp_path / "work"), bench=refusing)
