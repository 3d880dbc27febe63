"""How sure the candidate's served answers were on the evaluation samples: what live answers are compared with.

``confidence.json`` beside a release holds a histogram for each output of class scores: one of shares (each row sums
to one), or one that an accuracy gate scored as classes, whose scores a softmax makes shares. A build without gates
serves nothing, and has none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmdeploy.core.artifact import Array
from mmdeploy.core.contracts import Evidence, GateResult
from mmdeploy.core.errors import InferenceError
from mmdeploy.core.samples import Samples
from mmdeploy.scoring import ask
from mmdeploy.scoring.confidence import BUCKETS, Kind, are_shares, confidence, counts

#: Beside a release.
FILENAME = "confidence.json"
#: More tell little more: at 2000 the share of a bucket is known to 2 points.
_MOST_SAMPLES = 2000
_OF_CLASSES = frozenset({"top1", "accuracy", "top5", "f1_macro", "auroc", "worst_class_recall", "ece"})


def served_confidence(evidence: Evidence, results: Sequence[GateResult]) -> dict[str, Any]:
    """Ask the candidate, and return a histogram by output; none where no output is of class scores.

    Args:
        evidence: The candidate, up and ready, with the samples.
        results: Of the gates: which outputs are classes.
    """
    of_classes = frozenset(_of_classes(results))
    wanted = [name for name in evidence.ensemble_outputs if _may_be_scores(evidence, name)]
    feeds = Samples.of(evidence.feeds)
    if not wanted or not feeds.count:
        return {}
    try:
        answers = ask.answers(
            evidence.candidate,
            None,
            feeds.select(ask.spread(feeds.count, _MOST_SAMPLES)),
            max_batch_size=evidence.max_batch_size,
            progress=evidence.progress,
            what="how sure answers are",
        )
    except InferenceError:  # a gate that asked the same has said so
        return {}
    found = {name: _histogram(answers[name], name in of_classes) for name in wanted if name in answers}
    return {name: histogram for name, histogram in found.items() if histogram}


def write_confidence(folder: Path, outputs: Mapping[str, Any]) -> dict[str, Path]:
    """Write the file into a folder; return it by the name that it has beside a release, nothing where there is none."""
    if not outputs:
        return {}
    (folder / FILENAME).write_text(json.dumps({"outputs": outputs}, indent=1) + "\n", encoding="utf-8")
    return {FILENAME: folder / FILENAME}


def _of_classes(results: Sequence[GateResult]) -> Iterator[str]:
    for result in results:
        if result.details.get("metric") in _OF_CLASSES:
            yield from result.details.get("outputs", ())


def _may_be_scores(evidence: Evidence, name: str) -> bool:
    """Say whether the original gives rows of several floats; what steps of the recipe make of them is not known."""
    column = evidence.original.get(name)
    return column is None or _is_rows(column)


def _is_rows(column: Array) -> bool:
    return bool(column.dtype.kind == "f" and column.ndim == 2 and column.shape[1] > 1)


def _histogram(answers: Array, of_classes: bool) -> dict[str, Any]:
    import numpy as np

    if not _is_rows(answers) or not np.isfinite(answers).all():
        return {}
    kind: Kind = "probabilities" if are_shares(answers) else "logits"
    if kind == "logits" and not of_classes:
        return {}
    return {
        "bucket_upper_bounds": list(BUCKETS),
        "counts": counts(confidence(answers, kind)),
        "samples": len(answers),
        "from": kind,
    }
