"""Columns on disk, to be memory-mapped: one ``.npy`` file, and one of shapes where the samples are not alike.

Strings are written as Triton sends them, and read into memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import numpy as np

from mmdeploy.core.artifact import Array
from mmdeploy.core.samples import column_of, is_ragged, is_text
from mmdeploy.core.strings import BYTES, packed, unpacked

#: What an index says of a column: its file, and where the samples are not alike that of their shapes.
Entry: TypeAlias = "str | dict[str, str]"


def save_column(folder: Path, stem: str, column: Array) -> Entry:
    """Write a column; return what tells how to read it. A sample that leaves the tensor out has sizes of -1."""
    file = f"{stem}.npy"
    shapes = f"{stem}-shapes.npy"
    if is_text(column):
        np.save(folder / file, np.frombuffer(packed(column), np.uint8), allow_pickle=False)
        np.save(folder / shapes, np.array([column.shape[1:]] * len(column), dtype=np.int64), allow_pickle=False)
        return {"file": file, "shapes": shapes, "holds": BYTES}
    if not is_ragged(column):
        np.save(folder / file, column, allow_pickle=False)
        return file
    there = [one for one in column if one is not None]
    values = np.concatenate([one.reshape(-1) for one in there])
    strings = values.dtype == object
    np.save(folder / file, np.frombuffer(packed(values), np.uint8) if strings else values, allow_pickle=False)
    sizes = [(-1,) * there[0].ndim if one is None else one.shape for one in column]
    np.save(folder / shapes, np.array(sizes, dtype=np.int64), allow_pickle=False)
    return {"file": file, "shapes": shapes} | ({"holds": BYTES} if strings else {})


def load_column(folder: Path, entry: Entry) -> Array:
    """Open what `save_column` wrote."""
    if isinstance(entry, str):
        return np.asarray(np.load(folder / entry, mmap_mode="r", allow_pickle=False))
    flat = np.asarray(np.load(folder / entry["file"], mmap_mode="r", allow_pickle=False))
    if "holds" in entry:
        flat = unpacked(flat.tobytes(), (-1,))
    return cut(flat, np.load(folder / entry["shapes"], allow_pickle=False))


def cut(flat: Array, shapes: Array) -> Array:
    """Return the column whose values lie one after the other; pieces of them, where samples are not alike."""
    if len(shapes) and (shapes == shapes[0]).all() and not left_out(shapes[:1]).any():
        return flat.reshape(len(shapes), *shapes[0])
    ends = np.cumsum(values_of(shapes)).tolist()
    starts = [0, *ends[:-1]]
    rows = zip(starts, ends, shapes.tolist(), left_out(shapes).tolist(), strict=True)
    return column_of([None if missing else flat[start:end].reshape(shape) for start, end, shape, missing in rows])


def left_out(shapes: Array) -> Array:
    """Say of each sample whether it leaves the tensor out."""
    return np.asarray((shapes < 0).any(axis=1))


def values_of(shapes: Array) -> Array:
    """Return the number of values of each sample."""
    return np.where(left_out(shapes), 0, shapes.prod(axis=1, dtype=np.int64))
