"""Lengths of samples: which there are, samples of a wanted length, and what reports say of them.

A length that no sample has is made by cutting real samples, or by repeating them from their start; never of noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from mmdeploy.core.artifact import Array
from mmdeploy.core.contracts import ReviewTable
from mmdeploy.core.samples import Samples, column_of, shapes_of
from mmdeploy.core.sizes import Size, Sizes

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Lengths = npt.NDArray[np.int64]

#: Samples that stand for a bound that none has.
_AT_A_BOUND = 4


def of(samples: Mapping[str, Array], sizes: Mapping[str, Sizes]) -> dict[str, Lengths]:
    """Return the length of each named size in each sample that has it: of what is sent, or else is made of that."""
    import numpy as np

    found: dict[str, Lengths] = {}
    for _, column, axis, size in (*_axes(samples, sizes), *_axes(Samples.of(samples).made, sizes)):
        if size.name not in found:
            shapes = [shape for shape in shapes_of(column) if shape is not None]
            found[size.name] = np.array([shape[axis] for shape in shapes], dtype=np.int64)
    return found


def at(samples: Samples, sizes: Mapping[str, Sizes], wanted: Mapping[str, int]) -> Samples:
    """Return samples of wanted lengths: those that have them, or all, cut or repeated, where none has.

    What steps make of a sample cannot be cut by cutting what is sent: of such a size those samples are taken whose
    length is nearest.

    Args:
        samples: Real ones.
        sizes: Of each input's axes.
        wanted: Lengths by the size's name; others stay as they are.
    """
    import numpy as np

    if not wanted:
        return samples
    sent = {size.name for *_, size in _axes(samples, sizes)}
    samples = _nearest(samples, sizes, {name: length for name, length in wanted.items() if name not in sent})
    wanted = {name: length for name, length in wanted.items() if name in sent}
    if not wanted:
        return samples
    have = {name: found for name, found in of(samples, sizes).items() if name in wanted}
    whole = [found == wanted[name] for name, found in have.items() if len(found) == samples.count]
    rows = np.flatnonzero(np.all(whole, axis=0)) if len(whole) == len(have) and whole else np.array([], np.intp)
    return samples.select(rows) if len(rows) else _resized(samples, sizes, wanted)


def at_bounds(samples: Samples, sizes: Mapping[str, Sizes]) -> Samples | None:
    """Return samples at the smallest and largest lengths that none of these has; None where there is no such bound.

    They are made of samples that leave no input out; None, too, where there is no such sample.
    """
    import numpy as np

    declared = {size.name: size for *_, size in _axes(samples, sizes)}
    made: list[Samples] = []
    whole = np.flatnonzero([all(row is not None for row in rows) for rows in zip(*samples.values(), strict=True)])
    if not declared or not len(whole):
        return None
    rows = whole[np.unique(np.linspace(0, len(whole) - 1, min(len(whole), _AT_A_BOUND)).round().astype(np.intp))]
    for name, found in of(samples, sizes).items():
        for bound in (declared[name].min, declared[name].max):
            if bound not in found:
                made.append(_resized(samples.select(rows), sizes, {name: bound}))
    if not made:
        return None
    return Samples({name: column_of([one for part in made for one in part[name]]) for name in samples})


def table(asked: Sequence[Samples], sizes: Mapping[str, Sizes], own: Samples) -> tuple[ReviewTable, ...]:
    """Return a table of the lengths that a figure rests on; none where no size varies.

    Args:
        asked: What was asked.
        sizes: Of each input's axes.
        own: The samples as they are: a length that none of these has was made.
    """
    import numpy as np

    rows, any_made, real = [], False, of(own, sizes)
    prepared = [name for name in real if name not in {size.name for *_, size in _axes(own, sizes)}]
    for name in real:
        lengths = np.concatenate([found[name] for one in asked if name in (found := of(one, sizes))])
        made = sorted({*lengths.tolist()} - {*real[name].tolist()})
        any_made |= bool(made)
        spread = (int(lengths.min()), float(np.median(lengths)), int(lengths.max()))
        rows.append((name, len(lengths), *spread, ", ".join(map(str, made)) or "none"))
    if not rows:
        return ()
    notes = ["made lengths are no sample's own: samples were cut, or repeated from their start"] if any_made else []
    if prepared:
        told = "are what steps make of samples: no other length was asked, nor a bound that no sample has"
        notes.append(f"lengths of {', '.join(prepared)} {told}")
    note = "; ".join(notes)
    return (ReviewTable("lengths", ("size", "samples", "smallest", "median", "largest", "made"), tuple(rows), note),)


def _resized(samples: Samples, sizes: Mapping[str, Sizes], wanted: Mapping[str, int]) -> Samples:
    """Cut or repeat every sample to wanted lengths."""
    import numpy as np

    columns = dict[str, Array]()
    for name, column, axis, size in _axes(samples, sizes):
        if size.name in wanted:
            rows = np.arange(wanted[size.name])
            now: Array = columns.get(name, column)
            columns[name] = column_of([_along(one, rows, axis) for one in now])
    return samples.replaced(columns)


def _nearest(samples: Samples, sizes: Mapping[str, Sizes], wanted: Mapping[str, int]) -> Samples:
    """Return the samples of which what is made is nearest to wanted lengths."""
    import numpy as np

    have = {name: found for name, found in of(samples, sizes).items() if name in wanted and len(found) == samples.count}
    if not have:  # nothing is wanted of what is made, or some samples lack it
        return samples
    apart = np.sum([np.abs(found - wanted[name]) for name, found in have.items()], axis=0)
    return samples.select(np.flatnonzero(apart == apart.min()))


def _along(sample: Array | None, rows: npt.NDArray[np.intp], axis: int) -> Array | None:
    import numpy as np

    if sample is None or not sample.shape[axis]:
        return sample
    return np.take(sample, rows % sample.shape[axis], axis=axis)


def _axes(samples: Mapping[str, Array], sizes: Mapping[str, Sizes]) -> Iterator[tuple[str, Array, int, Size]]:
    for name, column in samples.items():
        for axis, size in enumerate(sizes.get(name, ())):
            if size is not None:
                yield name, column, axis, size
