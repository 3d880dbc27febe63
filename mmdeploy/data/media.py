"""Turn files into tensors: PNG and JPEG, WAV, ``.npy``, JSON; a tensor of BYTES holds a file as it is.

Only what a tensor's declared type and shape settle is done: scaling to [-1, 1] for samples of audio, grey or RGB for
pixels. Sizes must fit, or be asked to be made to fit.
"""

from __future__ import annotations

import contextlib
import io
import json
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from mmdeploy.core.artifact import TensorSpec
from mmdeploy.core.errors import UsageError
from mmdeploy.core.strings import BYTES

Array = npt.NDArray[Any]
IMAGES = (".png", ".jpg", ".jpeg", ".bmp")
ACCEPTED = (*IMAGES, ".wav", ".npy", ".json")
_KINDS = {".wav": "a WAV file", ".npy": "a NumPy array", ".json": "numbers in JSON"}
_WHY = {EOFError: "the file ends too early", TypeError: "it holds something else than numbers and lists of them"}
_WAV_TYPES = {1: "u1", 2: "<i2", 4: "<i4"}
#: How files begin that hold pixels or samples: PNG, JPEG, BMP, WAV.
_BEGINNINGS = {b"\x89PNG\r\n": ".png", b"\xff\xd8\xff": ".jpg", b"BM": ".bmp", b"RIFF": ".wav"}
#: Of a picture that a stranger sent, for a tensor of any height and width.
_MOST_PIXELS = 2**25


class _NoSuchTensorError(Exception):
    """The model takes no tensor of the kind that a file holds."""


def read_tensor(path: Path, spec: TensorSpec, *, fit: bool = False) -> Array:
    """Read one sample of a tensor from a file.

    Args:
        path: PNG or JPEG (pixels), WAV (PCM samples, mixed to mono, in [-1, 1]), ``.npy`` or JSON (numbers).
        spec: What the model takes.
        fit: Resize an image, cut audio or fill it with silence, where the size differs.

    Returns:
        The sample, without a batch dimension.

    Raises:
        UsageError: If the file cannot be read as such a tensor.
    """
    if not path.is_file():
        raise UsageError(f"{spec.name}: there is no file {path}")
    if spec.dtype == BYTES:
        return _whole(path, spec)
    suffix = path.suffix.lower()
    if suffix not in ACCEPTED:
        raise UsageError(f"{spec.name}: {path.name} is of an unknown type; accepted: {', '.join(ACCEPTED)}")
    with _told(spec, path.name, suffix):
        if suffix == ".npy":
            array: Array = np.load(path, allow_pickle=False)
        elif suffix == ".json":
            array = _numbers(path, spec)
        else:
            with path.open("rb") as stream:
                array = _pixels(stream, spec, fit) if suffix in IMAGES else _samples(stream, spec, fit)
    mismatch = spec.mismatch(array)
    if mismatch:
        hint = "--fit resizes images, and cuts or fills audio" if suffix in (*IMAGES, ".wav") and not fit else None
        raise UsageError(f"{spec.name}: {path.name}: {mismatch}", hint=hint)
    return array


def kind_of(content: bytes) -> str | None:
    """Return the suffix of a file that holds a picture or a sound, by how it begins; None for anything else."""
    return next((suffix for start, suffix in _BEGINNINGS.items() if content.startswith(start)), None)


def read_content(content: bytes, suffix: str, spec: TensorSpec) -> Array:
    """Read one sample of a tensor from what a stranger sent.

    Args:
        content: A file of the kinds that `kind_of` knows.
        suffix: What it says.
        spec: What the model takes; sizes must fit.

    Raises:
        UsageError: If it cannot be read as such a tensor. What is too large is refused before it is decoded.
    """
    with _told(spec, "the file", suffix):
        stream = io.BytesIO(content)
        array = (
            _samples(stream, spec, fit=False) if suffix == ".wav" else _pixels(stream, spec, fit=False, bounded=True)
        )
    if mismatch := spec.mismatch(array):
        raise UsageError(f"{spec.name}: {mismatch}")
    return array


