"""What the accuracy gate shows a reviewer."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdeploy.gates import differences
from mmdeploy.scoring.comparison import Comparison
from mmdeploy.scoring.scored import mean_of

RIGHT = np.eye(3, dtype=np.float32)


def compared(labels, before, after, *, larger_is_better=True):
    scores = [(np.asarray(answers) == labels).astype(float) for answers in (after, before)]
    return Comparison(*map(mean_of, scores), larger_is_better, 0.95, 0)


def shown(labels, before, after):
    labels = np.asarray(labels)
    tables = differences.tables(
        labels, {"logits": RIGHT[before]}, {"logits": RIGHT[after]}, compared(labels, before, after)
    )
    return {table.title: table for table in tables}


def test_recall_per_class_has_the_worst_loss_first():
    table = shown([0, 0, 1, 1, 2, 2], [0, 0, 1, 2, 2, 0], [0, 1, 1, 1, 2, 0])["recall per class"]
    assert table.head == ("class", "samples", "original", "candidate", "change")
    assert table.rows == (("0", 2, 1.0, 0.5, -0.5), ("2", 2, 0.5, 0.5, 0.0), ("1", 2, 0.5, 1.0, 0.5))


def test_samples_whose_answer_changed_have_the_lost_ones_first():
    table = shown([0, 0, 1, 1, 2, 2], [0, 0, 1, 2, 2, 0], [0, 1, 1, 1, 2, 1])["samples whose answer changed"]
    assert table.rows == (
        ("1", "0", "0", "1", "lost"), ("3", "1", "2", "1", "won"), ("5", "2", "0", "1", "wrong before and after"),
    )  # fmt: skip
    assert table.note == ""


def test_equal_answers_say_so():
    table = shown([0, 1], [0, 2], [0, 2])["samples whose answer changed"]
    assert (table.rows, table.note) == ((), "none")


def test_long_lists_are_cut_and_say_so():
    labels = np.zeros(80, int)
    table = shown(labels, labels, labels + 1)["samples whose answer changed"]
    assert len(table.rows) == 50
    assert table.note == "50 of 80 samples shown, lost ones first"


@given(st.lists(st.tuples(*[st.integers(0, 2)] * 3), min_size=1, max_size=30))
def test_tables_agree_with_counting(samples):
    labels, before, after = (np.array(column) for column in zip(*samples, strict=True))
    tables = shown(labels, before, after)
    classes, changed = tables["recall per class"].rows, tables["samples whose answer changed"].rows
    for column, answers in ((2, before), (3, after)):
        assert sum(row[1] * row[column] for row in classes) == pytest.approx((answers == labels).sum())
    outcomes = [row[-1] for row in changed]
    assert outcomes.count("won") - outcomes.count("lost") == (after == labels).sum() - (before == labels).sum()
    assert {int(row[0]) for row in changed} == set(np.flatnonzero(before != after))


def test_where_there_are_no_classes_the_largest_losses_are_shown():
    labels = np.zeros((3, 2), np.float32)
    before, after = mean_of(np.array([0.1, 0.2, 0.3])), mean_of(np.array([0.1, 0.5, 0.2]))
    comparison = Comparison(after, before, False, 0.95, 0)
    (table,) = differences.tables(labels, {"y": labels}, {"y": labels}, comparison)
    assert table.title == "samples that lost most"
    assert [(row[0], round(row[3], 6)) for row in table.rows] == [("1", 0.3)]
