"""How far two answers to the same question may lie apart: one rule for graphs, quantized graphs and engines.

A graph in floating point is answered by any two implementations to within the order of sums. A graph with Q/DQ pairs
is not: an integer kernel rounds a tie otherwise, and the code that comes out differs by one. Such differences are
quantization noise of their own, so they are held against that of the graph: at most `_MARGIN_DB` above it, which two
independent roundings of the whole graph do not reach.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mmdeploy.core.artifact import Array

#: Of a graph in FP32, and of one that is computed in a lower precision than it says.
EXACT_DB = 50.0
LOW_PRECISION_DB = 25.0
#: Of a graph with Q/DQ pairs: what is always good enough, what never is, and what is taken where its noise is unknown.
_ENOUGH_DB = 40.0
_LEAST_DB = 10.0
_UNKNOWN_DB = 20.0
_MARGIN_DB = 6.0
#: Share of the elements of an output of integers, such as class indices, that must be equal.
_EQUAL_SHARE = 0.9
#: Stands for an answer without any likeness, such as NaN where there is a number.
LOWEST_DB = -150.0
#: Differences that are rounding of single precision, whatever they are relative to.
_NEGLIGIBLE = 1e-9


@dataclass(frozen=True)
class Noise:
    """What quantization did to a graph.

    Attributes:
        sqnr_db: Signal-to-quantization-noise ratio by output; None without noise or signal.
    """

    sqnr_db: dict[str, float | None]


@dataclass(frozen=True)
class Expected:
    """How near an answer must come.

    Attributes:
        exact_db: Where the graph is in floating point, or there is no noise to compare with.
        quantized: Whether the graph has Q/DQ pairs.
        noise_db: What quantization did to it, by output, as far as that is known.
        power: Mean square of an element of each output over more samples than are compared: a single one may be next
            to zero. That of the reference where it is not given.
    """

    exact_db: float = EXACT_DB
    quantized: bool = False
    noise_db: Mapping[str, float | None] = field(default_factory=dict)
    power: Mapping[str, float] = field(default_factory=dict)

    def least_db(self, output: str) -> float:
        """Return the smallest SQNR of an output, in dB."""
        if not self.quantized:
            return self.exact_db
        noise_db = self.noise_db.get(output)
        wanted = _UNKNOWN_DB if noise_db is None else max(_LEAST_DB, noise_db - _MARGIN_DB)
        return min(self.exact_db, _ENOUGH_DB, wanted)


@dataclass(frozen=True)
class Apart:
    """An output that two implementations answer too differently.

    Attributes:
        output: Its name.
        batch_size: Where.
        found: What was found and what is wanted, in words.
    """

    output: str
    batch_size: int
    found: str

    def __str__(self) -> str:
        return f"output {self.output!r} at batch {self.batch_size}: {self.found}"


def power(reference: Array) -> float:
    """Return the mean square of the finite elements; 0 without any."""
    import numpy as np

    values = reference.astype(np.float64)
    values = values[np.isfinite(values)]
    return float(np.square(values).mean()) if values.size else 0.0


def sqnr_db(reference: Array, answer: Array, power_of_all: float | None = None) -> float | None:
    """Return the signal-to-noise ratio in dB; None when there is no noise or no signal.

    Elements that are not finite, and the same in both, are left out; where only one is not, nothing is alike.

    Args:
        reference: What is right.
        answer: What was answered.
        power_of_all: Mean square of an element, where more is known than ``reference`` shows.
    """
    import numpy as np

    wanted, got = reference.astype(np.float64), answer.astype(np.float64)
    alike = (wanted == got) | (np.isnan(wanted) & np.isnan(got))
    with np.errstate(invalid="ignore"):
        error = np.where(alike, 0.0, wanted - got)
    if not np.isfinite(error).all():
        return LOWEST_DB
    signal = power(reference) if power_of_all is None else power_of_all
    noise = float(np.square(error).mean()) if error.size else 0.0
    return 10.0 * float(np.log10(signal / noise)) if signal and noise else None


def first_apart(reference: Mapping[str, Array], answers: Mapping[str, Array], expected: Expected) -> Apart | None:
    """Return the first output of a batch that lies too far from its reference; None where all are near."""
    for name, wanted in reference.items():
        if found := _apart(name, wanted, answers[name], expected):
            return Apart(name, len(wanted) if wanted.ndim else 0, found)
    return None


def _apart(name: str, wanted: Array, got: Array, expected: Expected) -> str | None:
    import numpy as np

    if wanted.shape != got.shape:
        return f"shape {list(got.shape)}, expected {list(wanted.shape)}"
    if wanted.dtype.kind != "f":
        share = float(np.mean(wanted == got)) if wanted.size else 1.0
        return (
            f"{share:.0%} of the elements are equal, at least {_EQUAL_SHARE:.0%} must be"
            if share < _EQUAL_SHARE
            else None
        )
    found_db, least_db = sqnr_db(wanted, got, expected.power.get(name)), expected.least_db(name)
    if found_db is None:
        largest = float(np.abs(got.astype(np.float64) - wanted)[np.isfinite(wanted)].max(initial=0.0))
        return f"{largest:.3g} where all should be zero" if largest > _NEGLIGIBLE else None
    return f"{found_db:.1f} dB, at least {least_db:.1f} dB are expected" if found_db < least_db else None
