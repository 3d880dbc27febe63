"""What a recipe says of sizes that vary, and cannot mean: names that nothing declares or uses, bounds that are none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mmdeploy.core.errors import did_you_mean
from mmdeploy.core.sizes import Size
from mmdeploy.recipe.bucket_rules import bucket_findings, gate_length_findings
from mmdeploy.recipe.declared import Dim, SizeSpec
from mmdeploy.recipe.finding import Finding
from mmdeploy.recipe.schema import Recipe
from mmdeploy.recipe.yaml_tree import Keys

#: Names that graphs have for something else.
_TAKEN = ("batch",)


def size_findings(recipe: Recipe) -> Iterator[Finding]:
    """Find what is wrong with the sizes of a recipe and with the shapes that name them."""
    for name, spec in recipe.sizes.items():
        place: Keys = ("sizes", name)
        if name in _TAKEN:
            yield Finding(place, f"{name!r} is the name of the batch axis in every graph; give the size another")
        yield from _bounds(place, name, spec)
    used, places = set[str](), list[Keys]()
    for place, shape in _shapes(recipe):
        places.append(place)
        for axis, dim in enumerate(shape):
            if dim == 0:
                yield Finding(
                    (*place, "shape", axis),
                    "an axis of length 0 holds nothing, and Triton refuses it: 1 or more, -1 or a size",
                )
            if not isinstance(dim, str):
                continue
            used.add(dim)
            if dim not in recipe.sizes:
                message = f"no size is called {dim!r}; {did_you_mean(dim, recipe.sizes)}: declare it under sizes"
                yield Finding((*place, "shape", axis), message, involves=(("sizes", dim),), needs_all=True)
    for name, spec in recipe.sizes.items():
        if name not in used and spec.pad_to is None:
            message = f"no shape has the size {name!r}: write it into the shape of an input, or take it out"
            yield Finding(("sizes", name), message, involves=tuple(places), needs_all=True)
    yield from bucket_findings(recipe)
    yield from gate_length_findings(recipe)
    yield from _warmups(recipe)
    yield from _texts(recipe)


def _bounds(place: Keys, name: str, spec: SizeSpec) -> Iterator[Finding]:
    low, step = spec.min, spec.multiple_of
    if low is not None and low > spec.max:
        yield Finding((*place, "min"), f"min {low} is above max {spec.max}: no length is allowed; exchange them?")
        return
    for key, value in (("min", low), ("max", spec.max)):
        if value is not None and value % step:
            below, above = value // step * step, (value // step + 1) * step
            near = f"{below} or {above}" if below else f"{above}"
            yield Finding((*place, key), f"{value} is no multiple of {step} (multiple_of): did you mean {near}?")
            return
    if (low or step) == spec.max:
        message = f"{name!r} can only be {spec.max}: a size that does not vary is written as a number in shapes"
        yield Finding((*place, "max"), message)


def _shapes(recipe: Recipe) -> Iterator[tuple[Keys, tuple[Dim, ...]]]:
    """Give every shape that the recipe declares, with its place."""
    for name, spec in recipe.inputs.items():
        yield ("inputs", name), spec.shape
    for name, component in recipe.components.items():
        for side in ("inputs", "outputs"):
            for key, wire in getattr(component, side).items():
                if wire.shape is not None:
                    yield ("components", name, side, key), wire.shape


def _warmups(recipe: Recipe) -> Iterator[Finding]:
    """Find warm-ups at a length that no request may have."""
    for name, component in recipe.components.items():
        length = getattr(component.serving.warmup, "variable_size", None)
        if length is None:
            continue
        for wire in component.inputs.values():
            source = recipe.inputs.get(wire.tensor)
            wrong = [size.wrong(length) for size in _sizes_of(recipe, wire.shape or (source and source.shape) or ())]
            told = next((problem for problem in wrong if problem), None)
            if told is not None:
                place: Keys = ("components", name, "serving", "warmup", "variable_size")
                yield Finding(place, f"{told}: leave it out, and the sample keeps its own length")
                break


def _texts(recipe: Recipe) -> Iterator[Finding]:
    """Find steps whose texts may be longer than what reads them takes."""
    for name, step in recipe.preprocess.items():
        most: int = step.options.get("max_length") or 0
        read = [
            (("components", reader, "inputs", key), wire)
            for reader, part in recipe.components.items()
            for key, wire in part.inputs.items()
            if most and wire.tensor in step.tensors.values()
        ]
        for place, wire in read:
            above = next((size for size in _sizes_of(recipe, wire.shape or ()) if most > size.max), None)
            if above is not None:
                message = (
                    f"texts have up to {most} tokens, and {above.name!r} is at most {above.max}: what is longer would "
                    f"be refused behind this step; let max_length be {above.max}"
                )
                involves = (("sizes", above.name), place)
                yield Finding(("preprocess", name, "max_length"), message, involves=involves)
                break


def _sizes_of(recipe: Recipe, shape: Sequence[Dim]) -> list[Size]:
    return [recipe.sizes[dim].named(dim) for dim in shape if isinstance(dim, str) and dim in recipe.sizes]
