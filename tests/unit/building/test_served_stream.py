"""Graphs whose state is to be kept, held against that as soon as they are there."""

from pathlib import Path

import onnx
import pytest

from mmdeploy.building.served_stream import other_chunks, require_states, telling_exports
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
    with pytest.raises(EngineError, match=r"memory: stream\.keep names it, and there is no GRU, LSTM or RNN"):
        require_states(recipe, "memory", graph(tmp_path))


@pytest.mark.parametrize(
    ("sizes", "chunk", "others"),
    [
        ({"min": 1, "max": 20}, 4, (1, 6)),  # 5 would leave no shorter rest of 20
        ({"min": 1, "max": 20}, 1, (3,)),
        ({"min": 4, "max": 40, "multiple_of": 4}, 8, (4, 12)),
        ({"min": 10, "max": 21}, 10, (11,)),
    ],
)
def test_chunks_are_judged_in_the_shortest_and_with_a_shorter_rest(sizes, chunk, others):
    recipe = load_recipe(RECIPE, [f"sizes.frames={sizes}".replace("'", ""), f"stream.chunk={chunk}"])
    assert other_chunks(recipe) == others
    assert other_chunks(recipe.model_copy(update={"stream": None})) == ()


def test_the_graph_that_tells_is_exported_before_anything_is_trained(tmp_path):
    recipe = load_recipe(RECIPE)
    assert telling_exports(recipe) == {"memory/export"}
    steps = [Step(f"memory/{name}", "memory", kind, kind, {}, (), {"made": name})
             for name, kind in (("recover", "recover"), ("original", "export"))]  # fmt: skip
    waiting = [Decision(step, False, "never built") for step in steps]
    assert [one.step.id for one in startable(waiting, {}, {})] == ["memory/recover", "memory/original"]
    assert [one.step.id for one in startable(waiting, {}, {}, {"memory/original"})] == [
        "memory/original",
        "memory/recover",
    ]
