"""Labels of every kind, against the plain values that they were made of."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdeploy.core.errors import DataError
from mmdeploy.core.labels import Ragged, Table, Texts, kind, plain, read, written
from mmdeploy.data.labels import stacked_labels

STRINGS = st.text(max_size=8)
BOXES = st.lists(st.tuples(*[st.floats(0, 9, width=32)] * 4), max_size=3).map(
    lambda rows: np.array(rows, dtype=np.float32).reshape(-1, 4)
)
COLUMNS = {
    "ids": st.integers(0, 99),
    "vectors": st.lists(st.integers(0, 9), min_size=3, max_size=3).map(np.array),
    "strings": STRINGS,
    "references": st.lists(STRINGS, max_size=3),
    "boxes": BOXES,
}
ONE_OF_EACH = st.lists(st.fixed_dictionaries(COLUMNS), min_size=1, max_size=7)


def same(found, wanted):
    if isinstance(wanted, str) or (isinstance(wanted, list) and all(isinstance(one, str) for one in wanted)):
        return len(found) == 0 if len(wanted) == 0 else found == wanted
    return np.array_equal(found, wanted)


@given(ONE_OF_EACH, st.data())
def test_a_label_set_gives_back_what_it_was_made_of_whole_or_in_part(labels, draw):
    count = len(labels)
    rows = draw.draw(
        st.one_of(
            st.lists(st.integers(0, count - 1), max_size=9).map(lambda picked: np.array(picked, dtype=np.intp)),
            st.builds(slice, st.integers(0, count), st.integers(0, count), st.sampled_from([None, 1, 2])),
        )
    )
    for name in COLUMNS:
        column = stacked_labels([label[name] for label in labels], "data.py:f")
        assert len(column) == count
        chosen = [labels[index][name] for index in np.arange(count)[rows]]
        part = column[rows]
        assert len(part) == len(chosen)
        assert all(same(found, wanted) for found, wanted in zip(plain(part), chosen, strict=True))
    table = stacked_labels(labels, "data.py:f")
    assert isinstance(table, Table)
    assert len(table[rows]) == len(chosen)
    assert list(plain(table)) == list(labels[0])


@given(ONE_OF_EACH)
def test_labels_are_written_as_plain_arrays_and_read_again(labels):
    saved = {}

    def save(array):
        assert array.dtype.kind in "biuf", "an array that npy would pickle"
        saved[str(len(saved))] = array
        return str(len(saved) - 1)

    for made in (
        stacked_labels(labels, "f"),
        *(stacked_labels([one[name] for one in labels], "f") for name in COLUMNS),
    ):
        again = read(written(made, save), saved.__getitem__)
        assert kind(again) == kind(made)
        assert repr(plain(again)) == repr(plain(made))


def test_what_becomes_what():
    assert isinstance(stacked_labels([1, 2], "f"), np.ndarray)
    assert stacked_labels([True, False], "f").dtype == bool
    assert isinstance(stacked_labels(["a", "b"], "f"), Texts)
    assert isinstance(stacked_labels([["a"], []], "f"), Ragged)
    assert isinstance(stacked_labels([[1, 2], [3]], "f"), Ragged)
    assert stacked_labels([[1, 2], [3, 4]], "f").shape == (2, 2)
    boxes = stacked_labels([np.zeros((2, 4)), np.zeros((0, 4))], "f")
    assert [array.shape for array in plain(boxes)] == [(2, 4), (0, 4)]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1, "one"], "the label of sample 1 is 'one'"),
        (["one", 1], "the label of sample 1 is 1"),
        ([1, {"a": 1}], "the label of sample 0 is 1"),
        ([{"a": 1}, {"b": 1}], "sample 1 names b, but that of sample 0 names a"),
        ([{"a": 1}, {"a": "x"}], "'a' of the label of sample 1 is 'x'"),
        ([{}], "the label of sample 0 is {}"),
        ([{1, 2}], r"the label of sample 0 is \{1, 2\}"),
        ([b"x"], "the label of sample 0 is b'x'"),
        ([[1, 2], 3], "the label of sample 1 is 3"),
        ([np.zeros((1, 2)), np.zeros((1, 3))], r"sample 1 is an array of shape \[1, 3\] and type float64"),
        ([object()], "the label of sample 0 is <object"),
    ],
)
def test_what_is_no_label_is_refused_with_its_sample(labels, message):
    with pytest.raises(DataError, match=message) as caught:
        stacked_labels(labels, "data.py:evaluation")
    assert "list of strings" in caught.value.hint
