"""Methods wired to tensors: one sample, or a batch of them, from what clients send to what the model reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from .decode_audio import DecodeAudio
from .decode_image import DecodeImage
from .fill_up import FillUp
from .nearest import Nearest
from .own import Own
from .refusal import Array, RefusedError, Spec
from .sample_frames import SampleFrames
from .scores import L2Normalise, Normalise, Softmax, Threshold, TopK
from .tokenize_text import Tokenize

#: The methods by the name that a recipe calls them.
METHODS: Mapping[str, type[Any]] = {
    "decode_image": DecodeImage,
    "decode_audio": DecodeAudio,
    "sample_frames": SampleFrames,
    "tokenize": Tokenize,
    "normalise": Normalise,
    "softmax": Softmax,
    "top_k": TopK,
    "threshold": Threshold,
    "l2_normalise": L2Normalise,
    "nearest": Nearest,
}

#: Those that a recipe says in other words.
_UNNAMED: Mapping[str, type[Any]] = {"fill_up": FillUp}


class Method(Protocol):
    """What turns the tensors of one sample into others."""

    def specs(self, given: Mapping[str, Spec]) -> dict[str, Spec]:
        """Return what it gives of what it is given; a ValueError says why it does not take that."""

    def open(self, folder: Path) -> None:
        """Load its files, which are relative to a folder; a ValueError says what is wrong with them."""

    def row(self, values: Mapping[str, Any]) -> dict[str, Array]:
        """Return the outputs of one sample; a `RefusedError` refuses it."""


@dataclass(frozen=True)
class WiredMethod:
    """A method and the tensors that it reads and writes.

    Attributes:
        method: The method.
        inputs: Tensor by the method's own input.
        outputs: Tensor by the method's own output; those that are not here are dropped.
    """

    method: Method
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]

    @classmethod
    def from_json(cls, described: Mapping[str, Any]) -> WiredMethod:
        """Make what `described` in a release or a recipe says: ``method``, ``options``, ``inputs``, ``outputs``."""
        options, name = dict(described["options"]), described["method"]
        if (known := METHODS.get(name) or _UNNAMED.get(name)) is not None:
            lists = {key: tuple(value) for key, value in options.items() if isinstance(value, list)}
            method: Method = known(**options | lists)
        else:
            outputs = {key: Spec(dtype, tuple(shape)) for key, (dtype, shape) in options["outputs"].items()}
            method = Own(name, outputs, options.get("arguments", {}))
        return cls(method, dict(described["inputs"]), dict(described["outputs"]))

    def look_at(self, folder: Path) -> bool:
        """Let a method read files that say what fits it, and that need no package; say whether it has such files.

        Raises:
            ValueError: If a file is not what the method takes.
        """
        look = getattr(self.method, "look_at", None)
        if look is not None:
            look(folder)
        return look is not None

    def settled(self) -> dict[str, Any]:
        """Return those of the method's options that depend on where it runs, as they are here."""
        settle = getattr(self.method, "settled", None)
        return {} if settle is None else settle()

    def specs(self, given: Mapping[str, Spec]) -> dict[str, Spec]:
        """Return the specs of the tensors that it writes, by their names."""
        found = self.method.specs({own: given[tensor] for own, tensor in self.inputs.items()})
        return {tensor: found[own] for own, tensor in self.outputs.items()}

    def sample(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """Return the tensors that it writes of one sample.

        Raises:
            RefusedError: Naming the tensor.
        """
        try:
            found = self.method.row({own: tensors[tensor] for own, tensor in self.inputs.items()})
        except RefusedError as error:
            raise RefusedError(f"{self._shown} {error}") from error
        return {tensor: found[own] for own, tensor in self.outputs.items()}

    def batch(self, tensors: Mapping[str, Array], pool: ThreadPoolExecutor | None = None) -> dict[str, Array]:
        """Return the tensors that it writes of samples along axis 0; each as it would be alone.

        Args:
            tensors: Those that it reads, at least.
            pool: Decodes several samples at once. A function of the recipe's own need not stand that: it is called
                for one after the other, as in a build.

        Raises:
            RefusedError: Naming the tensor and the row.
        """
        import numpy as np

        count = len(tensors[next(iter(self.inputs.values()))])
        rows = [{own: tensors[tensor][index] for own, tensor in self.inputs.items()} for index in range(count)]
        at_once = pool is not None and count > 1 and not isinstance(self.method, Own)
        answers = list(pool.map(self._row, rows)) if pool is not None and at_once else list(map(self._row, rows))
        for index, answer in enumerate(answers):
            if isinstance(answer, RefusedError):
                raise RefusedError(f"{self._shown}, row {index}: {answer}")
        return {
            tensor: np.stack(self._alike(tensor, [answer[own] for answer in answers if isinstance(answer, dict)]))
            for own, tensor in self.outputs.items()
        }

    def _row(self, values: Mapping[str, Array]) -> dict[str, Array] | RefusedError:
        try:
            return self.method.row(values)
        except RefusedError as error:
            return error

    @property
    def _shown(self) -> str:
        return " and ".join(repr(tensor) for tensor in self.inputs.values())

    def _alike(self, tensor: str, arrays: Sequence[Array]) -> Sequence[Array]:
        for index, array in enumerate(arrays):
            if array.shape != arrays[0].shape:
                raise RefusedError(
                    f"{self._shown}: rows 0 and {index} give {tensor!r} of {list(arrays[0].shape)} and "
                    f"{list(array.shape)}: send rows of one size, or one row a request"
                )
        return arrays


@dataclass(frozen=True)
class Pipeline:
    """Wired methods, each after those whose tensors it reads."""

    methods: tuple[WiredMethod, ...]

    @classmethod
    def from_json(cls, described: Sequence[Mapping[str, Any]], folder: Path) -> Pipeline:
        """Make and open the methods; their files are relative to a folder.

        Raises:
            ValueError: If a file is not what a method takes.
        """
        methods = tuple(map(WiredMethod.from_json, described))
        for one in methods:
            one.method.open(folder)
        return cls(methods)

    def sample(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """Return one sample's tensors with all that the methods write."""
        found = dict(tensors)
        for one in self.methods:
            found |= one.sample(found)
        return found

    def batch(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """Return a batch's tensors with all that the methods write."""
        found = dict(tensors)
        for one in self.methods:
            found |= one.batch(found)
        return found
