"""Gates on subsets of the modalities, and what a missing input may cost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from gate_evidence import FUNCTIONS, SAMPLES, deployment, evidence

from mmdeploy import gates
from mmdeploy.core.contracts import Array, Deployment, Evidence, EvidenceSubset, FeedDict, Runner, Verdict
from mmdeploy.core.errors import DataError
from mmdeploy.gates import accuracy, graceful, parity, size

STAND_IN = np.full(8, 0.25, np.float32)


class Runs:
    """A runner of the ensemble that takes requests without audio."""

    def __init__(self, inner: Runner, head: object, asked: list[FeedDict]) -> None:
        self._inner, self._head, self._asked = inner, head, asked
        self.inputs, self.outputs = inner.inputs, inner.outputs

    def infer(self, feed_dict: FeedDict) -> dict[str, Array]:
        self._asked.append(feed_dict)
        if "audio" in feed_dict:
            return self._inner.infer(feed_dict)
        image = FUNCTIONS["image_encoder"](pixels=feed_dict["image"])["embedding"]
        return dict(self._head(image, np.broadcast_to(STAND_IN, image.shape)))  # type: ignore[operator]

    def close(self) -> None:
        self._inner.close()


class Serves:
    """A deployment whose ensemble does so; ``head`` answers where the audio is missing."""

    def __init__(self, head: object = FUNCTIONS["fusion"]) -> None:
        self._inner, self._head = deployment(), head
        self.asked: list[FeedDict] = []

    def runner(self, model: str | None = None) -> Runner:
        inner = self._inner.runner(model)
        return inner if model else Runs(inner, self._head, self.asked)

    def memory_bytes(self) -> int:
        return self._inner.memory_bytes()

    def size_bytes(self) -> dict[str, int]:
        return dict(self._inner.size_bytes())


def judged(head: object = FUNCTIONS["fusion"], samples: Array | None = None) -> Evidence:
    """Return evidence with a subset without audio, of which the original has the right answers."""
    found = evidence()
    embedding = np.broadcast_to(STAND_IN, (SAMPLES, 8)).copy()
    logits = FUNCTIONS["fusion"](image=found.original["image_embedding"], audio=embedding)["logits"]
    subset = EvidenceSubset(
        "without audio", ("audio",), {"audio_embedding": embedding, "logits": logits}, ("fusion",), samples
    )
    candidate: Deployment = Serves(head)
    return replace(found, candidate=candidate, reference=Serves(), subsets=(subset,))


def names(found: Evidence, options: object) -> dict[str, Verdict]:
    results, _ = gates.run_all([options], found)  # type: ignore[list-item]
    return {check.name: check.verdict for check in results[0].checks}


def test_parity_judges_what_a_subset_changes_and_no_encoder_twice():
    found = names(judged(), parity.Options(min_cosine=0.99))
    without = [name for name in found if name.endswith("(without audio)")]
    assert {name.partition(":")[0] for name in without} == {"fusion", "end to end"}
    assert set(found.values()) == {Verdict.PASS}


def test_a_head_that_is_only_right_for_whole_requests_fails_in_the_subset_alone():
    found = names(
        judged(lambda image, audio: {"logits": -FUNCTIONS["fusion"](image, audio)["logits"]}),
        parity.Options(min_cosine=0.99),
    )
    failed = {name for name, verdict in found.items() if verdict is Verdict.FAIL}
    assert failed == {"end to end: worst cosine (without audio)"}


def test_requests_of_a_subset_lack_the_input():
    found = judged()
    names(found, parity.Options(min_cosine=0.99, scope="end_to_end"))
    asked = found.candidate.asked  # type: ignore[attr-defined]
    assert {frozenset(feed) for feed in asked} == {frozenset({"image", "audio"}), frozenset({"image"})}


def mixing(head: object = FUNCTIONS["fusion"]) -> Evidence:
    """Return evidence of which parity also asks requests where each second row is marked as lacking its audio."""
    found, rows = judged(head), np.arange(SAMPLES)
    there = (rows % 2 == 0)[:, None]
    logits = np.where(there, found.original["logits"], found.subsets[0].original["logits"])
    mixed = EvidenceSubset("mixed rows", (), {"logits": logits}, (), rows, {"audio_present": there})
    return replace(found, mixed=mixed)


class ByRows(Runs):
    """Takes marks of rows too; ``mind`` says whether they are minded."""

    mind = True

    def infer(self, feed_dict: FeedDict) -> dict[str, Array]:
        marks = feed_dict.get("audio_present")
        if marks is None:
            return super().infer(feed_dict)
        whole = self._inner.infer({name: array for name, array in feed_dict.items() if name != "audio_present"})
        without = super().infer({"image": feed_dict["image"]})
        return {name: np.where(marks | (not self.mind), whole[name], without[name]) for name in whole}


@pytest.mark.parametrize("mind", [True, False])
def test_parity_asks_requests_whose_rows_lack_other_inputs(monkeypatch, mind):
    monkeypatch.setattr(ByRows, "mind", mind)
    monkeypatch.setattr(Serves, "runner", lambda self, model=None: self._inner.runner(model) if model else ByRows(
        self._inner.runner(), self._head, self.asked))  # fmt: skip
    found = names(mixing(), parity.Options(min_cosine=0.99))
    assert {name: verdict for name, verdict in found.items() if name.endswith("(mixed rows)")} == {
        "end to end: worst cosine (mixed rows)": Verdict.PASS if mind else Verdict.FAIL,
        "end to end: worst norm error (mixed rows)": found["end to end: worst norm error (mixed rows)"],
    }
    assert not any("mixed" in name for name in names(mixing(), parity.Options(min_cosine=0.99, scope="components")))
    assert not any("mixed" in name for name in names(mixing(), accuracy.Options(metric="top1", max_drop=1.0)))


def test_accuracy_judges_the_drop_in_a_subset_and_not_the_score():
    options = accuracy.Options(metric="top1", min=0.85, max_drop=0.01)
    found = names(judged(), options)
    assert list(found) == ["top1", "top1 drop", "top1 drop (without audio)"]
    score_alone = accuracy.Options(metric="top1", min=0.85)
    assert list(names(judged(), score_alone)) == ["top1"]


def test_samples_of_which_nothing_would_be_left_are_not_asked_for():
    some = np.arange(0, SAMPLES, 3)
    found = judged(samples=some)
    results, _ = gates.run_all([accuracy.Options(metric="top1", max_drop=0.01)], found)
    assert [check.samples for check in results[0].checks] == [SAMPLES, len(some)]


def test_a_gate_without_a_say_on_subsets_is_asked_once():
    results, _ = gates.run_all([size.Options(max_ratio_to_reference=1.0)], judged())
    assert [check.name for check in results[0].checks] == ["size ratio"]


def test_graceful_limits_what_a_missing_input_costs():
    full = evidence()
    labels = np.asarray(full.labels)
    embedding = np.broadcast_to(STAND_IN, (SAMPLES, 8))
    alone = FUNCTIONS["fusion"](image=full.original["image_embedding"], audio=embedding)["logits"].argmax(axis=1)
    cost = float((full.original["logits"].argmax(axis=1) == labels).mean() - (alone == labels).mean())
    assert cost > 0.1
    results, verdict = gates.run_all([graceful.Options(max_drop_when_missing={"audio": cost + 0.01})], judged())
    [check] = results[0].checks
    assert (check.name, verdict) == ("top1 drop without audio", Verdict.PASS)
    assert check.measured == pytest.approx(cost)
    assert check.interval is not None
    assert check.interval[0] < cost < check.interval[1]
    _, verdict = gates.run_all([graceful.Options(max_drop_when_missing={"audio": cost - 0.01})], judged())
    assert verdict is Verdict.FAIL


def test_graceful_says_which_limit_is_for_nothing():
    with pytest.raises(DataError, match="no subset that is judged"):
        gates.run_all([graceful.Options(max_drop_when_missing={"image": 0.1})], judged())


@pytest.mark.parametrize("given", [{"audio": -0.1}, {"audio": float("inf")}, {}])
def test_graceful_takes_drops(given):
    with pytest.raises(ValueError, match="max_drop_when_missing"):
        graceful.Options(max_drop_when_missing=given)
