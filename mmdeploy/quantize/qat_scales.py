"""What quantization-aware training says of its scales: written by `qat`, read when they are put into a graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

#: Name in the metadata.
SCALES = "scales"


@dataclass(frozen=True)
class LayerScales:
    """One layer.

    Attributes:
        name: Of the layer.
        parameter: Name of its weight as it is saved, with the module or, where the module computes it (weight
            normalization), with the scales; a tied weight has one.
        rows: First row and the one after the last of its share of the parameter; None for all.
        node_paths: Module paths that its node may have in the graph.
        input_low: Value of its input that the smallest code stands for; minus ``input_amax`` where symmetric.
        input_amax: Value of its input that the largest code stands for.
        output_low: Of its output; None where that is not quantized.
        output_amax: Of its output; None where that is not quantized.
    """

    name: str
    parameter: str
    rows: tuple[int, int] | None
    node_paths: tuple[str, ...]
    input_low: float
    input_amax: float
    output_low: float | None
    output_amax: float | None


@dataclass(frozen=True)
class QatScales:
    """The scales of one component.

    Attributes:
        file: Name of the file beside the module with the scales of weights.
        layers: Those trained with fake quantizers.
        calibrator: Where training started from.
        samples: Samples that the first ranges were found on.
        learned: Whether scales were trained too.
        asymmetric: Whether ranges of activations are not symmetric around zero.
        left_float: Why other layers stay float, by name.
    """

    file: str
    layers: tuple[LayerScales, ...]
    calibrator: str
    samples: int
    learned: bool
    asymmetric: bool
    left_float: Mapping[str, str]
