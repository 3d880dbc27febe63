"""Blocks of the cache's memory never overlap, and what is given back is one again."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from mmdeploy.caching.blocks import Blocks
from mmdeploy.caching.replay import LocalCache
from mmdeploy.triton.response_cache import RESERVED_BYTES


@given(st.integers(0, 2000), st.lists(st.tuples(st.booleans(), st.integers(1, 60)), max_size=60))
def test_blocks_cover_the_memory_once(size, steps):
    memory, taken = Blocks(size), list[tuple[int, int]]()
    for back, number in steps:
        if back and taken:
            memory.give(*taken.pop(number % len(taken)))
        elif (block := memory.take(16 * number)) is not None:
            assert block[1] >= 16 * number
            taken.append(block)
        else:
            assert all(free < 16 * number for _, free in memory.free)
        pieces = sorted([*taken, *memory.free])
        assert sum(length for _, length in pieces) == size
        assert all(one + length == other for (one, length), (other, _) in itertools.pairwise(pieces))
        gaps = memory.free
        assert all(one + length < other for (one, length), (other, _) in itertools.pairwise(gaps))
    for block in taken:
        memory.give(*block)
    assert memory.free == ([(0, size)] if size else [])


def test_the_smallest_block_that_fits_is_taken():
    memory = Blocks(1000)
    blocks = [memory.take(length) for length in (200, 48, 96, 48, 608)]
    assert blocks == [(0, 200), (200, 48), (248, 96), (344, 48), (392, 608)]
    for index in (0, 2):
        memory.give(*blocks[index])
    assert memory.take(80) == (248, 96)  # what is left of it, 16 bytes, is no block
    assert memory.take(208) is None


def test_a_large_answer_drops_until_neighbours_are_gone():
    cache = LocalCache(RESERVED_BYTES + 400)
    for name in "abcd":
        cache.keep(name, 96)
    assert cache.has("a") and cache.has("c")  # asked for lately: b and d go first, and are no neighbours
    cache.keep("large", 192)
    assert [name for name in ("a", "b", "c", "d", "large") if cache.has(name)] == ["c", "large"]
    assert cache.evictions == 3
