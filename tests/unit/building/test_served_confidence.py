"""The histogram of confidence that a build keeps."""

import json

import numpy as np
import pytest

from mmdeploy.building.confidence import FILENAME, served_confidence, write_confidence
from mmdeploy.core.artifact import TensorSpec
from mmdeploy.core.contracts import Check, Evidence, GateResult, Verdict, WiredComponent
from mmdeploy.core.target import Hardware
from mmdeploy.gates.in_process import InProcessDeployment

TOP1 = GateResult("accuracy", (Check("top1", 1.0, ">= 0", Verdict.PASS),), {"metric": "top1", "outputs": ["scores"]})
SQUARED = GateResult("accuracy", TOP1.checks, {"metric": "mse", "outputs": ["scores"]})


class Answering:
    """Answers each sample with the row of scores that it sent."""

    inputs, outputs = (TensorSpec("rows", "FP32", (3,)),), (TensorSpec("scores", "FP32", (3,)),)

    def infer(self, feed_dict):
        return {"scores": feed_dict["rows"]}

    def close(self):
        pass


def evidence(rows: np.ndarray) -> Evidence:
    part = WiredComponent("head", {"rows": "rows"}, {"scores": "scores"})
    asked = InProcessDeployment((part,), {"head": Answering}, ("scores",), {"head": 1})
    return Evidence(
        candidate=asked, reference=asked, components=(part,), ensemble_outputs=("scores",), feeds={"rows": rows},
        labels=None, original={"scores": rows}, hardware=Hardware("any", 1, (), 1, ()), max_batch_size=4,
    )  # fmt: skip


LOGITS = np.array([[0, 0, 0], [0, 0, 40], [40, 0, 0], [0, 1, 0]], np.float32)


def test_scores_of_classes_are_counted_after_a_softmax():
    found = served_confidence(evidence(LOGITS), [SQUARED, TOP1])
    assert found["scores"]["counts"] == [0, 0, 0, 1, 0, 1, 0, 0, 0, 2]
    assert (found["scores"]["samples"], found["scores"]["from"]) == (4, "logits")


def test_shares_are_counted_as_they_are_and_need_no_gate():
    shares = np.array([[0.25, 0.35, 0.4], [0.0, 0.0, 1.0]], np.float32)
    found = served_confidence(evidence(shares), [])
    assert (found["scores"]["counts"], found["scores"]["from"]) == ([0, 0, 0, 1, 0, 0, 0, 0, 0, 1], "probabilities")


@pytest.mark.parametrize("results", [[], [SQUARED]])
def test_what_is_not_known_to_be_classes_is_not_counted(results):
    assert served_confidence(evidence(LOGITS), results) == {}


def test_answers_that_are_no_numbers_are_not_counted(tmp_path):
    found = served_confidence(evidence(np.where(LOGITS > 0, np.nan, LOGITS)), [TOP1])
    assert found == {} == write_confidence(tmp_path, found)
    assert not [*tmp_path.iterdir()]


def test_the_file_holds_what_was_counted(tmp_path):
    found = served_confidence(evidence(LOGITS), [TOP1])
    assert write_confidence(tmp_path, found) == {FILENAME: tmp_path / FILENAME}
    assert json.loads((tmp_path / FILENAME).read_text()) == {"outputs": found}
    assert len(found["scores"]["bucket_upper_bounds"]) == len(found["scores"]["counts"]) == 10
