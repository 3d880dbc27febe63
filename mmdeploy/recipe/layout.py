"""The layout of what is served: components as steps of an ensemble, or their graphs composed into one model.

A request passes from step to step through Triton, which costs more than a small component computes. One model knows no
steps, so what belongs to a step alone (an answer that is cached, an encoder that does not run where its input is
missing, batching of its own) cannot be had with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mmdeploy.core.contracts import method_of
from mmdeploy.gates import parity
from mmdeploy.recipe.finding import Finding
from mmdeploy.triton.options import Serving

if TYPE_CHECKING:
    from mmdeploy.recipe.schema import Recipe
    from mmdeploy.recipe.yaml_tree import Keys

#: What the composed model is called where components have their names.
SINGLE = "single"
#: Engines whose graphs are composed: what is served for them takes any ONNX graph.
_COMPOSED = ("onnxruntime", "openvino")
#: What sections of components may say of ``serving`` once for all.
_ONE_FOR_ALL = ("dynamic_batching", "instance_group", "warmup", "guard", "version_policy")
_ENSEMBLE = "or say layout: auto, which leaves an ensemble then"


def findings(recipe: Recipe) -> Iterator[Finding]:
    """Find what ``layout: single`` cannot have."""
    if recipe.layout == "single":
        for finding in obstacles(recipe):
            yield Finding(finding.path, f"{finding.message}; {_ENSEMBLE}", (("layout",), *finding.involves))


def may_be_single(recipe: Recipe) -> bool:
    """Say whether the components' graphs are to be composed, as far as that is known before anything is built."""
    return recipe.layout != "ensemble" and not any(obstacles(recipe))


def obstacles(recipe: Recipe) -> Iterator[Finding]:
    """Give why components must stay steps of an ensemble: what is written of a step, and holds for that alone."""
    if len(recipe.components) < 2:
        yield Finding(("components",), "one component is one model already: there is nothing to compose")
        return
    if SINGLE in recipe.components:
        yield Finding(("components", SINGLE), "the composed model has this name: call the component otherwise")
    for name, spec in recipe.inputs.items():
        if spec.optional:
            yield Finding(
                ("inputs", name, "optional"), "in one model every part runs, also for an input that is missing"
            )
    if recipe.cascade is not None:
        yield Finding(("cascade",), "in one model every part runs for every row: nothing would leave early")
    for name, size in recipe.sizes.items():
        if size.bucket is not None:
            yield Finding(("sizes", name, "bucket"), "batches of one length are made step by step, not in one model")
    for name, part in recipe.components.items():
        if part.serving.response_cache:
            path = ("components", name, "serving", "response_cache")
            yield Finding(path, "one model is answered as a whole: say response_cache: {ensemble: true}")
    for index, gate in enumerate(recipe.gates):
        if isinstance(gate, parity.Options):
            if gate.scope == "components":
                yield Finding(("gates", index, "scope"), "components cannot be asked alone where they are one model")
            elif inside := sorted({*(gate.outputs or ())} - {*recipe.outputs}):
                yield Finding(("gates", index, "outputs"), f"{inside[0]!r} lies inside where components are one model")
    yield from _engines(recipe)
    yield from _serving(recipe)


def composed_serving(recipe: Recipe) -> Serving:
    """Return how the composed model is served: what components say, with the smallest of their batches."""
    fields: dict[str, Any] = {"max_batch_size": recipe.max_batch_size}
    for key in _ONE_FOR_ALL:
        for _, value in _said(recipe, key):
            fields.setdefault(key, value)
    return Serving().model_copy(update=fields)


def _engines(recipe: Recipe) -> Iterator[Finding]:
    first: tuple[Keys, Any] | None = None
    for name, part in recipe.components.items():
        path: Keys = ("components", name, "engine")
        if recipe.automatic_engine(name) is not None:
            if recipe.layout == "single":
                yield Finding(path, "auto may choose another engine for each component, one model has one: name it")
            continue
        options = recipe.engine_options(name)
        if method_of(options) not in _COMPOSED:
            yield Finding(path, f"{method_of(options)} composes no graphs; {' and '.join(_COMPOSED)} do")
        elif first is not None and options != first[1]:
            yield Finding(path, "one model has one engine, and this one differs from another component's", (first[0],))
        first = first or (path, options)
        if part.keep != "always" and getattr(options, "precision", "fp32") != "fp32" and recipe.layout == "single":
            keep: Keys = ("components", name, "keep")
            message = "whether its precision pays is measured, and one model has one precision: say keep: always"
            yield Finding(keep, message, (path,), needs_all=True)


def _serving(recipe: Recipe) -> Iterator[Finding]:
    for key in _ONE_FOR_ALL:
        said = _said(recipe, key)
        for name, value in said[1:]:
            if value != said[0][1]:
                first: Keys = ("components", said[0][0], "serving", key)
                message = f"differs from that of {said[0][0]!r}, and one model has one: say the same for both"
                yield Finding(("components", name, "serving", key), message, (first,))
    for name, section in _said(recipe, "dynamic_batching"):
        if beyond := [size for size in section.preferred_batch_size if size > recipe.max_batch_size]:
            path = ("components", name, "serving", "dynamic_batching", "preferred_batch_size")
            yield Finding(path, f"{beyond[0]} is more than the smallest max_batch_size, {recipe.max_batch_size}")


def _said(recipe: Recipe, key: str) -> list[tuple[str, Any]]:
    """Return what components say of a key of ``serving``; those that leave it at its default say nothing."""
    plain = getattr(Serving(), key)
    found = [(name, getattr(part.serving, key)) for name, part in recipe.components.items()]
    if key == "guard":  # only of what clients send
        read = {name: {wire.tensor for wire in part.inputs.values()} for name, part in recipe.components.items()}
        return [(name, value) for name, value in found if read[name] & {*recipe.inputs}]
    return [(name, value) for name, value in found if value != plain]
