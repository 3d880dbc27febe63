"""Samples that the recipe's data callables give: streamed, checked one by one.

A data callable takes no arguments and returns an iterable of samples, or what has a length and gives each by its
number, as `torch.utils.data.Dataset` does. A sample is a feed dict, ensemble input name to array without a batch
dimension, or a pair of a feed dict and a label (see `mmdeploy.data.labels`).
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from mmdeploy.core.artifact import Array, TensorSpec
from mmdeploy.core.errors import DataError, did_you_mean, kind_of
from mmdeploy.core.sizes import lengths_problem
from mmdeploy.core.strings import BYTES, as_strings, packed
from mmdeploy.data.arrays import array_of
from mmdeploy.data.contents import DIGEST_BYTES
from mmdeploy.model.mistakes import cause_of, is_of_user, refuse_arguments, remedy
from mmdeploy.model.sources import describe, importing_from, on_path, resolve_callable
from mmdeploy.model.watching import reading

Feed = dict[str, Array]
Ranges = Mapping[str, tuple[float, float]]


class Prepare(Protocol):
    """Makes of what a client sends what the model reads."""

    @property
    def sources(self) -> Sequence[TensorSpec]:
        """What the model reads."""

    def __call__(self, feed: Mapping[str, Array]) -> Feed:
        """Return that of one sample; raises a DataError."""


@runtime_checkable
class _ByNumber(Protocol):
    """What gives samples by number: a `torch.utils.data.Dataset` is no iterable."""

    def __len__(self) -> int:
        """Return how many there are."""

    def __getitem__(self, index: int, /) -> object:
        """Return one."""


def stream(
    reference: str,
    *,
    root: Path,
    specs: Sequence[TensorSpec],
    ranges: Ranges | None = None,
    limit: int | None = None,
    epoch: int | None = None,
    prepare: Prepare | None = None,
    optional: Collection[str] = frozenset(),
) -> Iterator[tuple[Feed, Any]]:
    """Yield samples one at a time, each checked for names, types, shapes, finiteness and ranges.

    Args:
        reference: The data callable, ``path.py:callable`` or ``package.module:callable``.
        root: Folder of the recipe.
        specs: The ensemble's inputs.
        ranges: Smallest and largest value allowed, by input.
        limit: Stop after so many samples; None takes all.
        epoch: Given to the callable if it has a parameter of this name: `takes_epoch`.
        prepare: Makes of it what the model reads, which is added. A sample may hold that itself in place of all that
            is made into it, such as pixels that were augmented.
        optional: What a sample may lack: inputs, and what is made of them.

    Yields:
        Feed dict without a batch dimension, and the label or None.

    Raises:
        DataError: Naming the sample and the input.
    """
    for index, sample in enumerate(_samples(reference, root, limit, epoch)):
        where = f"{reference}: sample {index}"
        feed, label = _split(sample, where)
        if prepare is not None and {*feed} == {spec.name for spec in prepare.sources}:
            yield _checked(feed, prepare.sources, ranges or {}, where), label
            continue
        checked = _checked(feed, specs, ranges or {}, where, optional)
        yield (
            checked if prepare is None else checked | _prepared(prepare, checked, ranges or {}, where, optional),
            label,
        )


def unchecked(reference: str, *, root: Path, limit: int | None = None) -> Iterator[tuple[Mapping[str, Any], Any]]:
    """Yield samples as the callable gives them: feed dict, and the label or None. No recipe says yet what is right.

    Raises:
        DataError: When the callable is not there, fails, or gives something else than samples.
    """
    for index, sample in enumerate(_samples(reference, root, limit)):
        yield _split(sample, f"{reference}: sample {index}")


def _prepared(prepare: Prepare, feed: Feed, ranges: Ranges, where: str, optional: Collection[str]) -> Feed:
    try:
        made = prepare(feed)
    except DataError as error:
        raise DataError(f"{where}, {error.message}", hint=error.hint) from error
    lacked = [spec.name for spec in prepare.sources if spec.name not in made]
    if lacked and not (made and {*lacked} <= {*optional}):
        raise DataError(
            f"{where}: there is nothing to make {lacked[0]!r} of: an input counts as missing, by its `detect`",
            hint="samples for the gates may lack optional inputs but one; those of other sets are whole",
        )
    return _checked(made, prepare.sources, ranges, where, optional)


def takes_epoch(reference: str, root: Path) -> bool:
    """Say whether a data callable has a parameter ``epoch``, and so gives other samples in each epoch.

    Raises:
        DataError: If there is no such callable.
    """
    with reading(reference), contextlib.suppress(TypeError, ValueError):  # it has no signature that Python can tell
        return "epoch" in inspect.signature(resolve_callable(reference, root, error=DataError)).parameters
    return False


def sample_digest(feed: Mapping[str, Array]) -> bytes:
    """Return 16 bytes that tell a sample's inputs, in the order of the specs, from all others."""
    digest = hashlib.sha256()
    for array in feed.values():
        digest.update(str(array.shape).encode())
        if array.dtype == object:
            digest.update(packed(array))
        else:
            digest.update(np.ascontiguousarray(array).data if array.size else b"")
    return digest.digest()[:DIGEST_BYTES]


