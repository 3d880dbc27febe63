"""Buckets: requests padded to a few lengths inside the ensemble, so that Triton's batcher finds equal shapes to join.

A Python step pads what clients send, or a step makes of it, before any component reads it: a mask with 0, as anything
else, or with what the input's range has nearest to it. What clients get has its true length: a second step cuts the
outputs whose axis is that size.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from mmdeploy.core.artifact import Array, TensorSpec
from mmdeploy.core.errors import UsageError
from mmdeploy.core.sizes import Size
from mmdeploy.triton.config import ServedComponent, ServedEnsemble
from mmdeploy.triton.options import InstanceGroup, Serving
from mmdeploy.triton.served_step import REQUESTS_CODE, ServedStep

CODE = Path(__file__).parent / "backends" / "padding.py"
#: What becomes of a tensor's name where it is padded, and of a size's name where its true length goes along.
PADDED, LENGTH = ".padded", ".length"
_NAME = re.compile(r"[A-Za-z_]\w*")
_BESIDE = {"requests_code.py": REQUESTS_CODE}


#: Lengths that components see, by size, ascending; the last is the largest length.
Buckets: TypeAlias = Mapping[str, Sequence[int]]


def bucketed(ensemble: ServedEnsemble, buckets: Buckets) -> ServedEnsemble:
    """Return an ensemble that pads before its components and cuts behind them; as it is where nothing is padded.

    Args:
        ensemble: The specs of what its components read and give name their sizes.
        buckets: By size.

    Raises:
        UsageError: If an output has an axis of which it is not known how it follows the padding.
    """
    padded = [spec for spec in _read(ensemble) if _sizes(spec, buckets)]
    if not padded:
        return ensemble
    outputs = [spec for spec in _shown(ensemble) if _follows(spec, ensemble, {one.name for one in padded})]
    cut = [spec for spec in outputs if _checked(spec, buckets)]
    renamed = {spec.name: spec.name + PADDED for spec in (*padded, *cut)}
    components = tuple(
        replace(one, inputs=_renamed(one.inputs, renamed), outputs=_renamed(one.outputs, renamed))
        for one in ensemble.components
    )
    groups = _together(padded, buckets)
    wanted = {size.name for spec in cut for size in _sizes(spec, buckets).values()}
    steps = [_pad(ensemble, specs, {name: buckets[name] for name in sizes}, wanted) for sizes, specs in groups]
    if cut:
        steps.append(_cut(ensemble, cut, buckets))
    return replace(ensemble, components=components, steps=(*ensemble.steps, *steps))


def _read(ensemble: ServedEnsemble) -> Iterator[TensorSpec]:
    """Yield what components read from outside: what clients send, and what steps before them make of it."""
    made = (
        replace(spec, name=step.outputs[spec.name])
        for step in ensemble.steps
        for spec in step.gives
        if spec.name in step.outputs
    )
    yield from (spec for spec in (*ensemble.inputs, *made) if any(_readers(ensemble, spec.name)))


def _shown(ensemble: ServedEnsemble) -> Iterator[TensorSpec]:
    """Yield what components give to clients, or to steps behind them."""
    wanted = {spec.name for spec in ensemble.outputs} | {
        tensor for step in ensemble.steps for tensor in step.inputs.values()
    }
    for component in ensemble.components:
        for spec in component.artifact.outputs:
            if component.outputs[spec.name] in wanted:
                yield replace(spec, name=component.outputs[spec.name])


def _renamed(wires: Mapping[str, str], renamed: Mapping[str, str]) -> dict[str, str]:
    return {key: renamed.get(tensor, tensor) for key, tensor in wires.items()}


def _sizes(spec: TensorSpec, buckets: Collection[str]) -> dict[str, Size]:
    """Return the sizes of a tensor that are padded, by axis; the batch is axis 0."""
    return {str(axis + 1): size for axis, size in enumerate(spec.sizes) if size is not None and size.name in buckets}


def _together(
    padded: Sequence[TensorSpec], buckets: Collection[str]
) -> Iterator[tuple[tuple[str, ...], list[TensorSpec]]]:
    """Yield the sizes that one step pads, and the inputs that have them: sizes that share an input go together."""
    groups: list[set[str]] = []
    for spec in padded:
        own = {size.name for size in _sizes(spec, buckets).values()}
        joined = [group for group in groups if group & own]
        groups = [*(group for group in groups if group not in joined), own.union(*joined)]
    for group in groups:
        names = tuple(name for name in buckets if name in group)
        yield names, [spec for spec in padded if {one.name for one in _sizes(spec, buckets).values()} & group]


def _pad(
    ensemble: ServedEnsemble, specs: Sequence[TensorSpec], buckets: Buckets, wanted: Collection[str]
) -> ServedStep:
    """Return the step that pads inputs; of the true lengths it hands on those of the sizes that are ``wanted``."""
    sizes = {size.name: size for spec in specs for size in _sizes(spec, buckets).values()}
    rules = {spec.name: _rule(ensemble, spec.name) for spec in specs}
    spans = {name: rule.get("range", (0, 0)) for name, rule in rules.items()}
    options = {
        "sizes": {
            name: {"buckets": list(lengths), "min": sizes[name].min, "max": sizes[name].max,
                   "multiple_of": sizes[name].multiple_of}
            for name, lengths in buckets.items()
        },
        "axes": {
            spec.name: {axis: size.name for axis, size in _sizes(spec, buckets).items()} for spec in specs
        },
        "fill": {name: min(max(0, low), high) for name, (low, high) in spans.items()},
    }  # fmt: skip
    lengths_given = tuple(TensorSpec(name + LENGTH, "INT64", (1,)) for name in buckets)
    padded = tuple(replace(spec, name=spec.name + PADDED) for spec in specs)
    return ServedStep(
        name=f"{ensemble.name}.pad-{'-'.join(buckets)}",
        code=CODE,
        takes=tuple(specs),
        gives=(*padded, *lengths_given),
        inputs={spec.name: spec.name for spec in specs},
        outputs={
            name: name
            for name in (*(spec.name for spec in padded), *(f"{size}{LENGTH}" for size in buckets if size in wanted))
        },
        options=options,
        beside=_BESIDE,
        input_rules={name: rule for name, rule in rules.items() if rule},
        serving=_serving(ensemble),
        sample=_sample(ensemble, specs),
    )


def _cut(ensemble: ServedEnsemble, specs: Sequence[TensorSpec], buckets: Collection[str]) -> ServedStep:
    sizes = {size.name for spec in specs for size in _sizes(spec, buckets).values()}
    lengths = tuple(TensorSpec(name, "INT64", (1,)) for name in buckets if name in sizes)
    tensors = {spec.name: spec.name + PADDED for spec in specs} | {spec.name: spec.name + LENGTH for spec in lengths}
    return ServedStep(
        name=f"{ensemble.name}.cut",
        code=CODE,
        takes=(*specs, *lengths),
        gives=tuple(specs),
        inputs=tensors,
        outputs={spec.name: spec.name for spec in specs},
        options={
            "axes": {spec.name: {axis: one.name for axis, one in _sizes(spec, buckets).items()} for spec in specs}
        },
        beside=_BESIDE,
        serving=_serving(ensemble),
        sample=_ones(lengths),
    )


def _ones(specs: Sequence[TensorSpec]) -> dict[str, Array]:
    import numpy as np

    return {spec.name: np.ones(spec.shape, spec.numpy_dtype) for spec in specs}


def _serving(ensemble: ServedEnsemble) -> Serving:
    return Serving(max_batch_size=ensemble.max_batch_size, instance_group=InstanceGroup(count=1))


def _readers(ensemble: ServedEnsemble, tensor: str) -> Iterator[tuple[ServedComponent, str]]:
    """Yield the components that read a tensor, with the name of their input."""
    for component in ensemble.components:
        yield from ((component, key) for key, read in component.inputs.items() if read == tensor)


def _rule(ensemble: ServedEnsemble, tensor: str) -> dict[str, Any]:
    """Return what requests must keep of the values of a tensor."""
    rules = [component.input_rules.get(key, {}) for component, key in _readers(ensemble, tensor)]
    return next(({"range": rule["range"]} for rule in rules if "range" in rule), {})


def _sample(ensemble: ServedEnsemble, specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Return one sample of inputs that clients send, where a component has one of each."""
    found = {}
    for spec in specs:
        samples = (component.sample.get(key) for component, key in _readers(ensemble, spec.name))
        found[spec.name] = next((array for array in samples if array is not None), None)
    whole = {name: array for name, array in found.items() if array is not None}
    return whole if len(whole) == len(specs) else {}


