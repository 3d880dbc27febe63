"""What a recipe says of buckets, and cannot mean: lengths that the size has not, sizes that nobody sends."""

from __future__ import annotations

from collections.abc import Iterator

from mmdeploy.recipe.declared import SizeSpec
from mmdeploy.recipe.finding import Finding
from mmdeploy.recipe.schema import Recipe
from mmdeploy.recipe.yaml_tree import Keys


def bucket_findings(recipe: Recipe) -> Iterator[Finding]:
    """Find what is wrong with the buckets of a recipe's sizes."""
    for name, spec in recipe.sizes.items():
        place: Keys = ("sizes", name)
        if spec.bucket is None:
            continue
        yield from _lengths((*place, "bucket"), spec, spec.bucket)
        if all(name not in one.shape for one in recipe.inputs.values()):
            message = f"no input has the size {name!r}, and only what clients send is padded: take `bucket` out"
            yield Finding((*place, "bucket"), message, needs_all=True)


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
