"""Work that waits for a disk, or that Python lets go on in threads (copying, SHA-256): a few pieces at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

_THREADS = 4


@contextlib.contextmanager
def under_way(work: Callable[[T], R], items: Iterable[T]) -> Iterator[Callable[[], list[R]]]:
    """Begin work on each item as soon as it is given, and go on meanwhile.

    Gives what waits for the results, in the items' order; it raises the error of the first item that failed. When an
    error leaves the block, what has not begun does not begin, and what has is waited for.
    """
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            begun = [pool.submit(work, item) for item in items]
            yield lambda: [one.result() for one in begun]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def side_by_side(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Return what ``work`` gives for each item, in their order; without a thread where there is one item at most."""
    items = list(items)
    if len(items) < 2:
        return [work(item) for item in items]
    with under_way(work, items) as results:
        return results()
