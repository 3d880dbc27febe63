"""The whole chain on a tiny model, up to a real Triton and its gates: pruned, trained, quantized, served."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from labelled_recipe import with_splits

import mmdeploy
from mmdeploy.building.builder import Outcome, run_build
from mmdeploy.building.settings import Settings
from mmdeploy.core.contracts import Verdict
from mmdeploy.record.observer import Silent

pytestmark = [pytest.mark.triton, pytest.mark.slow, pytest.mark.xdist_group("builds")]

PRUNED = (
    "components.fusion.prune={method: structured, ratio: 0.5}",
    "components.fusion.recover={method: finetune, epochs: 1, learning_rate: 1.0e-3}",
    "components.fusion.quantize={method: static, samples: 64}",
    "components.fusion.keep=always",
    "gates=[{method: accuracy, metric: top1, min: 0.6}, {method: size, max_ratio_to_reference: 1.0}]",
)
DISTILLED = (
    "components.fusion.recover={method: distill, student: students.py:small, epochs: 12, learning_rate: 1.0e-2}",
    "components.fusion.quantize={method: static, samples: 64}",
    "components.fusion.keep=always",
    "gates=[{method: accuracy, metric: top1, min: 0.6}, {method: size, max_ratio_to_reference: 1.0}]",
)
STUDENT = """
import torch
from torch import nn


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.classify = nn.Linear(32, 8), nn.Linear(8, 4)

    def forward(self, left, right):
        return self.classify(self.hidden(torch.cat([left, right], 1)).relu())


def small():
    return Small()
"""
SPARSE = (
    "components.fusion.prune={method: n_m, n: 2, m: 4}",
    "components.fusion.quantize={method: qat, epochs: 1, samples: 64, learning_rate: 1.0e-3}",
    "components.fusion.keep=always",
    "gates=[{method: accuracy, metric: top1, min: 0.6}]",
)


def built(recipe: Path, workdir: Path, *overrides: str) -> Outcome:
    if "training" not in recipe.read_text():
        with_splits(recipe)
    outcome = run_build(
        mmdeploy.load_recipe(recipe, overrides),
        Settings(workdir=workdir, destination=recipe.parents[1] / "published"),
        Silent(),
    )
    if outcome.error is not None:
        raise outcome.error
    return outcome


def facts(outcome: Outcome, step_id: str) -> dict[str, object]:
    return next(dict(step.metadata) for step in outcome.report.steps if step.id == step_id)


def served_graph(outcome: Outcome, component: str) -> onnx.ModelProto:
    assert outcome.report.published is not None
    return onnx.load(next(outcome.report.published.glob(f"*.{component}/1/model.onnx")))


def test_structured_pruning_recovery_and_static_int8(tiny_recipe: Path, shared_workdir: Path) -> None:
    outcome = built(tiny_recipe, shared_workdir, *PRUNED)
    assert outcome.report.verdict is Verdict.PASS
    hidden = {weight.name: list(weight.dims) for weight in served_graph(outcome, "fusion").graph.initializer}
    assert [16, 32] in hidden.values() or [32, 16] in hidden.values(), "the served layer is half as wide"
    assert "DequantizeLinear" in {node.op_type for node in served_graph(outcome, "fusion").graph.node}
    costs = next(one for one in outcome.report.costs if one.component == "fusion")
    assert costs.after is not None
    assert costs.before.parameters == 32 * 32 + 32 + 32 * 4 + 4
    assert costs.after.parameters == 32 * 16 + 16 + 16 * 4 + 4
    assert costs.after.flops == 2 * (32 * 16 + 16 * 4)
    training = facts(outcome, "fusion/recover")["training"]
    assert len(training["epochs"]) == 2  # type: ignore[index]


def test_a_student_takes_the_place_of_a_component_up_to_triton(tiny_recipe: Path, shared_workdir: Path) -> None:
    tiny_recipe.with_name("students.py").write_text(STUDENT)
    outcome = built(tiny_recipe, shared_workdir, *DISTILLED)
    assert outcome.report.verdict is Verdict.PASS
    weights = sorted(tuple(one.dims) for one in served_graph(outcome, "fusion").graph.initializer if len(one.dims) == 2)
    assert {tuple(sorted(shape)) for shape in weights} == {(8, 32), (4, 8)}
    assert facts(outcome, "fusion/recover")["parameters"] == [32 * 32 + 32 + 32 * 4 + 4, 32 * 8 + 8 + 8 * 4 + 4]
    costs = next(one for one in outcome.report.costs if one.component == "fusion")
    assert costs.after is not None
    assert (costs.before.flops, costs.after.flops) == (2 * (32 * 32 + 32 * 4), 2 * (32 * 8 + 8 * 4))
    again = built(tiny_recipe, shared_workdir, *DISTILLED)  # by the student's code as it is
    assert {step.status for step in again.report.steps if step.kind == "recover"} == {"reused"}


def test_zeros_of_sparsity_are_zeros_in_the_int8_graph_that_is_served(tiny_recipe: Path, shared_workdir: Path) -> None:
    outcome = built(tiny_recipe, shared_workdir, *SPARSE)
    assert outcome.report.verdict is Verdict.PASS
    weights = [
        onnx.numpy_helper.to_array(weight)
        for weight in served_graph(outcome, "fusion").graph.initializer
        if weight.data_type == onnx.TensorProto.INT8 and len(weight.dims) == 2
    ]
    assert len(weights) == 2
    for weight in weights:
        inputs_last = weight if weight.shape[1] == 32 else weight.T
        groups = inputs_last.reshape(len(inputs_last), -1, 4)
        assert ((groups == 0).sum(axis=2) >= 2).all()
        assert np.count_nonzero(weight) > 0.4 * weight.size
