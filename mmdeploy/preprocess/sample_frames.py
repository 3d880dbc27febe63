"""Frames of a GIF, MP4 or WebM file.

What it does: decodes a clip and takes ``frames`` of it, each resized to ``size``: evenly from the first to the last
(``uniform``), the middle of as many equal segments (``segment``, as in TSN), or the first and those that differ most
from the frame before (``change``), in their order. Of a clip with fewer, frames are taken again.
When to choose it: clients send clips.
What it needs: av (PyAV, with FFmpeg in its wheel).
Limits: a clip is decoded twice, first to know its length, so that no more frames are held than are given. A clip of
more than ``max_frames``, or with frames of more than ``max_pixels``, is refused. Sound is not looked at.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from .refusal import Array, RefusedError, Spec, content_of, one_string

_THUMBNAIL = 16
#: FFmpeg measures frames with the edges that it decodes into, which small ones have many of: what it may hold besides.
_EDGES = 2**20


@dataclass(frozen=True)
class SampleFrames:
    """Options, and the method itself."""

    size: tuple[int, int] = field(metadata={"about": "[height, width] of the frames."})
    frames: int = field(default=8, metadata={"about": "How many."})
    sampling: Literal["uniform", "segment", "change"] = field(default="segment", metadata={"about": "Which."})
    layout: Literal["TCHW", "THWC"] = field(default="TCHW", metadata={"about": "Order of the axes; T is time."})
    dtype: Literal["FP32", "UINT8"] = field(
        default="UINT8", metadata={"about": "Element type; FP32 is scaled by 1/255. Normalise in the model."}
    )
    max_frames: int = field(default=1_800, metadata={"about": "Longest clip, in frames."})
    max_pixels: int = field(default=2_100_000, metadata={"about": "Most pixels of a frame."})
    max_bytes: int = field(default=64 * 2**20, metadata={"about": "Largest file."})

    INPUTS: ClassVar[tuple[str, ...]] = ("data",)
    OUTPUTS: ClassVar[tuple[str, ...]] = ("frames",)
    REQUIRES: ClassVar[tuple[str, ...]] = ("av",)

    def __post_init__(self) -> None:
        """Check what the options say together."""
        if min(self.size) < 1:
            raise ValueError(f"size is {list(self.size)}: each 1 or more")
        for name in ("frames", "max_frames", "max_pixels", "max_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: 1 or more")

    def specs(self, given: Mapping[str, Spec]) -> dict[str, Spec]:
        """Return what it gives of what it is given."""
        one_string(given["data"])
        shape = (3, *self.size) if self.layout == "TCHW" else (*self.size, 3)
        return {"frames": Spec(self.dtype, (self.frames, *shape))}

    def open(self, folder: Path) -> None:
        """Load nothing: there are no files."""

    def row(self, values: Mapping[str, Any]) -> dict[str, Array]:
        """Sample one clip.

        Raises:
            RefusedError: If it is none, or beyond a limit.
        """
        import numpy as np

        content = content_of(values["data"], self.max_bytes)
        if (kind := _kind(content)) is None:
            raise RefusedError("is no clip that is taken (GIF, MP4, WebM)")
        try:
            differences = self._differences(content, kind)
            if not differences:
                raise RefusedError("holds no frames")
            places = self._places(differences)
            found = dict(self._picked(content, kind, {*places}))
            clip: Array = np.stack([found[place] for place in places])
        except RefusedError:
            raise
        except Exception as error:
            told = getattr(error, "strerror", None) or str(error)  # FFmpeg's own numbers say nothing
            why = told.partition("'<")[0].partition("; last error")[0].strip(" :") or type(error).__name__
            raise RefusedError(f"cannot be read as a clip: {why}") from error
        if self.dtype == "FP32":
            clip = clip.astype(np.float32) / np.float32(255)
        return {"frames": np.ascontiguousarray(clip.transpose(0, 3, 1, 2) if self.layout == "TCHW" else clip)}

    def _decoded(self, content: bytes, kind: str) -> Iterator[Any]:
        """Give the frames; the format is named, so that no file is taken for a list of others."""
        import av

        with av.open(io.BytesIO(content), format=kind) as container:
            if not container.streams.video:
                raise RefusedError("holds no pictures")
            stream = container.streams.video[0]
            self._refuse_large(stream.codec_context.width, stream.codec_context.height)
            stream.codec_context.options = {"max_pixels": str(4 * self.max_pixels + _EDGES)}
            for index, frame in enumerate(container.decode(stream)):
                if index >= self.max_frames:
                    raise RefusedError(f"has more than the {self.max_frames} frames that are taken")
                self._refuse_large(frame.width, frame.height)
                yield frame

    def _refuse_large(self, width: int, height: int) -> None:
        if width * height > self.max_pixels:
            raise RefusedError(f"has frames of {width} x {height} pixels, at most {self.max_pixels} are taken")

    def _differences(self, content: bytes, kind: str) -> list[float]:
        """Return how far each frame is from the one before; its length is that of the clip."""
        import numpy as np

        found, before = list[float](), None
        for frame in self._decoded(content, kind):
            if self.sampling != "change":
                found.append(0.0)
                continue
            grey = frame.reformat(width=_THUMBNAIL, height=_THUMBNAIL, format="gray").to_ndarray().astype(np.float32)
            found.append(float("inf") if before is None else float(np.abs(grey - before).mean()))
            before = grey
        return found

    def _places(self, differences: list[float]) -> list[int]:
        import numpy as np

        count = len(differences)
        if self.sampling == "change" and count >= self.frames:
            return sorted(np.argsort(-np.array(differences), kind="stable")[: self.frames].tolist())
        if self.sampling == "uniform":
            return [round(place) for place in np.linspace(0, count - 1, self.frames).tolist()]
        return [int((segment + 0.5) * count / self.frames) for segment in range(self.frames)]

    def _picked(self, content: bytes, kind: str, places: set[int]) -> Iterator[tuple[int, Array]]:
        height, width = self.size
        last = max(places)
        for index, frame in enumerate(self._decoded(content, kind)):
            if index in places:
                small = frame.reformat(width=width, height=height, format="rgb24", interpolation="BILINEAR")
                yield index, small.to_ndarray()
            if index == last:
                return


def _kind(content: bytes) -> str | None:
    """Return FFmpeg's name of the format that a file begins like."""
    if content[:6] in (b"GIF87a", b"GIF89a"):
        return "gif"
    if content[4:8] == b"ftyp":
        return "mp4"
    return "matroska" if content[:4] == b"\x1aE\xdf\xa3" else None
