"""Files become the tensors that a model declares, or are refused in words."""

import io
import json
import wave
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies
from PIL import Image

from mmdeploy.core.artifact import NUMPY_BY_DTYPE, TensorSpec
from mmdeploy.core.errors import UsageError
from mmdeploy.data.media import kind_of, read_content, read_tensor

relaxed = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
NUMBERS = [dtype for dtype in NUMPY_BY_DTYPE if dtype not in ("BOOL", "BYTES")]


def write_wav(path: Path, frames: np.ndarray, *, width: int = 2) -> Path:
    """Write samples [N] or [N, channels] of an integer type."""
    with wave.open(str(path), "wb") as stream:
        stream.setnchannels(1 if frames.ndim == 1 else frames.shape[1])
        stream.setsampwidth(width)
        stream.setframerate(8000)
        stream.writeframes(np.ascontiguousarray(frames).tobytes())
    return path


@relaxed
@given(data=st.data(), dtype=st.sampled_from(NUMBERS), shape=numpy_strategies.array_shapes(max_dims=4, max_side=5))
def test_npy_comes_back_as_it_was(tmp_path: Path, data: st.DataObject, dtype: str, shape: tuple[int, ...]) -> None:
    array = data.draw(numpy_strategies.arrays(NUMPY_BY_DTYPE[dtype], shape))
    np.save(tmp_path / "x.npy", array)
    read = read_tensor(tmp_path / "x.npy", TensorSpec("x", dtype, shape))
    np.testing.assert_array_equal(read, array)
    assert read.dtype == array.dtype


@relaxed
@given(shape=numpy_strategies.array_shapes(max_dims=3, max_side=4), data=st.data())
def test_json_takes_the_type_that_the_model_declares(
    tmp_path: Path, shape: tuple[int, ...], data: st.DataObject
) -> None:
    array = data.draw(numpy_strategies.arrays(np.int16, shape))
    (tmp_path / "x.json").write_text(json.dumps(array.tolist()))
    for dtype in ("FP32", "INT16", "INT64"):
        read = read_tensor(tmp_path / "x.json", TensorSpec("x", dtype, (-1,) * len(shape)))
        assert read.dtype == NUMPY_BY_DTYPE[dtype]
        np.testing.assert_array_equal(read, array)


@relaxed
@given(st.lists(st.integers(-(2**15), 2**15 - 1), min_size=1, max_size=50))
def test_wav_is_scaled_to_one(tmp_path: Path, samples: list[int]) -> None:
    path = write_wav(tmp_path / "x.wav", np.array(samples, "<i2"))
    read = read_tensor(path, TensorSpec("x", "FP32", (len(samples),)))
    np.testing.assert_allclose(read, np.array(samples) / 32768, rtol=1e-6)


@pytest.mark.parametrize(
    ("frames", "width"),
    [(np.array([0, 128, 255], "u1"), 1), (np.array([-(2**31), 0, 2**31 - 2**24], "<i4"), 4)],
    ids=["8 bits, unsigned", "32 bits"],
)
def test_wav_of_other_widths(tmp_path: Path, frames: np.ndarray, width: int) -> None:
    path = write_wav(tmp_path / "x.wav", frames, width=width)
    read = read_tensor(path, TensorSpec("x", "FP32", (3,)))
    np.testing.assert_allclose(read, [-1, 0, 127 / 128], atol=1e-6)


def test_wav_of_two_channels_is_mixed_and_raw_integers_stay_raw(tmp_path: Path) -> None:
    path = write_wav(tmp_path / "x.wav", np.array([[100, 300], [-20, -40]], "<i2"))
    assert read_tensor(path, TensorSpec("x", "INT16", (2,))).tolist() == [200, -30]


