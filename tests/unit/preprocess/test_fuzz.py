"""Damaged files are decoded or refused, and nothing else: no other error, no memory beyond the limits."""

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from media_files import image, sound

from mmdeploy.preprocess import DecodeAudio, DecodeImage, RefusedError

FILES: dict[str, tuple[Any, tuple[bytes, ...]]] = {
    "image": (
        DecodeImage(resize=16, max_pixels=100_000),
        (image("PNG"), image("JPEG"), image("WEBP"), image("PNG", mode="P"), image("WEBP", lossless=True)),
    ),
    "audio": (
        DecodeAudio(rate=8000, samples=400, max_seconds=2),
        (sound("WAV"), sound("FLAC"), sound("OGG"), sound("MP3"), sound("WAV", subtype="FLOAT")),
    ),
}


@st.composite
def damaged(draw: st.DrawFn, files: tuple[bytes, ...]) -> bytes:
    """Cut, overwrite, repeat and insert pieces of a valid file."""
    content = bytearray(draw(st.sampled_from(files)))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        what = draw(st.sampled_from(["flip", "write", "cut", "insert", "repeat"]))
        if what == "flip" and content:
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif what == "write":
            content[at : at + 4] = draw(
                st.sampled_from([b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff", b"\x00\x00\x00\x01"])
            )
        elif what == "cut":
            del content[at : at + draw(st.integers(1, 200))]
        elif what == "insert":
            content[at:at] = draw(st.binary(max_size=20))
        else:
            content[at:at] = content[at : at + 100]
    return bytes(content)


@pytest.mark.parametrize("kind", FILES)
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_damaged_file_is_decoded_or_refused(kind: str, data: st.DataObject) -> None:
    method, files = FILES[kind]
    content = data.draw(damaged(files))
    try:
        found = method.row({"data": content})
    except RefusedError:
        return
    for name, array in found.items():
        assert np.isfinite(array).all() and array.size < 100_000, name


def test_the_files_that_are_damaged_are_whole() -> None:
    for method, files in FILES.values():
        for content in files:
            assert method.row({"data": content})
    assert io.BytesIO(FILES["image"][1][0]).read(4) == b"\x89PNG"
