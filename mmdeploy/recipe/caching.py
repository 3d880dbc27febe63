"""Answers that a recipe caches: what Triton's response cache would mix up, never answer from, or not have room for.

What Triton goes by is told in `mmdeploy.triton.response_cache`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from mmdeploy.recipe.finding import Finding
from mmdeploy.recipe.schema import Component, Recipe
from mmdeploy.triton.options import SpecificVersions
from mmdeploy.triton.response_cache import RESERVED_BYTES, answer_bytes, confusable, why_confused

#: A cache that holds fewer answers of one model than this hardly ever has the one that is asked for.
_FEW_ANSWERS = 16


def findings(recipe: Recipe) -> Iterator[Finding]:
    """Find caches that can be right in no recipe."""
    cached = {name: part for name, part in recipe.components.items() if part.serving.response_cache}
    section = recipe.response_cache
    if section is not None and not cached and not section.ensemble:
        message = (
            "nothing is cached: say ensemble: true, or serving: {response_cache: true} of a component, or take this out"
        )
        yield Finding(("response_cache",), message)
    if section is not None and section.ensemble:
        yield from _whole(recipe)
    for name, part in cached.items():
        place = ("components", name, "serving", "response_cache")
        if isinstance(part.serving.version_policy, SpecificVersions):
            message = (
                "a cached component's version is a number made of its content, so that a new release never answers "
                "from what an old one kept: take version_policy out"
            )
            yield Finding(("components", name, "serving", "version_policy"), message, involves=(place,))
        shapes = _input_shapes(recipe, part)
        if shapes is not None and (tensor := confusable(shapes, batches=part.serving.max_batch_size != 1)):
            yield Finding(place, why_confused(tensor))
    for name, needed in _entries(recipe).items():
        if needed + RESERVED_BYTES > _room(recipe):
            message = f"too small for one answer of {name!r}, which takes {needed / 2**20:.3g} MiB at a batch of 1"
            yield Finding(("response_cache", "size_mib"), message)


def doubts(recipe: Recipe) -> Iterator[str]:
    """Give what is allowed but will hardly ever answer, or can be spoilt by a client; a sentence each."""
    for name, part in recipe.components.items():
        if part.serving.response_cache and len(part.outputs) > 1:
            yield (
                f"components.{name}.serving.response_cache: Triton keeps an answer as it was asked for. A client that "
                f"asks the model {recipe.name}.{name} itself for some of its outputs leaves the ensemble without the "
                "others: let clients ask the ensemble only"
            )
    for name, needed in _entries(recipe).items():
        held = _room(recipe) // needed
        if 0 < held < _FEW_ANSWERS:
            yield f"response_cache.size_mib: {held} answers of {name!r} fill it ({needed / 2**20:.3g} MiB each)"


def _whole(recipe: Recipe) -> Iterator[Finding]:
    place = ("response_cache", "ensemble")
    if len(recipe.outputs) > 1:
        message = (
            f"the ensemble has {len(recipe.outputs)} outputs, and Triton keeps an answer as it was asked for: after a "
            f"client that asks for {next(iter(recipe.outputs))!r} only, nobody gets the others. Cache components, or "
            "give clients one output"
        )
        yield Finding(place, message, involves=(("outputs",),))
    shapes = {name: spec.shape for name, spec in recipe.inputs.items()}
    optional = [name for name, spec in recipe.inputs.items() if spec.optional]
    batches = recipe.max_batch_size != 1
    if recipe.components and (tensor := confusable(shapes, batches=batches, optional=optional)):
        yield Finding(place, why_confused(tensor))


def _input_shapes(recipe: Recipe, part: Component) -> Mapping[str, Sequence[int | str]] | None:
    """Return the shapes of what a component reads; None where one of them is only known when it is built."""
    found: dict[str, Sequence[int | str]] = {}
    sources = recipe.sources()
    for key, wire in part.inputs.items():
        source = sources.get(wire.tensor)
        shape = source.shape if source is not None else wire.shape
        if shape is None:
            return None
        found[key] = shape
    return found


def _entries(recipe: Recipe) -> dict[str, int]:
    """Return the bytes of one answer, of a batch of 1, of what is cached and says its outputs' shapes."""
    found = {}
    for name, part in recipe.components.items():
        specs = [
            recipe.tensor(key, wire.dtype, wire.shape)
            for key, wire in part.outputs.items()
            if wire.dtype is not None and wire.shape is not None
        ]
        if part.serving.response_cache and len(specs) == len(part.outputs):
            found[name] = answer_bytes(specs, 1)
    return {name: size for name, size in found.items() if size is not None}


def _room(recipe: Recipe) -> int:
    return recipe.response_cache.size_mib * 2**20 if recipe.response_cache is not None else 2**63
