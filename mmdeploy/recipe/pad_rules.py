"""What a recipe says of ``pad_to`` and ``mask`` of its sizes, and cannot mean."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from mmdeploy.core.artifact import NUMPY_BY_DTYPE
from mmdeploy.core.strings import BYTES
from mmdeploy.recipe.bucket_rules import shared_sizes
from mmdeploy.recipe.declared import InputSpec, SizeSpec
from mmdeploy.recipe.finding import Finding
from mmdeploy.recipe.padding import made_masks
from mmdeploy.recipe.schema import Recipe
from mmdeploy.recipe.yaml_tree import Keys


def pad_findings(recipe: Recipe) -> Iterator[Finding]:
    """Find lengths to pad to that do not take every request, and masks that are none."""
    made = dict(made_masks(recipe))
    for name, size in recipe.sizes.items():
        if size.pad_to is None and size.mask is None:
            continue
        own = {tensor: spec for tensor, spec in recipe.sources().items() if name in spec.shape}
        yield from _prepared(recipe, name, own)
        if size.pad_to is not None:
            yield from _lengths(("sizes", name, "pad_to"), name, size)
            yield from _padded(recipe, ("sizes", name, "pad_to"), name, own)
        if size.mask is not None:
            yield from _mask(recipe, name, size.mask, own, is_made=size.mask in made)


def _prepared(recipe: Recipe, name: str, own: dict[str, InputSpec]) -> Iterator[Finding]:
    """Find sizes of what steps make: rows of one request come to other lengths there, before they could be padded."""
    for tensor in own:
        if tensor not in recipe.inputs:
            message = (
                f"a step of preprocess makes {tensor!r}; pad_to and mask are for what clients send: let that step give "
                "one length and the mask, as tokenize (length) and decode_audio (samples) do"
            )
            yield Finding(("sizes", name), message, involves=(("preprocess",),))


def _lengths(place: Keys, name: str, size: SizeSpec) -> Iterator[Finding]:
    assert size.pad_to is not None
    if size.pad_to < size.max:
        message = (
            f"pads to {size.pad_to}, and requests of {name!r} may be {size.max} long (max): pad_to is max or more, or "
            f"max is {size.pad_to}"
        )
        yield Finding(place, message)
    if size.bucket is not None:
        message = f"pads {name!r} to one length, and bucket to several: give one of the two"
        yield Finding(place, message, involves=(("sizes", name, "bucket"),))


def _padded(recipe: Recipe, place: Keys, name: str, own: dict[str, InputSpec]) -> Iterator[Finding]:
    if not own:
        message = f"nothing that components read from outside has the size {name!r}, and only that is padded"
        yield Finding(place, message, needs_all=True)
    for optional, other in itertools.islice(shared_sizes(recipe, name), 1):
        message = (
            f"{optional!r} may be left out, and {other!r} has the size {name!r} too: what is asked for only where it "
            f"is there is padded by itself; give {optional!r} a size of its own"
        )
        yield Finding(place, message, involves=(("inputs", optional, "optional"),))
    for tensor, spec in own.items():
        if spec.dtype == BYTES:
            yield Finding(place, f"{tensor!r} is BYTES, and only numbers are padded", involves=(("inputs", tensor),))


def _mask(recipe: Recipe, name: str, mask: str, own: dict[str, InputSpec], *, is_made: bool) -> Iterator[Finding]:
    place, size = ("sizes", name, "mask"), recipe.sizes[name]
    twice = [other for other, one in recipe.sizes.items() if one.mask == mask and other != name]
    if size.pad_to is None and size.bucket is None:
        yield Finding(place, f"masks what is padded, and {name!r} is not: give `pad_to` or `bucket`, or take it out")
    elif twice:
        yield Finding(place, f"{mask!r} is the mask of {twice[0]!r} too: give each a mask of its own")
    elif mask in {wire.tensor for part in recipe.components.values() for wire in part.outputs.values()}:
        yield Finding(place, f"a component writes {mask!r}: a mask is an input, or a name that nothing writes")
    elif is_made:
        yield from _made(recipe, place, (name, mask), own)
    elif mask not in own:
        message = f"{mask!r} has no axis {name!r}: write the size into its shape, or name another tensor"
        yield Finding(place, message, involves=(("inputs", mask),))
    elif (span := own[mask].range) is not None and not span[0] <= 0 <= span[1]:
        message = f"the range of {mask!r} is [{span[0]:g}, {span[1]:g}], without the 0 that padding has in a mask"
        yield Finding(place, message, involves=(("inputs", mask, "range"),))


def _made(recipe: Recipe, place: Keys, names: tuple[str, str], own: dict[str, InputSpec]) -> Iterator[Finding]:
    """Find masks that the ensemble cannot make, or makes for nobody."""
    name, mask = names
    readers = [
        (("components", part, "inputs", key), wire)
        for part, component in recipe.components.items()
        for key, wire in component.inputs.items()
        if wire.tensor == mask
    ]
    if not own:
        message = f"nothing that components read from outside has the size {name!r} that {mask!r} would be the mask of"
        yield Finding(place, message, needs_all=True)
    elif not readers:
        yield Finding(place, f"no component reads the mask {mask!r}: wire it, or take it out", needs_all=True)
    for at, wire in readers:
        if wire.dtype is not None and (wire.dtype == BYTES or wire.dtype not in NUMPY_BY_DTYPE):
            yield Finding((*at, "dtype"), f"a mask is of numbers or BOOL, not {wire.dtype}", involves=(place,))
        if wire.shape is not None and wire.shape not in ((name,), (-1,), (recipe.sizes[name].pad_to,)):
            yield Finding((*at, "shape"), f"the mask {mask!r} has the shape [{name}]", involves=(place,))
