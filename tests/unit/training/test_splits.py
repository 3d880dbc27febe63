"""Splits: order, batches, memory, and the refusal of samples that something is judged on."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdeploy.core.artifact import TensorSpec
from mmdeploy.core.errors import DataError
from mmdeploy.data import samples as data
from mmdeploy.data.sample_sets import SeenSamples
from mmdeploy.training.splits import Split

VARYING = (TensorSpec("x", "FP32", (-1,)),)
SPECS = (TensorSpec("x", "FP32", (2,)), TensorSpec("n", "INT64", (1,)))
SOURCE = """
import numpy as np

CALLS = []


def _samples(numbers):
    for number in numbers:
        yield {"x": np.array([number, -number], np.float32), "n": np.array([number])}, number


def training():
    CALLS.append(None)
    return _samples(range(40))


def augmented(epoch):
    CALLS.append(epoch)
    return _samples(range(100 * epoch, 100 * epoch + 40))


def evaluation():
    return _samples([*range(1000, 1010), 17])


def of_lengths(sizes):
    return (({"x": np.full(size, row, np.float32)}, row) for row, size in enumerate(sizes))


def ragged():
    return of_lengths([2, 3, 2, 2, 5, 3, 2, 2, 3, 7])


def ragged_augmented(epoch):
    return of_lengths(np.random.default_rng(epoch).integers(1, 4, 20))


def half_labelled():
    return (sample if index % 2 else sample[0] for index, sample in enumerate(_samples(range(10))))
"""


def split(folder: Path, name: str, **fields) -> Split:
    (folder / "splits_data.py").write_text(SOURCE)
    return Split(f"splits_data.py:{name}", folder, SPECS, **fields)


def calls(folder: Path) -> list[int | None]:
    from mmdeploy.model.sources import resolve_callable

    return resolve_callable("splits_data.py:training", folder, error=DataError).__globals__["CALLS"]


def labels_of(batches) -> list[int]:
    return [int(label) for _, labels in batches for label in labels]


@pytest.mark.parametrize("limits", [{}, {"kept_bytes": 0}, {"kept_bytes": 0, "buffer_bytes": 200}])
def test_every_sample_comes_once_an_epoch_in_an_order_of_its_own(tmp_path, limits):
    one = split(tmp_path, "training", **limits)
    first, second = labels_of(one.batches(1, 8, seed=3)), labels_of(one.batches(2, 8, seed=3))
    assert sorted(first) == sorted(second) == list(range(40))
    assert first != second and first != list(range(40))
    again = split(tmp_path, "training", **limits)
    assert labels_of(again.batches(2, 8, seed=3)) == second  # whatever was read before
    assert labels_of(again.batches(2, 8, seed=4)) != second


def test_feeds_and_labels_stay_together(tmp_path):
    for feeds, labels in split(tmp_path, "training").batches(1, 8, seed=0):
        assert feeds["x"].shape == (8, 2) and feeds["x"].dtype == np.float32
        np.testing.assert_array_equal(feeds["x"][:, 0], labels)
        np.testing.assert_array_equal(feeds["n"][:, 0], labels)


@given(st.integers(1, 60))
@settings(max_examples=20, deadline=None)
def test_a_smaller_last_batch_is_left_out_unless_it_is_the_only_one(tmp_path_factory, size):
    batches = split(tmp_path_factory.mktemp("s"), "training").batches(1, size, 0)
    sizes = [len(labels) for _, labels in batches]
    assert sizes == ([size] * (40 // size) if size <= 40 else [40])


def test_what_fits_is_read_once_and_what_does_not_in_every_epoch(tmp_path):
    kept, streamed = split(tmp_path, "training"), split(tmp_path, "training", kept_bytes=100)
    for epoch in range(3):
        list(kept.batches(epoch, 8, 0))
    assert len(calls(tmp_path)) == 1
    for epoch in range(3):
        list(streamed.batches(epoch, 8, 0))
    assert len(calls(tmp_path)) == 1 + 1 + 3  # once to see that it does not fit


def test_a_callable_that_takes_the_epoch_gives_fresh_samples_in_each(tmp_path):
    one = split(tmp_path, "augmented")
    assert sorted(labels_of(one.batches(2, 8, 0))) == list(range(200, 240))
    assert sorted(labels_of(one.batches(3, 8, 0))) == list(range(300, 340))
    assert calls(tmp_path) == [2, 3]


def test_a_sample_of_a_forbidden_split_is_named_with_both_callables(tmp_path):
    feeds = (feed for feed, _ in split(tmp_path, "evaluation").samples(0))
    judged = SeenSamples("splits_data.py:evaluation", b"".join(map(data.sample_digest, feeds)))
    one = split(tmp_path, "training", forbidden=(judged,))
    with pytest.raises(DataError) as caught:
        list(one.batches(0, 8, 0))
    assert caught.value.message == "splits_data.py:training: sample 17 is also sample 10 of splits_data.py:evaluation"
    assert "share none" in caught.value.hint


def test_samples_that_are_half_labelled_are_refused(tmp_path):
    with pytest.raises(DataError, match="some samples have a label and others have none"):
        list(split(tmp_path, "half_labelled").batches(1, 8, 0))


@given(st.lists(st.integers(-50, 50), max_size=30), st.integers(-50, 50))
def test_seen_samples_are_found_at_their_first_place(numbers, sought):
    feeds = [{"x": np.array([number, 1], np.float32)} for number in numbers]
    seen = SeenSamples("seen", b"".join(map(data.sample_digest, feeds)))
    expected = numbers.index(sought) if sought in numbers else None
    assert seen.find(data.sample_digest({"x": np.array([sought, 1], np.float32)})) == expected


def test_whether_a_callable_takes_the_epoch(tmp_path):
    split(tmp_path, "training")
    assert data.takes_epoch("splits_data.py:augmented", tmp_path)
    assert not data.takes_epoch("splits_data.py:training", tmp_path)


def ragged_split(folder: Path, name: str, **fields) -> Split:
    (folder / "splits_data.py").write_text(SOURCE)
    return Split(f"splits_data.py:{name}", folder, VARYING, **fields)


@pytest.mark.parametrize("fields", [{}, {"kept_bytes": 0}])
def test_batches_of_samples_that_are_not_alike_hold_every_sample_once(tmp_path, fields):
    splits = ragged_split(tmp_path, "ragged", **fields)
    for epoch in range(3):
        batches = list(splits.batches(epoch, 2, seed=1))
        assert sorted(labels_of(batches)) == list(range(10))
        assert sorted((len(labels), feeds["x"].shape[1]) for feeds, labels in batches) == [
            (1, 2), (1, 3), (1, 5), (1, 7), (2, 2), (2, 2), (2, 3),
        ]  # fmt: skip
        again = ragged_split(tmp_path, "ragged", **fields)
        assert labels_of(batches) == labels_of(again.batches(epoch, 2, seed=1))
    assert labels_of(splits.batches(0, 2, seed=1)) != labels_of(splits.batches(1, 2, seed=1))


def test_epochs_whose_shapes_change_have_as_many_batches_as_the_first(tmp_path):
    splits = ragged_split(tmp_path, "ragged_augmented")
    counts = {len(list(splits.batches(epoch, 4, seed=1))) for epoch in range(8)}
    assert len(counts) == 1
    alone = {len(list(ragged_split(tmp_path, "ragged_augmented").batches(epoch, 4, seed=1))) for epoch in range(8)}
    assert len(alone) > 1  # by themselves they have not
