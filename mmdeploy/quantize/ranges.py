"""Ranges of activations on calibration data, in memory that does not grow with the number of samples.

The graph is run once with the wanted tensors as outputs, for their smallest and largest values. All calibrators but
``minmax`` run it a second time and count into histograms over those limits, so a histogram never grows and the
result does not depend on how samples are batched. ONNX Runtime's calibrators keep every activation of everything
they are given, and widen histograms by whole bins when a later batch exceeds the first.

Held at a time: the activations of one batch, and 2048 counters a tensor (8192 for ``mse``). Of the first batches up to
256 MiB of activations are held besides, so that the graph does not run on those again.

A percentile cannot be told from a few values: 99.99 % leaves one in 20,000 beyond each end, and the largest of 4,000 is
less than that. ``percentile`` makes such ranges wider, by `_HEADROOM` of what they are where next to nothing is known
and by less the more values there are. Heads of small vectors need it most, where one value that is clipped turns the
answer: of 16 to 64 samples the worst of 200 others had a cosine of 0.85 to 0.93 without and 0.98 to 0.99 with it, in
one head; the noise of components for which the ranges had been wide enough grew by up to 3 dB, from 41 and 37 dB.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmdeploy.core.contracts import Array, Progress, StepContext, no_progress
from mmdeploy.core.errors import QuantizeError
from mmdeploy.quantize import kl, mse
from mmdeploy.quantize.scheme import Calibrator
from mmdeploy.quantize.set_aside import SetAside, set_aside

Feeds = Callable[[], Iterator[dict[str, Array]]]
BINS = 2048
#: Activations that are kept between the two runs over the samples.
_KEPT_BYTES = 256 * 2**20
#: Share by which a percentile of next to no values is taken to lie beyond the largest of them.
_HEADROOM = 0.4


@dataclass(frozen=True)
class CalibratedOn:
    """What ranges rest on, for advice.

    Attributes:
        samples: Their number.
    """

    samples: int


@dataclass(frozen=True)
class Limits:
    """What a quantize step says of its ranges.

    Attributes:
        calibrator: How they were found.
        ranges: Smallest and largest value by tensor.
    """

    calibrator: Calibrator
    ranges: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Calibration:
    """How ranges are found.

    Attributes:
        calibrator: ``minmax``, ``entropy``, ``percentile`` or ``mse``.
        percentile: Share of the values that ``percentile`` keeps, in percent.
        symmetric: Whether ``mse`` judges ranges by codes around zero.
        threads: Threads for ONNX Runtime.
        total: Number of samples expected, for progress; None when unknown.
        progress: Where to report.
        answers: Batches of which the graph's own outputs are kept, too.
    """

    calibrator: Calibrator
    percentile: float = 99.99
    symmetric: bool = False
    threads: int = 1
    total: int | None = None
    progress: Progress = no_progress
    answers: int = 0


@dataclass(frozen=True)
class Found:
    """What was found.

    Attributes:
        by_tensor: Ranges.
        samples: Number of samples that they were found on.
        histograms: Of ``mse``, what they were found in.
        answers: What the graph answered to each of the first batches, as many as were asked for.
    """

    by_tensor: Mapping[str, tuple[float, float]]
    samples: int
    histograms: Mapping[str, mse.Histogram] = field(default_factory=dict)
    answers: Sequence[Mapping[str, Array]] = ()


def first_samples(context: StepContext, samples: int, batch_size: int) -> Feeds:
    """Return a callable that iterates over the first calibration samples, in batches of at most ``batch_size``."""
    calibration = context.calibration
    assert calibration is not None

    def iterate() -> Iterator[dict[str, Array]]:
        left = samples
        for feed in calibration():
            size = len(next(iter(feed.values())))
            for start in range(0, min(size, left), batch_size):
                stop = min(start + batch_size, size, left)
                yield {name: array[start:stop] for name, array in feed.items()}
            left -= min(size, left)
            if not left:
                return

    return iterate


def find(model: Any, tensors: Sequence[str], feeds: Feeds, how: Calibration) -> Found:
    """Find the range of each tensor.

    Args:
        model: The float graph, set aside or whole.
        tensors: Tensors of it, activations or inputs.
        feeds: Gives the batches; called once for ``minmax``, twice otherwise.
        how: The method.

    Raises:
        QuantizeError: When there is no data, or an activation holds NaN or Inf.
    """
    collector, kept, answers = Collector(how), _Kept(how.calibrator != "minmax"), _Answers(model, tensors, how.answers)
    samples = 0
    with watching(model, [*tensors, *answers.apart], how.threads) as watch:
        for batch, feed in enumerate(feeds()):
            for name, array in kept.noted(answers.noted(watch(feed))):
                collector.widen(name, array, f"{name!r} in calibration batch {batch}")
            samples += _size(feed)
            how.progress(samples, how.total, "calibration samples: smallest and largest values")
        if not samples:
            raise QuantizeError("the calibration set is empty")
        if how.calibrator == "minmax":
            return Found(collector.ranges(), samples, answers=answers.batches)
        counted = 0
        for batch, feed in enumerate(feeds()):
            for name, array in kept.batches[batch] if batch < len(kept.batches) else answers.noted(watch(feed)):
                collector.count(name, array)
            counted += _size(feed)
            how.progress(counted, samples, "calibration samples: histograms")
    return Found(collector.ranges(), samples, collector.histograms(), answers.batches)


class _Answers:
    """The outputs of a graph to the first batches; they come with the activations, from the same run."""

    def __init__(self, model: Any, tensors: Sequence[str], count: int) -> None:
        self._outputs = [value.name for value in model.graph.output] if count else []
        self._count = count
        self.apart = [name for name in self._outputs if name not in tensors]
        self.batches: list[dict[str, Array]] = []

    def noted(self, arrays: Iterator[tuple[str, Array]]) -> Iterator[tuple[str, Array]]:
        """Give the activations of a batch, without outputs that are none of them."""
        answered: dict[str, Array] = {}
        for name, array in arrays:
            if name in self._outputs:
                answered[name] = array
            if name not in self.apart:
                yield name, array
        if len(self.batches) < self._count:
            self.batches.append({name: answered[name] for name in self._outputs})


class _Kept:
    """The activations of the first batches, up to `_KEPT_BYTES`: the graph is not run on those again."""

    def __init__(self, wanted: bool) -> None:
        self.batches: list[list[tuple[str, Array]]] = []
        self._room_bytes = _KEPT_BYTES if wanted else 0

    def noted(self, arrays: Iterator[tuple[str, Array]]) -> Iterator[tuple[str, Array]]:
        """Give the activations of a batch, and keep them where there is room for all of them."""
        held: list[tuple[str, Array]] = []
        for name, array in arrays:
            self._room_bytes -= array.nbytes
            if self._room_bytes >= 0:
                held.append((name, array))
            else:
                held.clear()
            yield name, array
        if self._room_bytes >= 0 and held:
            self.batches.append(held)


class Collector:
    """Finds ranges of arrays that are given to it twice: first to `widen`, then, but for ``minmax``, to `count`."""

    def __init__(self, how: Calibration) -> None:
        """Start with no array."""
        self._how = how
        self._extremes: dict[str, tuple[float, float]] = {}
        self._histograms: _Histograms | None = None

    def widen(self, name: str, array: Array, where: str) -> None:
        """Take an array into the smallest and largest value.

        Raises:
            QuantizeError: When it holds NaN or Inf; the message says ``where``.
        """
        self._extremes[name] = _widened(self._extremes.get(name), array, where)

    def count(self, name: str, array: Array, where: str = "") -> None:
        """Count the values of an array that `widen` has had."""
        if self._histograms is None:
            self._histograms = _Histograms(self._extremes, self._how)
        self._histograms.add(name, array)

    def ranges(self) -> dict[str, tuple[float, float]]:
        """Return the range of each name."""
        if self._histograms is None:
            return dict(self._extremes)
        return {name: self._histograms.range_of(name) for name in self._extremes}

    def histograms(self) -> dict[str, mse.Histogram]:
        """Return what the ranges of ``mse`` are found in, which depend on the encoding; nothing of others."""
        if self._histograms is None or self._how.calibrator != "mse":
            return {}
        return {name: self._histograms.of(name) for name in self._extremes}


def headroom(values: int, percentile: float) -> float:
    """Return the share by which a percentile that was found on so many values is too small.

    Nothing of twice as many as leave one beyond each end, and where all are to be kept.
    """
    beyond = values * (100.0 - percentile) / 200.0
    return _HEADROOM * max(0.0, 1.0 - beyond / 2.0) if percentile < 100.0 else 0.0


def channel_maxima(model: Any, tensors: Sequence[str], feeds: Feeds, *, threads: int) -> dict[str, Array]:
    """Return the largest magnitude of each channel, the last axis, of each tensor [channels].

    Raises:
        QuantizeError: When there is no data, or an activation holds NaN or Inf.
    """
    import numpy as np

    maxima: dict[str, Array] = {}
    with watching(model, tensors, threads) as watch:
        for batch, feed in enumerate(feeds()):
            for name, array in watch(feed):
                _widened(None, array, f"{name!r} in calibration batch {batch}")
                found = np.abs(array).reshape(-1, array.shape[-1]).max(axis=0, initial=0)
                maxima[name] = np.maximum(maxima[name], found) if name in maxima else found
    if tensors and not maxima:
        raise QuantizeError("the calibration set is empty")
    return maxima


def _size(feed: Mapping[str, Array]) -> int:
    return len(next(iter(feed.values())))


def _widened(before: tuple[float, float] | None, array: Array, where: str) -> tuple[float, float]:
    import numpy as np

    if not array.size:
        return before or (0.0, 0.0)
    low, high = float(array.min()), float(array.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise QuantizeError(
            f"the activation {where} holds NaN or Inf, though the inputs are finite",
            hint="the model overflows on this data: look at the layer that computes it",
        )
    return (low, high) if before is None else (min(before[0], low), max(before[1], high))


class _Histograms:
    """One `HistogramCollector` of ONNX Runtime, every histogram set up beforehand over fixed limits."""

    def __init__(self, extremes: Mapping[str, tuple[float, float]], how: Calibration) -> None:
        import numpy as np
        from onnxruntime.quantization.calibrate import HistogramCollector

        self._how = how
        bins = mse.BINS if how.calibrator == "mse" else BINS
        self._collector = HistogramCollector(
            method=how.calibrator, symmetric=False, num_bins=bins, num_quantized_bins=kl.LEVELS,
            percentile=how.percentile, scenario="same",
        )  # fmt: skip
        for name, (low, high) in extremes.items():
            limit = np.float32(max(abs(low), abs(high)))
            self._collector.histogram_dict[name] = (
                np.zeros(bins, dtype=np.int64),
                np.linspace(-limit, limit, bins + 1, dtype=np.float32),
                np.float32(low),
                np.float32(high),
                limit,
            )

    def add(self, name: str, array: Array) -> None:
        if array.size:
            self._collector.collect_value({name: array})

    def range_of(self, name: str) -> tuple[float, float]:
        counts, edges, low, high, limit = self._collector.histogram_dict[name]
        if limit == 0:
            return 0.0, 0.0
        if self._how.calibrator == "percentile":
            wider = 1.0 + headroom(int(counts.sum()), self._how.percentile)
            low, high = (wider * limit for limit in self._percentiles(name))
        elif self._how.calibrator == "mse":
            low, high = self.of(name).limits(symmetric=self._how.symmetric)
        else:
            left, right = kl.limits(counts, edges)
            low, high = max(float(low), left), min(float(high), right)
        return float(low), float(high)

    def of(self, name: str) -> mse.Histogram:
        counts, _, low, high, _ = self._collector.histogram_dict[name]
        return mse.Histogram(counts, float(low), float(high))

    def _percentiles(self, name: str) -> tuple[float, float]:
        everything = self._collector.histogram_dict
        self._collector.histogram_dict = {name: everything[name]}
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                low, high, *_ = self._collector.compute_percentile()[name]
        finally:
            self._collector.histogram_dict = everything
        return float(low), float(high)


@contextlib.contextmanager
def watching(
    model: Any, tensors: Sequence[str], threads: int
) -> Iterator[Callable[[Mapping[str, Array]], Iterator[tuple[str, Array]]]]:
    """Open the graph with the tensors as its only outputs; nodes that none of them needs are not run.

    At the end its session is let go, with the pages of all weights, whoever still holds what it gave.
    """
    given = {value.name for value in model.graph.input}
    computed = [name for name in tensors if name not in given]
    direct = [name for name in tensors if name in given]
    session = _session(set_aside(model), computed, threads) if computed else None

    def watch(feed: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
        for name in direct:
            yield name, feed[name]
        if session is not None:
            outputs = session.run(computed, dict(feed))
            while outputs:  # give each back as soon as it is counted
                yield computed[len(outputs) - 1], outputs.pop()

    try:
        yield watch
    finally:
        session = None


def _session(aside: SetAside, computed: Sequence[str], threads: int) -> Any:
    import onnx

    values = {value.name: value for value in (*aside.graph.value_info, *aside.graph.output)}
    unknown = {name: onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in computed}
    try:
        return aside.session(threads, [values.get(name, unknown[name]) for name in computed])
    except Exception as cause:
        raise QuantizeError(f"ONNX Runtime cannot load the float graph: {cause}") from cause
