"""A simulated cache keeps and drops as an LRU does, and costs are counted as they fall."""

from dataclasses import replace

import pytest
from caching_samples import ensemble, model, request, requests
from hypothesis import given
from hypothesis import strategies as st

from mmdeploy.caching.advice import MIB, advise, potentials
from mmdeploy.caching.replay import LOOKUP_MS, LocalCache, replay
from mmdeploy.caching.value import bytes_for, half_life, worths
from mmdeploy.caching.warm import most_popular
from mmdeploy.caching.zipf import Popularity, zipf_trace
from mmdeploy.triton.response_cache import RESERVED_BYTES

ENDLESS = 1 << 40


def test_only_what_was_asked_for_before_hits_model_by_model():
    found = replay(ensemble(), requests(("a", "b"), ("a", "c"), ("a", "b"), ("d", "b")), {"image", "text"}, ENDLESS)
    assert dict(found.lookups) == {"image": 4, "text": 4}
    assert dict(found.hits) == {"image": 2, "text": 2}
    assert found.together == {
        frozenset(): 1, frozenset({"image"}): 1, frozenset({"image", "text"}): 1, frozenset({"text"}): 1,
    }  # fmt: skip
    assert found.without_ms == 4 * 41
    assert found.computed_ms == pytest.approx(2 * 30 + 2 * 10 + 4 * 1, abs=8 * 2 * LOOKUP_MS)


def test_a_request_that_is_answered_as_a_whole_asks_no_encoder():
    found = replay(ensemble(), requests(("a", "b"), ("a", "b"), ("a", "c")), {"image", "whole"}, ENDLESS)
    assert dict(found.lookups) == {"whole": 3, "image": 2}
    assert found.hits["whole"] == found.hits["image"] == 1


def test_an_input_that_is_left_out_asks_no_encoder_of_its_own():
    found = replay(ensemble(), requests(("a", None), ("a", "b"), (None, "b")), {"image", "text"}, ENDLESS)
    assert dict(found.lookups) == {"image": 2, "text": 2}
    assert found.without_ms == (30 + 1) + 41 + (10 + 1)


def test_requests_of_several_rows_hit_only_as_a_whole():
    found = replay(ensemble(), requests(("a b", "c c"), ("a", "c"), ("a b", "c c")), {"image"}, ENDLESS)
    assert found.hits["image"] == 1
    assert found.without_ms == 5 * 41


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 20)), max_size=60), st.integers(0, 60), st.booleans())
def test_the_least_recently_used_goes_first(asked, blocks, alike):
    room = 16 * blocks
    cache, order = LocalCache(RESERVED_BYTES + room), list[int]()  # the last is the latest
    sizes: dict[int, int] = {}
    for key, drawn in asked:
        size = sizes.setdefault(key, 80 if alike else 16 * drawn)
        hit = cache.has(key)
        assert hit == (key in order)
        if not hit:
            dropped = cache.evictions
            cache.keep(key, size)
            order = order[cache.evictions - dropped :]
            if alike and size <= room:
                assert len(order) < room // size
        order = [one for one in order if one != key] + ([key] if hit or size <= room else [])
        assert sum(sizes[one] for one in order) <= cache.used_bytes <= room


@given(st.integers(0, 100), st.integers(1, 30))
def test_more_memory_never_hits_less(seed, small):
    trace = zipf_trace({"x": Popularity(40), "y": Popularity(40)}, 200, seed=seed)
    same = ensemble(text=model("text", "y"))  # entries of one size: LRU is a stack then
    entry = same.models["image"].entry(1)
    less = replay(same, trace, {"image", "text"}, RESERVED_BYTES + small * entry)
    more = replay(same, trace, {"image", "text"}, RESERVED_BYTES + (small + 5) * entry)
    assert more.hits["image"] >= less.hits["image"]
    assert more.hits["text"] >= less.hits["text"]


def test_what_was_asked_for_lately_and_costs_more_is_worth_more():
    old, new = [("old", "t")] * 4, [("new", "t")] * 3
    trace = requests(*old, *new)
    image = ensemble().models["image"]
    first, second = worths(image, trace, half_life(trace))
    assert first.request.inputs["x"][0].value == "new"  # asked for less often, but lately
    assert (first.asked, second.asked) == (3, 4)
    dear = worths(replace(image, compute_ms=300.0), trace, half_life(trace))
    assert dear[0].value_ms == pytest.approx(10 * first.value_ms)
    forever = worths(image, trace, 1e12)
    assert forever[0].request.inputs["x"][0].value == "old"
    assert forever[0].value_ms == pytest.approx(4 * 30)
    assert bytes_for(0.5, forever) == image.entry(1) < bytes_for(1.0, forever)


def test_the_most_popular_requests_come_last():
    trace = requests(("a", "b"), ("c", "d"), ("a", "b"), ("e", "f"), ("c", "d"), ("a", "b"))
    ranked = most_popular(trace, ("x", "y"), 2)
    assert [one.inputs["x"][0].value for one in ranked] == ["c", "a"]


def advised(parts, trace, *, max_mib: int = 64, whole: bool = False):
    found = potentials(parts, trace, half_life(trace), whole=whole)
    return advise(parts, trace, found, max_mib=max_mib)


def test_encoders_that_are_asked_the_same_again_are_advised_and_others_are_not():
    trace = requests(*[(f"x{index % 5}", f"y{index}") for index in range(200)])
    advice = advised(ensemble(), trace)
    assert advice.cached == ("image",)
    assert advice.size_mib == 1
    assert advice.replay.hit_rate("image") == 195 / 200
    assert advice.replay.saved == pytest.approx(0.975 * 30 / 41, abs=0.01)


def test_the_whole_is_advised_where_requests_repeat_and_it_may_be():
    trace = requests(*[(f"x{index % 50}", f"y{index % 50}") for index in range(400)])
    assert set(advised(ensemble(), trace, whole=True).cached) == {"whole"}
    assert set(advised(ensemble(), trace).cached) == {"image", "text"}


def test_nothing_is_advised_where_nothing_repeats_or_computing_costs_no_more_than_a_lookup():
    fresh = requests(*[(f"x{index}", f"y{index}") for index in range(50)])
    assert advised(ensemble(), fresh, whole=True).cached == ()
    cheap = ensemble(image=model("image", "x", compute_ms=0.01), text=model("text", "y", compute_ms=0.01))
    again = requests(*[("a", "b")] * 50)
    assert advised(cheap, again).cached == ()


def test_the_size_is_the_smallest_that_saves_nearly_everything_within_the_limit():
    big = ensemble(image=model("image", "x", compute_ms=30.0, row_bytes=MIB // 4))
    trace = requests(*[(f"x{index % 40}", "y") for index in range(400)])
    assert advised(big, trace).size_mib == 11  # 40 answers of a quarter of a MiB; with fewer, a loop never hits
    limited = advised(big, trace, max_mib=4)
    assert limited.size_mib <= 4
    assert "image" not in limited.cached or limited.replay.hit_rate("image") == 0


def test_a_request_may_lack_what_a_model_reads():
    assert ensemble().models["image"].key(request(0, None, "b")) is None
    assert ensemble().models["head"].key(request(0, None, "b")) is not None
