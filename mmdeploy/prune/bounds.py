"""Bounds on how long torch-pruning follows channels.

It follows them through index maps that it guesses from shapes. Where a guess is wrong (weights picked by an index, for
one) the lists of indices may double at every turn of a cycle and never end: a `_Bound` at the end of each map stops it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

#: How often the search for one group may follow one dependency: by each path through the network, but not for ever.
_VISITS = 1000
#: Channels that a list of indices may hold, in widths of the widest parameter: maps repeat and flatten on the way.
_WIDTHS = 64


class UntraceableError(Exception):
    """Channels that torch-pruning cannot follow; the message is a reason."""


@dataclass
class _Bound:
    """The last index map of a dependency: passes indices on until they are more than any tensor has, or come too often.

    Attributes:
        indices: The most indices at once.
        left: How often it may still be passed in the search for one group.
    """

    indices: int
    left: int = 0

    def __call__(self, found: list[Any]) -> list[Any]:
        self.left -= 1
        if len(found) > self.indices or self.left < 0:
            raise UntraceableError("its channels are picked by an index or reshaped in a way that never ends")
        return found


def bind(dependencies: Any, module: nn.Module) -> None:
    """Put a bound behind the index maps of every dependency of a graph of a module."""
    widest = max((size for parameter in module.parameters() for size in parameter.shape), default=1)
    for dependency in _each(dependencies):
        dependency.index_mapping.append(_Bound(_WIDTHS * widest))


def renew(dependencies: Any) -> None:
    """Start to count visits anew."""
    for dependency in _each(dependencies):
        for one in dependency.index_mapping:
            if isinstance(one, _Bound):
                one.left = _VISITS


def _each(dependencies: Any) -> Iterator[Any]:
    for node in dependencies.module2node.values():
        yield from node.dependencies
