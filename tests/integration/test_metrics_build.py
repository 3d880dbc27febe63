"""Gates whose metrics are not built in, on outputs that are not the first, judged on a real Triton."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from mmdeploy.building.builder import run_build
from mmdeploy.building.settings import Settings
from mmdeploy.core.contracts import Verdict
from mmdeploy.core.errors import MetricError
from mmdeploy.core.store import Store
from mmdeploy.planning.recipe_inputs import take_inputs
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.record.observer import Silent

pytestmark = [pytest.mark.triton, pytest.mark.slow]

METRICS = '''
import json
from pathlib import Path

import numpy as np


def margin(outputs, labels):
    """How far the right class is above the mean of all: one score a sample."""
    logits = outputs["logits"] + json.loads(Path(__file__).with_name("offset.json").read_text())
    return logits[np.arange(len(labels["class"])), labels["class"]] - logits.mean(axis=1)


margin.larger_is_better = True


def spread(outputs, labels, power=2):
    """How far apart the embeddings lie: one score for all; the labels hold text, too."""
    assert labels["caption"][0].startswith("sample ")
    return float((outputs["left_embedding"].std(axis=0) ** power).mean())


spread.larger_is_better = True
spread.range = (0, None)
'''
LABELLED = '''

def captioned():
    """Yield samples whose labels are a class and a text."""
    for index, (feed, label) in enumerate(evaluation()):
        yield feed, {"class": label, "caption": f"sample {index}"}
'''
GATES = """gates:
  - {method: accuracy, metric: metrics.py:margin, outputs: [logits], max_drop: 0.05}
  - {method: accuracy, metric: metrics.py:spread, arguments: {power: 1}, min: 0.1, max_drop: 0.05}
  - {method: parity, outputs: [left_embedding], max_scale_error: 0.2}
  - {method: parity, outputs: [logits], min_overlap_at_k: 0.5, k: 2, statistic: mean}
"""


def edited(recipe: Path, gates: str = GATES, *, labels: str = "captioned") -> Path:
    recipe.with_name("metrics.py").write_text(METRICS)
    recipe.with_name("offset.json").write_text("0.0")
    data = recipe.with_name("data.py")
    data.write_text(data.read_text() + LABELLED)
    text = recipe.read_text().replace("evaluation: data.py:evaluation", f"evaluation: data.py:{labels}")
    text = text.replace("outputs: {logits: {}}", "outputs: {left_embedding: {}, logits: {}}")
    recipe.write_text(text[: text.index("gates:")] + gates)
    return recipe


def answers_of(recipe: Path) -> np.ndarray:
    """Run the recipe's own model on its evaluation samples, without mmdeploy."""
    script = (
        "import numpy as np, torch; from data import evaluation; from model import build\n"
        "samples = [feed for feed, _ in evaluation()]; model = build().eval()\n"
        "a, b = (torch.from_numpy(np.stack([feed[name] for feed in samples])) for name in 'ab')\n"
        "np.save('answers.npy', model.fusion(model.left(a), model.right(b)).detach().numpy())\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=recipe.parent, check=True)
    return np.load(recipe.with_name("answers.npy"))


def build(recipe: Path, workdir: Path):
    return run_build(
        load_recipe(recipe), Settings(workdir=workdir, destination=recipe.parents[1] / "published"), Silent()
    )


def read_by_the_metric(recipe: Path, workdir: Path) -> Mapping[str, str]:
    """Return the files that the metric was seen to read, as a plan knows them."""
    inputs = take_inputs(load_recipe(recipe), Store(workdir / "store"))
    read = inputs.data["metrics.py:margin"]["read by metrics.py:margin"]
    assert isinstance(read, Mapping)
    return read


def test_metrics_from_a_file_judge_the_outputs_that_they_are_given(tiny_recipe, shared_workdir):
    outcome = build(edited(tiny_recipe), shared_workdir)
    assert outcome.error is None and outcome.report.verdict is Verdict.PASS
    assert "offset.json" in read_by_the_metric(tiny_recipe, shared_workdir)
    margin, spread, scale, overlap = outcome.report.gates
    assert (margin.details["metric"], margin.details["outputs"]) == ("margin of logits", ["logits"])
    assert margin.details["larger_is_better"] is True
    assert [check.name for check in spread.checks] == ["spread(power=1)", "spread(power=1) drop"]
    assert spread.checks[0].interval is not None and spread.details["resamples"] == 1000
    logits = answers_of(tiny_recipe)
    right = logits.max(axis=1)  # the label of a sample is what the model answers
    wanted = right - logits.mean(axis=1)
    assert margin.details["scores"]["original"] == pytest.approx(wanted.mean(), rel=1e-5)
    assert [check.name for check in scale.checks] == [
        "left: worst scale error", "end to end.left_embedding: worst scale error",
    ]  # fmt: skip
    assert [check.name for check in overlap.checks] == [
        "fusion: mean overlap at k", "end to end.logits: mean overlap at k",
    ]  # fmt: skip


def test_torchmetrics_by_name_judges_and_one_of_two_gates_fails(tiny_recipe, shared_workdir):
    gates = """gates:
  - {method: accuracy, metric: torchmetrics.retrieval:RetrievalRecall, outputs: [logits], \
arguments: {top_k: 2}, min: 0.9}
  - {method: accuracy, metric: torchmetrics.classification:MulticlassRecall, outputs: [logits], \
arguments: {num_classes: 4}, min: 1.01}
"""
    outcome = build(edited(tiny_recipe, gates, labels="evaluation"), shared_workdir)
    assert [gate.verdict for gate in outcome.report.gates] == [Verdict.PASS, Verdict.FAIL]
    assert outcome.report.gates[0].details["metric"] == "RetrievalRecall(top_k=2) of logits"


def test_a_metric_that_fails_is_told_before_anything_is_served(tiny_recipe, tmp_path):
    recipe = edited(
        tiny_recipe, "gates:\n  - {method: accuracy, metric: metrics.py:margin, min: 0.1}\n", labels="evaluation"
    )
    outcome = build(recipe, tmp_path / "work")
    assert isinstance(outcome.error, MetricError) and outcome.error.exit_code == 3
    assert outcome.error.step == "original/outputs"
    assert "metrics.py:margin failed: IndexError at metrics.py:" in outcome.error.message
