"""Makes JSON of what a model gives: outputs row by row, its best classes, how sure it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmdeploy.core.contracts import Array
from mmdeploy.core.strings import text_of
from mmdeploy.gateway.catalogue import Best, Model, Output

_MOST_CLASSES = 5


def rows_of_answer(model: Model, answers: Mapping[str, Array], sent: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """Return what each row is answered: ``outputs``, ``top`` and ``modalities``.

    A value that is no number (JSON has no NaN) is null, and its output is named in ``not_finite``.

    Args:
        model: Who gave them.
        answers: Arrays by output.
        sent: The inputs that each row has.
    """
    rows = []
    for at, names in enumerate(sent):
        arrays = {name: array[at] if model.max_batch_size else array for name, array in answers.items()}
        row: dict[str, Any] = {
            "outputs": {name: _listed(array) for name, array in arrays.items()},
            "top": _top(model, arrays),
            "modalities": {"used": list(names), "missing": [one for one in model.inputs if one not in names]},
        }
        if strange := [name for name, array in arrays.items() if not _finite(array)]:
            row["not_finite"] = strange
        rows.append(row)
    return rows


def confidences(model: Model, answers: Mapping[str, Array]) -> dict[str, list[float]]:
    """Return by output of scores the largest share of each row."""
    found: dict[str, list[float]] = {}
    for name, array in answers.items():
        output = model.outputs.get(name)
        rows = np.atleast_2d(array) if array.dtype.kind == "f" else None
        if output is None or rows is None or rows.ndim != 2 or not rows.shape[1]:
            continue
        if output.meaning in ("logits", "probabilities"):
            found[name] = [float(one) for one in shares(output, rows).max(axis=1) if np.isfinite(one)]
        elif any(one.scores == name and one.shares for one in model.best):
            found[name] = [float(one) for one in rows.max(axis=1) if np.isfinite(one)]
    return found


def shares(output: Output, scores: Array) -> Array:
    """Return scores as shares of 1 along the last axis; shares stay what they are."""
    if output.meaning == "probabilities":
        return scores
    values = scores.astype(np.float64)
    with np.errstate(invalid="ignore"):
        raised = np.exp(values - values.max(axis=-1, keepdims=True))
        return np.asarray(raised / raised.sum(axis=-1, keepdims=True))


def _top(model: Model, arrays: Mapping[str, Array]) -> dict[str, list[dict[str, Any]]]:
    """Return the best classes of a row, by the output that tells them."""
    found: dict[str, list[dict[str, Any]]] = {}
    for best in model.best:
        found[str(best.labels or best.ids)] = _told(best, arrays)
    for name, array in arrays.items():
        output = model.outputs.get(name)
        if output is None or output.meaning not in ("logits", "probabilities") or array.ndim != 1:
            continue
        scores = shares(output, array)
        order = np.argsort(-np.nan_to_num(scores, nan=-1.0), kind="stable")[:_MOST_CLASSES]
        found[name] = [_class(int(at), output.labels, float(scores[at])) for at in order]
    return found


def _class(at: int, labels: Sequence[str], share: float) -> dict[str, Any]:
    named = {"label": labels[at]} if at < len(labels) else {}
    return {"class": at, **named, "share": _number(share)}


def _told(best: Best, arrays: Mapping[str, Array]) -> list[dict[str, Any]]:
    columns: dict[str, list[Any]] = {}
    for key, name in (("class", best.ids), ("label", best.labels), ("share" if best.shares else "score", best.scores)):
        if name is not None and name in arrays:
            columns[key] = list(np.ravel(arrays[name]).tolist())
    size = min(map(len, columns.values()), default=0)
    return [{key: _scalar(values[at]) for key, values in columns.items()} for at in range(size)]


def _scalar(value: Any) -> Any:
    if isinstance(value, bytes):
        return text_of(value)
    return _number(value) if isinstance(value, float) else value


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _finite(array: Array) -> bool:
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


def _listed(array: Array) -> Any:
    if array.dtype == object or not _finite(array):
        return _mended(array.tolist())
    return array.tolist()


def _mended(value: Any) -> Any:
    return [_mended(one) for one in value] if isinstance(value, list) else _scalar(value)
