"""Score with any class of torchmetrics, or one derived from its ``Metric``.

The first parameter of the class's ``update`` gets the output (or, where the recipe names several outputs, each goes to
the parameter of its name), the second the labels; labels that are dicts go to the parameters of their names. Where
outputs differ in shape, ``update`` is called once for each sample, with a batch of one.

The classes of ``torchmetrics.retrieval`` group documents by query. They are served in three ways: two outputs, such as
an image and a text embedding, whose cosine similarities rank every sample's second output for its first (labels say
what a sample shows); one output [samples, documents], a label naming a sample's document; or one score a sample, a
sample being a query and a document, with labels ``{"target": 0 or 1, "indexes": number of the query}``: there, as in
torchmetrics, a score of 0 or below is a document that was not found.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mmdeploy.core.artifact import Array
from mmdeploy.core.errors import DataError, MetricError
from mmdeploy.core.labels import Labels, Ragged, Table, Texts, kind
from mmdeploy.core.samples import is_ragged
from mmdeploy.scoring import retrieval
from mmdeploy.scoring.scored import Scored, mean_of, one_by_one

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Query = tuple[Array, npt.NDArray[np.bool_]]


def is_metric_class(found: object) -> bool:
    """Say whether something is a class derived from torchmetrics' ``Metric``."""
    from torchmetrics import Metric

    return isinstance(found, type) and issubclass(found, Metric)


def score(metric: Any, name: str, answers: Mapping[str, Array], labels: Labels) -> Scored:
    """Score answers with an instance; intervals are for `Scored.of`, or by query where the score is a mean over them.

    Args:
        metric: The instance; its state is reset.
        name: Of the metric, for messages.
        answers: The outputs that it sees, by name.
        labels: One a sample.

    Raises:
        MetricError: If it gives something that is no number.
        DataError: If outputs and labels do not fit it.
    """
    from torchmetrics.retrieval.base import RetrievalMetric

    if isinstance(metric, RetrievalMetric):
        return _retrieval(metric, name, _queries(name, list(answers.values()), labels))
    given = _arguments(metric, name, answers, labels)
    samples = len(next(iter(answers.values())))
    uneven = any(is_ragged(column) for column in answers.values())

    def value(rows: npt.NDArray[np.intp]) -> float:
        whole = len(rows) == samples and bool((rows[1:] > rows[:-1]).all())
        metric.reset()
        if uneven:
            for row in rows:
                metric.update(**{key: _alone(values, int(row)) for key, values in given.items()})
        else:
            metric.update(**(given if whole else {key: _taken(values, rows) for key, values in given.items()}))
        return number(metric.compute(), name)

    return one_by_one(value, samples)


def number(found: Any, name: str) -> float:
    """Return what a metric gave as a number.

    Raises:
        MetricError: If it is none.
    """
    import torch

    if isinstance(found, torch.Tensor) and found.numel() == 1:
        return float(found)
    if isinstance(found, int | float):
        return float(found)
    what = f"a tensor of shape {list(found.shape)}" if isinstance(found, torch.Tensor) else f"a {type(found).__name__}"
    raise MetricError(
        f"{name} gave {what}, expected one number",
        hint="choose by `arguments` what it averages over, or write a metric of your own that picks one of them",
    )


def _arguments(metric: Any, name: str, answers: Mapping[str, Array], labels: Labels) -> dict[str, Any]:
    """Return what ``update`` is called with, by parameter."""
    parameters = [one for one in inspect.signature(metric.update).parameters.values() if one.kind in (1, 3)]
    names = [one.name for one in parameters]
    if len(answers) == 1:
        given = {names[0]: _tensors(next(iter(answers.values())))}
    else:
        given = {output: _tensors(array) for output, array in answers.items()}
    rest = [one for one in names if one not in given]
    if isinstance(labels, Table):
        given |= {key: _tensors(column) for key, column in labels.columns.items()}
    elif rest:
        given[rest[0]] = _tensors(labels)
    unknown = [key for key in given if key not in names]
    missing = [one.name for one in parameters if one.name not in given and one.default is inspect.Parameter.empty]
    if unknown or missing:
        wrong = f"has no parameter {unknown[0]!r}" if unknown else f"also takes {missing[0]!r}"
        raise DataError(
            f"{name}: its update({', '.join(names)}) {wrong}",
            hint="name one output under `outputs`, and labels after the other parameters, in a dict where there are "
            "several; or write a metric of your own",
        )
    return given


