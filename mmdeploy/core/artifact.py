"""What flows between steps: a frozen `Artifact`, and the `TensorSpec`s of its inputs and outputs."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from mmdeploy.core.file_state import State, is_settled, state_of
from mmdeploy.core.sizes import Sizes, sizes_from

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Array: TypeAlias = "npt.NDArray[Any]"

#: Triton's data type names and the NumPy type of each. config.pbtxt calls BYTES ``TYPE_STRING``, the others ``TYPE_…``;
#: their elements are Python's `bytes` (see `mmdeploy.core.strings`).
NUMPY_BY_DTYPE: Mapping[str, str] = {
    "BOOL": "bool", "UINT8": "uint8", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64",
    "INT8": "int8", "INT16": "int16", "INT32": "int32", "INT64": "int64",
    "FP16": "float16", "FP32": "float32", "FP64": "float64", "BYTES": "object",
}  # fmt: skip
DTYPE_BY_NUMPY: Mapping[str, str] = {name: dtype for dtype, name in NUMPY_BY_DTYPE.items()}


@dataclass(frozen=True)
class TensorSpec:
    """A named tensor of a component.

    Attributes:
        name: The tensor's name in the graph.
        dtype: Triton's name of the type, such as ``FP32``.
        shape: Shape of one sample, the batch dimension left out; -1 where the size varies.
        sizes: What is known of the sizes that vary: a `Size` or None an axis; empty where nothing is. It is no part of
            what the tensor is: two specs are equal whether or not it is known.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    sizes: Sizes = field(default=(), compare=False)

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The NumPy type with the same bits."""
        import numpy as np

        return np.dtype(NUMPY_BY_DTYPE[self.dtype])

    def mismatch(self, array: npt.NDArray[Any]) -> str | None:
        """Say how one sample (no batch dimension) differs from this spec; None when it fits."""
        if array.dtype != self.numpy_dtype:
            found = DTYPE_BY_NUMPY.get(array.dtype.name, array.dtype.name)
            return f"dtype is {found}, expected {self.dtype}"
        fits = len(array.shape) == len(self.shape) and all(
            want in (-1, got) for want, got in zip(self.shape, array.shape, strict=True)
        )
        return None if fits else f"shape is {list(array.shape)}, expected {list(self.shape)}"

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype} {list(self.shape)}"


@dataclass(frozen=True)
class Artifact:
    """A file that a step made, with what the next step must know of it.

    Attributes:
        format: ``torch``, ``onnx``, ``onnxruntime``, ``tensorrt_plan``, ``tensorrt_rtx_plan``, ``reference``,
            ``samples``.
        path: The main file. Anything beside it in the same folder belongs to the artifact.
        sha256: Digest of the main file.
        inputs: Tensors that it takes.
        outputs: Tensors that it gives.
        produced_by: Name of the pass or engine.
        metadata: JSON-able facts for reports and later steps; those that another module reads are dataclasses, see
            `mmdeploy.core.facts`.
        beside: Names of files in the same folder that the main file is served with, such as ``model.bin`` with
            ``model.xml``. ONNX external data, ``<name>.data``, is found without being named.
    """

    format: str
    path: Path
    sha256: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    produced_by: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    beside: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """All that is served: the main file, then what it needs beside it."""
        data = self.path.with_name(self.path.name + ".data")
        named = (self.path.with_name(name) for name in self.beside)
        return (self.path, *([data] if data.exists() else []), *named)

    @property
    def size_bytes(self) -> int:
        """Bytes on disk of everything that is served."""
        return sum(file.stat().st_size for file in self.files)

    def to_json(self) -> str:
        """Serialize, the path by its file name only: an artifact moves with its folder."""
        fields = asdict(self) | {"path": self.path.name, "metadata": dict(self.metadata)}
        return json.dumps(fields, indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, folder: Path) -> Artifact:
        """Read what `to_json` wrote; ``folder`` is where the main file lies now."""
        fields = json.loads(text)
        for side in ("inputs", "outputs"):
            fields[side] = tuple(_spec_from(spec) for spec in fields[side])
        return cls(**fields | {"path": folder / fields["path"], "beside": tuple(fields.get("beside", ()))})


def _spec_from(entry: Mapping[str, Any]) -> TensorSpec:
    return TensorSpec(entry["name"], entry["dtype"], tuple(entry["shape"]), sizes_from(entry.get("sizes", ())))


#: Digests that this process took of large files, by device and state: a step's graph is asked for when it is made, when
#: it is handed over and when it is sealed.
_digests: dict[tuple[int, State], str] = {}
_LARGE_BYTES = 2**20
_MOST_DIGESTS = 256


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes in hex; a large file that stays as it is is read once."""
    with path.open("rb") as stream:
        status, now = os.fstat(stream.fileno()), time.time_ns()
        which = (status.st_dev, state_of(status))
        known = _digests.get(which)
        if known is not None:
            return known
        found = hashlib.file_digest(stream, "sha256").hexdigest()
        unchanged = state_of(os.fstat(stream.fileno())) == which[1]
    if status.st_size >= _LARGE_BYTES and unchanged and is_settled(which[1], now):
        if len(_digests) >= _MOST_DIGESTS:
            _digests.clear()
        _digests[which] = found
    return found
