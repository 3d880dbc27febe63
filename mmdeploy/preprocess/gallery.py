"""The file that `nearest` searches: ``embeddings``, a vector a row, and if wanted ``labels``, a text a row."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

from .refusal import Array


@dataclass(frozen=True)
class Gallery:
    """Vectors that are compared with.

    Attributes:
        rows: FP32 [N, width], finite.
        labels: A text a row; none where the file has none.
    """

    rows: Array
    labels: tuple[bytes, ...]

    def refuse_zeros(self, name: str) -> None:
        """Check that no row is all zeros.

        Raises:
            ValueError: Naming the rows.
        """
        if len(zeros := (~self.rows.any(axis=1)).nonzero()[0]):
            raise ValueError(
                f"{name}: embeddings are all zeros in {_rows(zeros)}, which points nowhere: leave it out, or use "
                "metric: l2"
            )

    def unit(self) -> Gallery:
        """Return it with rows of length 1."""
        import numpy as np

        norms = np.sqrt(np.einsum("ij,ij->i", self.rows, self.rows, dtype=np.float64, casting="unsafe"))
        return replace(self, rows=(self.rows / norms[:, None]).astype(np.float32))


def gallery_from(path: Path, name: str) -> Gallery:
    """Load a gallery.

    Raises:
        ValueError: Naming what is no gallery about the file.
    """
    import numpy as np

    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("it is no archive of arrays: write it with numpy.savez(path, embeddings=…, labels=…)")
        with np.load(path, allow_pickle=False) as arrays:
            if twice := sorted({one for one in arrays.files if arrays.files.count(one) > 1}):
                raise ValueError(f"it holds {' and '.join(map(repr, twice))} twice")
            if "embeddings" not in arrays.files:
                raise ValueError(f"it holds {', '.join(map(repr, arrays.files)) or 'nothing'}, and no 'embeddings'")
            rows = arrays["embeddings"]
            labels = arrays["labels"] if "labels" in arrays.files else None
    except (ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        why = "it holds Python objects; save numbers and str" if "allow_pickle" in str(error) else error
        raise ValueError(f"{name} is no gallery, an .npz file with embeddings: {why}") from error
    return Gallery(_vectors(rows, name), _texts(labels, len(rows), name))


def _vectors(rows: Array, name: str) -> Array:
    import numpy as np

    if rows.dtype.kind not in "fiu":
        raise ValueError(f"{name}: embeddings are {rows.dtype.name}, and must be numbers, such as float32")
    if rows.ndim != 2 or not rows.size:
        raise ValueError(f"{name}: embeddings have shape {list(rows.shape)}, and must be [rows, values]")
    with np.errstate(over="ignore"):  # what is beyond FP32 is told below
        found: Array = np.ascontiguousarray(rows, np.float32)
    if len(wrong := (~np.isfinite(found).all(axis=1)).nonzero()[0]):
        raise ValueError(f"{name}: embeddings are NaN, infinite or beyond FP32 in {_rows(wrong)}")
    return found


def _texts(labels: Array | None, rows: int, name: str) -> tuple[bytes, ...]:
    if labels is None:
        return ()
    if labels.dtype.kind not in "USiu" or labels.ndim != 1:
        raise ValueError(f"{name}: labels are {labels.dtype.name} {list(labels.shape)}, and must be a text a row")
    if len(labels) != rows:
        raise ValueError(f"{name} has {rows} rows of embeddings and {len(labels)} labels: a label for each row")
    return tuple(one if isinstance(one, bytes) else str(one).encode() for one in labels.tolist())


def _rows(places: Array) -> str:
    shown = ", ".join(map(str, places[:5].tolist()))
    return f"row{'s' * (len(places) > 1)} {shown}{f', … ({len(places)} in all)' if len(places) > 5 else ''}"
