"""Turn files into tensors: PNG and JPEG, WAV, ``.npy``, JSON; a tensor of BYTES holds a file as it is.

Only what a tensor's declared type and shape settle is done: scaling to [-1, 1] for samples of audio, grey or RGB for
pixels. Sizes must fit, or be asked to be made to fit.
"""

from __future__ import annotations

import json
import wave
from pathlib import Path
from typing import Any

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
    try:
        if suffix in IMAGES:
            array = _pixels(path, spec, fit)
        elif suffix == ".wav":
            array = _samples(path, spec, fit)
        elif suffix == ".npy":
            array = np.load(path, allow_pickle=False)
        else:
            array = _numbers(path, spec)
    except _NoSuchTensorError as cause:
        raise UsageError(f"{spec.name}: {path.name}: {cause}") from cause
    except (OSError, ValueError, TypeError, EOFError, OverflowError, wave.Error) as cause:
        why = _WHY.get(type(cause)) or str(cause)
        raise UsageError(
            f"{spec.name}: {path.name} cannot be read as {_KINDS.get(suffix, 'an image')}: {why}"
        ) from cause
    mismatch = spec.mismatch(array)
    if mismatch:
        hint = "--fit resizes images, and cuts or fills audio" if suffix in (*IMAGES, ".wav") and not fit else None
        raise UsageError(f"{spec.name}: {path.name}: {mismatch}", hint=hint)
    return array


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


def _pixels(path: Path, spec: TensorSpec, fit: bool) -> Array:
    """Read pixels as [H, W], or with 1 or 3 channels first or last, whichever the model takes; floats are in [0, 1]."""
    from PIL import Image

    with Image.open(path) as opened:
        image = opened.convert("RGB" if 3 in (spec.shape[:1] + spec.shape[-1:]) and len(spec.shape) == 3 else "L")
    shape = spec.shape
    channels_first = len(shape) == 3 and shape[0] in (1, 3) and shape[-1] not in (1, 3)
    if len(shape) != 2 and not channels_first and not (len(shape) == 3 and shape[-1] in (1, 3)):
        raise _NoSuchTensorError(f"the model takes {spec.dtype} {list(shape)}, which is no image")
    height, width = shape[1:] if channels_first else shape[:2]
    if fit and -1 not in (height, width):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    array = np.asarray(image)
    if len(shape) == 3 and array.ndim == 2:
        array = array[None] if channels_first else array[..., None]
    elif channels_first:
        array = np.ascontiguousarray(array.transpose(2, 0, 1))
    return (array / 255.0).astype(spec.numpy_dtype) if spec.numpy_dtype.kind == "f" else array.astype(spec.numpy_dtype)


def _samples(path: Path, spec: TensorSpec, fit: bool) -> Array:
    with wave.open(str(path)) as stream:
        channels, width, frames = stream.getnchannels(), stream.getsampwidth(), stream.getnframes()
        raw = stream.readframes(frames)
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
