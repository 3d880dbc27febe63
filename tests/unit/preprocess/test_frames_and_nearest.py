"""Frames of clips by each rule, and the nearest of a gallery; hostile clips are refused."""

import zipfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from media_files import clip

from mmdeploy.preprocess import Nearest, RefusedError, SampleFrames, Spec


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
        (content[:100], "^cannot be read as a clip: Invalid data found when processing input$"),
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


ROWS = np.eye(6, 3, dtype=np.float32) + 1
NAN = np.where(np.eye(6, 3) > 0, np.nan, ROWS)


@pytest.mark.parametrize(
    ("arrays", "why"),
    [
        ({"embeddings": np.ones((2, 3))}, "k is 5, and gallery.npz has 2 rows"),
        ({"vectors": ROWS}, "is no gallery, an .npz file with embeddings: it holds 'vectors', and no 'embeddings'"),
        ({"embeddings": ROWS[0]}, r"embeddings have shape \[3\], and must be \[rows, values\]"),
        ({"embeddings": np.ones((0, 3))}, r"embeddings have shape \[0, 3\]"),
        ({"embeddings": NAN}, "embeddings are NaN, infinite or beyond FP32 in rows 0, 1, 2"),
        ({"embeddings": ROWS * 1e300}, r"beyond FP32 in rows 0, 1, 2, 3, 4, … \(6 in all\)"),
        ({"embeddings": ROWS * [[1], [1], [0], [1], [1], [1]]}, "all zeros in row 2, which points nowhere"),
        ({"embeddings": ROWS.astype(str)}, "embeddings are str.*, and must be numbers"),
        ({"embeddings": ROWS.astype(complex)}, "embeddings are complex128, and must be numbers"),
        ({"embeddings": ROWS.astype(object)}, "it holds Python objects; save numbers and str"),
        (
            {"embeddings": ROWS, "labels": np.array(["a"] * 5)},
            "6 rows of embeddings and 5 labels: a label for each",
        ),
        ({"embeddings": ROWS, "labels": np.ones((6, 2))}, r"labels are float64 \[6, 2\], and must be a text a row"),
    ],
)
def test_what_is_no_gallery_is_told(tmp_path: Path, arrays: dict[str, np.ndarray], why: str) -> None:
    np.savez(tmp_path / "gallery.npz", **arrays)
    with pytest.raises(ValueError, match=why):
        Nearest("gallery.npz").look_at(tmp_path)


def test_a_file_that_is_no_archive_or_holds_an_array_twice_is_told(tmp_path: Path) -> None:
    path = tmp_path / "gallery.npz"
    for content in (b"", b"PK\x03\x04 and no more", b"text"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"gallery\.npz is no gallery"):
            Nearest("gallery.npz").look_at(tmp_path)
    with path.open("wb") as one:
        np.save(one, ROWS)
    with pytest.raises(ValueError, match=r"it is no archive of arrays: write it with numpy\.savez"):
        Nearest("gallery.npz").look_at(tmp_path)
    np.savez(path, embeddings=ROWS)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("embeddings.npy", archive.read("embeddings.npy"))
    with pytest.raises(ValueError, match="it holds 'embeddings' twice"):
        Nearest("gallery.npz").look_at(tmp_path)


@pytest.mark.parametrize("labels", [np.array([b"a", b"b"]), np.array(["a", "b"]), np.array([7, 8])])
def test_labels_of_a_gallery_are_texts_bytes_or_whole_numbers(tmp_path: Path, labels: np.ndarray) -> None:
    np.savez(tmp_path / "gallery.npz", embeddings=np.eye(2), labels=labels)
    method = Nearest("gallery.npz", k=1, search="numpy")
    method.open(tmp_path)
    found = method.row({"embedding": np.array([0.1, 0.9])})["labels"][0]
    assert found == (b"8" if labels.dtype.kind == "i" else b"b")


@pytest.mark.parametrize("search", ["numpy", "auto"])
def test_an_embedding_that_does_not_fit_is_refused(tmp_path: Path, search: Literal["numpy", "auto"]) -> None:
    np.savez(tmp_path / "gallery.npz", embeddings=ROWS)
    method = Nearest("gallery.npz", search=search)
    assert method.specs({"embedding": Spec("FP32", (4,))})  # nothing is known of the file
    method.open(tmp_path)
    assert "labels" not in method.specs({"embedding": Spec("FP32", (3,))})
    why = "gallery.npz has rows of 3 values, and the embedding has 4"
    with pytest.raises(ValueError, match=why):
        method.specs({"embedding": Spec("FP32", (4,))})
    with pytest.raises(RefusedError, match=why):
        method.row({"embedding": np.ones(4)})
    with pytest.raises(RefusedError, match="holds values that are no numbers"):
        method.row({"embedding": np.array([1, np.nan, 1])})


def test_where_faiss_is_installed_it_searches_and_is_required() -> None:
    pytest.importorskip("faiss")
    assert Nearest("gallery.npz").settled() == {"search": "faiss"} and Nearest("gallery.npz").requires() == ("faiss",)
    assert not Nearest("gallery.npz", search="numpy").requires()
