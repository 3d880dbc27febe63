"""Gates that need the same answers ask for them once."""

import numpy as np
import pytest
from gate_evidence import deployment, evidence, fusion

from mmdeploy import gates
from mmdeploy.core.contracts import Evidence, GateResult
from mmdeploy.gates import accuracy, parity
from mmdeploy.scoring import ask

TOP1 = accuracy.Options(metric="top1", max_drop=0.01)
MACRO = accuracy.Options(metric="f1_macro", max_drop=0.01)
PARITY = parity.Options(min_cosine=0.9, scope="end_to_end")


class Counted:
    """A head that counts the rows that it answers."""

    def __init__(self) -> None:
        self.rows = 0

    def __call__(self, image, audio):
        self.rows += len(image)
        return fusion(image, audio)


def rows_asked(head: Counted, *options: object, given: Evidence) -> tuple[list[int], list[GateResult]]:
    """Return how many rows each gate asked for."""
    asked, results = [], []
    for one in options:
        before = head.rows
        results.append(gates.METHODS.of(one).check(one, given))
        asked.append(head.rows - before)
    return asked, results


def test_gates_that_need_the_same_answers_ask_once() -> None:
    head = Counted()
    given = evidence(candidate=deployment({"fusion": head}))
    asked, results = rows_asked(head, TOP1, MACRO, PARITY, given=given)
    assert asked[0] > 96 and asked[1] == 0, "odd batches are asked by the first as well"
    assert 0 < asked[2] < 96, "odd batches of a few samples, the largest are known"
    for one, result in zip((TOP1, MACRO, PARITY), results, strict=True):
        alone = gates.METHODS.of(one).check(one, evidence(candidate=deployment({"fusion": Counted()})))
        assert result.checks == alone.checks


def test_other_samples_and_other_servers_are_asked() -> None:
    head = Counted()
    given = evidence(candidate=deployment({"fusion": head}))
    feeds = {name: column.copy() for name, column in given.feeds.items()}
    ask.of_ensemble(given.candidate, given, feeds, what="")
    feeds["image"][5, 3] ^= 1
    changed = ask.of_ensemble(given.candidate, given, feeds, what="")
    assert head.rows == 2 * 96
    np.testing.assert_array_equal(changed["logits"], ask.of_ensemble(given.reference, given, feeds, what="")["logits"])
    other = deployment({"fusion": lambda image, audio: {"logits": fusion(image, audio)["logits"] + 1}})
    moved = ask.of_ensemble(other, given, feeds, what="")["logits"]
    np.testing.assert_allclose(moved, changed["logits"] + 1, rtol=1e-6)


def test_samples_of_several_lengths_are_told_apart_by_what_they_hold() -> None:
    columns = [np.empty(2, object), np.empty(2, object)]
    for column, last in zip(columns, (3.0, 4.0), strict=True):
        column[0], column[1] = np.zeros(2, np.float32), np.full(3, last, np.float32)
    same = np.empty(2, object)
    same[0], same[1] = columns[0][0].copy(), columns[0][1].copy()
    digests = [ask._digest(ask.Samples({"x": column})) for column in (*columns, same)]
    assert digests[0] == digests[2] != digests[1]


def test_more_than_is_kept_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ask, "_MOST_BYTES", 10)
    head = Counted()
    given = evidence(candidate=deployment({"fusion": head}))
    asked, _ = rows_asked(head, TOP1, MACRO, given=given)
    assert asked[0] == asked[1] > 96


def test_answers_of_text_and_of_several_lengths_are_counted_as_what_they_hold() -> None:
    text, lengths = np.empty(2, object), np.empty(2, object)
    text[:] = [b"ab", b"c"]
    lengths[0], lengths[1] = np.zeros(2, np.float32), np.zeros(3, np.float32)
    columns = {"text": text, "lengths": lengths, "scores": np.zeros((2, 4), np.float32)}
    assert ask._bytes(columns) == (2 + 4) + (1 + 4) + 5 * 4 + 8 * 4
