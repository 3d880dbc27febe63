"""Ask a deployment for its answers on evaluation samples, and cut samples into requests."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmdeploy.core.contracts import (
    Array,
    Check,
    Deployment,
    Evidence,
    FeedDict,
    Progress,
    Runner,
    Verdict,
    WiredComponent,
)
from mmdeploy.core.errors import DataError, InferenceError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


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


def component_feeds(component: WiredComponent, evidence: Evidence) -> dict[str, Array]:
    """Return a component's inputs: what clients send, and what the PyTorch original gives upstream of it."""
    tensors = {**evidence.original, **evidence.feeds}
    return {name: tensors[source] for name, source in component.inputs.items()}


def select(tensors: FeedDict, indices: npt.NDArray[np.intp]) -> dict[str, Array]:
    """Return the chosen samples of every tensor."""
    return {name: array[indices] for name, array in tensors.items()}


def requests(feeds: FeedDict, batch: int) -> list[dict[str, Array]]:
    """Cut samples into requests of exactly ``batch`` samples, each sample used at least once.

    The last request is filled up from the front, so that all requests cost the same.

    Args:
        feeds: All samples, stacked along axis 0.
        batch: Samples a request.
    """
    import numpy as np

    samples = len(next(iter(feeds.values())))
    starts = range(0, samples, batch)
    rows = [np.arange(start, start + batch) % samples for start in starts]
    return [{name: np.ascontiguousarray(array[chosen]) for name, array in feeds.items()} for chosen in rows]


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
    feeds: FeedDict,
    *,
    max_batch_size: int,
    progress: Progress,
    what: str,
    sizes: Sequence[int] = (),
) -> dict[str, Array]:
    """Ask for every sample, in batches as large as allowed, and stack the answers along axis 0.

    Where there are fewer samples than the first request holds, samples repeat in it: it is as large as it is said to
    be.

    Args:
        deployment: Who is asked.
        model: A composing model, or None for the ensemble.
        feeds: All samples, stacked along axis 0.
        max_batch_size: Of the ensemble; with 0 each request holds one sample, its batch axis a plain dimension.
        progress: Told the samples done.
        what: What progress calls it.
        sizes: Samples a request, used in turns; as many as allowed when empty.

    Raises:
        InferenceError: If a request is refused, or its answer does not hold one row a sample.
    """
    samples, start = len(next(iter(feeds.values()))), 0
    turns = itertools.cycle(sizes or (max(1, max_batch_size),))
    runner = deployment.runner(model)
    parts: dict[str, list[Array]] = {}
    try:
        while start < samples:
            size = next(turns)
            stop = min(samples, start + size)
            for name, array in _answer(runner, feeds, start, stop, size if start == 0 else stop - start).items():
                parts.setdefault(name, []).append(array)
            progress(stop, samples, what)
            start = stop
    finally:
        runner.close()
    return {name: _stacked(name, arrays, samples) for name, arrays in parts.items()}


def _answer(runner: Runner, feeds: FeedDict, start: int, stop: int, size: int) -> dict[str, Array]:
    """Ask for samples ``start`` to ``stop - 1`` with a request of ``size`` samples, and return their answers."""
    import numpy as np

    rows = slice(start, stop) if size == stop - start else start + np.arange(size) % (stop - start)
    try:
        answer = runner.infer({name: array[rows] for name, array in feeds.items()})
    except InferenceError as error:
        message = f"samples {start} to {stop - 1} refused: {error.message}"
        raise InferenceError(message, hint=error.hint) from error
    for name, array in answer.items():
        if array.ndim == 0 or len(array) != size:
            raise InferenceError(f"output {name!r} of {size} samples has shape {list(array.shape)}")
    return {name: array[: stop - start] for name, array in answer.items()}


def refused(name: str, limit: str, error: InferenceError) -> Check:
    """Turn a refusal by the candidate into a failed check."""
    return Check(name, None, limit, Verdict.FAIL, note=f"the candidate did not answer: {error.message}")


def _stacked(name: str, arrays: list[Array], samples: int) -> Array:
    import numpy as np

    shapes = {array.shape[1:] for array in arrays}
    if len(shapes) > 1:
        raise InferenceError(f"output {name!r} changes shape between requests: {sorted(shapes)}")
    stacked = np.concatenate(arrays)
    if len(stacked) != samples:
        raise InferenceError(f"output {name!r} is missing from some answers")
    return stacked
