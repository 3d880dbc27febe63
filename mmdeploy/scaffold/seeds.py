"""Chance while a model is watched: the same numbers in every call, and the lines that draw them outside of torch."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import numpy as np

from mmdeploy.scaffold.lines import line_above

_SEED = 0
#: Functions of `random` and `numpy.random` that draw nothing.
_DRAW_NOTHING = {"Generator", "RandomState", "get_state", "getstate", "seed", "set_state", "setstate"}


@contextmanager
def seeded() -> Iterator[None]:
    """Begin torch's, NumPy's and Python's numbers anew, and go on with the old ones afterwards."""
    import torch

    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        torch.manual_seed(_SEED)
        random.seed(_SEED)
        np.random.seed(_SEED)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextmanager
def drawn_elsewhere(tell: Callable[[str], None]) -> Iterator[None]:
    """Tell of each line of the user's code that draws a number from NumPy or from Python's random.

    A generator that is made without a seed counts as well; one that is made with a seed gives the same each time.

    Args:
        tell: Takes the line.
    """

    def telling(draw: Callable[..., Any], name: str) -> Callable[..., Any]:
        @functools.wraps(draw)
        def told(*args: Any, **kwargs: Any) -> Any:
            if (line := line_above()) and not (name == "default_rng" and (args or kwargs)):
                tell(line)
            return draw(*args, **kwargs)

        return told

    with ExitStack() as stack:
        for module in (random, np.random):
            for name, draw in [*vars(module).items()]:
                if name[0] != "_" and callable(draw) and not isinstance(draw, type) and name not in _DRAW_NOTHING:
                    stack.enter_context(mock.patch.object(module, name, telling(draw, name)))
        yield
