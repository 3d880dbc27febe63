"""Stack the labels that data callables give: numbers, arrays, strings, lists of strings, or dicts of these by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmdeploy.core.artifact import Array
from mmdeploy.core.errors import DataError
from mmdeploy.core.labels import Column, Labels, Ragged, Table, Texts

_HINT = (
    "a label is a number, an array of numbers, a string, a list of strings, or a dict of these by name, "
    "and the same kind for every sample"
)
_SHOWN_CHARACTERS = 60


def stacked_labels(labels: Sequence[Any], reference: str) -> Labels:
    """Stack labels, one a sample.

    Numbers, and arrays of one shape, become an array; arrays that differ in their first axis only, `Ragged`; strings,
    `Texts`; lists of strings, `Ragged` too; dicts, a `Table`.

    Args:
        labels: As the data callable gave them; at least one.
        reference: The data callable, for messages.

    Raises:
        DataError: Naming the sample whose label is something else, or is not like those before it.
    """
    if not any(isinstance(label, Mapping) for label in labels):
        return _column(labels, reference, "")
    names: list[str] | None = None
    for index, label in enumerate(labels):
        found = [str(name) for name in label] if isinstance(label, Mapping) else None
        if not found or (names is not None and set(found) != set(names)):
            has = f"names {', '.join(found)}" if found else f"is {_shown(label)}"
            wanted = f", but that of sample 0 names {', '.join(names)}" if names else ""
            raise DataError(f"{reference}: the label of sample {index} {has}{wanted}", hint=_HINT)
        names = names or found
    assert names is not None
    return Table({name: _column([label[name] for label in labels], reference, name) for name in names})


def _column(labels: Sequence[Any], reference: str, name: str) -> Column:
    if isinstance(labels[0], str):
        _refuse_other(labels, lambda label: isinstance(label, str), reference, name)
        return Texts.of([str(label) for label in labels])
    if any(_is_text_list(label) and len(label) for label in labels):
        _refuse_other(labels, _is_text_list, reference, name)
        return Ragged.of_texts([[str(one) for one in label] for label in labels])
    arrays = [number_array(label) for label in labels]
    first = next((array for array in arrays if array is not None and array.size), arrays[0])
    _refuse_other(arrays, lambda array: array is not None and _alike(array, first), reference, name, shown=labels)
    known = [array for array in arrays if array is not None]
    if len({array.shape for array in known}) == 1:
        return np.stack(known)
    return Ragged.of(known)


def number_array(label: Any) -> Array | None:
    """Return a label as an array of numbers; None where it is none, or a tensor that NumPy cannot hold."""
    try:
        array = np.asarray(label)
    except (ValueError, TypeError, RuntimeError):
        return None
    return array if array.dtype.kind in "biuf" else None


def _alike(array: Array, first: Array | None) -> bool:
    """Say whether two arrays can be labels of one set: of one shape, or different in the first axis only."""
    if first is None:
        return False
    if array.ndim == 0 or first.ndim == 0:
        return array.ndim == first.ndim
    empty = array.shape == (0,) or first.shape == (0,)
    return empty or array.shape[1:] == first.shape[1:]


def _is_text_list(label: Any) -> bool:
    """Say whether a label is a list of strings, maybe an empty one."""
    if isinstance(label, np.ndarray):
        return label.ndim == 1 and label.dtype.kind == "U"
    return isinstance(label, list | tuple) and all(isinstance(one, str) for one in label)


def _refuse_other(
    labels: Sequence[Any], accepted: Any, reference: str, name: str, *, shown: Sequence[Any] | None = None
) -> None:
    for index, label in enumerate(labels):
        if not accepted(label):
            where = f"{name!r} of the label" if name else "the label"
            raise DataError(f"{reference}: {where} of sample {index} is {_shown((shown or labels)[index])}", hint=_HINT)


def _shown(label: Any) -> str:
    if isinstance(label, np.ndarray) and label.ndim:
        return f"an array of shape {list(label.shape)} and type {label.dtype}"
    return f"{label!r:.{_SHOWN_CHARACTERS}}"
