"""Triton's response cache: what it knows an answer by, how much room one takes, and how releases are kept apart.

Read in Triton's sources (core: ``cache_manager.cc``, ``cache_entry.cc``; local_cache: ``local_cache.cc``) and measured
on Triton 2.51:

- The key is a 64-bit hash of the model's name, its version and, input by input, the name and the bytes. Neither the
  shape nor the outputs that were asked for are in it: ``[2, 4]`` and ``[1, 8]`` of the same bytes are one request, and
  who asks for one of two outputs leaves an answer that has only that one for everybody.
- Loading a model again clears nothing, not even after unloading it: other files under the same name and version are
  answered for by the old answers. So a cached model's version is made of its content, `with_versions`.
- All models share one list, and the answer that was asked for longest ago goes first. An answer takes a block of the
  cache's memory, headers included: `entry_bytes`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mmdeploy.core.artifact import NUMPY_BY_DTYPE, TensorSpec, file_sha256
from mmdeploy.core.errors import UsageError
from mmdeploy.triton.config import (
    CACHE_BYTES_PARAMETER,
    ServedComponent,
    ServedEnsemble,
    SyntaxProblem,
    component_config,
    ensemble_config,
    step_config,
    to_text,
    try_parse,
)
from mmdeploy.triton.options import ResponseCache
from mmdeploy.triton.served_step import ServedStep

#: What the cache's allocator keeps for itself.
RESERVED_BYTES = 128
#: Size of the cache of a repository that caches and does not say how much.
DEFAULT_BYTES = 64 * 2**20
_BLOCK_BYTES, _BLOCK_HEADER_BYTES = 16, 8
#: Of an answer: the number of outputs. Of an output: its size, and the lengths of name, type, shape and data.
_ANSWER_BYTES, _OUTPUT_BYTES, _DIM_BYTES = 4, 8 + 4 + 4 + 4 + 8, 8
#: Hexadecimal digits of a version: whole numbers that JSON, a float and Triton's 64 bits all hold exactly.
_VERSION_DIGITS = 13


@dataclass(frozen=True)
class CacheSettings:
    """What repositories ask of the cache of the server that serves them.

    Attributes:
        models: Names of the models that are cached.
        bytes: Size of the cache; 0 where nothing is cached.
    """

    models: tuple[str, ...]
    bytes: int

    @property
    def option(self) -> str:
        """Return tritonserver's option."""
        return f"--cache-config=local,size={self.bytes}"


def entry_bytes(outputs: Iterable[tuple[str, str, Sequence[int]]]) -> int:
    """Return how much of the cache an answer takes.

    Args:
        outputs: Name, Triton's name of the type, and the whole shape, the batch included, of each output.
    """
    return block_bytes(packed_bytes(outputs))


def packed_bytes(outputs: Iterable[tuple[str, str, Sequence[int]]]) -> int:
    """Return the bytes of an answer as it is kept: its outputs one after the other, each with a header."""
    packed = _ANSWER_BYTES
    for name, dtype, shape in outputs:
        item = int("".join(filter(str.isdigit, NUMPY_BY_DTYPE[dtype])) or 8) // 8
        packed += _OUTPUT_BYTES + len(name.encode()) + len(dtype) + _DIM_BYTES * len(shape) + item * math.prod(shape)
    return packed


