"""What static quantization leaves open, settled by trying it: equalization, and the calibrator of a transformer.

Each is fitted to some calibration samples and judged on others, by the noise at the component's outputs in the
encoding that is written. Equalization is tried where a normalization feeds linear layers, so on transformers; nothing
else gains by it enough to pay for the trial. A simpler way is kept unless another is better by `_MARGIN_DB`, and no
other is tried where it leaves `_QUIET_DB`. The three components of spoken_digits take 1.4 s of processor time for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmdeploy.core.contracts import Array, StepContext
from mmdeploy.quantize import encode, equalize, held_out, ranges, selection
from mmdeploy.quantize.scheme import CalibrationOptions, Calibrator, Scheme
from mmdeploy.quantize.set_aside import set_aside, whole

#: What equalization tries, the simplest first.
_STRENGTHS: tuple[float | None, ...] = (None, 0.5)
#: What the calibrator is where nothing is tried, and what is tried beside it.
DEFAULT_CALIBRATOR: Calibrator = "percentile"
_CALIBRATORS: tuple[Calibrator, ...] = (DEFAULT_CALIBRATOR, "mse")
#: Samples of a trial: half of them to fit to, half of them to judge by.
_MOST_SAMPLES = 64
_FEWEST_SAMPLES = 8
_MARGIN_DB = 0.2
#: From here on nothing more is tried: what is left of the noise is seen by no metric.
_QUIET_DB = 35.0


class Settings(CalibrationOptions, Scheme):
    """Everything that decides the numbers: what the options of static and of a search over it have in common."""


@dataclass(frozen=True)
class Trial:
    """One way that was tried.

    Attributes:
        equalize: Strength of the equalization; None for none.
        calibrator: How ranges were found.
        sqnr_db: Noise at the component's outputs on the samples held out.
    """

    equalize: float | None
    calibrator: Calibrator
    sqnr_db: float


@dataclass(frozen=True)
class Trials:
    """What a quantize step says in its metadata of what it tried."""

    trials: tuple[Trial, ...]


@dataclass(frozen=True)
class Choice:
    """How ranges are found, nothing left open.

    Attributes:
        equalize: Strength of the equalization; None for none.
        calibrator: How ranges are found.
        trials: What was tried.
    """

    equalize: float | None
    calibrator: Calibrator
    trials: tuple[Trial, ...] = ()


def settle(path: Path, model: Any, options: Settings, context: StepContext) -> Choice:
    """Choose what the options leave open.

    Args:
        path: The float graph.
        model: The same, read, set aside or whole.
        options: Of the pass.
        context: Of the step, with calibration data.
    """
    strengths = _STRENGTHS if options.equalize == "auto" else (options.equalize,)
    calibrators = _CALIBRATORS if options.calibrator == "auto" else (options.calibrator,)
    simplest = Choice(strengths[0], calibrators[0])
    groups = equalize.find(model, selection.choose(model, options).nodes)
    if len(strengths) == len(calibrators) == 1 or not equalize.normalized(groups):
        return simplest
    fitted, judged = held_out.split(
        ranges.first_samples(context, options.samples, options.batch_size), min(_MOST_SAMPLES, options.samples)
    )
    if held_out.count(fitted) + held_out.count(judged) < _FEWEST_SAMPLES:
        return simplest
    bench = _Bench(model, options, context, fitted, held_out.HeldOut(path, judged, threads=context.threads))
    best = bench.tried(strengths[0], calibrators[0])
    for strength in strengths[1:]:
        best = bench.better_of(best, strength, best.calibrator)
    for calibrator in calibrators[1:]:
        best = bench.better_of(best, best.equalize, calibrator)
    return Choice(best.equalize, best.calibrator, tuple(bench.trials))


class _Bench:
    """Quantizes a component in several ways and judges each."""

    def __init__(
        self, model: Any, options: Settings, context: StepContext, fitted: Batches, judged: held_out.HeldOut
    ) -> None:
        self._model, self._options, self._context = model, options, context
        self._fitted, self._held_out = fitted, judged
        self._equalized: dict[float | None, Any] = {None: model}
        self.trials: list[Trial] = []

    def better_of(self, best: Trial, strength: float | None, calibrator: Calibrator) -> Trial:
        """Try another way, unless the best so far is as quiet as anybody needs."""
        if best.sqnr_db >= _QUIET_DB:
            return best
        trial = self.tried(strength, calibrator)
        return trial if trial.sqnr_db > best.sqnr_db + _MARGIN_DB else best

    def tried(self, strength: float | None, calibrator: Calibrator) -> Trial:
        """Quantize in one way."""
        model, options, context = self._model_with(strength), self._options, self._context
        chosen = selection.choose(model, options)
        how = calibration(calibrator, options, context)
        found = ranges.find(model, chosen.tensors, self._feeds, how).by_tensor
        quantized = encode.write(model, chosen, found, encoding=context.encoding, scheme=options)
        self.trials.append(Trial(strength, calibrator, self._held_out.sqnr_db(quantized)))
        context.progress(len(self.trials), None, "ways to quantize tried")
        return self.trials[-1]

    def _model_with(self, strength: float | None) -> Any:
        if strength not in self._equalized:
            found = maxima(self._model, strength, self._options, self._feeds, threads=self._context.threads)
            self._equalized[strength] = set_aside(equalized(self._model, strength, self._options, found)[0])
        return self._equalized[strength]

    def _feeds(self) -> Iterator[dict[str, Array]]:
        yield from self._fitted


Batches = Sequence[dict[str, Array]]


def equalized(
    model: Any, strength: float | None, options: Settings, maxima: Mapping[str, Array]
) -> tuple[Any, list[equalize.Equalized]]:
    """Return a whole copy of a float graph that is equalized, and what was done; the graph where nothing is asked."""
    if strength is None:
        return model, []
    copied = whole(model)
    groups = equalize.find(copied, selection.choose(copied, options).nodes)
    return copied, equalize.apply(copied, groups, maxima, strength)


def maxima(
    model: Any, strength: float | None, options: Settings, feeds: ranges.Feeds, *, threads: int
) -> dict[str, Array]:
    """Return the largest magnitude of each channel of what is equalized; nothing where nothing is asked."""
    if strength is None:
        return {}
    groups = equalize.find(model, selection.choose(model, options).nodes)
    return ranges.channel_maxima(model, [group.tensor for group in groups], feeds, threads=threads)


def calibration(calibrator: Calibrator, options: Settings, context: StepContext) -> ranges.Calibration:
    """Return how ranges are found, without progress."""
    from mmdeploy.core.contracts import Encoding

    return ranges.Calibration(
        calibrator=calibrator,
        percentile=options.percentile,
        symmetric=context.encoding is not Encoding.UINT8_ASYMMETRIC,
        threads=context.threads,
    )
