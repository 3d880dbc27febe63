"""Graphs whose state is to be kept, held against that as soon as they are there."""

from pathlib import Path

import onnx
import pytest

from mmdeploy.building.served_stream import require_states, telling_exports
from mmdeploy.building.turns import startable
from mmdeploy.core.artifact import Artifact
from mmdeploy.core.errors import EngineError
from mmdeploy.planning.steps import Decision, Step
from mmdeploy.recipe.loader import load_recipe

RECIPE = Path(__file__).parents[2] / "stream_recipe" / "recipe.yaml"


def graph(folder: Path, format: str = "onnx") -> Artifact:
    text = '<ir_version: 10, opset_import: ["" : 20]> flow (float[N, 2] x) => (float[N, 2] y) { y = Relu(x) }'
    onnx.save(onnx.parser.parse_model(text), folder / "model.onnx")
    return Artifact(format, folder / "model.onnx", "", (), (), "export")


def test_a_kept_component_without_a_state_stops_the_build_behind_its_export(tmp_path):
    recipe = load_recipe(RECIPE)
    for component, kind in (("encode", "onnx"), ("memory", "torch")):  # not kept; not yet a graph
        require_states(recipe, component, graph(tmp_path, kind))
    require_states(recipe.model_copy(update={"stream": None}), "memory", graph(tmp_path))
    with pytest.raises(EngineError, match="memory: stream.keep names it, and there is no GRU, LSTM or RNN"):
        require_states(recipe, "memory", graph(tmp_path))


def test_the_graph_that_tells_is_exported_before_anything_is_trained(tmp_path):
    recipe = load_recipe(RECIPE)
    assert telling_exports(recipe) == {"memory/export"}
    steps = [Step(f"memory/{name}", "memory", kind, kind, {}, (), {"made": name})
             for name, kind in (("recover", "recover"), ("original", "export"))]  # fmt: skip
    waiting = [Decision(step, False, "never built") for step in steps]
    assert [one.step.id for one in startable(waiting, {}, ())] == ["memory/recover", "memory/original"]
    assert [one.step.id for one in startable(waiting, {}, (), {"memory/original"})] == [
        "memory/original",
        "memory/recover",
    ]
