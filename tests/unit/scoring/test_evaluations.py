"""The journal of a search, and drops with their intervals against independent implementations."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import bootstrap

from mmdeploy.core.contracts import FusedScore
from mmdeploy.scoring.evaluations import HELD_BACK, SEARCHED, Evaluations, Journal


class Judge:
    """Scores by a table of values per sample."""

    metric, samples = "top1", 40

    def __init__(self, original, *, larger_is_better=True):
        self.table, self.larger_is_better, self.calls = {"original": np.array(original, float)}, larger_is_better, []

    def original(self, part=None):
        return self.score(Path("original"), part)

    def score(self, graph, part=None):
        self.calls.append(graph.name)
        values = self.table[graph.name][part or slice(None)]
        return FusedScore(float(values.mean()), values, 30.0, 0.999, len(values))


def test_what_was_written_down_is_not_made_again(tmp_path):
    path = tmp_path / "journal.jsonl"
    assert Journal(path).remembered("a", lambda: {"x": 1}) == {"x": 1}
    assert Journal(path).remembered("a", pytest.fail) == {"x": 1}
    assert Journal(None).remembered("a", lambda: 3) == 3


def test_a_line_that_a_kill_cut_off_is_dropped_and_written_anew(tmp_path):
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.remembered("a", lambda: 1)
    journal.remembered("b", lambda: 2)
    path.write_bytes(path.read_bytes()[:-9])
    again = Journal(path)
    assert again.remembered("a", pytest.fail) == 1
    assert again.remembered("b", lambda: 5) == 5
    assert Journal(path).remembered("b", pytest.fail) == 5
    assert len(path.read_text().splitlines()) == 2


def test_drops_and_intervals_of_correct_answers():
    """Bonett and Price's interval, written out by hand."""
    judge = Judge([1] * 40)
    judge.table["worse"] = np.array([0] * 6 + [1] * 34, float)
    evaluations = Evaluations(judge, Journal(None), confidence=0.95, seed=0)
    found = evaluations.drop_of("worse", lambda: Path("worse"), slice(None))
    lost, won, half = 7 / 42, 1 / 42, 1.959964
    half *= np.sqrt((lost + won - (lost - won) ** 2) / 42)
    assert found.drop == pytest.approx(0.15)
    assert found.interval == pytest.approx((lost - won - half, lost - won + half), abs=1e-5)
    assert evaluations.count == 2


def test_an_error_drops_when_it_grows():
    random = np.random.default_rng(3)
    before = random.gamma(2.0, size=40)
    judge = Judge(before, larger_is_better=False)
    judge.table["worse"] = after = before + random.gamma(1.0, 0.2, size=40)
    found = Evaluations(judge, Journal(None), confidence=0.9, seed=0).drop_of(
        "worse", lambda: Path("worse"), slice(None)
    )
    assert found.drop == pytest.approx((after - before).mean())
    expected = bootstrap((after - before,), np.mean, confidence_level=0.9, n_resamples=20000, random_state=1)
    assert found.interval == pytest.approx(tuple(expected.confidence_interval), rel=0.1)


def test_the_halves_are_disjoint_and_whole():
    samples = np.arange(41)
    assert sorted([*samples[SEARCHED], *samples[HELD_BACK]]) == samples.tolist()


def test_a_killed_search_asks_only_for_what_is_missing(tmp_path):
    path = tmp_path / "journal.jsonl"
    first, second = Judge([1, 0] * 20), Judge([1, 0] * 20)
    for judge in (first, second):
        judge.table |= {"a": np.ones(40), "b": np.zeros(40)}
    before = Evaluations(first, Journal(path), confidence=0.95, seed=0)
    outcome = before.drop_of("a", lambda: Path("a"), SEARCHED)
    after = Evaluations(second, Journal(path), confidence=0.95, seed=0)
    again = after.drop_of("a", lambda: pytest.fail("written again"), SEARCHED)
    assert (again.drop, again.interval, again.score.metric) == (
        outcome.drop, outcome.interval, outcome.score.metric,
    )  # fmt: skip
    after.drop_of("b", lambda: Path("b"), SEARCHED)
    assert second.calls == ["b"]
    assert after.count == 3
