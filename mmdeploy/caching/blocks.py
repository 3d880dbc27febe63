"""The memory of Triton's local cache: one stretch, cut into blocks, where the smallest free block that fits is taken.

As boost.interprocess' ``rbtree_best_fit`` has it, which the cache keeps its answers in. It counts where answers of
several sizes are kept: what was dropped leaves gaps, and a large answer fits only where enough neighbours are gone.
"""

from __future__ import annotations

import bisect

#: Of a free block: what is left of one that was cut is not kept apart below it.
_LEAST_BYTES = 32


class Blocks:
    """Free blocks of a stretch of memory; neighbours that are free are one."""

    def __init__(self, size: int) -> None:
        self._sizes: list[tuple[int, int]] = []  # (size, address), sorted
        self._size_at: dict[int, int] = {}
        self._starts: dict[int, int] = {}  # by the address behind a block
        if size > 0:
            self._put(0, size)

    @property
    def free(self) -> list[tuple[int, int]]:
        """Address and size of each free block, in the order of their addresses."""
        return sorted(self._size_at.items())

    def take(self, size: int) -> tuple[int, int] | None:
        """Take a block; return its address and its size, None where none is large enough."""
        place = bisect.bisect_left(self._sizes, (size, -1))
        if place == len(self._sizes):
            return None
        found, address = self._sizes[place]
        self._drop(address, found)
        if found - size < _LEAST_BYTES:
            return address, found
        self._put(address + size, found - size)
        return address, size

    def give(self, address: int, size: int) -> None:
        """Give a block back."""
        if (behind := self._size_at.get(address + size)) is not None:
            self._drop(address + size, behind)
            size += behind
        if (before := self._starts.get(address)) is not None:
            length = address - before
            self._drop(before, length)
            address, size = before, size + length
        self._put(address, size)

    def _put(self, address: int, size: int) -> None:
        self._size_at[address], self._starts[address + size] = size, address
        bisect.insort(self._sizes, (size, address))

    def _drop(self, address: int, size: int) -> None:
        del self._size_at[address], self._starts[address + size]
        self._sizes.pop(bisect.bisect_left(self._sizes, (size, address)))
