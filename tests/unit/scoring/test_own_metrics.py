"""Metrics from a file beside the recipe, from a package, and of torchmetrics."""

import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from torchmetrics.retrieval import RetrievalMRR, RetrievalRecall

from mmdeploy.core.errors import DataError, MetricError
from mmdeploy.data.labels import stacked_labels
from mmdeploy.scoring.comparison import Comparison
from mmdeploy.scoring.metric_spec import spec_of
from mmdeploy.scoring.task_metric import open_metric

OUTPUTS = {"logits": np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32), "ids": np.arange(30)}
LABELS = np.random.default_rng(1).integers(0, 4, 30)


def opened(folder, source, name="score", **said):
    (folder / "metrics.py").write_text("import numpy as np\n" + textwrap.dedent(source))
    return open_metric(spec_of(f"metrics.py:{name}", tuple(OUTPUTS), **said), folder)


PER_SAMPLE = """
def score(outputs, labels):
    return outputs["logits"].argmax(axis=1) == labels
score.larger_is_better = True
score.range = (0, 1)
score.name = "hits"
"""
FOR_ALL = """
def score(outputs, labels, power=1):
    return float(np.mean(np.abs(outputs["logits"].argmax(axis=1) - labels) ** power))
score.larger_is_better = False
"""


def test_a_score_a_sample_is_a_mean_with_paired_intervals(tmp_path):
    metric = opened(tmp_path, PER_SAMPLE)
    assert (metric.name, metric.larger_is_better, metric.range) == ("hits", True, (0.0, 1.0))
    assert metric.outputs == ("logits", "ids")
    found = metric.scored(OUTPUTS, LABELS)
    assert found.score == sk.accuracy_score(LABELS, OUTPUTS["logits"].argmax(axis=1))
    assert len(found.per_unit) == 30


def test_one_score_for_all_is_called_on_resampled_sets(tmp_path):
    metric = opened(tmp_path, FOR_ALL, arguments={"power": 2})
    assert metric.name == "score(power=2)" and not metric.larger_is_better
    found = metric.scored(OUTPUTS, LABELS)
    wanted = np.square(OUTPUTS["logits"].argmax(axis=1) - LABELS)
    assert found.score == pytest.approx(wanted.mean())
    rows = np.random.default_rng(2).integers(0, 30, (3, 30))
    assert found.of(rows) == pytest.approx(wanted[rows].mean(axis=1))


def test_a_class_is_made_an_instance_with_the_arguments(tmp_path):
    source = """
    class Within:
        larger_is_better = True
        def __init__(self, far):
            self.far, self.name = far, f"within {far}"
        def __call__(self, outputs, labels):
            return np.abs(outputs["logits"].argmax(axis=1) - labels) <= self.far
    """
    metric = opened(tmp_path, source, "Within", arguments={"far": 1})
    assert metric.scored(OUTPUTS, LABELS).score == (abs(OUTPUTS["logits"].argmax(axis=1) - LABELS) <= 1).mean()
    assert metric.name.startswith("within 1")


def test_labels_come_as_the_data_callable_gave_them(tmp_path):
    source = """
    def score(outputs, labels):
        assert list(outputs) == ["logits"] and isinstance(labels["text"], list)
        assert all(isinstance(one, str) for one in labels["text"])
        return [len(text) + boxes.sum() for text, boxes in zip(labels["text"], labels["boxes"])]
    score.larger_is_better = True
    """
    labels = [{"text": "x" * index, "boxes": np.ones((index % 3, 4))} for index in range(30)]
    metric = opened(tmp_path, source, outputs=["logits"])
    found = metric.scored(OUTPUTS, stacked_labels(labels, "f"))
    assert found.per_unit.tolist() == [index + 4 * (index % 3) for index in range(30)]
    assert metric.name == "score of logits"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "return np.zeros(7)",
            r"metrics.py:score returned an array of shape \[7\], expected one number, or one a sample",
        ),
        ("return np.zeros((30, 1))", r"an array of shape \[30, 1\]"),
        ("return None", "returned a NoneType"),
        ("return 'good'", "returned a str"),
        ("return float('nan')", "score gave NaN"),
        ("return np.where(np.arange(30) == 4, np.nan, 0.0)", "gave NaN for sample 4"),
        ("return 1.5", r"score gave 1.5, outside its range \[0, 1\]"),
        ("return outputs['typo']", r"metrics.py:score failed: KeyError at metrics.py:\d+ \(score\): 'typo'"),
        ("outputs['logits'][:] = 0", "read-only"),
        ("raise SystemExit(3)", "metrics.py:score failed: SystemExit"),
    ],
)
def test_what_is_no_score_is_an_error_with_its_place(tmp_path, body, message):
    metric = opened(
        tmp_path, f"def score(outputs, labels):\n    {body}\nscore.larger_is_better, score.range = True, (0, 1)\n"
    )
    with pytest.raises(MetricError, match=message):
        metric.scored(OUTPUTS, LABELS)


