"""The order of components: each after those that feed it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmdeploy.recipe.schema import Component


def sources_of(components: Mapping[str, Component]) -> dict[str, set[str]]:
    """Return, for each component, the components that write what it reads."""
    writers: dict[str, set[str]] = {}
    for name, component in components.items():
        for wire in component.outputs.values():
            writers.setdefault(wire.tensor, set()).add(name)
    return {
        name: {writer for wire in component.inputs.values() for writer in writers.get(wire.tensor, ())}
        for name, component in components.items()
    }


def order_with(sources: Mapping[str, set[str]]) -> tuple[str, ...]:
    """Return names, each after its sources; otherwise in the order given.

    Raises:
        ValueError: If there is a cycle.
    """
    order: list[str] = []
    while len(order) < len(sources):
        ready = (name for name in sources if name not in order and sources[name] <= set(order))
        following = next(ready, None)
        if following is None:
            raise ValueError(f"the wiring of these components has a cycle: {sorted(set(sources) - set(order))}")
        order.append(following)
    return tuple(order)
