"""What a thread does that is not to be noted as read by the recipe's code."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

_telling = threading.local()


def is_passed_over() -> bool:
    """Say whether nothing of what this thread does now is to be noted."""
    return getattr(_telling, "now", False)


@contextlib.contextmanager
def passing_over() -> Iterator[None]:
    """Note nothing of what this thread reads while the context is open: it is known by other means."""
    before = is_passed_over()
    _telling.now = True
    try:
        yield
    finally:
        _telling.now = before


@contextlib.contextmanager
def ourselves() -> Iterator[None]:
    """Note nothing of what is done here, and let no error out: it would end what the user's code does."""
    with passing_over(), contextlib.suppress(Exception):
        yield
