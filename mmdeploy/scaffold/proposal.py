"""A recipe as proposed: what a model was seen to do, and what is put beside it that a first build needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mmdeploy.core.artifact import DTYPE_BY_NUMPY
from mmdeploy.data.labels import number_array
from mmdeploy.scaffold.look import Looked
from mmdeploy.scaffold.wiring import Part, Wiring, wiring_of

if TYPE_CHECKING:
    from mmdeploy.scaffold.seen import SeenInput, SeenSize

#: What a component is calibrated with, where there are as many.
MOST_CALIBRATION = 512
_LARGE_REQUEST_BYTES = 1 << 20
_BATCH, _BATCH_OF_LARGE = 32, 8

Dim = int | str


@dataclass(frozen=True)
class Told:
    """What a recipe says that cannot be seen in a model.

    Attributes:
        name: Of the ensemble.
        target: What it is compiled for.
        factory: The model's factory, as the recipe refers to it.
        calibration: Data callable.
        evaluation: Data callable.
        weights: As the recipe refers to them; None for the factory's own.
        prefix: Where in the model the weights belong.
        folder: The folder that paths are relative to, if it is not the recipe's own.
        schema: Where editors find the schema, relative to the recipe; empty for no such line.
        calibration_samples: How many samples calibration has; 0 where that is not known.
        evaluation_samples: How many samples evaluation has.
    """

    name: str
    target: str
    factory: str
    calibration: str
    evaluation: str
    weights: str | None = None
    prefix: Mapping[str, str | None] | None = None
    folder: str | None = None
    schema: str = ""
    calibration_samples: int = 0
    evaluation_samples: int = 0


@dataclass(frozen=True)
class Tensor:
    """A tensor of the ensemble.

    Attributes:
        dtype: Triton's name of its type.
        shape: Of one sample; a size's name where it has one, None where the size varies and has none.
    """

    dtype: str
    shape: tuple[Dim | None, ...]


@dataclass(frozen=True)
class MayLack:
    """An input that may be left out.

    Attributes:
        strategy: What takes the embedding's place, as `missing` of a recipe says it.
        parameter: The model's, where the strategy is ``learned``.
        tried: Whether the model answers so; otherwise ``mean`` is what to start with.
        lacking: How many samples lack it.
    """

    strategy: str
    parameter: str | None = None
    tried: bool = False
    lacking: int = 0

    @property
    def missing(self) -> dict[str, str]:
        """Return it as the recipe says it."""
        named = {"parameter": self.parameter} if self.parameter else {}
        return {"strategy": self.strategy, **named}

    def told_of(self, name: str) -> str:
        """Say that requests may leave out an input, why, and what is known of what stands in for it."""
        lack = "sample lacks" if self.lacking == 1 else "samples lack"
        why = f"{self.lacking} {lack} {name}" if self.lacking else f"The model takes {name}=None"
        how = "so requests may leave it out" if self.lacking else "with `optional: true` requests may leave it out"
        known = "as the model answers without it" if self.tried else "to start with; how the model answers is not seen"
        return f"{why}: {how}; `{self.strategy}` stands in, {known}. See docs/missing_modalities.md."


@dataclass(frozen=True)
class Proposal:
    """Everything of a recipe.

    Attributes:
        told: What is not seen in a model.
        looked: What was seen.
        wiring: The components.
        sizes: Sizes that vary.
        tensors: What is known of the ensemble's tensors, by name.
        ranges: Values that inputs may have, where the model says it.
        optional: Inputs that may be left out, and what stands in for them.
    """

    told: Told
    looked: Looked
    wiring: Wiring
    sizes: tuple[SeenSize, ...]
    tensors: Mapping[str, Tensor]
    ranges: Mapping[str, tuple[int, int]]
    optional: Mapping[str, MayLack] = field(default_factory=dict)

    @property
    def max_batch_size(self) -> int:
        """Largest batch: small where one sample is large."""
        sample = sum(array.nbytes for array in self.looked.seen.kept[0].values())
        return _BATCH_OF_LARGE if sample > _LARGE_REQUEST_BYTES else _BATCH

    def metric(self) -> str | None:
        """Return the metric that the labels ask for: top1 of class ids; None where it is not clear."""
        seen, first = self.looked.seen, self.tensors[self.wiring.outputs[0]] if self.wiring.outputs else None
        if not seen.labelled or first is None or not first.dtype.startswith("FP") or len(first.shape) != 1:
            return None
        classes = first.shape[0]
        ids = [_class_id(label) for label in seen.labels]
        if not isinstance(classes, int) or classes < 2 or any(one is None or not 0 <= one < classes for one in ids):
            return None
        return "top1"


def _class_id(label: Any) -> int | None:
    array = number_array(label)
    return int(array.reshape(-1)[0]) if array is not None and array.size == 1 and array.dtype.kind in "iu" else None


def propose(looked: Looked, told: Told, components: Sequence[str] = ()) -> Proposal:
    """Propose a recipe for a model that was looked at.

    Args:
        looked: The model and its answers.
        told: What cannot be seen.
        components: Attribute paths of the modules that shall be components; empty to have them proposed.

    Raises:
        ModelError: When ``components`` names what is no module that was called.
    """
    wirings = [
        wiring_of(kept, {key: name for name, key in kept.whole.inputs.items()}, components) for kept in looked.records
    ]
    sizes = looked.seen.sizes()
    tensors = {name: _of_input(name, one, sizes) for name, one in looked.seen.inputs.items()}
    for index, part in enumerate(wirings[0].parts):
        for tensor in part.outputs.values():
            tensors[tensor] = _of_output(tensor, [wiring.parts[index] for wiring in wirings], looked, sizes)
    return Proposal(told, looked, wirings[0], sizes, tensors, _ranges(looked))


def _of_input(name: str, one: SeenInput, sizes: Sequence[SeenSize]) -> Tensor:
    named = {place: size.name for size in sizes for place in size.axes}
    return Tensor(one.dtype, tuple(named.get((name, axis), length) for axis, length in enumerate(one.shape)))


def _of_output(tensor: str, parts: Sequence[Part], looked: Looked, sizes: Sequence[SeenSize]) -> Tensor:
    found = [kept.tensors[part.keys[tensor]] for kept, part in zip(looked.records, parts, strict=True)]
    name = str(found[0].dtype).removeprefix("torch.")
    shapes = [tuple(one.shape[1:]) for one in found]
    if len({len(shape) for shape in shapes}) > 1:
        return Tensor(DTYPE_BY_NUMPY.get(name, name), ())
    known = {
        tuple(feed[size.axes[0][0]].shape[size.axes[0][1] + 1] for feed in looked.feeds): size.name for size in sizes
    }
    axes = [lengths[0] if len({*lengths}) == 1 else known.get(tuple(lengths)) for lengths in zip(*shapes, strict=True)]
    return Tensor(DTYPE_BY_NUMPY.get(name, name), tuple(axes))


def _ranges(looked: Looked) -> dict[str, tuple[int, int]]:
    """Return the values that inputs may have: rows of the table that looks them up; 0 and 1 where nothing else was."""
    from torch import nn

    from mmdeploy.scaffold.wiring import every_call

    found = dict[str, tuple[int, int]]()
    kept = looked.records[0]
    for name, one in looked.seen.inputs.items():
        if not one.dtype.startswith(("INT", "UINT")):
            continue
        key = kept.whole.inputs[name]
        tables = [
            call.module.num_embeddings
            for call in every_call(kept.whole)
            if isinstance(call.module, nn.Embedding) and key in call.inputs.values()
        ]
        if tables:
            found[name] = (0, min(tables) - 1)
        elif one.low >= 0 and one.high <= 1 and len(one.shape) > 0:
            found[name] = (0, 1)
    return found
