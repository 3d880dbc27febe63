"""Of several engines to choose from, one that refuses a graph is a result and no failure."""

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from mmdeploy.core.artifact import Artifact, TensorSpec, file_sha256
from mmdeploy.core.errors import EngineError
from mmdeploy.planning.steps import REFUSED, Step
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.worker import run_step
from mmdeploy.worker.task import Task

TINY = Path(__file__).parents[2] / "tiny_recipe" / "recipe.yaml"


@pytest.fixture
def refused_graph(tmp_path: Path) -> Artifact:
    spec = helper.make_tensor_value_info("values", TensorProto.FLOAT, ["batch", 8])
    out = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", 8])
    node = helper.make_node("NoSuchOperator", ["values"], ["embedding"])
    model = helper.make_model(
        helper.make_graph([node], "odd", [spec], [out]), opset_imports=[helper.make_opsetid("", 20)], ir_version=10
    )
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    tensors = (TensorSpec("values", "FP32", (8,)),), (TensorSpec("embedding", "FP32", (8,)),)
    return Artifact("onnx", path, file_sha256(path), *tensors, "onnx")


def run(graph: Artifact, folder: Path, *, optional: bool) -> Artifact:
    folder.mkdir()
    step = Step(
        "left/candidate.x",
        "left",
        "engine",
        "onnxruntime",
        {"method": "onnxruntime"},
        ("left/export",),
        {},
        optional=optional,
    )
    task = Task(step, load_recipe(TINY), folder, {"left/export": graph}, 1)
    return run_step._run(task, folder, lambda *_: None)


def test_a_refusal_is_written_down_with_its_reason(refused_graph: Artifact, tmp_path: Path) -> None:
    artifact = run(refused_graph, tmp_path / "step", optional=True)
    assert artifact.format == REFUSED
    assert "NoSuchOperator" in artifact.metadata["reason"]
    assert artifact.path.read_text().strip()


def test_the_engine_that_the_recipe_names_must_take_the_graph(refused_graph: Artifact, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="NoSuchOperator"):
        run(refused_graph, tmp_path / "step", optional=False)


@pytest.mark.parametrize(
    ("kind", "processes", "parallel"),
    [("recover", 2, True), ("train", 2, True), ("prune", 2, False), ("export", 2, False), ("recover", 1, False)],
)
def test_only_steps_that_train_run_on_several_processes(kind, processes, parallel, tmp_path: Path) -> None:
    step = Step(f"left/{kind}", "left", kind, "any", {}, (), {})
    assert run_step._is_parallel(Task(step, load_recipe(TINY), tmp_path, {}, 1, processes)) is parallel