def _tensors(values: Labels) -> Any:
    """Return an output or labels as torchmetrics takes them: ids in int64, text and what varies in length in lists."""
    import numpy as np
    import torch

    if isinstance(values, Texts):
        return list(values)
    if isinstance(values, Ragged):
        return list(values) if isinstance(values.values, Texts) else [_tensors(np.asarray(one)) for one in values]
    assert isinstance(values, np.ndarray)
    if is_ragged(values):
        return [_tensors(one) for one in values]
    if values.dtype.kind in "iu":
        return torch.from_numpy(values.astype(np.int64))
    if values.dtype == np.float16:
        return torch.from_numpy(values.astype(np.float32))
    return torch.from_numpy(np.array(values))


def _alone(values: Any, row: int) -> Any:
    """Return a batch of one sample."""
    one = values[row]
    return one[None] if hasattr(one, "shape") else [one]


def _taken(values: Any, rows: npt.NDArray[np.intp]) -> Any:
    return [values[index] for index in rows] if isinstance(values, list) else values[rows]


def _queries(name: str, outputs: Sequence[Array], labels: Labels) -> list[Query]:
    """Return each query's scores and which of its documents belong to it."""
    if len(outputs) == 2:
        ids = retrieval.shown_by(labels)
        if outputs[0].ndim != 2 or outputs[0].shape != outputs[1].shape:
            raise DataError(
                f"{name} takes two embeddings of one shape, found {list(outputs[0].shape)} and {list(outputs[1].shape)}"
            )
        rows = (row for similarity, _ in retrieval.similarities(*outputs) for row in similarity)
        return [(_ranks(row), ids == own) for row, own in zip(rows, ids, strict=True)]
    if len(outputs) != 1:
        raise DataError(f"{name} takes one output or two, found {len(outputs)}", hint="name them under `outputs`")
    if isinstance(labels, Table):
        return _grouped(name, outputs[0], labels)
    if outputs[0].ndim != 2 or outputs[0].shape[1] < 2:
        raise DataError(
            f"{name} groups documents by query, and the labels ({kind(labels)}) name no query",
            hint="yield ({...}, {'target': 0 or 1, 'indexes': number of the query}) for each sample; or name the two "
            "embeddings to compare under `outputs`",
        )
    relevant = retrieval.relevance(outputs[0], labels)
    return [(_ranks(row), belongs) for row, belongs in zip(outputs[0], relevant, strict=True)]


def _ranks(scores: Array) -> Array:
    """Return the ranks of scores, from 1, equal where they are.

    A retrieval is a matter of order, but torchmetrics takes a score of 0 or below for a document that was not found,
    and similarities may be negative.
    """
    import numpy as np

    return np.asarray(np.unique(scores, return_inverse=True)[1] + 1)


def _grouped(name: str, output: Array, labels: Table) -> list[Query]:
    import numpy as np

    columns = [labels.columns.get(key) for key in ("target", "indexes")]
    if set(labels.columns) != {"target", "indexes"} or not all(
        isinstance(one, np.ndarray) and one.ndim == 1 and one.dtype.kind in "iub" for one in columns
    ):
        raise DataError(
            f"{name} takes labels with whole numbers 'target' and 'indexes', found {kind(labels)}",
            hint="target says whether the document belongs to the query, indexes numbers the query",
        )
    if output.size != len(output):
        raise DataError(f"{name} takes one score a sample where labels have 'indexes', found {list(output.shape)}")
    target, indexes = (np.asarray(one) for one in columns)
    scores = output.reshape(len(output))
    return [(scores[rows], target[rows].astype(bool)) for rows in (indexes == one for one in np.unique(indexes))]


def _retrieval(metric: Any, name: str, queries: Sequence[Query]) -> Scored:
    import numpy as np
    import torch

    def value(chosen: Sequence[int] | npt.NDArray[np.intp]) -> float:
        picked = [queries[index] for index in chosen]
        metric.reset()
        metric.update(
            torch.from_numpy(np.concatenate([scores.astype(np.float32) for scores, _ in picked])),
            torch.from_numpy(np.concatenate([belongs for _, belongs in picked])),
            indexes=torch.repeat_interleave(torch.tensor([len(scores) for scores, _ in picked])),
        )
        return number(metric.compute(), name)

    if metric.aggregation == "mean" and metric.empty_target_action != "skip":
        return mean_of(np.array([value([index]) for index in range(len(queries))]))
    return one_by_one(value, len(queries))
