"""How many threads libraries take in a step that calls the recipe's own code, which may run PyTorch or NumPy."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

_VARIABLE = "OMP_NUM_THREADS"


@contextlib.contextmanager
def library_threads(count: int) -> Iterator[None]:
    """Let libraries that work on OpenMP's threads take ``count`` of them while the context is open.

    PyTorch takes a thread for each core otherwise, and its threads spin while they wait: on two cores, two processes
    that ran a CLIP pair so took four times as long as with a thread each. Code that asks for another number gets that.

    Args:
        count: Threads.
    """
    before = os.environ.get(_VARIABLE)
    os.environ[_VARIABLE] = str(count)  # read by what is imported later, and by processes that are started
    loaded = sys.modules.get("torch")
    took = loaded.get_num_threads() if loaded else None
    if loaded:
        loaded.set_num_threads(count)
    try:
        yield
    finally:
        if before is None:
            del os.environ[_VARIABLE]
        else:
            os.environ[_VARIABLE] = before
        if loaded:
            loaded.set_num_threads(took)
