"""Ask a deployment for its answers on evaluation samples, and cut samples into requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmdeploy.core.contracts import Array, Check, Deployment, Evidence, FeedDict, Progress, Verdict, WiredComponent
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


def answers(
    deployment: Deployment,
    model: str | None,
    feeds: FeedDict,
    *,
    max_batch_size: int,
    progress: Progress,
    what: str,
) -> dict[str, Array]:
    """Ask for every sample, in batches as large as allowed, and stack the answers along axis 0.

    Args:
        deployment: Who is asked.
        model: A composing model, or None for the ensemble.
        feeds: All samples, stacked along axis 0.
        max_batch_size: Of the ensemble; with 0 each request holds one sample, its batch axis a plain dimension.
        progress: Told the samples done.
        what: What progress calls it.

    Raises:
        InferenceError: If a request is refused, or its answer does not hold one row a sample.
    """
    samples = len(next(iter(feeds.values())))
    step = max(1, max_batch_size)
    runner = deployment.runner(model)
    parts: dict[str, list[Array]] = {}
    try:
        for start in range(0, samples, step):
            stop = min(samples, start + step)
            try:
                answer = runner.infer({name: array[start:stop] for name, array in feeds.items()})
            except InferenceError as error:
                message = f"samples {start} to {stop - 1} refused: {error.message}"
                raise InferenceError(message, hint=error.hint) from error
            for name, array in answer.items():
                if array.ndim == 0 or len(array) != stop - start:
                    raise InferenceError(f"output {name!r} of {stop - start} samples has shape {list(array.shape)}")
                parts.setdefault(name, []).append(array)
            progress(stop, samples, what)
    finally:
        runner.close()
    return {name: _stacked(name, arrays, samples) for name, arrays in parts.items()}


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