@contextlib.contextmanager
def _told(spec: TensorSpec, name: str, suffix: str) -> Iterator[None]:
    """Say in our words what is wrong with a file."""
    try:
        yield
    except _NoSuchTensorError as cause:
        raise UsageError(f"{spec.name}: {name}: {cause}") from cause
    except (OSError, ValueError, TypeError, EOFError, OverflowError, SyntaxError, wave.Error) as cause:
        why = _WHY.get(type(cause)) or str(cause)
        raise UsageError(f"{spec.name}: {name} cannot be read as {_KINDS.get(suffix, 'an image')}: {why}") from cause


def _whole(path: Path, spec: TensorSpec) -> Array:
    """Return a file's bytes as a sample of one string; a text file as an editor leaves it loses its last line end."""
    if any(size not in (1, -1) for size in spec.shape):
        raise UsageError(f"{spec.name}: the model takes {list(spec.shape)} strings a sample, and {path.name} is one")
    content = path.read_bytes()
    found = np.empty(1, dtype=object)
    found[0] = content.removesuffix(b"\n").removesuffix(b"\r") if path.suffix.lower() == ".txt" else content
    return found.reshape([1] * len(spec.shape))


def _numbers(path: Path, spec: TensorSpec) -> Array:
    given = np.asarray(json.loads(path.read_text(encoding="utf-8")))
    if given.dtype.kind not in "biuf":
        raise TypeError
    array = given.astype(spec.numpy_dtype)
    if spec.numpy_dtype.kind in "biu" and not np.array_equal(array, given):
        raise ValueError(f"{given[array != given].flat[0]} is no {spec.dtype}")
    return array


def _pixels(stream: BinaryIO, spec: TensorSpec, fit: bool, *, bounded: bool = False) -> Array:
    """Read pixels as [H, W], or with 1 or 3 channels first or last, whichever the model takes; floats are in [0, 1]."""
    from PIL import Image, UnidentifiedImageError

    try:
        opened = Image.open(stream)  # reads the header only
    except UnidentifiedImageError as error:
        raise ValueError("what it holds is no picture") from error
    shape = spec.shape
    channels_first = len(shape) == 3 and shape[0] in (1, 3) and shape[-1] not in (1, 3)
    if len(shape) != 2 and not channels_first and not (len(shape) == 3 and shape[-1] in (1, 3)):
        raise _NoSuchTensorError(f"the model takes {spec.dtype} {list(shape)}, which is no image")
    height, width = shape[1:] if channels_first else shape[:2]
    if bounded:
        _require_fit(opened.size, (width, height))
    image = opened.convert("RGB" if 3 in (shape[:1] + shape[-1:]) and len(shape) == 3 else "L")
    if fit and -1 not in (height, width):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    array = np.asarray(image)
    if len(shape) == 3 and array.ndim == 2:
        array = array[None] if channels_first else array[..., None]
    elif channels_first:
        array = np.ascontiguousarray(array.transpose(2, 0, 1))
    return (array / 255.0).astype(spec.numpy_dtype) if spec.numpy_dtype.kind == "f" else array.astype(spec.numpy_dtype)


def _require_fit(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    """Do nothing where a picture, of which only the header was read, has the pixels that a model takes."""
    shown = f"it has {size[0]} x {size[1]} pixels"
    if any(want not in (-1, got) for want, got in zip(wanted, size, strict=True)):
        raise ValueError(f"{shown}, the model takes {wanted[0]} x {wanted[1]}")
    if size[0] * size[1] > _MOST_PIXELS:
        raise ValueError(f"{shown}, accepted are {_MOST_PIXELS} in all")


def _samples(stream: BinaryIO, spec: TensorSpec, fit: bool) -> Array:
    with wave.open(stream) as opened:
        channels, width, frames = opened.getnchannels(), opened.getsampwidth(), opened.getnframes()
        raw = opened.readframes(frames)
    if width not in _WAV_TYPES:
        raise ValueError(f"{8 * width}-bit samples; accepted: 8, 16 or 32 bits")
    samples = np.frombuffer(raw, np.dtype(_WAV_TYPES[width])).reshape(-1, channels).astype(np.float64)
    mono: Array = (samples - 128.0 if width == 1 else samples).mean(axis=1)
    if spec.numpy_dtype.kind == "f":
        mono = mono / 2.0 ** (8 * width - 1)
    wanted = spec.shape[-1] if spec.shape else -1
    if fit and wanted > 0:
        mono = np.pad(mono[:wanted], (0, max(0, wanted - len(mono))))
    return mono.astype(spec.numpy_dtype)
