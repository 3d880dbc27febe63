"""Lengths of samples: real ones where there are, cut or repeated where there are none."""

import numpy as np

from mmdeploy.core.samples import Samples, column_of, shapes_of
from mmdeploy.core.sizes import Size
from mmdeploy.scoring import lengths

TOKENS = Size("tokens", 2, 12)
SIZES = {"ids": (TOKENS,), "states": (None, TOKENS)}


def samples(*sizes):
    ids = [np.arange(1, size + 1) for size in sizes]
    states = [np.stack([one, -one]) for one in ids]
    return Samples({"ids": column_of(ids), "states": column_of(states), "other": np.arange(len(sizes))})


def test_samples_that_have_the_length_are_taken():
    found = lengths.at(samples(3, 5, 3, 12), SIZES, {"tokens": 3})
    assert found["ids"].tolist() == [[1, 2, 3]] * 2 and found["other"].tolist() == [0, 2]
    assert lengths.at(found, SIZES, {}) is found


def test_a_length_that_none_has_is_cut_or_repeated_on_every_axis():
    found = lengths.at(samples(3, 5), SIZES, {"tokens": 4})
    assert found["ids"].tolist() == [[1, 2, 3, 1], [1, 2, 3, 4]]
    assert found["states"][0].tolist() == [[1, 2, 3, 1], [-1, -2, -3, -1]]
    assert found["other"].tolist() == [0, 1]


def test_bounds_are_made_only_where_no_sample_has_them():
    assert lengths.at_bounds(samples(2, 7, 12), SIZES) is None
    assert lengths.at_bounds(Samples({"x": np.zeros((3, 4))}), {}) is None
    made = lengths.at_bounds(samples(2, 7, 5, 6, 7, 8), SIZES)
    assert list(shapes_of(made["ids"])) == [(12,)] * 4
    both = lengths.at_bounds(samples(3), SIZES)
    assert list(shapes_of(both["ids"])) == [(2,), (12,)]
    assert both["ids"][1].tolist() == [1, 2, 3] * 4


def test_bounds_are_made_of_samples_that_leave_nothing_out():
    given = samples(3, 5, 7)
    some = Samples({**given, "sound": column_of([None, np.arange(3), None])})
    made = lengths.at_bounds(some, SIZES)
    assert made["ids"][0].tolist() == [1, 2] and made["sound"].tolist() == [[0, 1, 2]] * 2
    assert lengths.at_bounds(Samples({**given, "sound": column_of([None] * 3)}), SIZES) is None


def test_the_table_says_what_was_asked_and_what_was_made():
    given = samples(3, 5, 3, 12)
    (table,) = lengths.table([given, lengths.at_bounds(given, SIZES)], SIZES, given)
    assert table.rows == (("tokens", 8, 2, 2.5, 12, "2"),)
    assert "cut, or repeated" in table.note
    (table,) = lengths.table([given], SIZES, given)
    assert (table.rows, table.note) == ((("tokens", 4, 3, 4.0, 12, "none"),), "")
    plain = Samples({"x": np.zeros((3, 4))})
    assert lengths.table([plain], {}, plain) == ()


def prepared(*sizes):
    """Texts, and the ids that a step makes of them."""
    texts = column_of([np.array([b"text"], dtype=object)] * len(sizes))
    return Samples({"text": texts}, {"ids": column_of([np.arange(size) for size in sizes])})


def test_of_what_steps_make_samples_of_the_length_are_taken_or_of_the_nearest():
    given = prepared(3, 5, 3, 12)
    assert lengths.of(given, SIZES)["tokens"].tolist() == [3, 5, 3, 12]
    for wanted, taken in ((3, [3, 3]), (6, [5]), (4, [3, 5, 3]), (99, [12])):
        assert lengths.of(lengths.at(given, SIZES, {"tokens": wanted}), SIZES)["tokens"].tolist() == taken
    some = Samples(given, {"ids": column_of([None, *given.made["ids"][1:]])})
    assert lengths.at(some, SIZES, {"tokens": 5}) is some  # a sample that lacks it has no length


def test_the_table_says_that_no_bound_of_what_steps_make_was_asked():
    given = prepared(3, 5)
    (table,) = lengths.table([given, lengths.at(given, SIZES, {"tokens": 9})], SIZES, given)
    assert table.rows == (("tokens", 3, 3, 5.0, 5, "none"),)
    assert table.note.startswith("lengths of tokens are what steps make of samples: no other length was asked")
