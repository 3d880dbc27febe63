"""Pixels of a PNG, JPEG or WebP file.

What it does: turns the image the way its EXIF orientation says, resizes it, cuts out its centre, and gives the pixels
in the wanted order of colours and axes: integers from 0 to 255, or floats scaled by 1/255 and normalised by mean and
standard deviation. What is transparent keeps its colour, unless ``background`` is put behind it.
When to choose it: clients send files. A model that takes UINT8 and normalises in its forward computes the same with
less to send between the steps.
What it needs: Pillow.
Limits: the header says how large an image will be, and what is larger than ``max_pixels``, before or after resizing,
is refused before it is decoded. Of an animation nothing is taken but, if asked for, the first frame.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from .refusal import Array, RefusedError, Spec, content_of, one_string

#: Beyond twice its own limit Pillow opens nothing; ours lies below.
_MOST_PIXELS = 170_000_000


@dataclass(frozen=True)
class DecodeImage:
    """Options, and the method itself."""

    resize: int | tuple[int, int] | None = field(
        default=None, metadata={"about": "The length of the shorter side, or [height, width]; none: as it comes."}
    )
    crop: tuple[int, int] | None = field(
        default=None, metadata={"about": "[height, width] of the centre to cut out; black where the image is smaller."}
    )
    interpolation: Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"] = field(
        default="bilinear", metadata={"about": "How it is resized, by Pillow's filters, which smooth what they shrink."}
    )
    colour: Literal["RGB", "BGR", "L"] = field(default="RGB", metadata={"about": "Order of the colours; L is grey."})
    layout: Literal["CHW", "HWC", "HW"] = field(
        default="CHW", metadata={"about": "Order of colours, height and width; HW for grey alone."}
    )
    dtype: Literal["FP32", "UINT8"] = field(default="FP32", metadata={"about": "Element type of the pixels."})
    scale: float | None = field(
        default=None, metadata={"about": "Factor of the pixels in FP32; none: 1/255."}
    )  # fmt: skip
    mean: tuple[float, ...] = field(default=(), metadata={"about": "Taken off the scaled pixels, one a colour."})
    std: tuple[float, ...] = field(default=(), metadata={"about": "What is left is divided by it, one a colour."})
    orientation: bool = field(default=True, metadata={"about": "Turn it as its EXIF orientation says."})
    background: tuple[int, int, int] | None = field(
        default=None, metadata={"about": "RGB to put behind what is transparent; none: transparency is dropped."}
    )
    animated: Literal["refuse", "first"] = field(
        default="refuse", metadata={"about": "What to do with an animation: nothing, or take its first frame."}
    )
    formats: tuple[Literal["PNG", "JPEG", "WEBP"], ...] = field(
        default=("PNG", "JPEG", "WEBP"), metadata={"about": "Formats that are taken."}
    )
    max_pixels: int = field(default=50_000_000, metadata={"about": "Most pixels, before and after resizing."})
    max_bytes: int = field(default=32 * 2**20, metadata={"about": "Largest file."})

    INPUTS: ClassVar[tuple[str, ...]] = ("data",)
    OUTPUTS: ClassVar[tuple[str, ...]] = ("pixels",)
    REQUIRES: ClassVar[tuple[str, ...]] = ("pillow",)

    def __post_init__(self) -> None:
        """Check what the options say together."""
        for name in ("resize", "crop"):
            sizes = getattr(self, name)
            if any(size < 1 for size in (sizes if isinstance(sizes, tuple) else [] if sizes is None else [sizes])):
                raise ValueError(f"{name} is {sizes}: sizes are 1 or more")
        if (self.layout == "HW") != (self.colour == "L") and self.layout == "HW":
            raise ValueError(f"layout HW has no room for {self.colour}: say colour: L, or another layout")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values and len(values) != self._channels:
                raise ValueError(f"{name} has {len(values)} values, and {self.colour} has {self._channels} colours")
        if self.dtype == "UINT8" and (self.mean or self.std or self.scale is not None):
            raise ValueError("pixels in UINT8 are not normalised: say dtype: FP32, or do it in the model")
        if any(value <= 0 for value in self.std):
            raise ValueError("std is above 0")
        if not 1 <= self.max_pixels <= _MOST_PIXELS or self.max_bytes < 1 or not self.formats:
            raise ValueError(f"max_pixels is within 1 and {_MOST_PIXELS}, max_bytes 1 or more, and there is a format")

    @property
    def _channels(self) -> int:
        return 1 if self.colour == "L" else 3

    def specs(self, given: Mapping[str, Spec]) -> dict[str, Spec]:
        """Return what it gives of what it is given."""
        one_string(given["data"])
        height, width = self.crop or (self.resize if isinstance(self.resize, tuple) else (-1, -1))
        shape = {"CHW": (self._channels, height, width), "HWC": (height, width, self._channels), "HW": (height, width)}
        return {"pixels": Spec(self.dtype, shape[self.layout])}

    def open(self, folder: Path) -> None:
        """Load nothing: there are no files."""

    def row(self, values: Mapping[str, Any]) -> dict[str, Array]:
        """Decode one image.

        Raises:
            RefusedError: If it is none, or beyond a limit.
        """
        from PIL import Image

        content = content_of(values["data"], self.max_bytes)
        try:
            with Image.open(io.BytesIO(content), formats=list(self.formats)) as image:
                return {"pixels": self._pixels(self._prepared(image))}
        except RefusedError:
            raise
        except Image.DecompressionBombError as error:  # beyond Pillow's own limit, which lies above ours
            count = str(error).partition("(")[2].partition(" ")[0]
            raise RefusedError(f"has {count} pixels, at most {self.max_pixels} are taken") from error
        except Exception as error:
            why = str(error).replace("<_io.BytesIO object at ", "<").partition("<")[0].strip() or type(error).__name__
            accepted = ", ".join(self.formats)
            raise RefusedError(f"cannot be read as an image ({accepted}): {why}") from error

    def _prepared(self, image: Any) -> Any:
        """Return the image turned, in its colours, resized and cut; sizes are known before anything is decoded."""
        from PIL import Image, ImageOps

        if self.animated == "refuse" and getattr(image, "n_frames", 1) > 1:
            raise RefusedError(f"is an animation of {image.n_frames} frames, one image is taken")
        self._refuse_large(image.size, "")
        image.load()
        if self.orientation:
            image = ImageOps.exif_transpose(image)
        image = self._coloured(image)
        if self.resize is not None:
            size = self._target(image.size)
            self._refuse_large(size, " once resized")
            image = image.resize(size, Image.Resampling[self.interpolation.upper()])
        return image if self.crop is None else _centre(image, *self.crop)

    def _refuse_large(self, size: tuple[int, int], when: str) -> None:
        if size[0] * size[1] > self.max_pixels:
            raise RefusedError(f"has {size[0]} x {size[1]} pixels{when}, at most {self.max_pixels} are taken")

    def _coloured(self, image: Any) -> Any:
        from PIL import Image

        wanted = "L" if self.colour == "L" else "RGB"
        if image.mode.startswith("I"):  # 16 bits a pixel, of which Pillow would cut off what is above 255
            import numpy as np

            image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
        if self.background is not None and (image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info):
            behind = Image.new("RGBA", image.size, (*self.background, 255))
            image = Image.alpha_composite(behind, image.convert("RGBA"))
        return image if image.mode == wanted else image.convert(wanted)

    def _target(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return width and height to resize to; a shorter side keeps the proportions."""
        if isinstance(self.resize, tuple):
            return self.resize[1], self.resize[0]
        assert self.resize is not None
        width, height = size
        if width <= height:
            return self.resize, int(self.resize * height / width)
        return int(self.resize * width / height), self.resize

    def _pixels(self, image: Any) -> Array:
        import numpy as np

        array: Array = np.asarray(image)
        if self.layout == "HW":
            pass
        elif array.ndim == 2:
            array = array[..., None]
        elif self.colour == "BGR":
            array = array[..., ::-1]
        if self.dtype == "FP32":
            array = array.astype(np.float32) * np.float32(1 / 255 if self.scale is None else self.scale)
            if self.mean:
                array = array - np.array(self.mean, np.float32)
            if self.std:
                array = array / np.array(self.std, np.float32)
        return np.ascontiguousarray(array.transpose(2, 0, 1) if self.layout == "CHW" else array)


def _centre(image: Any, height: int, width: int) -> Any:
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
