"""``pad_to`` and ``mask`` of sizes, as steps: a recipe that has them becomes one whose components see one length.

The step is one of ``preprocess``, so that one code fills up what PyTorch, calibration and the server see. What it fills
up gets a name of its own, which components read in the place of what came in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field

from mmdeploy.core.artifact import NUMPY_BY_DTYPE
from mmdeploy.recipe.declared import Dim, InputSpec, TensorName, Wire
from mmdeploy.recipe.media import MediaStep
from mmdeploy.recipe.schema import Component, Recipe

#: Of a mask whose readers declare no other.
MASK_DTYPE = "INT64"


class FillUpStep(MediaStep):
    """The step that ``pad_to`` and ``mask`` stand for; recipes do not write it."""

    method: Literal["fill_up"] = "fill_up"
    outputs: dict[TensorName, TensorName] = Field(min_length=1)
    arguments: dict[str, Any]
    holds: dict[TensorName, InputSpec]

    @property
    def options(self) -> dict[str, Any]:
        """What `WiredMethod.from_json` takes."""
        return self.arguments

    @property
    def told(self) -> Mapping[str, InputSpec]:
        """What it writes, with ranges, and with the names of sizes whose lengths stay."""
        return self.holds

    @property
    def made_masks(self) -> frozenset[str]:
        """Tensors that it writes which may be 1 everywhere."""
        return frozenset(self.arguments["masks"])

    @property
    def accepts(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Whatever is wired."""
        return tuple(self.inputs), tuple(self.outputs)

    @property
    def requires(self) -> tuple[str, ...]:
        """Nothing."""
        return ()

    def described(self, files: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Return what `WiredMethod.from_json` takes."""
        return {
            "method": self.method, "options": self.arguments, "inputs": dict(self.inputs), "outputs": self.tensors
        }  # fmt: skip


def filled_up(recipe: Recipe) -> Recipe:
    """Return a recipe whose ``pad_to`` and made masks are steps of ``preprocess``; itself where it has none.

    That is one step, and one for each input that may be left out: what is made of that is asked for by itself.
    """
    lengths = {name: size.pad_to for name, size in recipe.sizes.items() if size.pad_to is not None}
    made = dict(made_masks(recipe))
    touched = {*lengths, *made.values()}
    if not touched:
        return recipe
    read = {name: axes for name, spec in _sources(recipe).items() if (axes := _axes(spec, touched))}
    steps = dict(step for axes in _apart(recipe, read) if (step := _step(recipe, axes, lengths, made)) is not None)
    if not steps:
        return recipe
    from mmdeploy.preprocess.fill_up import PADDED

    padded = {name.removesuffix(PADDED) for step in steps.values() for name in step.holds if name.endswith(PADDED)}
    components = {name: _rewired(part, padded, lengths) for name, part in recipe.components.items()}
    found = recipe.model_copy(update={"preprocess": {**recipe.preprocess, **steps}, "components": components})
    found._written = recipe
    return found


def _apart(recipe: Recipe, read: Mapping[str, Mapping[str, str]]) -> list[dict[str, Mapping[str, str]]]:
    """Return what each step reads: an optional input that shares no size with others has one of its own."""
    optional = {name for name, spec in recipe.inputs.items() if spec.optional}
    alone = {
        name
        for name in optional & {*read}
        if not any({*read[name].values()} & {*axes.values()} for other, axes in read.items() if other != name)
    }
    rest = {name: axes for name, axes in read.items() if name not in alone}
    return [rest, *({name: read[name]} for name in read if name in alone)]


def _step(
    recipe: Recipe, read: Mapping[str, Mapping[str, str]], lengths: Mapping[str, int], made: Mapping[str, str]
) -> tuple[str, FillUpStep] | None:
    """Return the step that fills some tensors up and makes their masks, with its name; None where there is nothing."""
    from mmdeploy.preprocess.fill_up import PADDED

    sources = _sources(recipe)
    padded = {name: axes for name, axes in read.items() if {*axes.values()} & {*lengths}}
    known = {size for axes in read.values() for size in axes.values()}
    masks = {mask: size for mask, size in made.items() if size in known}
    sent = {size.mask for size in recipe.sizes.values()}
    fill = {name: 0.0 if name in sent else _nearest_to_zero(sources[name]) for name in padded}
    dtypes = {mask: _dtype_of(recipe, mask) for mask in masks}
    holds = {
        name + PADDED: sources[name].model_copy(update={"shape": _at(sources[name].shape, lengths)}) for name in padded
    }
    for mask, size in masks.items():
        holds[mask] = InputSpec(dtype=dtypes[mask], shape=_at((size,), lengths), range=_range(dtypes[mask]))
    if not holds:
        return None
    step = FillUpStep(
        inputs={name: name for name in read},
        outputs={name: name for name in holds},
        arguments={
            "sizes": {
                name: {"min": size.min, "max": size.max, "multiple_of": size.multiple_of, "pad_to": lengths.get(name)}
                for name in known
                for size in [recipe.sizes[name].named(name)]
            },
            "axes": read,
            "fill": fill,
            "masks": {mask: [size, dtypes[mask]] for mask, size in masks.items()},
        },
        holds=holds,
    )
    names = "-".join(name for name in recipe.sizes if name in known)
    return f"{'pad' if padded else 'mask'}-{names}", step


def made_masks(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Give the masks that nothing writes but the ensemble, with their sizes."""
    written = {*recipe.inputs}
    written |= {tensor for step in recipe.preprocess.values() for tensor in step.tensors.values()}
    for name, size in recipe.sizes.items():
        if size.mask is not None and size.mask not in written:
            yield size.mask, name


def _sources(recipe: Recipe) -> dict[str, InputSpec]:
    """Return what components read from outside, with what only gives a length to a mask."""
    read = {wire.tensor for part in recipe.components.values() for wire in part.inputs.values()}
    return {name: spec for name, spec in recipe.sources().items() if name in read}


def _axes(spec: InputSpec, sizes: set[str]) -> dict[str, str]:
    return {str(axis): dim for axis, dim in enumerate(spec.shape) if isinstance(dim, str) and dim in sizes}


def _at(shape: tuple[Dim, ...], lengths: Mapping[str, int]) -> tuple[Dim, ...]:
    return tuple(lengths.get(dim, dim) if isinstance(dim, str) else dim for dim in shape)


def _nearest_to_zero(spec: InputSpec) -> float:
    low, high = spec.range or (0.0, 0.0)
    return min(max(0.0, low), high)


def _readers(recipe: Recipe, tensor: str) -> Iterator[Wire]:
    for part in recipe.components.values():
        yield from (wire for wire in part.inputs.values() if wire.tensor == tensor)


def _dtype_of(recipe: Recipe, mask: str) -> Any:
    said = (wire.dtype for wire in _readers(recipe, mask) if wire.dtype is not None)
    found = next(said, MASK_DTYPE)
    return found if found in NUMPY_BY_DTYPE and found != "BYTES" else MASK_DTYPE


def _range(dtype: str) -> tuple[float, float] | None:
    return None if dtype == "BOOL" else (0, 1)


def _rewired(part: Component, padded: set[str], lengths: Mapping[str, int]) -> Component:
    """Return a component that reads what is filled up, and whose wires have the one length."""
    from mmdeploy.preprocess.fill_up import PADDED

    def at(wire: Wire) -> Wire:
        return wire if wire.shape is None else wire.model_copy(update={"shape": _at(wire.shape, lengths)})

    inputs = {
        key: at(wire).model_copy(update={"tensor": wire.tensor + PADDED}) if wire.tensor in padded else at(wire)
        for key, wire in part.inputs.items()
    }
    outputs = {key: at(wire) for key, wire in part.outputs.items()}
    return part.model_copy(update={"inputs": inputs, "outputs": outputs})
