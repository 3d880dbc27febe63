"""Writes down golden requests while the servers of the gates are up: see `mmdeploy.triton.golden`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmdeploy.core.artifact import Array
from mmdeploy.core.contracts import Evidence, FeedDict, Runner
from mmdeploy.core.errors import InferenceError
from mmdeploy.triton.golden import FLOOR, SHARE, SPREAD, Answer, Golden, GoldenRequest, distance, usual_norms
from mmdeploy.triton.golden import write_golden as write

#: Whole requests, requests without some of the optional inputs, and how large all may be together; one is always kept.
_WHOLE, _PARTIAL, _MOST_BYTES = 6, 8, 8 * 2**20


@dataclass(frozen=True)
class GoldenRequests:
    """Writes golden requests down before what else is measured beside the gates.

    Attributes:
        path: Where to.
        model: Name of the ensemble.
        then: What else is measured.
    """

    path: Path
    model: str
    then: Callable[[Evidence], tuple[str, ...]]

    def __call__(self, evidence: Evidence) -> tuple[str, ...]:
        """Return what else was measured."""
        write_golden(self.path, self.model, evidence)
        return self.then(evidence)


def write_golden(path: Path, model: str, evidence: Evidence) -> None:
    """Ask the candidate some evaluation samples, and write down what it answers.

    Args:
        path: The file.
        model: Name of the ensemble.
        evidence: The candidate and its FP32 reference, up and ready, with the samples.

    Raises:
        InferenceError: If a sample is refused that the gates asked, too.
        ServerError: If a server does not answer.
    """
    with closing(evidence.candidate.runner()) as candidate, closing(evidence.reference.runner()) as reference:
        asked = list(_within(_MOST_BYTES, _requests(evidence)))
        answers = [_copied(candidate.infer(feed)) for _, feed in asked]
        again = [_copied(candidate.infer(feed)) for _, feed in asked]
        originals = [_copied(reference.infer(feed)) for _, feed in asked]
        known = originals[0].keys()  # which way a row of a cascade went, the reference has not
        answers, again = ([{name: one[name] for name in known} for one in some] for some in (answers, again))
        together = _together(candidate, [feed for _, feed in asked], evidence.max_batch_size)
    usual = usual_norms(answers)
    tolerances = {}
    for name in answers[0]:
        norm = usual.get(name, 0.0)
        others = [(answer[name], other[name]) for answer, other in zip(answers, again, strict=True)]
        others += [(answers[row][name], answer[name]) for row, answer in together.items()]
        spread = max(distance(other, answer, norm) for answer, other in others)
        changed = [distance(one[name], answer[name], norm) for one, answer in zip(originals, answers, strict=True)]
        meant = max((one for one in changed if math.isfinite(one)), default=0.0)
        tolerances[name] = max(SPREAD * spread, SHARE * meant, FLOOR)
    requests = tuple(
        GoldenRequest(about, _on_the_wire(feed), _on_the_wire(answer))
        for (about, feed), answer in zip(asked, answers, strict=True)
    )
    write(path, Golden(model, requests, tolerances))


def _requests(evidence: Evidence) -> Iterator[tuple[str, dict[str, Array]]]:
    """Give requests of one sample each: whole ones and, in turns, ones without optional inputs."""
    partial = (
        (one.without, 0 if one.samples is None else int(one.samples[0]))
        for one in evidence.subsets[:_PARTIAL]
        if one.samples is None or len(one.samples)
    )
    left = list(partial)
    for row in range(min(_WHOLE, evidence.feeds.count)):
        yield f"sample {row}", evidence.feeds.take([row])  # type: ignore[arg-type]
        if left:
            yield _without(evidence, *left.pop(0))
    for one in left:
        yield _without(evidence, *one)


def _without(evidence: Evidence, names: tuple[str, ...], row: int) -> tuple[str, dict[str, Array]]:
    return f"sample {row} without {', '.join(names)}", evidence.feeds.without(names).take([row])  # type: ignore[arg-type]


def _within(most: int, requests: Iterator[tuple[str, dict[str, Array]]]) -> Iterator[tuple[str, dict[str, Array]]]:
    """Give requests until they are too large together; the first in any case."""
    total = 0
    for about, feed in requests:
        total += sum(sum(map(len, one.ravel())) if one.dtype == object else one.nbytes for one in feed.values())
        yield about, feed
        if total > most:
            return


def _together(candidate: Runner, feeds: list[dict[str, Array]], most: int) -> dict[int, Answer]:
    """Ask the requests that are like the first in one batch; return what each was answered there."""
    first = feeds[0]
    alike = [
        row
        for row, feed in enumerate(feeds)
        if {name: (one.dtype, one.shape) for name, one in feed.items()}
        == {name: (one.dtype, one.shape) for name, one in first.items()}
    ][: max(1, most)]
    if len(alike) < 2:
        return {}
    batch: FeedDict = {name: np.concatenate([feeds[row][name] for row in alike]) for name in first}
    try:
        answer = candidate.infer(batch)
    except InferenceError:  # media that look alike until they are read
        return {}
    rows = len(next(iter(first.values())))
    return {
        row: {name: one[index * rows : (index + 1) * rows].copy() for name, one in answer.items()}
        for index, row in enumerate(alike)
    }


def _copied(answer: Answer) -> dict[str, Array]:
    return {name: array.copy() for name, array in answer.items()}


def _on_the_wire(tensors: Answer) -> dict[str, Array]:
    """Return tensors as clients of Triton send and get them: it has no scalars, one value a sample is [N, 1]."""
    return {name: array.reshape(-1, 1) if array.ndim == 1 else array for name, array in tensors.items()}
