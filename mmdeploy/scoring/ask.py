"""Ask a deployment for its answers on evaluation samples, and cut samples into requests."""

from __future__ import annotations

import hashlib
import itertools
import pickle
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from mmdeploy.core.contracts import (
    Array,
    Check,
    Deployment,
    Evidence,
    Progress,
    Runner,
    Verdict,
    WiredComponent,
)
from mmdeploy.core.errors import DataError, InferenceError
from mmdeploy.core.samples import Gathered, Samples, is_ragged, picked, shapes_of
from mmdeploy.core.strings import nbytes

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

#: Answers that are kept for the next gate: what is more is asked again.
_MOST_BYTES = 256 * 2**20


def sample_count(evidence: Evidence) -> int:
    """Return the number of evaluation samples.

    Raises:
        DataError: If there is none, or the inputs disagree about how many there are.
    """
    counts = {name: len(array) for name, array in evidence.feeds.items()}
    if len(set(counts.values())) > 1:
        raise DataError(f"the evaluation inputs disagree about the number of samples: {counts}")
    count = next(iter(counts.values()), 0)
    if count == 0:
        raise DataError(
            "the evaluation data has no samples, so no gate can judge the build",
            hint="let the callable that data.evaluation names give at least one sample",
        )
    return count


def component_feeds(component: WiredComponent, evidence: Evidence) -> Samples:
    """Return a component's inputs: what clients send, and what the PyTorch original gives upstream of it.

    Of the samples that it is run for.
    """
    tensors = {**evidence.original, **evidence.feeds}
    given = Samples({name: tensors[source] for name, source in component.inputs.items()})
    return given if component.samples is None else given.select(component.samples)


def select(columns: Mapping[str, Array], rows: npt.NDArray[np.intp]) -> dict[str, Array]:
    """Return the chosen samples of every column."""
    return {name: picked(column, rows) for name, column in columns.items()}


def requests(feeds: Mapping[str, Array], batch: int) -> list[dict[str, Array]]:
    """Cut samples into requests of exactly ``batch`` samples that are alike, each sample used at least once.

    The last request of samples that are alike is filled up with the first of them, so that all requests of one layout
    cost the same. Where there are several layouts, such as lengths, they come in a fixed random order, so that any
    stretch of requests is like any other.

    Args:
        feeds: Columns by input.
        batch: Samples a request.
    """
    import numpy as np

    samples = Samples.of(feeds)
    groups = samples.groups()
    rows = [np.resize(np.roll(group, -start), batch) for group in groups for start in range(0, len(group), batch)]
    if len(groups) > 1:
        rows = [rows[at] for at in np.random.default_rng(len(rows)).permutation(len(rows))]
    return [{name: np.ascontiguousarray(array) for name, array in samples.take(one).items()} for one in rows]


def spread(samples: int, wanted: int) -> npt.NDArray[np.intp]:
    """Return the indices of so many samples, spread evenly over all; every one where there are no more."""
    import numpy as np

    return np.unique(np.linspace(0, samples - 1, min(samples, wanted)).round().astype(np.intp))


def other_sizes(max_batch_size: int) -> tuple[tuple[int, ...], ...]:
    """Return the sizes of requests to ask with besides the largest: one alone, and odd ones in turns.

    A graph may be right only for the batch that it was made with: each is a way to be wrong that the largest batch
    does not show.
    """
    odd = {3, max_batch_size - 1 - max_batch_size % 2} - {1}
    larger = tuple(sorted(size for size in odd if 1 < size < max_batch_size))
    if max_batch_size < 2:
        return ()
    return ((1,), larger) if larger else ((1,),)


def sizes_in_words(sizes: Sequence[int]) -> str:
    """Return ``batches of 3 and 31``."""
    return f"batches of {' and '.join(map(str, sizes))}"