@pytest.mark.parametrize(
    ("source", "said", "message", "hint"),
    [
        ("import nowhere\n", {}, "importing metrics.py failed: ModuleNotFoundError at metrics.py:2", None),
        ("raise SystemExit(3)\n", {}, "importing metrics.py failed: SystemExit at metrics.py:2", "__main__"),
        ("def scores(): ...\n", {}, "metrics.py has no 'score'", "did you mean 'scores'"),
        ("score = 3\n", {}, "is an int, not a callable", None),
        ("def score(o, l): ...\n", {}, "does not say whether a larger score is better", "larger_is_better: true"),
        (PER_SAMPLE, {"larger_is_better": False}, "says larger_is_better: True, the recipe False", "take it out"),
        ("def score(o, l): ...\nscore.larger_is_better = 'yes'\n", {}, "larger_is_better is 'yes'", None),
        ("def score(o, l): ...\nscore.larger_is_better, score.range = True, 1\n", {}, "its range is 1", None),
        ("class score:\n    def __init__(self, far): ...\n", {}, "refused its arguments: TypeError", None),
        ("class score:\n    larger_is_better = True\n", {}, "an instance of it cannot be called", None),
    ],
)
def test_a_metric_that_cannot_be_loaded(tmp_path, source, said, message, hint):
    with pytest.raises(MetricError, match=message) as caught:
        opened(tmp_path, source, **said)
    assert hint is None or hint in caught.value.hint


def test_the_recipe_may_say_the_direction(tmp_path):
    assert not opened(tmp_path, "def score(o, l): return 0.5\n", larger_is_better=False).larger_is_better


def torch_metric(name, ensemble, **said):
    return open_metric(spec_of(f"torchmetrics.{name}", tuple(ensemble), **said), Path())


def test_any_class_of_torchmetrics_by_name_with_arguments():
    arguments = {"num_classes": 4, "average": "macro"}
    metric = torch_metric("classification:MulticlassRecall", OUTPUTS, arguments=arguments)
    found = metric.scored(OUTPUTS, LABELS)
    assert metric.larger_is_better and metric.outputs == ("logits",)
    assert found.score == pytest.approx(sk.recall_score(LABELS, OUTPUTS["logits"].argmax(1), average="macro"), abs=1e-6)
    rows = np.random.default_rng(3).integers(0, 30, (1, 30))
    answers = OUTPUTS["logits"][rows[0]].argmax(1)
    again = sk.recall_score(LABELS[rows[0]], answers, average="macro", labels=np.unique(LABELS[rows[0]]))
    assert found.of(rows)[0] == pytest.approx(again, abs=1e-6)
    error = torch_metric("regression:MeanAbsolutePercentageError", OUTPUTS)
    assert not error.larger_is_better


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.sampled_from([RetrievalRecall, RetrievalMRR]))
def test_retrieval_between_two_outputs_is_torchmetrics_over_all_pairs(seed, k, kind):
    rng = np.random.default_rng(seed)
    outputs = {name: rng.normal(size=(12, 5)).astype(np.float32) for name in ("image", "text")}
    ids = rng.integers(0, 9, 12)
    metric = torch_metric(f"retrieval:{kind.__name__}", outputs, outputs=["image", "text"], arguments={"top_k": k})
    found = metric.scored(outputs, ids)
    similarity = torch.from_numpy(sk.pairwise.cosine_similarity(outputs["image"], outputs["text"]))
    # torchmetrics takes a score of 0 or below for one that was not found
    similarity = similarity + 2.0
    same = torch.from_numpy(ids[:, None] == ids[None])
    queries = torch.arange(12)[:, None].expand(12, 12)
    assert found.score == pytest.approx(float(kind(top_k=k)(similarity, same, indexes=queries)), abs=1e-6)
    assert len(found.per_unit) == 12
    names = stacked_labels([f"item {one}" for one in ids], "f")
    assert metric.scored(outputs, names).score == found.score


def test_retrieval_over_one_output_of_similarities():
    metric = torch_metric("retrieval:RetrievalRecall", OUTPUTS, arguments={"top_k": 2})
    wanted = sk.top_k_accuracy_score(LABELS, OUTPUTS["logits"], k=2, labels=range(4))
    assert metric.scored(OUTPUTS, LABELS).score == pytest.approx(wanted)
    rows = np.eye(4, dtype=np.int64)[LABELS]
    assert metric.scored(OUTPUTS, rows).score == pytest.approx(wanted)


