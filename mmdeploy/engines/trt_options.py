"""Options that both TensorRT engines share: the optimization profile and the precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mmdeploy.core.artifact import TensorSpec
from mmdeploy.core.contracts import MethodOptions
from mmdeploy.core.errors import EngineError

Size = Annotated[int, Field(ge=1)]
Sizes = tuple[Size, ...]


class ShapeRange(BaseModel):
    """Shapes of one sample of an input whose sizes vary, the batch left out.

    Attributes:
        min: Smallest shape that will be asked.
        opt: Shape that the engine is tuned for.
        max: Largest shape that will be asked.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    min: Sizes
    opt: Sizes
    max: Sizes

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not len(self.min) == len(self.opt) == len(self.max):
            raise ValueError(f"min, opt and max differ in rank: {self.min}, {self.opt}, {self.max}")
        for axis, (low, best, high) in enumerate(zip(self.min, self.opt, self.max, strict=True)):
            if not low <= best <= high:
                raise ValueError(f"axis {axis}: min <= opt <= max does not hold: {low}, {best}, {high}")
        return self


class OptimizationProfile(BaseModel):
    """The batch sizes and shapes that an engine takes, and those that it is tuned for.

    Attributes:
        min_batch: Smallest batch.
        opt_batch: Batch to tune for; None is half of the largest.
        max_batch: Largest batch; None is the component's ``serving.max_batch_size``.
        shapes: For each input with sizes that vary, by name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    min_batch: Size = 1
    opt_batch: Size | None = None
    max_batch: Size | None = None
    shapes: dict[str, ShapeRange] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        given = [size for size in (self.min_batch, self.opt_batch, self.max_batch) if size is not None]
        if given != sorted(given):
            raise ValueError(f"min_batch <= opt_batch <= max_batch does not hold: {', '.join(map(str, given))}")
        return self


class TensorRTOptions(MethodOptions):
    """Options of both TensorRT engines.

    Attributes:
        precision: FP16 is written into the graph before TensorRT sees it (networks are strongly typed);
            inputs and outputs stay as they are. INT8 comes from the quantize step, as Q/DQ pairs, and
            combines with either.
        keep_fp32: With ``precision: fp16``, operator types or node names (globs) that stay in FP32, besides
            the ones that are always kept (see `fp16`).
        optimization_profile: Batch sizes and shapes.
        workspace_bytes: Scratch memory that a layer may use; None is the device's memory.
    """

    precision: Literal["fp32", "fp16"] = "fp32"
    keep_fp32: tuple[str, ...] = ()
    optimization_profile: OptimizationProfile = OptimizationProfile()
    workspace_bytes: Annotated[int, Field(ge=1 << 20)] | None = None


@dataclass(frozen=True)
class InputProfile:
    """Full shapes of one input, the batch first: what an ``IOptimizationProfile`` takes."""

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]


def resolve_profile(
    profile: OptimizationProfile,
    inputs: Sequence[TensorSpec],
    *,
    max_batch_size: int,
    component: str,
    typical: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, InputProfile]:
    """Return each input's shapes, batch first.

    Args:
        profile: As the recipe gives it; shapes that it leaves out are those of the recipe's sizes.
        inputs: What the engine takes.
        max_batch_size: The one that is served, 0 meaning no batching.
        component: Name of the component, for messages.
        typical: Shape of a usual sample, by input: what the engine is tuned for where the profile does not say.

    Raises:
        EngineError: If the profile does not cover what is served, or names sizes that no input has.
    """
    where = f"{component}: engine.optimization_profile"
    low, best, high = _batches(profile, max_batch_size=max_batch_size, where=where)
    names = {spec.name for spec in inputs}
    for name in profile.shapes:
        if name not in names:
            raise EngineError(f"{where}.shapes names {name!r}; the inputs are {', '.join(sorted(names))}")
    resolved = {}
    for spec in inputs:
        shapes = _sample_shapes(profile.shapes, spec, where, (typical or {}).get(spec.name))
        resolved[spec.name] = InputProfile((low, *shapes["min"]), (best, *shapes["opt"]), (high, *shapes["max"]))
    return resolved


def _batches(profile: OptimizationProfile, *, max_batch_size: int, where: str) -> tuple[int, int, int]:
    served = max(max_batch_size, 1)
    high = profile.max_batch or max(served, profile.opt_batch or 1, profile.min_batch)
    if high < served:
        raise EngineError(
            f"{where}.max_batch is {high}, but the component is served with max_batch_size {served}",
            hint=f"raise max_batch to {served} or lower serving.max_batch_size to {high}",
        )
    low = profile.min_batch
    if low > 1:
        raise EngineError(
            f"{where}.min_batch is {low}, but Triton may ask a batch of 1",
            hint="set min_batch: 1 or leave it out",
        )
    return low, profile.opt_batch or max(low, high // 2), high


def _sample_shapes(
    shapes: Mapping[str, ShapeRange], spec: TensorSpec, where: str, typical: Sequence[int] | None
) -> dict[str, tuple[int, ...]]:
    given, bounds = shapes.get(spec.name), _bounds(spec, typical)
    if given is None and bounds is not None:
        return bounds
    if given is None:
        if -1 in spec.shape:
            raise EngineError(
                f"{where}: input {spec} has sizes that vary, and TensorRT must know their range",
                hint="give the size a name and bounds under sizes in the recipe, or add "
                f"optimization_profile.shapes.{spec.name}: {{min: [...], opt: [...], max: [...]}}",
            )
        return {"min": spec.shape, "opt": spec.shape, "max": spec.shape}
    for bound in ("min", "opt", "max"):
        sizes: tuple[int, ...] = getattr(given, bound)
        fits = len(sizes) == len(spec.shape) and all(
            want in (-1, size) for want, size in zip(spec.shape, sizes, strict=True)
        )
        if not fits:
            raise EngineError(f"{where}.shapes.{spec.name}.{bound} is {list(sizes)}; the input is {spec}")
    if bounds is not None:
        low, high = zip(bounds["min"], given.min, strict=True), zip(bounds["max"], given.max, strict=True)
        if any(size < least for size, least in low) or any(size > most for size, most in high):
            raise EngineError(
                f"{where}.shapes.{spec.name} is {list(given.min)} to {list(given.max)}, and the recipe's sizes allow "
                f"{list(bounds['min'])} to {list(bounds['max'])}",
                hint=f"leave shapes.{spec.name} out, and the profile is that of the sizes",
            )
    return {"min": given.min, "opt": given.opt, "max": given.max}


def _bounds(spec: TensorSpec, typical: Sequence[int] | None) -> dict[str, tuple[int, ...]] | None:
    """Return the shapes that the recipe's sizes allow; None where it does not say of each that varies."""
    known = spec.sizes or (None,) * len(spec.shape)
    found: list[tuple[int, int, int]] = []
    for axis, (dim, size) in enumerate(zip(spec.shape, known, strict=True)):
        if dim != -1:
            found.append((dim, dim, dim))
        elif size is None or not size.bounded:
            return None
        else:
            usual = (size.min + size.max) / 2 if typical is None else typical[axis]
            found.append((size.min, size.nearest(usual), size.max))
    low, best, high = (tuple(sizes) for sizes in zip(*found, strict=True)) if found else ((), (), ())
    return {"min": low, "opt": best, "max": high}
