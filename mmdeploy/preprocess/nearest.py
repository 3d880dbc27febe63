"""The nearest of a gallery: ids, scores and labels of the vectors in a file that are closest to an embedding.

What it does: compares an embedding with every row of ``embeddings`` in the ``.npz`` file ``index``, by cosine, by dot
product or by Euclidean distance, and gives the k best, the best first: larger is better, so distances are negative.
``labels``, where the file has them, are a text a row.
When to choose it: retrieval and recognition by example. Another file is another gallery: nothing but the judgement runs
again.
What it needs: NumPy; faiss is used where it is installed when the recipe is built, which pays from some ten thousand
rows on, and is then needed to serve.
Limits: the search is exact, and the gallery is in the memory of each instance. Rows are numbers, each of them finite,
and by cosine and dot product none is all zeros, which would be like everything.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from .gallery import Gallery, gallery_from
from .refusal import Array, RefusedError, Spec


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
        if embedding.shape[0] >= 0 and (problem := self._unfit(embedding.shape[0])):
            raise ValueError(problem)
        shape = (self.k,)
        found = {"ids": Spec("INT64", shape), "scores": Spec("FP32", shape)}
        gallery: Gallery | None = getattr(self, "_gallery", None)
        return found | ({"labels": Spec("BYTES", shape)} if gallery is None or gallery.labels else {})

    def requires(self) -> tuple[str, ...]:
        """Return the packages that it imports, by the names they are imported under, besides NumPy."""
        return ("faiss",) if self.settled()["search"] == "faiss" else ()

    def settled(self) -> dict[str, Any]:
        """Return the options that depend on where it runs, as they are here."""
        if self.search != "auto":
            return {"search": self.search}
        return {"search": "numpy" if importlib.util.find_spec("faiss") is None else "faiss"}

    def open(self, folder: Path) -> None:
        """Load the gallery.

        Raises:
            ValueError: If it is none, or has fewer rows than are asked for.
        """
        self.look_at(folder)
        gallery: Gallery = getattr(self, "_gallery")  # noqa: B009 - the class is frozen
        object.__setattr__(self, "_faiss", self._index(gallery.rows))

    def look_at(self, folder: Path) -> None:
        """Load the gallery by NumPy alone; it is known then what fits it.

        Raises:
            ValueError: As of `open`.
        """
        gallery = gallery_from(folder / self.index, self.index)
        if len(gallery.rows) < self.k:
            raise ValueError(f"k is {self.k}, and {self.index} has {len(gallery.rows)} rows: take as many or fewer")
        if self.metric != "l2":
            gallery.refuse_zeros(self.index)
        object.__setattr__(self, "_gallery", gallery.unit() if self.metric == "cosine" else gallery)

    def row(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """Search for one sample.

        Raises:
            RefusedError: If the embedding is not as long as the gallery's rows, or holds what is no number.
        """
        import numpy as np

        gallery: Gallery = getattr(self, "_gallery")  # noqa: B009 - the class is frozen
        faiss_index = getattr(self, "_faiss", None)
        vector = values["embedding"].astype(np.float32)
        if problem := self._unfit(len(vector)):
            raise RefusedError(f"does not fit: {problem}")
        if not np.isfinite(vector).all():
            raise RefusedError("holds values that are no numbers")
        if self.metric == "cosine":
            norm = np.linalg.norm(vector.astype(np.float64))
            vector = (vector / (norm or 1)).astype(np.float32)
        if faiss_index is not None:
            found, ids = (array[0] for array in faiss_index.search(vector[None], self.k))
            scores = -np.sqrt(np.maximum(found, 0)) if self.metric == "l2" else found
        else:
            every = -np.linalg.norm(gallery.rows - vector, axis=1) if self.metric == "l2" else gallery.rows @ vector
            ids = np.argsort(-every, kind="stable")[: self.k]
            scores = every[ids]
        answer = {"ids": ids.astype(np.int64), "scores": scores.astype(np.float32)}
        if gallery.labels:
            answer["labels"] = np.array([gallery.labels[one] for one in ids], dtype=object)
        return answer

    def _unfit(self, width: int) -> str:
        """Say why an embedding of so many values cannot be looked for; empty where it can, or nothing is open."""
        gallery: Gallery | None = getattr(self, "_gallery", None)
        if gallery is None or gallery.rows.shape[1] == width:
            return ""
        return f"{self.index} has rows of {gallery.rows.shape[1]} values, and the embedding has {width}"

    def _index(self, rows: Array) -> Any:
        """Return faiss's exact index of the rows; None where NumPy searches."""
        if self.settled()["search"] == "numpy":
            return None
        import faiss

        index = faiss.IndexFlatL2(rows.shape[1]) if self.metric == "l2" else faiss.IndexFlatIP(rows.shape[1])
        index.add(rows)
        return index
