"""The nearest of a gallery: ids, scores and labels of the vectors in a file that are closest to an embedding.

What it does: compares an embedding with every row of ``embeddings`` in the ``.npz`` file ``index``, by cosine, by dot
product or by Euclidean distance, and gives the k best, the best first: larger is better, so distances are negative.
``labels``, where the file has them, are a text a row.
When to choose it: retrieval and recognition by example. Another file is another gallery: nothing but the judgement runs
again.
What it needs: NumPy; faiss is used where it is installed, which pays from some ten thousand rows on.
Limits: the search is exact, and the gallery is in the memory of each instance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from .refusal import Array, Spec


@dataclass(frozen=True)
class Nearest:
    """Options, and the method itself."""

    index: str = field(metadata={"about": "The .npz file with embeddings and, if wanted, labels.", "path": True})
    k: int = field(default=5, metadata={"about": "How many."})
    metric: Literal["cosine", "dot", "l2"] = field(default="cosine", metadata={"about": "How they are compared."})
    search: Literal["auto", "numpy", "faiss"] = field(
        default="auto", metadata={"about": "What searches; auto: faiss where it is installed."}
    )

    INPUTS: ClassVar[tuple[str, ...]] = ("embedding",)
    OUTPUTS: ClassVar[tuple[str, ...]] = ("ids", "scores", "labels")
    REQUIRES: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        """Check k."""
        if self.k < 1:
            raise ValueError(f"k is {self.k}: 1 or more")

    def specs(self, given: Mapping[str, Spec]) -> dict[str, Spec]:
        """Return what it gives of what it is given."""
        embedding = given["embedding"]
        if embedding.dtype == "BYTES" or len(embedding.shape) != 1:
            raise ValueError(f"takes one vector a sample, not {embedding.dtype} {list(embedding.shape)}")
        shape = (self.k,)
        return {"ids": Spec("INT64", shape), "scores": Spec("FP32", shape), "labels": Spec("BYTES", shape)}

    def open(self, folder: Path) -> None:
        """Load the gallery.

        Raises:
            ValueError: If it is none, or has fewer rows than are asked for.
        """
        import numpy as np

        try:
            with np.load(folder / self.index, allow_pickle=False) as arrays:
                rows = np.asarray(arrays["embeddings"], np.float32)
                labels = [str(one).encode() for one in arrays["labels"]] if "labels" in arrays.files else []
        except (KeyError, ValueError) as error:
            raise ValueError(f"{self.index} is no gallery, an .npz file with embeddings: {error}") from error
        if rows.ndim != 2 or len(rows) < self.k or (labels and len(labels) != len(rows)):
            raise ValueError(
                f"{self.index} holds embeddings of shape {list(rows.shape)} and {len(labels)} labels: a row each, and "
                f"{self.k} rows or more"
            )
        if not np.isfinite(rows).all():
            raise ValueError(f"{self.index} holds embeddings that are no numbers")
        if self.metric == "cosine":
            rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.float32(1e-12))
        object.__setattr__(self, "_gallery", (rows, labels, self._faiss(rows)))

    def row(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """Search for one sample."""
        import numpy as np

        rows, labels, faiss_index = getattr(self, "_gallery")  # noqa: B009 - the class is frozen
        vector = values["embedding"].astype(np.float32)
        if len(vector) != rows.shape[1]:
            raise TypeError(f"the embedding has {len(vector)} values, and {self.index} rows of {rows.shape[1]}")
        if self.metric == "cosine":
            vector = vector / np.maximum(np.linalg.norm(vector), np.float32(1e-12))
        if faiss_index is not None:
            found, ids = (array[0] for array in faiss_index.search(vector[None], self.k))
            scores = -np.sqrt(np.maximum(found, 0)) if self.metric == "l2" else found
        else:
            every = -np.linalg.norm(rows - vector, axis=1) if self.metric == "l2" else rows @ vector
            ids = np.argsort(-every, kind="stable")[: self.k]
            scores = every[ids]
        told = np.array([labels[one] if labels else b"" for one in ids], dtype=object)
        return {"ids": ids.astype(np.int64), "scores": scores.astype(np.float32), "labels": told}

    def _faiss(self, rows: Array) -> Any:
        """Return faiss's exact index of the rows; None where NumPy searches."""
        if self.search == "numpy":
            return None
        try:
            import faiss
        except ImportError:
            if self.search == "faiss":
                raise
            return None
        index = faiss.IndexFlatL2(rows.shape[1]) if self.metric == "l2" else faiss.IndexFlatIP(rows.shape[1])
        index.add(rows)
        return index
