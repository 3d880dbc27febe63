"""What gates judge besides the whole: the components of an ensemble, and requests that leave inputs out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mmdeploy.core.artifact import Array


@dataclass(frozen=True)
class WiredComponent:
    """A component as the gates see it.

    Attributes:
        name: The component, which is also the name of its model in Triton.
        inputs: Ensemble tensor by the component's input name.
        outputs: Ensemble tensor by the component's output name.
        passes: What makes it differ from the original, as it ships: such as ``quantize static``, ``prune structured``.
        samples: Indices of the evaluation samples that it is run for; None for all. It is not run for those that lack
            its input.
        sqnr_db: Of its INT8 graph against the float one, the worst output; None where that does not ship or is unknown.
        worst_nodes: SQNR in dB that INT8 leaves of each node's own answer, by name, the worst few.
        calibrated_on: Number of samples that the ranges of its INT8 graph come from; None where there are none.
        alone: Whether it is a model of its own, which can be asked by itself: not where all are composed into one.
    """

    name: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    passes: tuple[str, ...] = ()
    samples: Array | None = None
    sqnr_db: float | None = None
    worst_nodes: Mapping[str, float] = field(default_factory=dict)
    calibrated_on: int | None = None
    alone: bool = True


@dataclass(frozen=True)
class EvidenceCascade:
    """A cascade: the candidate answers some samples early, `Evidence.original` and the reference none.

    Attributes:
        left_early: The output of the candidate, BOOL, that says which samples left early.
        left: By sample, whether the PyTorch model leaves it early by the same rule.
        early: What the PyTorch model answers early, of all samples: columns by output of the ensemble.
        at_bounds: Likewise of the samples at bounds of sizes.
    """

    left_early: str
    left: Array
    early: Mapping[str, Array]
    at_bounds: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class EvidenceSubset:
    """Requests that leave out some inputs.

    Attributes:
        label: As reports call it, such as ``without audio``.
        without: The inputs that are left out.
        original: What the PyTorch model gives then, as in `Evidence`.
        components: Components whose inputs this changes, and which are asked.
        samples: Indices of the samples that something is left of; None for all.
        marks: Columns that are sent beside these samples and say which rows have an input, by the name of the input
            that says so.
    """

    label: str
    without: tuple[str, ...]
    original: Mapping[str, Array]
    components: tuple[str, ...]
    samples: Array | None = None
    marks: Mapping[str, Array] = field(default_factory=dict)
