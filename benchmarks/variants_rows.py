"""A variant in figures: what `variants.py` measures, its table shows and its plot draws; a part of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from variants_serving import Served


@dataclass(frozen=True)
class Component:
    """What one component ships.

    Attributes:
        engine: Label of what was chosen.
        compressed: Whether it was pruned or quantized.
        p50_ms: Its latency, alone in a process.
        reference_ms: That of the FP32 original in ONNX Runtime, in the same rounds.
        ratio: The one over the other; None for the reference itself.
        interval: Of the ratio.
    """

    engine: str
    compressed: bool
    p50_ms: float | None
    reference_ms: float | None
    ratio: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Row:
    """A variant in figures.

    Attributes:
        label: The variant.
        verdict: Of its gates.
        accuracy: On the test split, served, and its interval.
        drop: Against FP32, and its interval; None for FP32.
        bytes: Of all engines.
        parameters: Of all components; those that are not zero in ``nonzero_parameters``.
        nonzero_parameters: See there.
        flops: Of one sample through all components.
        build_seconds: Of the cold build, gates included.
        components: By name.
        served: What the server did under each load, beside the other variants.
    """

    label: str
    verdict: str
    accuracy: tuple[float, float, float]
    drop: tuple[float, float, float] | None
    bytes: int
    parameters: int
    nonzero_parameters: int
    flops: int
    build_seconds: float
    components: Mapping[str, Component]
    served: Mapping[str, Served]

    @property
    def components_ratio(self) -> float | None:
        """Sum of the components' latencies over that of their FP32 originals; None where one was not measured."""
        pairs = [(part.p50_ms, part.reference_ms) for part in self.components.values()]
        known = [(own, reference) for own, reference in pairs if own is not None and reference is not None]
        if len(known) < len(pairs):
            return None
        return sum(own for own, _ in known) / sum(reference for _, reference in known)
