"""Samples of a WAV, FLAC, OGG (Vorbis or Opus) or MP3 file, as one channel at one rate.

What it does: mixes the channels to their mean, resamples by soxr, and cuts or fills with silence to ``samples``;
without it the length varies. ``scaling`` makes the loudest sample 1, or mean and variance 0 and 1 (Wav2Vec2's).
When to choose it: clients send files of sound. Log-mel and MFCC belong into the model: there they are compiled with it.
What it needs: soundfile (libsndfile) and soxr.
Limits: a file is decoded in blocks, so that what claims to be short and is not is refused at ``max_seconds``, and hours
of silence in a few bytes cost no memory. Samples that are no numbers are refused, and so is a file that was cut off (an
MP3 only where its encoder wrote how long it is).
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from .refusal import Array, RefusedError, Spec, content_of, one_string
from .whole_sound import is_cut_off

_BLOCK = 65_536
_LOWEST_RATE, _HIGHEST_RATE = 1_000, 384_000
#: Encodings that a WAV file may have: others are of telephones past, and their decoders little used.
_WAV_ENCODINGS = ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW")


@dataclass(frozen=True)
class DecodeAudio:
    """Options, and the method itself."""

    rate: int = field(default=16_000, metadata={"about": "Samples a second that are given, whatever the file's."})
    samples: int | None = field(
        default=None, metadata={"about": "Cut or filled with silence to so many samples; none: the length varies."}
    )
    crop: Literal["start", "centre"] = field(default="start", metadata={"about": "What is kept of what is longer."})
    pad: Literal["end", "both"] = field(default="end", metadata={"about": "Where silence is filled in."})
    scaling: Literal["none", "peak", "unit_variance"] = field(
        default="none", metadata={"about": "none keeps full scale at 1; what is filled in is not counted."}
    )
    min_seconds: float = field(default=0.0, metadata={"about": "What is shorter is refused."})
    max_seconds: float = field(default=60.0, metadata={"about": "What is longer is refused, even if it would be cut."})
    max_channels: int = field(default=8, metadata={"about": "Most channels."})
    formats: tuple[Literal["WAV", "FLAC", "OGG", "MP3"], ...] = field(
        default=("WAV", "FLAC", "OGG", "MP3"), metadata={"about": "Formats that are taken."}
    )
    max_bytes: int = field(default=32 * 2**20, metadata={"about": "Largest file."})

    INPUTS: ClassVar[tuple[str, ...]] = ("data",)
    OUTPUTS: ClassVar[tuple[str, ...]] = ("samples", "mask", "length")
    #: Outputs that may have one value in a whole set: those of sounds that are equally long.
    MAY_BE_CONSTANT: ClassVar[tuple[str, ...]] = ("mask", "length")
    REQUIRES: ClassVar[tuple[str, ...]] = ("soundfile", "soxr")

    def __post_init__(self) -> None:
        """Check what the options say together."""
        if not _LOWEST_RATE <= self.rate <= _HIGHEST_RATE:
            raise ValueError(f"rate is {self.rate}: within {_LOWEST_RATE} and {_HIGHEST_RATE}")
        if self.samples is not None and self.samples < 1:
            raise ValueError(f"samples is {self.samples}: 1 or more")
        if not 0 <= self.min_seconds < self.max_seconds <= 86_400:
            raise ValueError("min_seconds is 0 or more and below max_seconds, which is a day at most")
        if self.max_channels < 1 or self.max_bytes < 1 or not self.formats:
            raise ValueError("max_channels and max_bytes are 1 or more, and there is a format")

    def specs(self, given: Mapping[str, Spec]) -> dict[str, Spec]:
        """Return what it gives of what it is given."""
        one_string(given["data"])
        count = -1 if self.samples is None else self.samples
        return {"samples": Spec("FP32", (count,)), "mask": Spec("INT64", (count,)), "length": Spec("INT64", (1,))}

    def open(self, folder: Path) -> None:
        """Load nothing: there are no files."""

    def row(self, values: Mapping[str, Any]) -> dict[str, Array]:
        """Decode one sound.

        Raises:
            RefusedError: If it is none, or beyond a limit.
        """
        import numpy as np

        content = content_of(values["data"], self.max_bytes)
        if (kind := _kind(content)) not in self.formats:
            raise RefusedError(f"is no sound that is taken ({', '.join(self.formats)})")
        if is_cut_off(content, kind):
            raise RefusedError(f"is cut off: it is {len(content)} bytes of a longer {kind} file")
        try:
            mono, rate = self._mono(content, kind)
        except RefusedError:
            raise
        except Exception as error:
            why = str(error).replace("Error opening", "").partition("<_io")[0].strip(" :") or type(error).__name__
            raise RefusedError(f"cannot be read as {kind}: {why}") from error
        sound = self._scaled(self._cut(self._resampled(mono, rate)))
        if not np.isfinite(sound).all():
            raise RefusedError("holds samples that are no numbers, or beyond all bounds")
        length, mask = len(sound), np.ones(len(sound), np.int64)
        if self.samples is not None and length < self.samples:
            missing = self.samples - length
            before = missing // 2 if self.pad == "both" else 0
            sound, mask = (np.pad(one, (before, missing - before)) for one in (sound, mask))
        return {"samples": sound, "mask": mask, "length": np.array([length], np.int64)}

    def _mono(self, content: bytes, kind: str) -> tuple[Array, int]:
        """Return the mean of the channels, and the rate; no more is decoded than may be."""
        import numpy as np
        import soundfile

        with soundfile.SoundFile(io.BytesIO(content)) as file:
            self._check_header(file, kind)
            most, blocks, read = int(self.max_seconds * file.samplerate), list[Array](), 0
            while len(block := file.read(_BLOCK, dtype="float32", always_2d=True)):
                read += len(block)
                if read > most:
                    raise RefusedError(f"is longer than the {self.max_seconds:g} seconds that are taken")
                with np.errstate(invalid="ignore", over="ignore"):  # looked for below
                    blocks.append(block.mean(axis=1, dtype=np.float32))
            rate = int(file.samplerate)
        if not read:
            raise RefusedError("holds no samples")
        mono: Array = np.concatenate(blocks)
        if not np.isfinite(mono).all():
            raise RefusedError("holds samples that are no numbers")
        if read < self.min_seconds * rate:
            raise RefusedError(f"is {read / rate:.3g} seconds long, at least {self.min_seconds:g} are taken")
        return mono, rate

    def _check_header(self, file: Any, kind: str) -> None:
        if kind == "WAV" and file.subtype not in _WAV_ENCODINGS:
            raise RefusedError(f"is WAV in {file.subtype}, which is not taken")
        if not _LOWEST_RATE <= file.samplerate <= _HIGHEST_RATE:
            raise RefusedError(f"has {file.samplerate} samples a second, {_LOWEST_RATE} to {_HIGHEST_RATE} are taken")
        if file.channels > self.max_channels:
            raise RefusedError(f"has {file.channels} channels, at most {self.max_channels} are taken")
        if file.frames > self.max_seconds * file.samplerate and file.frames < 2**62:  # else the length is not known
            seconds = file.frames / file.samplerate
            raise RefusedError(f"is {seconds:.6g} seconds long, at most {self.max_seconds:g} are taken")

    def _resampled(self, mono: Array, rate: int) -> Array:
        import numpy as np

        if rate == self.rate:
            return mono
        import soxr

        sound: Array = np.asarray(soxr.resample(mono, rate, self.rate, quality="HQ"), np.float32)
        if not len(sound):
            raise RefusedError("holds no samples once it is resampled")
        return sound

    def _cut(self, sound: Array) -> Array:
        if self.samples is None or len(sound) <= self.samples:
            return sound
        first = (len(sound) - self.samples) // 2 if self.crop == "centre" else 0
        return sound[first : first + self.samples]

    def _scaled(self, sound: Array) -> Array:
        import numpy as np

        if self.scaling == "peak":
            peak = np.abs(sound).max()
            return sound / peak if peak > 0 else sound
        if self.scaling == "unit_variance":
            sound = (sound - sound.mean()) / np.sqrt(sound.var() + np.float32(1e-7))
        return sound


def _kind(content: bytes) -> str:
    """Return the format that a file begins like; empty for none that is known."""
    if content[:4] == b"RIFF" and content[8:12] == b"WAVE":
        return "WAV"
    if content[:4] in (b"fLaC", b"OggS"):
        return "FLAC" if content[:1] == b"f" else "OGG"
    if content[:3] == b"ID3" or (len(content) > 1 and content[0] == 0xFF and content[1] & 0xE0 == 0xE0):
        return "MP3"
    return ""
