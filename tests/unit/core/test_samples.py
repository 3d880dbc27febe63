"""Samples that need not be alike: what may be in one request, and columns that are filled in any order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdeploy.core.samples import Gathered, Samples, alike, column_of, finite, flat, is_ragged, picked, shapes_of
from mmdeploy.data.columns import load_column, save_column


def lengths(*sizes: int | None) -> np.ndarray:
    """A column of one axis; sample n holds the number n so often, and None is a sample that leaves it out."""
    return column_of([None if size is None else np.full(size, row) for row, size in enumerate(sizes)])


SIZES = st.lists(st.none() | st.integers(0, 3), min_size=1, max_size=30)


@given(SIZES, st.integers(1, 5))
def test_batches_hold_every_sample_once_and_only_samples_that_are_alike(sizes, size):
    samples = Samples({"text": lengths(*sizes), "row": np.arange(len(sizes))})
    seen = []
    for rows in samples.batches(size):
        taken = samples.take(rows)
        assert taken["row"].tolist() == rows.tolist() and len(rows) <= size
        assert ("text" in taken) == (sizes[rows[0]] is not None)
        if "text" in taken:
            assert taken["text"].shape == (len(rows), sizes[rows[0]])
            assert (taken["text"] == rows[:, None]).all()
        seen += rows.tolist()
    assert sorted(seen) == list(range(len(sizes)))
    assert len(samples.groups()) == len(set(sizes))


@given(SIZES, st.randoms(use_true_random=False))
def test_a_column_that_is_filled_in_any_order_is_the_column(sizes, random):
    samples = Samples({"text": lengths(*sizes)})
    batches = [rows for rows in samples.batches(2) if samples.take(rows)]
    random.shuffle(batches)
    gathered = Gathered(len(sizes))
    for rows in batches:
        gathered.put(rows, samples.take(rows)["text"])
    found = gathered.column()
    assert list(shapes_of(found)) == [None if size is None else (size,) for size in sizes]
    assert flat(found).tolist() == flat(samples["text"]).tolist() if batches else is_ragged(found)


def test_samples_that_differ_are_refused_in_one_request():
    samples = Samples({"text": lengths(2, 3, None)})
    with pytest.raises(ValueError, match=r"cannot be in one request: 'text' is"):
        samples.take(np.array([0, 1]))
    with pytest.raises(ValueError, match="cannot be in one request"):
        samples.take(np.array([1, 2]))
    with pytest.raises(ValueError, match="does not hold 2 samples"):
        Gathered(4).put(np.array([0, 1]), np.zeros((1, 3)))


def test_columns_are_arrays_wherever_samples_are_alike():
    ragged = lengths(2, 3, 2)
    assert is_ragged(ragged) and ragged.shape == (3,)
    assert picked(ragged, np.array([0, 2])).tolist() == [[0, 0], [2, 2]]
    assert Samples({"text": ragged}).select(slice(0, 1))["text"].dtype != object
    assert [(rows.tolist(), array.shape) for rows, array in alike(ragged)] == [([0, 2], (2, 2)), ([1], (1, 3))]


def test_an_array_is_given_out_as_a_piece_of_itself():
    array = np.arange(12).reshape(6, 2)
    samples = Samples({"x": array})
    assert np.shares_memory(samples.take(np.array([2, 3, 4]))["x"], array)
    assert samples.take(np.array([4, 3]))["x"].tolist() == [[8, 9], [6, 7]]
    assert [len(rows) for rows in samples.batches(4)] == [4, 2]


def test_bytes_are_a_column_of_one_shape_unless_some_leave_it_out():
    whole = np.array([b"a", b"", b"longer"], dtype=object)
    assert not is_ragged(whole) and len(Samples({"image": whole}).groups()) == 1
    some = Samples({"image": np.array([b"a", None, b"c"], dtype=object), "x": np.arange(3)})
    assert [rows.tolist() for rows in some.groups()] == [[0, 2], [1]]
    assert some.take(np.array([0, 2]))["image"].tolist() == [b"a", b"c"]
    assert list(some.take(np.array([1]))) == ["x"]
    assert some.without(["image"]).names == ("x",)


def test_what_is_not_finite_is_found_in_every_shape():
    broken = column_of([np.ones(2), np.array([1.0, np.nan, 2.0]), np.array([np.inf])])
    assert finite(broken).tolist() == [True, False, False]
    assert finite(np.array([[1, 2], [3, 4]])).all()


def test_text_that_some_samples_lack_is_kept_on_disk(tmp_path):
    column = column_of([None, np.array([b"owl", b""], object), None, np.array([b"cat", b"dog"], object)])
    found = load_column(tmp_path, save_column(tmp_path, "labels", column))
    assert [None if one is None else one.tolist() for one in found] == [None, [b"owl", b""], None, [b"cat", b"dog"]]


def test_samples_of_which_something_unlike_is_made_share_no_request():
    samples = Samples({"text": np.array([[b"a"], [b"b c"], [b"d"], [b"e"]], object), "ids": lengths(1, 2, 1, None)})
    sent = samples.sending(["text"])
    assert sent.names == ("text",)
    assert [rows.tolist() for rows in sent.groups()] == [[0, 2], [1], [3]]
    assert [rows.tolist() for rows in sent.select(np.array([1, 2, 0])).groups()] == [[0], [1, 2]]
    assert sent.take(np.array([0, 2]))["text"].tolist() == [[b"a"], [b"d"]]
