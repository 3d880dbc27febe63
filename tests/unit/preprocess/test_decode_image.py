"""Pixels of image files: sizes, colours, orders, orientation; and limits that hold before memory is spent."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from media_files import image

from mmdeploy.preprocess import DecodeImage, RefusedError, Spec

GIVEN = {"data": Spec("BYTES", (1,))}


def pixels(content: bytes, **options: Any) -> np.ndarray:
    method = DecodeImage(**options)
    found = method.row({"data": np.array([content], dtype=object)})["pixels"]
    declared = method.specs(GIVEN)["pixels"]
    assert all(want in (-1, have) for want, have in zip(declared.shape, found.shape, strict=True))
    assert found.dtype.name == {"FP32": "float32", "UINT8": "uint8"}[declared.dtype]
    return found


def reference(content: bytes) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_pixels_are_those_of_the_file(kind: str) -> None:
    content = image(kind)
    wanted = reference(content)
    np.testing.assert_array_equal(pixels(content, layout="HWC", dtype="UINT8"), wanted)
    np.testing.assert_array_equal(pixels(content, dtype="UINT8"), wanted.transpose(2, 0, 1))
    np.testing.assert_array_equal(pixels(content, layout="HWC", dtype="UINT8", colour="BGR"), wanted[..., ::-1])
    scaled = (wanted / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.6, 0.7]
    found = pixels(content, layout="HWC", mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    np.testing.assert_allclose(found, scaled, atol=1e-6)


def test_the_shorter_side_is_resized_and_the_centre_cut_out() -> None:
    content = image(size=(40, 20))
    assert pixels(content, resize=10).shape == (3, 10, 20)
    whole = pixels(content, resize=10, dtype="UINT8")
    np.testing.assert_array_equal(pixels(content, resize=10, crop=(10, 10), dtype="UINT8"), whole[:, :, 5:15])
    assert pixels(content, resize=(6, 7)).shape == (3, 6, 7)
    small = pixels(image(size=(4, 4)), crop=(6, 6), dtype="UINT8")
    assert not small[:, 0].any() and small[:, 1:5, 1:5].any()


def test_it_is_turned_as_its_orientation_says() -> None:
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    content = image("JPEG", exif=exif.tobytes())
    turned = pixels(content, dtype="UINT8", layout="HWC")
    np.testing.assert_array_equal(turned, np.rot90(reference(content), -1))
    assert pixels(content, orientation=False, layout="HWC").shape[:2] == (9, 12)


def test_grey_palettes_transparency_and_16_bits_become_colours() -> None:
    from PIL import Image

    for mode in ("L", "P", "1", "LA", "RGBA", "CMYK"):
        kind = "JPEG" if mode == "CMYK" else "PNG"
        assert pixels(image(kind, mode=mode)).shape == (3, 9, 12)
    with io.BytesIO() as stream:
        Image.fromarray(np.full((2, 2), 0x8000, np.uint16)).save(stream, "PNG")
        assert (pixels(stream.getvalue(), dtype="UINT8", colour="L", layout="HW") == 128).all()
    with io.BytesIO() as stream:
        Image.new("RGBA", (2, 2), (255, 0, 0, 0)).save(stream, "PNG")
        clear = stream.getvalue()
    assert pixels(clear, dtype="UINT8", background=(0, 0, 255))[:, 0, 0].tolist() == [0, 0, 255]
    assert pixels(clear, dtype="UINT8")[:, 0, 0].tolist() == [255, 0, 0]


def png(width: int, height: int, data: bytes) -> bytes:
    """Return a PNG file that says what it likes of its size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (png(50_000, 50_000, b""), "2500000000 pixels, at most 50000000"),
        (png(1, 40_000_000, b""), "once resized"),
        (png(10, 10, b"\0" * 20), "cannot be read as an image"),
        (image("JPEG")[:100], "cannot be read as an image"),
        (image("GIF"), "cannot be read as an image"),
        (b"PK\x03\x04" + bytes(50), "cannot be read as an image"),
        (b"\x89PNG\r\n\x1a\n", "cannot be read as an image"),
        (b"", "is empty"),
    ],
)
def test_what_is_no_image_or_too_large_is_refused(content: bytes, why: str) -> None:
    if why == "once resized":  # a strip of one pixel in width would be made as wide as it is high
        method, size = DecodeImage(resize=224), (1, 40_000_000)
        with pytest.raises(RefusedError, match=why):
            method._refuse_large(method._target(size), " once resized")
        return
    with pytest.raises(RefusedError, match=why):
        pixels(content, resize=224)


def test_options_that_contradict_each_other_are_refused() -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"layout": "HW"}, "no room for RGB"),
        ({"mean": (0.5,)}, "mean has 1 values"),
        ({"dtype": "UINT8", "mean": (0.5, 0.5, 0.5)}, "not normalised"),
        ({"std": (0.0, 1.0, 1.0)}, "std is above 0"),
        ({"resize": 0}, "resize is 0"),
        ({"max_pixels": 10**9}, "max_pixels"),
    ]
    for options, why in wrong:
        with pytest.raises(ValueError, match=why):
            DecodeImage(**options)
