"""Components that call one module: in PyTorch they have one set of weights, and so they must as they ship.

Where such components are compressed, they are one component that is called at several places: trained and calibrated on
what all of its callers give it, and built once. That takes the same sections for each of them; anything else would make
several modules of one, and is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mmdeploy.recipe.wiring_order import order_with, sources_of

if TYPE_CHECKING:
    from mmdeploy.recipe.schema import Component, Recipe

#: Sections that make other weights, or other numbers, of a module.
_COMPRESSING = ("prune", "recover", "quantize")
#: What callers of a compressed module must have in common.
_SECTIONS = (*_COMPRESSING, "engine", "keep", "export")


def callers(components: Mapping[str, Component], name: str) -> tuple[str, ...]:
    """Return the components that are one with a component, itself included; the first of them is built."""
    own = components[name]
    if not _is_compressed(own):
        return (name,)
    group = {other for other, one in components.items() if one.module == own.module and _is_compressed(one)}
    return tuple(other for other in _merged_order(components, group) if other in group)


def building_order(components: Mapping[str, Component]) -> tuple[str, ...]:
    """Return the components' names, each after all that feed it or a component that is one with it."""
    sources, merged = sources_of(components), {}
    for name in components:
        group = callers(components, name)
        before = {source for one in group for source in sources[one]}
        merged[name] = before if name == group[0] else before | {group[0]}
    return order_with(merged)


def above(components: Mapping[str, Component], name: str) -> tuple[str, ...]:
    """Return the components that feed one, or one that is one with it, directly or through others, in order."""
    group = callers(components, name)
    sources, found, waiting = sources_of(components), set[str](), list(group)
    while waiting:
        new = sources[waiting.pop()] - found
        found |= new
        waiting += new
    return tuple(other for other in order_with(sources) if other in found and other not in group)


def below(components: Mapping[str, Component], name: str) -> frozenset[str]:
    """Return the components that are fed by one, or by one that is one with it."""
    group = set(callers(components, name))
    return frozenset(other for other in components if other not in group and group & set(_feeding(components, other)))


def differences(recipe: Recipe) -> Iterator[tuple[str, str, str]]:
    """Give two components that call one compressed module and cannot be one, the first by name, and what differs."""
    for name, component in recipe.components.items():
        for other, earlier in recipe.components.items():
            if other == name:
                break
            if earlier.module != component.module or not (_is_compressed(earlier) or _is_compressed(component)):
                continue
            if found := _difference(recipe, other, name):
                yield other, name, found
                break


def apart(components: Mapping[str, Component], name: str) -> tuple[tuple[str, str], ...]:
    """Return other components' modules, by component, that a component's module must have nothing in common with.

    That is known of paths in the recipe (see `differences`); modules under two paths are seen when the model is built.
    """
    own = components[name]
    return tuple(
        (other, one.module)
        for other, one in components.items()
        if one.module != own.module and (_is_compressed(own) or _is_compressed(one))
    )


def retrained(components: Mapping[str, Component], name: str) -> bool:
    """Say whether a component's weights become others: by pruning or by training."""
    component = components[name]
    quantize: Any = component.quantize
    return component.prune is not None or component.recover is not None or _trains(quantize)


def _trains(quantize: Any) -> bool:
    from mmdeploy import quantize as methods

    return quantize is not None and methods.METHODS.of(quantize).CONSUMES == "torch"


def _is_compressed(component: Component) -> bool:
    return any(getattr(component, key) is not None for key in _COMPRESSING)


def _feeding(components: Mapping[str, Component], name: str) -> set[str]:
    sources, found, waiting = sources_of(components), set[str](), [name]
    while waiting:
        new = sources[waiting.pop()] - found
        found |= new
        waiting += new
    return found


def _merged_order(components: Mapping[str, Component], group: set[str]) -> tuple[str, ...]:
    sources = sources_of(components)
    try:
        return order_with(sources)
    except ValueError:
        return tuple(components)


def _difference(recipe: Recipe, first: str, second: str) -> str:
    one, other = recipe.components[first], recipe.components[second]
    for key in _SECTIONS:
        if getattr(one, key) != getattr(other, key):
            return f"their {key} sections differ"
    if one.serving.max_batch_size != other.serving.max_batch_size:
        return "their serving.max_batch_size differs"
    for side in ("inputs", "outputs"):
        if not _fit(_declared(recipe, getattr(one, side)), _declared(recipe, getattr(other, side))):
            return f"their {side} differ in name, type or shape"
    feeding = {first: _feeding(recipe.components, first), second: _feeding(recipe.components, second)}
    if first in feeding[second] or second in feeding[first]:
        return "one feeds the other, so that they cannot be calibrated as one"
    return ""


def _fit(one: Mapping[str, tuple[object, object]], other: Mapping[str, tuple[object, object]]) -> bool:
    """Say whether tensors have the same names, and are of the same type and shape as far as those are declared."""
    pairs = [pair for name in one.keys() & other.keys() for pair in zip(one[name], other[name], strict=True)]
    return one.keys() == other.keys() and all(None in pair or pair[0] == pair[1] for pair in pairs)


def _declared(recipe: Recipe, wires: Mapping[str, Any]) -> dict[str, tuple[object, object]]:
    found = {}
    for name, wire in wires.items():
        source = recipe.sources().get(wire.tensor)
        found[name] = (wire.dtype or (source and source.dtype), wire.shape or (source and source.shape))
    return found
