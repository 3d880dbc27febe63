"""The quantized graph against the float graph on calibration batches: it runs, is finite, and how like it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmdeploy.core.agreement import Expected, Noise, first_apart, power, sqnr_db
from mmdeploy.core.contracts import Array
from mmdeploy.core.errors import QuantizeError
from mmdeploy.core.sessions import AS_WRITTEN
from mmdeploy.engines import own_answers
from mmdeploy.quantize.held_out import HeldOut, answers, joined

#: Below it a graph has little to do with the one that it was made from: cosine 0.95.
FLOOR_DB = 10.0


@dataclass(frozen=True)
class Likeness(Noise):
    """How like a quantized graph is to the float graph.

    Attributes:
        cosine: By output.
        optimizer_cosine: Smallest cosine between the quantized graph with ONNX Runtime's optimizations and as written.
    """

    cosine: dict[str, float]
    optimizer_cosine: float

    @property
    def worst(self) -> tuple[str, float] | None:
        """The output with the most noise, and its SQNR in dB; None without noise."""
        return worst_of(self.sqnr_db)


def worst_of(noise: Mapping[str, float | None]) -> tuple[str, float] | None:
    """Return the output with the most noise, and its SQNR in dB; None without noise."""
    known = [(name, found) for name, found in noise.items() if found is not None]
    return min(known, key=lambda one: one[1], default=None)


def noise_db(held: HeldOut, quantized: Path, model: Any) -> dict[str, float | None]:
    """Return the SQNR in dB by output of a quantized graph, and remember what it answers.

    Args:
        held: The float graph, and the batches.
        quantized: The other graph's file.
        model: The same, read.

    Raises:
        QuantizeError: When the graph does not load or run, or is not finite.
    """
    return _noise_db(joined(held.wanted), joined(held.asked(quantized, model)))


def compare(held: HeldOut, quantized: Path, feeds: Sequence[Mapping[str, Array]], model: Any = None) -> Likeness:
    """Run both graphs, and the quantized one as it is written, too, on what its engines will be asked.

    What it answers as it is written is kept beside it: see `mmdeploy.engines.own_answers`.

    Args:
        held: The float graph, and the batches.
        quantized: The other graph's file.
        feeds: What engines are asked: few samples, since without optimizations a graph is slow.
        model: The same, read: where it has been asked already, it is not run again on the batches.

    Raises:
        QuantizeError: When the graph does not load or run, is not finite, or is changed by the optimizer.
    """
    reference, given = joined(held.wanted), joined(held.asked(quantized, model))
    noise = _noise_db(reference, given)
    expected = Expected(quantized=True, noise_db=noise, power={name: power(reference[name]) for name in noise})
    optimized = answers(quantized, feeds, held.parameters)
    written = answers(quantized, feeds, held.parameters, level=AS_WRITTEN)
    own_answers.keep(quantized, feeds, written, quantized=True)
    return Likeness(
        sqnr_db=noise,
        cosine={name: cosine(reference[name], given[name]) for name in given},
        optimizer_cosine=min(agreement(ours, plain, expected) for ours, plain in zip(optimized, written, strict=True)),
    )


def _noise_db(reference: Mapping[str, Array], given: Mapping[str, Array]) -> dict[str, float | None]:
    import numpy as np

    for name, array in given.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all() and np.isfinite(reference[name]).all():
            raise QuantizeError(f"the quantized graph answers NaN or Inf in output {name!r}")
    return {name: sqnr_db(array, given[name]) for name, array in reference.items() if array.dtype.kind == "f"}


def agreement(optimized: Mapping[str, Array], written: Mapping[str, Array], expected: Expected) -> float:
    """Return the smallest cosine, over the outputs, of ONNX Runtime's optimized run to that of the graph as written.

    Args:
        optimized: What ONNX Runtime answers to a batch.
        written: The same without optimizations.
        expected: How near the one must come to the other.

    Raises:
        QuantizeError: When they differ by more than the noise of the graph explains.
    """
    apart = first_apart(written, optimized, expected)
    if apart is not None:
        raise QuantizeError(
            f"ONNX Runtime's optimizer changes the answers of the quantized graph: {apart}",
            hint="leave attention's products in float (quantize_attention: false), or use symmetric ranges",
        )
    return min((cosine(array, optimized[name]) for name, array in written.items()), default=1.0)


def check_floor(likeness: Likeness, component: str, least: float = FLOOR_DB) -> None:
    """Refuse a graph of which INT8 leaves too little, in dB of SQNR.

    Raises:
        QuantizeError: Naming the output.
    """
    if likeness.worst is not None and likeness.worst[1] < least:
        raise too_little_left(likeness.worst, component, least=least)


def too_little_left(
    worst: tuple[str, float], component: str, nodes: Sequence[tuple[str, float]] = (), *, least: float = FLOOR_DB
) -> QuantizeError:
    """Return the refusal of a quantized graph.

    Args:
        worst: The output with the most noise, and its SQNR in dB.
        component: Name of the component.
        nodes: The worst nodes with the SQNR that each has alone.
        least: What is asked for.
    """
    named = ", ".join(f"{node} ({found:.1f} dB alone)" for node, found in nodes)
    return QuantizeError(
        f"{component}: INT8 leaves too little of output {worst[0]!r}: {worst[1]:.1f} dB, the least is {least:g} dB"
        f"{f'; the worst nodes are {named}' if named else ''}",
        hint="leave layers in float (quantize.exclude), try another calibrator or quantize.equalize; `mmdeploy debug`"
        " shows where the noise comes from",
    )


def cosine(reference: Array, answer: Array) -> float:
    """Return the cosine of two arrays taken as one vector each; 1 when both are zero."""
    import numpy as np

    a, b = reference.astype(np.float64).ravel(), answer.astype(np.float64).ravel()
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    if not norms:
        return 1.0 if not a.any() and not b.any() else 0.0
    return float(a @ b) / norms