@pytest.mark.parametrize(
    "arguments", [{"top_k": 2}, {"top_k": 2, "aggregation": "median"}, {"empty_target_action": "skip"}]
)
def test_retrieval_of_pairs_is_grouped_by_the_indexes_of_the_labels(arguments):
    rng = np.random.default_rng(5)
    outputs = {"score": rng.normal(size=(24, 1)).astype(np.float32)}
    indexes, target = np.repeat(np.arange(6), 4), rng.integers(0, 2, 24)
    labels = stacked_labels([{"target": t, "indexes": i} for t, i in zip(target, indexes, strict=True)], "f")
    metric = torch_metric("retrieval:RetrievalRecall", outputs, arguments=arguments)
    found = metric.scored(outputs, labels)
    reference = RetrievalRecall(**arguments)
    given_ = [torch.from_numpy(one) for one in (outputs["score"][:, 0], target, indexes)]
    assert found.score == pytest.approx(float(reference(given_[0], given_[1], indexes=given_[2])), abs=1e-6)
    assert found.units == 6
    drawn = np.array([[0, 0, 1, 2, 3, 5]])  # a query that is drawn twice counts twice, apart
    taken = np.concatenate([np.flatnonzero(indexes == one) for one in drawn[0]])
    again = reference(given_[0][taken], given_[1][taken], indexes=torch.repeat_interleave(torch.full((6,), 4)))
    assert found.of(drawn)[0] == pytest.approx(float(again), abs=1e-6)


@pytest.mark.parametrize(
    ("name", "said", "labels", "error", "message"),
    [
        ("retrieval:RetrievalRecal", {}, LABELS, MetricError, "torchmetrics.retrieval has no 'RetrievalRecal'"),
        ("retrieval:RetrievalRecall", {"arguments": {"k": 5}}, LABELS, MetricError, "refused its arguments: Value"),
        ("retrieval:RetrievalRecall", {"outputs": ["ids"]}, LABELS, DataError, "the labels .* name no query"),
        ("classification:MulticlassAccuracy", {"arguments": {"num_classes": 4, "average": None}}, LABELS, MetricError,
         r"gave a tensor of shape \[4\], expected one number"),
        ("classification:MulticlassAccuracy", {"arguments": {"num_classes": 2}}, LABELS, MetricError, "failed: "),
        ("classification:MulticlassConfusionMatrix", {"arguments": {"num_classes": 4}}, LABELS, MetricError,
         "does not say whether a larger score is better"),
        ("regression:MeanSquaredError", {"outputs": ["logits", "ids"]}, LABELS, DataError, "has no parameter 'logits'"),
        ("regression:MeanSquaredError", {}, stacked_labels([{"goal": 1}] * 30, "f"), DataError, "no parameter 'goal'"),
    ],
)  # fmt: skip
def test_what_a_torchmetrics_class_cannot_take_is_said(name, said, labels, error, message):
    with pytest.raises(error, match=message):
        torch_metric(name, OUTPUTS, **said).scored(OUTPUTS, labels)


def test_resampling_a_slow_metric_ends_with_the_time_and_says_how_far_it_came(tmp_path):
    metric = opened(tmp_path, FOR_ALL)
    found = metric.scored(OUTPUTS, LABELS)
    seconds = iter(range(0, 10_000, 7))
    slow = Comparison(found, found, metric.larger_is_better, 0.95, 0, clock=lambda: next(seconds))
    assert slow.drop_interval == (0.0, 0.0)
    assert slow.to_json()["resamples"] == 90
    one = iter([0, 1000, 2000])
    stopped = Comparison(found, found, metric.larger_is_better, 0.95, 0, clock=lambda: next(one))
    assert stopped.drop_interval is None and stopped.to_json()["drop_interval"] is None


def test_resamples_that_a_metric_refuses_are_left_out(tmp_path):
    source = """
    def score(outputs, labels):
        if (labels == labels.max()).sum() < 2:
            raise ValueError("one of a kind")
        return float(labels.mean())
    score.larger_is_better = True
    """
    labels = np.array([3] * 8 + [4] * 4 + [5] * 3)
    outputs = {"logits": np.zeros((15, 1)), "ids": np.zeros(15)}
    found = opened(tmp_path, source).scored(outputs, labels)
    comparison = Comparison(found, found, True, 0.95, 0)
    assert 0 < comparison.resamples.failed < 250
    low, high = comparison.score_interval
    assert low < labels.mean() < high
