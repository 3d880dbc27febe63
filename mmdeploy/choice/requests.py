"""The requests that every candidate is timed with: the same ones, in a cycle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mmdeploy.choice.options import REQUESTS
from mmdeploy.core.contracts import Array, StepContext
from mmdeploy.core.errors import DataError

#: Of all of them, at most.
_REQUEST_BYTES = 64 * 2**20


def requests_of(context: StepContext, batch: int) -> tuple[list[dict[str, Array]], str]:
    """Return requests of ``batch`` samples, and where they are from."""
    if context.calibration is None:
        return [context.examples(batch)], "examples made from the declared inputs"
    requests, room = list[dict[str, Array]](), _REQUEST_BYTES
    for feeds in context.calibration():
        for request in _sliced(feeds, batch):
            room -= sum(array.nbytes for array in request.values())
            if requests and (room < 0 or len(requests) == REQUESTS):
                return requests, "calibration samples"
            requests.append(request)
    if not requests:
        raise DataError(f"{context.component}: the calibration data gives no sample to time engines with")
    return requests, "calibration samples"


def _sliced(feeds: Mapping[str, Array], batch: int) -> Iterator[dict[str, Array]]:
    """Cut a batch into requests; where it holds less than one, repeat its samples."""
    import numpy as np

    samples = len(next(iter(feeds.values())))
    if samples < batch:
        yield {name: array[np.arange(batch) % samples] for name, array in feeds.items()}
    for start in range(0, samples - batch + 1, batch):
        yield {name: np.ascontiguousarray(array[start : start + batch]) for name, array in feeds.items()}
