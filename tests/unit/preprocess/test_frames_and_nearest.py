"""Frames of clips by each rule, and the nearest of a gallery; hostile clips are refused."""

import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmdeploy.preprocess import Nearest, RefusedError, SampleFrames, Spec


def clip(kind: str = "mp4", count: int = 12, size: tuple[int, int] = (32, 48)) -> bytes:
    """Return a clip whose frame n is grey 20 n."""
    import av

    with io.BytesIO() as stream:
        codec = {"mp4": "mpeg4", "webm": "libvpx", "gif": "gif"}[kind]
        with av.open(stream, "w", format=kind) as container:
            video = container.add_stream(codec, rate=10)
            video.height, video.width = size
            video.pix_fmt = "rgb8" if kind == "gif" else "yuv420p"
            for index in range(count):
                frame = av.VideoFrame.from_ndarray(np.full((*size, 3), 20 * index, np.uint8), format="rgb24")
                for packet in video.encode(frame):
                    container.mux(packet)
            for packet in video.encode():
                container.mux(packet)
        return stream.getvalue()


def levels(content: bytes, **options: Any) -> list[int]:
    method = SampleFrames(size=(8, 10), **options)
    found = method.row({"data": content})["frames"]
    spec = method.specs({"data": Spec("BYTES", (1,))})["frames"]
    assert found.shape == spec.shape and found.dtype == np.uint8
    return [round(float(frame.mean()) / 20) for frame in found]


@pytest.mark.parametrize("kind", ["mp4", "webm", "gif"])
def test_frames_are_taken_by_their_rule(kind: str) -> None:
    content = clip(kind)
    assert levels(content, frames=4, sampling="segment") == [1, 4, 7, 10]
    assert levels(content, frames=3, sampling="uniform") == [0, 6, 11] or kind == "gif"


def test_a_short_clip_repeats_frames_and_changes_are_found() -> None:
    assert levels(clip(count=2), frames=4) == [0, 0, 1, 1]
    found = SampleFrames(size=(4, 4), frames=3, sampling="change")._places([np.inf, 0.1, 5.0, 0.2, 7.0])
    assert found == [0, 2, 4]


def test_hostile_clips_are_refused() -> None:
    content = clip()
    for bad, why in (
        (content[:100], "cannot be read as a clip"),
        (b"#EXTM3U\n/etc/passwd\n", "is no clip that is taken"),
        (b"", "is empty"),
    ):
        with pytest.raises(RefusedError, match=why):
            levels(bad)
    with pytest.raises(RefusedError, match="more than the 5 frames"):
        levels(content, max_frames=5)
    with pytest.raises(RefusedError, match="48 x 32 pixels, at most 1000"):
        levels(content, max_pixels=1000)


@pytest.mark.parametrize("kind", ["mp4", "webm", "gif"])
def test_frames_that_are_as_large_as_is_taken_are_taken(kind: str) -> None:
    assert len(levels(clip(kind), frames=2, max_pixels=32 * 48)) == 2


def test_damaged_clips_are_decoded_or_refused() -> None:
    chance, files = random.Random(3), [clip("mp4", 4), clip("webm", 4), clip("gif", 4)]
    for _ in range(120):
        content = bytearray(chance.choice(files))
        for _ in range(chance.randint(1, 6)):
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        try:
            assert SampleFrames(size=(4, 4), frames=2, max_frames=50).row({"data": bytes(content)})["frames"].size == 96
        except RefusedError:
            continue


@pytest.mark.parametrize("search", ["numpy", "auto"])
@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_the_nearest_of_a_gallery(tmp_path: Path, metric: str, search: str) -> None:
    rows = np.random.default_rng(1).normal(size=(50, 6)).astype(np.float32)
    np.savez(tmp_path / "gallery.npz", embeddings=rows, labels=np.array([f"n{index}" for index in range(50)]))
    method = Nearest("gallery.npz", k=3, metric=metric, search=search)  # type: ignore[arg-type]
    method.open(tmp_path)
    found = method.row({"embedding": rows[7] * 2 if metric != "l2" else rows[7]})
    by_hand = rows / np.linalg.norm(rows, axis=1, keepdims=True) @ rows[7] if metric == "cosine" else rows @ rows[7]
    wanted = -np.linalg.norm(rows - rows[7], axis=1) if metric == "l2" else by_hand
    assert found["ids"].tolist() == np.argsort(-wanted, kind="stable")[:3].tolist()
    assert found["labels"].tolist() == [f"n{index}".encode() for index in found["ids"]]


def test_what_is_no_gallery_is_told(tmp_path: Path) -> None:
    np.savez(tmp_path / "small.npz", embeddings=np.ones((2, 3)))
    np.savez(tmp_path / "other.npz", vectors=np.ones((2, 3)))
    for file, why in (("small.npz", "5 rows or more"), ("other.npz", "is no gallery")):
        with pytest.raises(ValueError, match=why):
            Nearest(file).open(tmp_path)
