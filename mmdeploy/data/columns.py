"""Columns on disk, to be memory-mapped: one ``.npy`` file, and one of shapes where the samples are not alike."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import numpy as np

from mmdeploy.core.artifact import Array
from mmdeploy.core.samples import column_of, is_ragged

#: What an index says of a column: its file, and where the samples are not alike that of their shapes.
Entry: TypeAlias = "str | dict[str, str]"


def save_column(folder: Path, stem: str, column: Array) -> Entry:
    """Write a column that leaves no sample out; return what tells how to read it."""
    file = f"{stem}.npy"
    if not is_ragged(column):
        np.save(folder / file, column, allow_pickle=False)
        return file
    shapes = f"{stem}-shapes.npy"
    np.save(folder / file, np.concatenate([one.reshape(-1) for one in column]), allow_pickle=False)
    np.save(folder / shapes, np.array([one.shape for one in column], dtype=np.int64), allow_pickle=False)
    return {"file": file, "shapes": shapes}


def load_column(folder: Path, entry: Entry) -> Array:
    """Open what `save_column` wrote."""
    if isinstance(entry, str):
        return np.asarray(np.load(folder / entry, mmap_mode="r", allow_pickle=False))
    flat = np.asarray(np.load(folder / entry["file"], mmap_mode="r", allow_pickle=False))
    return cut(flat, np.load(folder / entry["shapes"], allow_pickle=False))


def cut(flat: Array, shapes: Array) -> Array:
    """Return the column whose values lie one after the other; pieces of them, where samples are not alike."""
    if len(shapes) and (shapes == shapes[0]).all():
        return flat.reshape(len(shapes), *shapes[0])
    ends = np.cumsum(shapes.prod(axis=1, dtype=np.int64)).tolist()
    starts = [0, *ends[:-1]]
    pairs = zip(starts, ends, shapes.tolist(), strict=True)
    return column_of([flat[start:end].reshape(shape) for start, end, shape in pairs])