def _samples(reference: str, root: Path, limit: int | None, epoch: int | None = None) -> Iterator[Any]:
    """Iterate over what the user's callable gives, translating what it raises."""
    with reading(reference):
        make = resolve_callable(reference, root, error=DataError)
        given = {"epoch": epoch} if epoch is not None and takes_epoch(reference, root) else {}
        refuse_arguments(make, reference, given, DataError)
    taken = 0
    try:
        with reading(reference), importing_from(root):
            iterator = _iterator(make(**given), reference)
        resolved = root.resolve()
        while limit is None or taken < limit:
            with reading(reference), on_path(resolved):
                try:
                    sample = next(iterator)
                except StopIteration:
                    return
            taken += 1
            yield sample
            del sample
    except (DataError, GeneratorExit):
        raise
    except (Exception, SystemExit) as error:
        if not is_of_user(error):
            raise
        cause = cause_of(error)
        told = f"{reference} failed after {taken} sample{'s' * (taken != 1)}: {describe(cause, root)}"
        raise DataError(told, hint=remedy(cause, root)) from error


def _iterator(made: object, reference: str) -> Iterator[Any]:
    if isinstance(made, _ByNumber) and not isinstance(made, Iterable):
        return map(made.__getitem__, range(len(made)))
    if not isinstance(made, Iterable) or isinstance(made, Mapping | str | bytes):
        hint = "yield one feed dict a sample" if isinstance(made, Mapping) else "return or yield samples"
        raise DataError(f"{reference} returned {kind_of(made)}, expected an iterable of samples", hint=hint)
    return iter(made)


def _split(sample: object, where: str) -> tuple[Mapping[str, Any], Any]:
    if isinstance(sample, Mapping):
        return sample, None
    if isinstance(sample, tuple) and len(sample) == 2 and isinstance(sample[0], Mapping):
        return sample[0], sample[1]
    raise DataError(
        f"{where} is {kind_of(sample)}",
        hint="a sample is a dict of arrays by input name, or (that dict, label); what gives batches, as a DataLoader "
        "does, gives its samples by .dataset",
    )


def _checked(
    feed: Mapping[str, Any],
    specs: Sequence[TensorSpec],
    ranges: Ranges,
    where: str,
    optional: Collection[str] = frozenset(),
) -> Feed:
    names = [spec.name for spec in specs]
    for name in feed:
        if name not in names:
            raise DataError(f"{where}: unknown input {str(name)!r}", hint=did_you_mean(str(name), names))
    checked: Feed = {}
    for spec in specs:
        if spec.name not in feed:
            if feed and spec.name in optional:
                continue
            always = ", ".join(name for name in names if name not in optional)
            needed = f"all of {always}" if always else "at least one"
            raise DataError(
                f"{where} has no input {spec.name!r}",
                hint=f"it has {', '.join(map(str, feed)) or 'none'}; every sample needs {needed}",
            )
        checked[spec.name] = _checked_array(feed[spec.name], spec, ranges.get(spec.name), where)
    sizes = {spec.name: spec.sizes for spec in specs if spec.sizes and spec.name in checked}
    if sizes and (wrong := lengths_problem({name: checked[name].shape for name in sizes}, sizes)):
        raise DataError(f"{where}, {wrong}", hint="correct the samples, or the bounds under sizes in the recipe")
    return checked


def _checked_array(value: object, spec: TensorSpec, span: tuple[float, float] | None, where: str) -> Array:
    where = f"{where}, input {spec.name!r}"
    if spec.dtype == BYTES:
        return _checked_strings(value, spec, where)
    array = array_of(value, where, str(spec))
    mismatch = spec.mismatch(array)
    if mismatch is not None:
        batched = array.ndim == len(spec.shape) + 1 and spec.mismatch(array[:1].reshape(array.shape[1:]))
        hint = None
        if array.ndim == len(spec.shape) + 1 and array.shape[0] == 1 and batched is None:
            hint = "a sample has no batch dimension: give array[0]"
        raise DataError(f"{where}: {mismatch}", hint=hint)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        at = np.argwhere(~np.isfinite(array))[0].tolist()
        bad = array[tuple(at)]
        raise DataError(f"{where} holds {'NaN' if np.isnan(bad) else str(bad)} at index {at}")
    if span is not None and array.size and array.dtype.kind != "b":
        _refuse_outside(array, span, where)
    return array


def _checked_strings(value: object, spec: TensorSpec, where: str) -> Array:
    """Return text or bytes, alone, in a list or in an array, as an array of `bytes`."""
    strings = as_strings(value)
    if strings is None:
        raise DataError(f"{where} is {kind_of(value)}, expected bytes or text ({spec})")
    if strings.size == 1:
        strings = strings.reshape([1] * len(spec.shape))
    mismatch = spec.mismatch(strings)
    if mismatch is not None:
        raise DataError(f"{where}: {mismatch}")
    return strings


def _refuse_outside(array: Array, span: tuple[float, float], where: str) -> None:
    outside = (array < span[0]) | (array > span[1])
    if outside.any():
        at = np.argwhere(outside)[0].tolist()
        low, high = span
        raise DataError(f"{where} holds {array[tuple(at)]} at index {at}, outside the declared range [{low}, {high}]")