def block_bytes(packed: int) -> int:
    """Return the size of the block that so many bytes take."""
    return -(-(packed + _BLOCK_HEADER_BYTES) // _BLOCK_BYTES) * _BLOCK_BYTES


def answer_bytes(outputs: Iterable[TensorSpec], batch: int) -> int | None:
    """Return how much of the cache an answer of a batch takes; None where its size varies."""
    specs = tuple(outputs)
    if any(size < 0 for spec in specs for size in spec.shape) or any(
        spec.dtype not in NUMPY_BY_DTYPE for spec in specs
    ):
        return None
    return entry_bytes((spec.name, spec.dtype, (batch, *(spec.shape or (1,)))) for spec in specs)


def confusable(
    inputs: Mapping[str, Sequence[int | str]], *, batches: bool, optional: Collection[str] = ()
) -> str | None:
    """Return an input whose bytes do not tell the shape of a request; None where every request is told apart.

    Args:
        inputs: Shape of one sample by input; -1 where a size varies by itself, or the name of a size that others share.
        batches: Whether a request may hold another number of samples than one.
        optional: Inputs that a request may leave out: what they tell is not always there.
    """
    required = {name: shape for name, shape in inputs.items() if name not in optional}
    requests = [required, *({**required, name: inputs[name]} for name in inputs if name in optional)]
    return next(filter(None, (_untold(one, batches) for one in requests)), None)


def _untold(inputs: Mapping[str, Sequence[int | str]], batches: bool) -> str | None:
    unknown: dict[str, set[str]] = {}
    for name, shape in inputs.items():
        axes = [f"{name}[{axis}]" if size == -1 else size for axis, size in enumerate(shape)]
        unknown[name] = {axis for axis in axes if isinstance(axis, str)} | ({"the batch"} if batches else set())
    known: set[str] = set()
    while told := {axis for axes in unknown.values() for axis in axes - known if len(axes - known) == 1}:
        known |= told  # the number of bytes gives the one size that is not known yet
    return next((name for name, axes in unknown.items() if axes - known), None)


def why_confused(name: str) -> str:
    """Say what is wrong with caching the answers to an input that `confusable` names, and what to do."""
    return (
        f"Triton knows a request by its bytes, not by its shape, and the bytes of {name!r} can be those of requests of "
        "several shapes: one would be answered for another. Take the cache out, say max_batch_size: 1, or leave one "
        "size of the input to vary beside an input of a fixed shape"
    )


def cached(ensemble: ServedEnsemble, section: ResponseCache | None) -> ServedEnsemble:
    """Lay a recipe's ``response_cache`` section over an ensemble, and give what is cached its versions.

    Raises:
        UsageError: If answers are cached that Triton would mix up.
    """
    if section is not None:
        ensemble = replace(ensemble, response_cache=section.ensemble, cache_bytes=section.size_mib * 2**20)
    for part in ensemble.parts:
        specs = part.takes if isinstance(part, ServedStep) else part.artifact.inputs
        shapes = {spec.name: _axes(spec) for spec in specs}
        if part.serving.response_cache and (name := confusable(shapes, batches=part.serving.max_batch_size != 1)):
            raise UsageError(f"{part.name}: serving.response_cache: {why_confused(name)}")
    return with_versions(ensemble)


def _axes(spec: TensorSpec) -> tuple[int | str, ...]:
    """Return a shape with the names of its sizes, where they have any."""
    sizes = spec.sizes or (None,) * len(spec.shape)
    return tuple(size.name if size else dim for size, dim in zip(sizes, spec.shape, strict=True))


def with_versions(ensemble: ServedEnsemble) -> ServedEnsemble:
    """Give each model whose answers are cached a version that is made of its files and its configuration.

    A server that is handed a new release, or a cache that outlives a server, then never answers for it by what an
    older one said. Equal content has an equal version, and keeps what is cached.
    """
    cached = {part.name for part in ensemble.parts if part.serving.response_cache}
    if not cached and not ensemble.response_cache:
        return ensemble
    contents = {part.name: _content(part) for part in ensemble.parts}
    versions = {name: _version(contents[name]) for name in cached}
    changed = replace(
        ensemble,
        components=tuple(replace(one, version=versions.get(one.name, one.version)) for one in ensemble.components),
        steps=tuple(replace(one, version=versions.get(one.name, one.version)) for one in ensemble.steps),
    )
    if ensemble.response_cache:
        ensembles = (changed, *changed.branches)  # how the parts of a branch are wired is said in its own only
        whole = "".join(to_text(ensemble_config(one)) for one in ensembles) + "".join(contents.values())
        changed = replace(changed, version=_version(whole))
    return changed


def settings_of(repositories: Iterable[Path]) -> CacheSettings:
    """Read what repositories ask of the cache; a config.pbtxt that cannot be read asks for nothing."""
    models, total = [], 0
    for repository in repositories:
        found = [(path.parent.name, try_parse(path.read_text("utf-8"))) for path in repository.glob("*/config.pbtxt")]
        configs = {name: config for name, config in found if not isinstance(config, SyntaxProblem)}
        here = sorted(name for name, config in configs.items() if config.response_cache.enable)
        asked = (config.parameters[CACHE_BYTES_PARAMETER].string_value for config in configs.values())
        sizes = [int(text) for text in asked if text.isdecimal()]
        models += here
        total += (sum(sizes) or DEFAULT_BYTES) if here else 0
    return CacheSettings(tuple(models), total)


def _content(part: ServedComponent | ServedStep) -> str:
    """Return what decides the answers of a part: its configuration and the digests of its files."""
    if isinstance(part, ServedStep):
        files = "".join(f"{name} {file_sha256(file)}\n" for name, file in part.files())
        return f"{to_text(step_config(part))}{' '.join(part.requires)}\n{files}"
    files = "".join(f"{file.name} {file_sha256(file)}\n" for file in part.artifact.files)
    return f"{to_text(component_config(part))}{part.serving.guard}\n{files}"


def _version(content: str) -> int:
    # 0 is no version, and 1 is that of what is not cached.
    return 2 + int(hashlib.sha256(content.encode()).hexdigest()[:_VERSION_DIGITS], 16)
