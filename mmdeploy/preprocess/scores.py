"""What is made of numbers: normalise before a model; softmax, top_k, threshold and l2_normalise behind it.

What they do: ``normalise`` gives (values - mean) / std as FP32. ``softmax`` gives shares of 1 along the last axis.
``top_k`` gives the ids of the k largest scores, the scores, and their labels, a line each of a text file. ``threshold``
gives what is at least ``value`` as BOOL. ``l2_normalise`` gives vectors of length 1, zeros for zeros.
When to choose them: where it must be the ensemble that does it. What is written into the model's forward is compiled
with it, and costs no step.
What they need: NumPy.
Limits: each sample alone; of equal scores the first comes first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from .refusal import Array, RefusedError, Spec


def _numbers(given: Spec, axes: int | None = None) -> None:
    if given.dtype == "BYTES":
        raise ValueError("takes numbers, not BYTES")
    if axes is not None and len(given.shape) != axes:
        raise ValueError(f"takes one row of scores a sample, not {list(given.shape)}")


class _FilesFree:
    """A method that reads no files."""

    def open(self, folder: Path) -> None:
        """Load nothing."""


@dataclass(frozen=True)
class Normalise(_FilesFree):
    """(values - mean) / std."""

    mean: tuple[float, ...] = field(default=(0.0,), metadata={"about": "One, or one for each along the axis."})
    std: tuple[float, ...] = field(default=(1.0,), metadata={"about": "Likewise, above 0."})
    axis: int = field(default=0, metadata={"about": "The sample's axis that several values lie along."})

    INPUTS: ClassVar[tuple[str, ...]] = ("values",)
    OUTPUTS: ClassVar[tuple[str, ...]] = ("values",)
    REQUIRES: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        """Check what the options say together."""
        if not self.mean or not self.std or any(value <= 0 for value in self.std):
            raise ValueError("mean and std have a value each at least, and std is above 0")

    def specs(self, given: Mapping[str, Spec]) -> dict[str, Spec]:
        """Return what it gives of what it is given."""
        _numbers(given["values"])
        shape = given["values"].shape
        if not -len(shape) <= self.axis < len(shape):
            raise ValueError(f"axis is {self.axis}, and a sample is {list(shape)}")
        for values in (self.mean, self.std):
            if len(values) not in (1, shape[self.axis]) and shape[self.axis] != -1:
                raise ValueError(f"has {len(values)} values for an axis of {shape[self.axis]}")
        return {"values": Spec("FP32", shape)}

    def row(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """Normalise one sample."""
        import numpy as np

        array = values["values"].astype(np.float32)
        mean, std = (self._along(given, array.ndim) for given in (self.mean, self.std))
        return {"values": (array - mean) / std}

    def _along(self, given: tuple[float, ...], axes: int) -> Array:
        import numpy as np

        shape = [1] * axes
        shape[self.axis] = len(given)
        return np.array(given, np.float32).reshape(shape)


@dataclass(frozen=True)
class Softmax(_FilesFree):
    """Shares of 1 along the last axis."""

    temperature: float = field(default=1.0, metadata={"about": "Scores are divided by it; above 0."})

    INPUTS: ClassVar[tuple[str, ...]] = ("scores",)
    OUTPUTS: ClassVar[tuple[str, ...]] = ("probabilities",)
    REQUIRES: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        """Check the temperature."""
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature:g}: above 0")

    def specs(self, given: Mapping[str, Spec]) -> dict[str, Spec]:
        """Return what it gives of what it is given."""
        _numbers(given["scores"])
        return {"probabilities": Spec("FP32", given["scores"].shape)}

    def row(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """Compute it of one sample."""
        import numpy as np

        scores = values["scores"].astype(np.float32) / np.float32(self.temperature)
        powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return {"probabilities": powers / powers.sum(axis=-1, keepdims=True)}


@dataclass(frozen=True)
class TopK:
    """The k largest scores."""

    k: int = field(default=5, metadata={"about": "How many."})
    labels: str | None = field(
        default=None, metadata={"about": "Text file, a label a line; the output labels needs it.", "path": True}
    )

    INPUTS: ClassVar[tuple[str, ...]] = ("scores",)
    OUTPUTS: ClassVar[tuple[str, ...]] = ("ids", "scores", "labels")
    REQUIRES: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        """Check k."""
        if self.k < 1:
            raise ValueError(f"k is {self.k}: 1 or more")

    def specs(self, given: Mapping[str, Spec]) -> dict[str, Spec]:
        """Return what it gives of what it is given."""
        scores = given["scores"]
        _numbers(scores, axes=1)
        if scores.shape[0] >= 0 and (problem := self._unfit(scores.shape[0])):
            raise ValueError(problem)
        found = {"ids": Spec("INT64", (self.k,)), "scores": Spec("FP32", (self.k,))}
        return found | ({"labels": Spec("BYTES", (self.k,))} if self.labels is not None else {})

    def open(self, folder: Path) -> None:
        """Read the labels; a ValueError says why they are none."""
        self.look_at(folder)

    def look_at(self, folder: Path) -> None:
        """Read the labels; it is known then what fits them.

        Raises:
            ValueError: If they are no labels, or fewer than are asked for.
        """
        lines: list[bytes] = []
        if self.labels is not None:
            lines = _labels((folder / self.labels).read_bytes(), self.labels)
            if len(lines) < self.k:
                raise ValueError(f"k is {self.k}, and {self.labels} holds {_counted(lines)}, a line for each score")
        object.__setattr__(self, "_lines", lines)

    def row(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """Rank one sample.

        Raises:
            RefusedError: If it has fewer scores than are asked for, or another number than there are labels.
        """
        import numpy as np

        scores = values["scores"]
        if problem := self._unfit(len(scores)):
            raise RefusedError(f"does not fit: {problem}")
        ids = np.argsort(-scores.astype(np.float64), kind="stable")[: self.k].astype(np.int64)
        found: dict[str, Array] = {"ids": ids, "scores": scores[ids].astype(np.float32)}
        if lines := self._known_lines:
            found["labels"] = np.array([lines[one] for one in ids], dtype=object)
        return found

    @property
    def _known_lines(self) -> list[bytes]:
        """The labels; none before they are read."""
        found: list[bytes] = getattr(self, "_lines", [])
        return found

    def _unfit(self, count: int) -> str:
        """Say why so many scores cannot be ranked; empty where they can."""
        if count < self.k:
            return f"k is {self.k}, and there are {count} scores: take {count} or fewer"
        lines = self._known_lines
        if lines and len(lines) != count:
            return f"{self.labels} holds {_counted(lines)}, and there are {count} scores: a line for each"
        return ""


def _labels(content: bytes, name: str) -> list[bytes]:
    """Return the lines of a file of labels, which end in LF or CRLF.

    Raises:
        ValueError: Naming the line that is none.
    """
    if content.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise ValueError(
            f"{name}:1 begins with a byte-order mark, which would be a part of the label: save without one"
        )
    lines = content.replace(b"\r\n", b"\n").removesuffix(b"\n").split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            blank = not line.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise ValueError(f"{name}:{number} is no UTF-8: {error.reason}") from error
        if blank:
            raise ValueError(f"{name}:{number} is blank: a label a line, none left out")
    return lines


def _counted(lines: list[bytes]) -> str:
    return f"{len(lines)} label{'s' * (len(lines) != 1)}"


@dataclass(frozen=True)
class Threshold(_FilesFree):
    """What is at least a value."""

    value: float = field(default=0.5, metadata={"about": "The least value that is true."})

    INPUTS: ClassVar[tuple[str, ...]] = ("scores",)
    OUTPUTS: ClassVar[tuple[str, ...]] = ("above",)
    REQUIRES: ClassVar[tuple[str, ...]] = ()

    def specs(self, given: Mapping[str, Spec]) -> dict[str, Spec]:
        """Return what it gives of what it is given."""
        _numbers(given["scores"])
        return {"above": Spec("BOOL", given["scores"].shape)}

    def row(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """Compare one sample."""
        return {"above": values["scores"] >= self.value}


@dataclass(frozen=True)
class L2Normalise(_FilesFree):
    """Vectors of length 1 along the last axis."""

    INPUTS: ClassVar[tuple[str, ...]] = ("embedding",)
    OUTPUTS: ClassVar[tuple[str, ...]] = ("embedding",)
    REQUIRES: ClassVar[tuple[str, ...]] = ()

    def specs(self, given: Mapping[str, Spec]) -> dict[str, Spec]:
        """Return what it gives of what it is given."""
        _numbers(given["embedding"])
        return {"embedding": Spec("FP32", given["embedding"].shape)}

    def row(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """Normalise one sample."""
        import numpy as np

        vector = values["embedding"].astype(np.float32)
        norm = np.sqrt((vector.astype(np.float64) ** 2).sum(axis=-1, keepdims=True))
        return {"embedding": (vector / np.where(norm > 0, norm, 1)).astype(np.float32)}