@relaxed
@given(length=st.integers(1, 40), wanted=st.integers(1, 40))
def test_audio_is_cut_or_filled_only_when_asked(tmp_path: Path, length: int, wanted: int) -> None:
    path = write_wav(tmp_path / "x.wav", np.arange(1, length + 1, dtype="<i2"))
    spec = TensorSpec("x", "INT16", (wanted,))
    fitted = read_tensor(path, spec, fit=True)
    kept = min(length, wanted)
    assert fitted.tolist() == [*range(1, kept + 1), *[0] * (wanted - kept)]
    if length != wanted:
        with pytest.raises(UsageError, match=rf"x.wav: shape is \[{length}\], expected \[{wanted}\]") as refused:
            read_tensor(path, spec)
        assert refused.value.hint == "--fit resizes images, and cuts or fills audio"


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp"])
@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 3), (3, 4, 6), (1, 4, 6), (4, 6, 1), (-1, -1, 3)], ids=str)
def test_images_are_laid_out_as_the_model_takes_them(tmp_path: Path, shape: tuple[int, ...], suffix: str) -> None:
    Image.new("RGB", (6, 4), (250, 250, 250)).save(tmp_path / f"x{suffix}")
    read = read_tensor(tmp_path / f"x{suffix}", TensorSpec("x", "UINT8", shape))
    assert read.dtype == np.uint8
    assert np.abs(read.astype(int) - 250).max() <= 1
    assert read.size == (24 * 3 if 3 in (shape[0], shape[-1]) else 24)


def test_channels_keep_their_place(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2), (255, 0, 51)).save(tmp_path / "x.png")
    assert read_tensor(tmp_path / "x.png", TensorSpec("x", "UINT8", (2, 2, 3)))[0, 0].tolist() == [255, 0, 51]
    first = read_tensor(tmp_path / "x.png", TensorSpec("x", "FP32", (3, 2, 2)))
    np.testing.assert_allclose(first[:, 1, 1], [1.0, 0.0, 0.2], atol=1e-6)


def test_an_image_is_resized_only_when_asked(tmp_path: Path) -> None:
    Image.new("L", (9, 5), 7).save(tmp_path / "x.png")
    spec = TensorSpec("x", "UINT8", (8, 8))
    assert read_tensor(tmp_path / "x.png", spec, fit=True).tolist() == [[7] * 8] * 8
    with pytest.raises(UsageError, match=r"x: x.png: shape is \[5, 9\], expected \[8, 8\]"):
        read_tensor(tmp_path / "x.png", spec)


def refused(path: Path, *, shape: tuple[int, ...] = (3,), dtype: str = "FP32") -> str:
    with pytest.raises(UsageError) as caught:
        read_tensor(path, TensorSpec("x", dtype, shape))
    return caught.value.message


@pytest.mark.parametrize("shape", [(), (3,), (4, 4, 4), (1, 3, 4, 4)], ids=str)
def test_an_image_for_what_is_none(tmp_path: Path, shape: tuple[int, ...]) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "x.png")
    told = refused(tmp_path / "x.png", shape=shape)
    assert told == f"x: x.png: the model takes FP32 {list(shape)}, which is no image"


