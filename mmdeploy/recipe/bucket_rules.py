"""What a recipe says of buckets and of lengths in gates, and cannot mean: lengths that a size has not."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from mmdeploy.core.errors import did_you_mean
from mmdeploy.recipe.declared import SizeSpec
from mmdeploy.recipe.finding import Finding
from mmdeploy.recipe.media import in_order
from mmdeploy.recipe.schema import Recipe
from mmdeploy.recipe.yaml_tree import Keys


def bucket_findings(recipe: Recipe) -> Iterator[Finding]:
    """Find what is wrong with the buckets of a recipe's sizes."""
    for name, spec in recipe.sizes.items():
        place: Keys = ("sizes", name)
        if spec.bucket is None:
            continue
        yield from _lengths((*place, "bucket"), spec, spec.bucket)
        if all(name not in one.shape for one in recipe.sources().values()):
            message = f"no input has the size {name!r}, and only what comes in is padded: take `bucket` out"
            yield Finding((*place, "bucket"), message, needs_all=True)
        for optional, other in itertools.islice(shared_sizes(recipe, name), 1):
            message = (
                f"{optional!r} may be left out, and {other!r} has the size {name!r} too: what is asked for only where "
                f"it is there is padded by itself; give {optional!r} a size of its own"
            )
            yield Finding((*place, "bucket"), message, involves=(("inputs", optional, "optional"),))


def shared_sizes(recipe: Recipe, size: str) -> Iterator[tuple[str, str]]:
    """Give the inputs that may be left out and have a size, or of which a step makes what has it, that others have.

    With what else has the size.
    """
    sources, steps = recipe.sources(), recipe.preprocess
    have = [tensor for tensor, spec in sources.items() if size in spec.shape]
    for name, spec in recipe.inputs.items():
        made = {name}
        for step in (steps[one] for one in in_order(steps)):
            made |= {*step.tensors.values()} if {*step.inputs.values()} <= made else set()
        other = next((tensor for tensor in have if tensor not in made), None)
        if spec.optional and other is not None and made & {*have}:
            yield name, other


def gate_length_findings(recipe: Recipe) -> Iterator[Finding]:
    """Find gates that ask at lengths of sizes that no input has, or that no request may have."""
    specs = (*recipe.inputs.values(), *recipe.sources().values())
    read = {dim for spec in specs for dim in spec.shape if isinstance(dim, str)}
    known = [name for name in recipe.sizes if name in read]
    for index, gate in enumerate(recipe.gates):
        for name, length in getattr(gate, "lengths", {}).items():
            place: Keys = ("gates", index, "lengths", name)
            if name not in known:
                message = f"no input has a size called {name!r}; {did_you_mean(name, known)}"
                yield Finding(place, message, involves=(("sizes", name), ("sizes",)), needs_all=True)
            elif wrong := recipe.sizes[name].named(name).wrong(length):
                yield Finding(place, f"a length of {wrong}")


def _lengths(place: Keys, spec: SizeSpec, buckets: tuple[int, ...]) -> Iterator[Finding]:
    if list(buckets) != sorted(set(buckets)):
        yield Finding(place, f"buckets ascend, each once: {sorted(set(buckets))}")
        return
    if buckets[-1] != spec.max:
        yield Finding(
            place,
            f"the last bucket is {buckets[-1]}, and the largest length {spec.max} (max): a request between would fit "
            f"into none; let the last bucket be {spec.max}",
        )
    size = spec.named("")
    for index, bucket in enumerate(buckets):
        if bucket <= spec.max and size.wrong(bucket):
            low, step = size.min, size.multiple_of
            wanted = f"at least {low}" + (f" and a multiple of {step}" if step > 1 else "")
            yield Finding((*place, index), f"a bucket is a length of the size: {bucket} must be {wanted}")