def answers(
    deployment: Deployment,
    model: str | None,
    feeds: Mapping[str, Array],
    *,
    max_batch_size: int,
    progress: Progress,
    what: str,
    sizes: Sequence[int] = (),
) -> dict[str, Array]:
    """Ask for every sample, in requests of samples that are alike, as large as allowed, and return columns of answers.

    Where fewer samples are alike than the first request holds, they repeat in it: it is as large as it is said to be.

    Args:
        deployment: Who is asked.
        model: A composing model, or None for the ensemble.
        feeds: Columns by input.
        max_batch_size: Of the ensemble; with 0 each request holds one sample, its batch axis a plain dimension.
        progress: Told the samples done.
        what: What progress calls it.
        sizes: Samples a request, used in turns; as many as allowed when empty.

    Raises:
        InferenceError: If a request is refused, or its answer does not hold one row a sample.
    """
    samples, done = Samples.of(feeds), 0
    runner = deployment.runner(model)
    columns: dict[str, Gathered] = {}
    try:
        for rows, size in _turns(samples, sizes or (max(1, max_batch_size),)):
            for name, array in _answer(runner, samples, rows, size if not done else len(rows)).items():
                columns.setdefault(name, Gathered(samples.count)).put(rows, array)
            done += len(rows)
            progress(done, samples.count, what)
    finally:
        runner.close()
    found = {name: gathered.column() for name, gathered in columns.items()}
    for name, column in found.items():
        if any(shape is None for shape in shapes_of(column)):
            raise InferenceError(f"output {name!r} is missing from some answers")
    return found


def of_ensemble(
    deployment: Deployment, evidence: Evidence, feeds: Mapping[str, Array], *, what: str, sizes: Sequence[int] = ()
) -> dict[str, Array]:
    """Ask an ensemble as `answers` does; what one gate has asked is not asked again for another.

    Raises:
        InferenceError: If a request is refused, or its answer does not hold one row a sample.
    """
    samples = Samples.of(feeds)
    key = (id(deployment), evidence.max_batch_size, tuple(sizes), _digest(samples))
    if key in evidence.answered:  # which holds the deployment, so that no other has its id
        evidence.progress(samples.count, samples.count, what)
        return dict(evidence.answered[key][1])
    found = answers(
        deployment, None, samples, max_batch_size=evidence.max_batch_size, progress=evidence.progress, what=what,
        sizes=sizes,
    )  # fmt: skip
    known = sum(_bytes(columns) for _, columns in evidence.answered.values())
    if known + _bytes(found) <= _MOST_BYTES:
        evidence.answered[key] = (deployment, found)
    return dict(found)


def _bytes(columns: Mapping[str, Array]) -> int:
    parts = (one for column in columns.values() for one in (column if is_ragged(column) else [column]))
    return sum(nbytes(one) for one in parts)


def _digest(samples: Samples) -> str:
    """Return a digest of all that samples hold, and of what is made of it."""
    digest = hashlib.sha256()
    for name, column in (*samples.items(), *samples.made.items()):
        buffers: list[pickle.PickleBuffer] = []
        digest.update(pickle.dumps((name, column), protocol=5, buffer_callback=buffers.append))
        for buffer in buffers:
            digest.update(buffer.raw())
    return digest.hexdigest()


def _turns(samples: Samples, sizes: Sequence[int]) -> Iterator[tuple[npt.NDArray[np.intp], int]]:
    """Yield the rows of requests, and the size that each has the turn of; the largest group of samples first."""
    turns = itertools.cycle(sizes)
    for group in sorted(samples.groups(), key=len, reverse=True):
        start = 0
        while start < len(group):
            size = next(turns)
            yield group[start : start + size], size
            start += size


def _answer(runner: Runner, samples: Samples, rows: npt.NDArray[np.intp], size: int) -> dict[str, Array]:
    """Ask for some samples with a request of ``size`` samples, in which they may repeat, and return their answers."""
    import numpy as np

    try:
        answer = runner.infer(samples.take(rows if size == len(rows) else np.resize(rows, size)))
    except InferenceError as error:
        which = f"samples {rows[0]} to {rows[-1]}" if len(rows) > 1 else f"sample {rows[0]}"
        raise InferenceError(f"{which} refused: {error.message}", hint=error.hint) from error
    for name, array in answer.items():
        if array.ndim == 0 or len(array) != size:
            raise InferenceError(f"output {name!r} of {size} samples has shape {list(array.shape)}")
    return {name: array[: len(rows)] for name, array in answer.items()}


def refused(name: str, limit: str, error: InferenceError) -> Check:
    """Turn a refusal by the candidate into a failed check."""
    return Check(name, None, limit, Verdict.FAIL, note=f"the candidate did not answer: {error.message}")