def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"no pixels")
    assert refused(tmp_path / "x.png").startswith("x: x.png cannot be read as an image: what it holds is no picture")
    Image.new("L", (40, 40)).save(tmp_path / "half.jpg")
    (tmp_path / "half.jpg").write_bytes((tmp_path / "half.jpg").read_bytes()[:300])
    assert "half.jpg cannot be read as an image" in refused(tmp_path / "half.jpg", shape=(40, 40))
    (tmp_path / "x.wav").write_bytes(b"RIFF")
    assert refused(tmp_path / "x.wav") == "x: x.wav cannot be read as a WAV file: the file ends too early"
    write_wav(tmp_path / "x.wav", np.zeros(6, "u1"), width=3)
    assert "24-bit samples; accepted: 8, 16 or 32 bits" in refused(tmp_path / "x.wav")
    np.save(tmp_path / "x.npy", np.array([{}]), allow_pickle=True)
    assert "x.npy cannot be read as a NumPy array: Object arrays cannot be loaded" in refused(tmp_path / "x.npy")
    (tmp_path / "x.npy").write_bytes(b"")
    assert "x.npy cannot be read as a NumPy array: " in refused(tmp_path / "x.npy")
    (tmp_path / "x.json").write_text('["one"]')
    assert "x.json cannot be read as numbers in JSON: it holds something else than" in refused(tmp_path / "x.json")
    (tmp_path / "x.json").write_text("[[1, 2], [3]]")
    assert "x.json cannot be read as numbers in JSON: " in refused(tmp_path / "x.json")
    for text in ("300", "-1", "0.5"):
        (tmp_path / "x.json").write_text(f"[7, {text}]")
        told = refused(tmp_path / "x.json", shape=(2,), dtype="UINT8")
        assert (
            told == f"x: x.json cannot be read as numbers in JSON: {float(text) if '.' in text else text} is no UINT8"
        )
    (tmp_path / "x.json").write_bytes(b"\xff\xfe")
    assert "x.json cannot be read as numbers in JSON: " in refused(tmp_path / "x.json")
    (tmp_path / "x.csv").write_text("1,2")
    assert refused(tmp_path / "x.csv").startswith("x: x.csv is of an unknown type; accepted: .png, ")
    assert refused(tmp_path / "gone.npy") == f"x: there is no file {tmp_path / 'gone.npy'}"
    assert refused(tmp_path) == f"x: there is no file {tmp_path}"


def test_a_tensor_of_bytes_holds_a_file_as_it_is(tmp_path: Path) -> None:
    spec = TensorSpec("photo", "BYTES", (1,))
    for name, content in (("cat.webp", b"RIFF\n"), ("words.txt", b"a cat\n")):
        (tmp_path / name).write_bytes(content)
    assert read_tensor(tmp_path / "cat.webp", spec).tolist() == [b"RIFF\n"]
    assert read_tensor(tmp_path / "words.txt", spec).tolist() == [b"a cat"]
    with pytest.raises(UsageError, match="takes \\[2\\] strings a sample"):
        read_tensor(tmp_path / "words.txt", TensorSpec("pair", "BYTES", (2,)))


def test_what_strangers_send_is_read_as_files_are(tmp_path: Path) -> None:
    Image.new("RGB", (6, 4), (250, 250, 250)).save(tmp_path / "x.png")
    write_wav(tmp_path / "x.wav", np.arange(-3, 3, dtype="i2"), width=2)
    for name, spec in (("x.png", TensorSpec("x", "UINT8", (4, 6))), ("x.wav", TensorSpec("x", "FP32", (6,)))):
        content = (tmp_path / name).read_bytes()
        assert kind_of(content) == Path(name).suffix
        assert read_content(content, Path(name).suffix, spec).tolist() == read_tensor(tmp_path / name, spec).tolist()
    assert kind_of(b"[1, 2]") is None


@pytest.mark.parametrize(
    ("shape", "words"),
    [((8, 8), "it has 6 x 4 pixels, the model takes 8 x 8"), ((3,), "which is no image")],
    ids=str,
)
def test_a_picture_that_does_not_fit_is_refused(shape: tuple[int, ...], words: str) -> None:
    stream = io.BytesIO()
    Image.new("L", (6, 4)).save(stream, "PNG")
    with pytest.raises(UsageError, match=words):
        read_content(stream.getvalue(), ".png", TensorSpec("x", "UINT8", shape))


def test_a_picture_that_claims_much_is_refused_before_it_is_decoded() -> None:
    stream = io.BytesIO()
    Image.new("1", (9000, 9000)).save(stream, "PNG")
    with pytest.raises(UsageError, match="9000 x 9000 pixels, accepted are 33554432 in all"):
        read_content(stream.getvalue(), ".png", TensorSpec("x", "UINT8", (-1, -1)))
    with pytest.raises(UsageError, match="cannot be read as an image"):
        read_content(stream.getvalue()[:40], ".png", TensorSpec("x", "UINT8", (-1, -1)))