def _follows(spec: TensorSpec, ensemble: ServedEnsemble, padded: Collection[str]) -> bool:
    """Say whether an output is computed from a padded tensor."""
    known, more = {*padded}, True
    while more:
        reached = {
            tensor
            for component in ensemble.components
            if known & {*component.inputs.values()}
            for tensor in component.outputs.values()
        }
        more = not reached <= known
        known |= reached
    return spec.name in known


def uncut(spec: TensorSpec, buckets: Collection[str]) -> str | None:
    """Say why an output cannot be cut back to its true length; None where it can, or keeps its length.

    Args:
        spec: The output, under the name that clients know.
        buckets: Names of the sizes that are padded.
    """
    for axis, size in enumerate(spec.sizes):
        made_of = set() if size is None else {*_NAME.findall(size.name)} & {*buckets}
        if size is None or size.name in buckets or not made_of:
            continue
        of = " and ".join(map(repr, sorted(made_of)))
        return (
            f"the output {spec.name!r} follows {of} on axis {axis} with another length, {size.min} to {size.max}, as "
            "behind a stride: it cannot be cut back to its true one where requests are padded"
        )
    return None


#: What to do about `uncut`.
UNCUT_HINT = "give that axis the length of the size itself, pool over it in the model, or take `bucket` out"


def _checked(spec: TensorSpec, buckets: Collection[str]) -> bool:
    """Say whether an output is cut; refuse one whose length is not that of a size which is padded."""
    problem = uncut(spec, buckets)
    known = spec.sizes or (None,) * len(spec.shape)
    for axis, (dim, size) in enumerate(zip(spec.shape, known, strict=True)):
        if dim == -1 and size is None:
            problem = problem or (
                f"the output {spec.name!r} has an unknown length on axis {axis}: it is another one where requests are "
                "padded"
            )
    if problem:
        raise UsageError(problem, hint=UNCUT_HINT)
    return bool(_sizes(spec, buckets))
