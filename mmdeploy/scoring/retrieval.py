"""Recall@k of a retrieval: is what belongs to a query among the k documents that score highest?

Over two outputs, such as an image and a text embedding, the similarity is the cosine, every sample is a query by its
first output and a document by its second, and a label says what a sample shows: samples of one label belong together.
Over one output, [samples, documents], the documents lie in the model, and a label names the one that belongs to the
sample (or several, as a row of 0 and 1). Ties count against the query: an encoder that maps all to one point finds
nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from mmdeploy.core.artifact import Array
from mmdeploy.core.errors import DataError
from mmdeploy.core.labels import Labels, Texts, kind
from mmdeploy.scoring.metrics import FloatArray
from mmdeploy.scoring.scored import Scored, mean_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

#: Queries whose similarities are computed at once.
_QUERIES = 256


def recall_of_pair(
    queries: Array, documents: Array, labels: Labels, k: int, gallery: Literal["samples", "labels"]
) -> Scored:
    """Score a retrieval between two embeddings.

    Args:
        queries: What asks, shape [samples, width].
        documents: What is searched, the same shape.
        labels: What each sample shows: a number or a string.
        k: Documents looked at.
        gallery: Whether every sample takes a place in the ranking, or every label (at its best document): for a
            gallery in which one image recurs with each of its captions.
    """
    import numpy as np

    ids = shown_by(labels)
    if queries.ndim != 2 or queries.shape != documents.shape:
        raise DataError(
            f"recall_at_k takes two embeddings of one shape, found {list(queries.shape)} and {list(documents.shape)}"
        )
    if gallery == "labels":
        order = np.argsort(ids, kind="stable")
        starts = np.flatnonzero(np.diff(ids[order], prepend=-1))
    hits = []
    for similarity, rows in similarities(queries, documents):
        document_ids = ids
        if gallery == "labels":
            similarity = np.maximum.reduceat(similarity[:, order], starts, axis=1)
            document_ids = ids[order][starts]
        hits.append(_found(similarity, ids[rows][:, None] == document_ids[None], k))
    return mean_of(np.concatenate(hits))


def recall_of_scores(scores: Array, labels: Labels, k: int, *, backward: bool) -> Scored:
    """Score a retrieval whose similarities the model puts out.

    Args:
        scores: Shape [samples, documents].
        labels: The document of each sample, by its column; or a row of 0 and 1.
        k: Documents looked at.
        backward: Let the columns that belong to a sample ask, and search the samples.
    """
    relevant = relevance(scores, labels)
    if not backward:
        return mean_of(_found(scores, relevant, k))
    asked = relevant.any(axis=0)
    return mean_of(_found(scores.T[asked], relevant.T[asked], k))


def relevance(scores: Array, labels: Labels) -> npt.NDArray[np.bool_]:
    """Return which documents belong to each sample, shape [samples, documents]; each sample has at least one."""
    import numpy as np

    if scores.ndim != 2:
        raise DataError(f"a retrieval takes scores of shape [samples, documents], found {list(scores.shape)}")
    if isinstance(labels, np.ndarray) and labels.shape == scores.shape and np.isin(labels, (0, 1)).all():
        found = labels.astype(bool)
    elif isinstance(labels, np.ndarray) and labels.ndim == 1 and labels.dtype.kind in "iu":
        wrong = np.flatnonzero((labels < 0) | (labels >= scores.shape[1]))
        if len(wrong):
            raise DataError(
                f"sample {wrong[0]} has label {labels[wrong[0]]}, but the output scores {scores.shape[1]} documents"
            )
        found = np.arange(scores.shape[1])[None] == labels[:, None]
    else:
        raise DataError(
            f"a retrieval over one output takes the document of each sample, found {kind(labels)}",
            hint=f"give its column, 0 to {scores.shape[1] - 1}, or a row of {scores.shape[1]} zeros and ones",
        )
    lonely = np.flatnonzero(~found.any(axis=1))
    if len(lonely):
        raise DataError(f"no document belongs to sample {lonely[0]}: its label is a row of zeros")
    return np.asarray(found)


def shown_by(labels: Labels) -> npt.NDArray[np.intp]:
    """Return what each sample shows as numbers from 0, equal where labels are.

    Raises:
        DataError: If labels are not one number or string a sample.
    """
    import numpy as np

    if isinstance(labels, Texts):
        return np.asarray(np.unique(list(labels), return_inverse=True)[1])
    if not isinstance(labels, np.ndarray) or labels.ndim != 1:
        raise DataError(
            f"a retrieval between two outputs takes one number or string a sample, found {kind(labels)}",
            hint="let the label say what the sample shows: samples of one label belong together",
        )
    return np.asarray(np.unique(labels, return_inverse=True)[1])


def similarities(queries: Array, documents: Array) -> Iterator[tuple[FloatArray, slice]]:
    """Give the cosine similarities of some queries at a time to all documents, and which queries they are."""
    import numpy as np

    unit = []
    for array in (queries, documents):
        rows = array.astype(np.float64)
        length = np.linalg.norm(rows, axis=1, keepdims=True)
        unit.append(np.divide(rows, length, out=np.zeros_like(rows), where=length > 0))
    for start in range(0, len(queries), _QUERIES):
        rows_asked = slice(start, start + _QUERIES)
        yield unit[0][rows_asked] @ unit[1].T, rows_asked


def _found(scores: Array, relevant: npt.NDArray[np.bool_], k: int) -> FloatArray:
    """Return for each row whether a relevant column is among the k with the highest scores; ties count against it."""
    import numpy as np

    best = np.where(relevant, scores, -np.inf).max(axis=1, keepdims=True)
    before = (~relevant & (scores >= best)).sum(axis=1)
    return np.asarray(before < k, dtype=np.float64)
