"""Gates on samples of many lengths: each asked at its true length, alone, together, and at the bounds."""

import numpy as np
import pytest

from mmdeploy import testing
from mmdeploy.core.artifact import TensorSpec
from mmdeploy.core.contracts import Samples, Verdict, WiredComponent
from mmdeploy.core.labels import Ragged
from mmdeploy.core.samples import column_of
from mmdeploy.core.sizes import Size
from mmdeploy.gates import accuracy, latency, memory, parity
from mmdeploy.gates.in_process import InProcessDeployment
from mmdeploy.scoring import ask

TOKENS = Size("tokens", 1, 20)
LENGTHS = [4] * 9 + [2, 7, 7, 3, 4, 19]
PART = WiredComponent("text", {"ids": "words"}, {"scores": "scores", "mean": "mean"})
TABLE = np.random.default_rng(0).normal(size=(50, 5)).astype(np.float32)


def encode(ids):
    scores = TABLE[ids]
    return {"scores": scores, "mean": scores.mean(axis=1)}


class Encoder:
    inputs = (TensorSpec("ids", "INT64", (-1,)),)
    outputs = (TensorSpec("scores", "FP32", (-1, 5)), TensorSpec("mean", "FP32", (5,)))

    def __init__(self, change, asked):
        self._change, self._asked = change, asked

    def infer(self, feed_dict):
        self._asked.append(feed_dict["ids"].shape)
        return self._change(feed_dict["ids"], encode(feed_dict["ids"]))

    def close(self):
        pass


def evidence(change=lambda ids, answers: answers, asked=None, **changes):
    """Sentences of many lengths; the candidate's answers changed."""

    def served(how):
        opened = {"text": lambda: Encoder(how, [] if asked is None else asked)}
        return InProcessDeployment((PART,), opened, ("scores", "mean"), {"text": 9})

    random = np.random.default_rng(1)
    ids = [random.integers(0, 50, length) for length in LENGTHS]
    found = [encode(one[None]) for one in ids]
    fields = {
        "candidate": served(change), "reference": served(lambda ids, answers: answers), "components": (PART,),
        "ensemble_outputs": ("scores", "mean"), "feeds": Samples({"words": column_of(ids)}),
        "labels": Ragged.of([one["scores"][0].argmax(axis=1) for one in found]),
        "original": {name: column_of([one[name][0] for one in found]) for name in ("scores", "mean")},
        "sizes": {"words": (TOKENS,)},
    }  # fmt: skip
    return testing.evidence(**fields | changes)


def options(**given):
    return parity.Options(method="parity", **given)


def bounds():
    """Sentences of 1 and of 20 tokens, which none of the samples has."""
    ids = [np.array([7]), np.arange(20)]
    found = [encode(one[None]) for one in ids]
    original = {name: column_of([one[name][0] for one in found]) for name in ("scores", "mean")}
    return Samples({"words": column_of(ids)}), original


def test_equals_pass_and_every_length_is_asked_alone_and_in_the_largest_requests_that_there_are():
    asked = []
    result = parity.check(options(min_cosine=0.9999, max_abs_error=1e-6), evidence(asked=asked))
    assert result.verdict is Verdict.PASS
    assert {check.samples for check in result.checks} == {len(LENGTHS)}
    assert {(1, length) for length in LENGTHS} <= {*asked}
    assert asked[0] == (8, 4) and (2, 7) in asked and (3, 4) in asked
    (table,) = result.tables
    assert table.rows == (("tokens", 15, 2, 4.0, 19, "none"),)


def test_a_length_that_is_answered_wrongly_fails():
    def wrong_at_19(ids, answers):
        return {**answers, "mean": -answers["mean"]} if ids.shape[1] == 19 else answers

    result = parity.check(options(min_cosine=0.9), evidence(wrong_at_19))
    failed = [check.name for check in result.checks if check.verdict is Verdict.FAIL]
    assert failed == ["text.mean: worst cosine", "end to end.mean: worst cosine"]


def test_answers_at_a_wrong_length_are_told_with_their_sample():
    def short(ids, answers):
        return {**answers, "scores": answers["scores"][:, :4]}

    result = parity.check(options(min_cosine=0.9, scope="end_to_end"), evidence(short))
    (check,) = [check for check in result.checks if check.verdict is Verdict.FAIL]
    told = "the candidate answers [4, 5] a sample, the original [7, 5]: 3 of 15 samples, the first is sample 10"
    assert check.note.endswith(told)


def test_bounds_that_no_sample_has_are_judged_too():
    def wrong_beyond(ids, answers):
        return {**answers, "scores": -answers["scores"]} if ids.shape[1] == 20 else answers

    assert parity.check(options(min_cosine=0.9), evidence(wrong_beyond)).verdict is Verdict.PASS
    result = parity.check(options(min_cosine=0.9), evidence(wrong_beyond, bounds=bounds()))
    failed = [check for check in result.checks if check.verdict is Verdict.FAIL]
    assert [check.name for check in failed] == ["text.scores: worst cosine", "end to end.scores: worst cosine"]
    assert failed[0].note == "lengths at the bounds of their sizes; 1 at the samples' own"
    assert result.tables[0].rows[0][-1] == "1, 20"
    assert parity.check(options(min_cosine=0.99), evidence(bounds=bounds())).verdict is Verdict.PASS


def test_an_answer_that_depends_on_the_batch_fails_whatever_the_lengths():
    def shared(ids, answers):
        return {**answers, "mean": np.broadcast_to(answers["mean"].mean(axis=0), answers["mean"].shape)}

    result = parity.check(options(min_cosine=0.999, outputs=["mean"]), evidence(shared))
    assert result.verdict is Verdict.FAIL


def test_accuracy_of_a_score_a_token():
    judged = accuracy.Options(metric="wer", outputs=["scores"], max_drop=0.01)
    result = accuracy.check(judged, evidence())
    assert (result.verdict, result.details["scores"]["candidate"]) == (Verdict.PASS, 0.0)

    def one_off(ids, answers):
        scores = answers["scores"].copy()
        scores[:, 0] = -scores[:, 0]
        return {**answers, "scores": scores}

    assert accuracy.check(judged, evidence(one_off)).verdict is Verdict.FAIL


@pytest.mark.parametrize("length", [7, 11])
def test_speed_and_memory_are_measured_at_named_lengths(length):
    speed = {"max_ratio_to_reference": 100.0, "requests": 30, "confidence": 0.9, "max_seconds": 1.0}
    for gate, given in (
        (latency, speed | {"per_component": False}),
        (memory, {"max_ratio_to_reference": 2.0, "seconds": 0.1}),
    ):
        asked: list[tuple[int, ...]] = []
        method = gate.__name__.rpartition(".")[2]
        result = gate.check(
            gate.Options(method=method, lengths={"tokens": length}, batch=2, **given), evidence(asked=asked)
        )
        assert {*asked} == {(2, length)}
        assert result.tables[0].rows[0][2:] == (length, length, length, "none" if length == 7 else "11")
        if gate is latency:
            assert f"tokens {length}" in result.checks[0].name


def test_requests_hold_samples_of_one_length_each_sample_once_at_least():
    given = evidence().feeds
    cut = ask.requests(given, 4)
    assert {len(request["words"]) for request in cut} == {4}
    sent = {tuple(row) for request in cut for row in request["words"].tolist()}
    assert sent == {tuple(one.tolist()) for one in given["words"]}
