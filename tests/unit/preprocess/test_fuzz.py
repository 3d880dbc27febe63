"""Damaged files and texts are taken or refused, and nothing else: no other error, no memory beyond the limits."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from media_files import clip, image, sound

from mmdeploy.preprocess import DecodeAudio, DecodeImage, RefusedError, SampleFrames, Tokenize

FILES: dict[str, tuple[Any, tuple[bytes, ...]]] = {
    "image": (
        DecodeImage(resize=16, max_pixels=100_000),
        (image("PNG"), image("JPEG"), image("WEBP"), image("PNG", mode="P"), image("WEBP", lossless=True)),
    ),
    "audio": (
        DecodeAudio(rate=8000, samples=400, max_seconds=2),
        (sound("WAV"), sound("FLAC"), sound("OGG"), sound("MP3"), sound("WAV", subtype="FLOAT")),
    ),
    "frames": (
        SampleFrames(size=(4, 6), frames=3, max_frames=50, max_pixels=100_000),
        (clip("mp4", 6), clip("webm", 6), clip("gif", 6), clip("gif", 3, (64, 40))),
    ),
    "changes": (
        SampleFrames(size=(4, 6), frames=3, sampling="change", dtype="FP32", max_frames=50, max_pixels=100_000),
        (clip("mp4", 6), clip("webm", 6), clip("gif", 6)),
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


WORDS = Path(__file__).parents[2] / "media_recipe" / "tokenizer.json"


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tokenizer.json of bytes and pairs of them, with special tokens around a text."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["[PAD]", "<s>", "</s>"], initial_alphabet=alphabet)
    made.train_from_iterator(["an owl sees a cat"] * 3, trainer)
    made.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    path = tmp_path_factory.mktemp("pieces") / "tokenizer.json"
    made.save(str(path))
    return path


odd = st.one_of(
    st.binary(max_size=300),
    st.text(max_size=300).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.sampled_from(["\0", "\u0301", "\u202e", "\ufdfa", "[PAD]", "</s>", " ", "\r\n", "\U0010ffff"]).flatmap(
        lambda piece: st.integers(1, 3000).map(lambda count: (piece * count).encode())
    ),
)


@pytest.mark.parametrize("kind", ["words", "pieces", "varying"])
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=odd)
def test_an_odd_text_is_tokenized_or_refused(kind: str, pieces: Path, text: bytes) -> None:
    path = WORDS if kind == "words" else pieces
    lengths: dict[str, Any] = {"max_length": 16, "truncate": False} if kind == "varying" else {"length": 16}
    method = Tokenize(path.name, **lengths, max_bytes=2000)
    method.open(path.parent)
    try:
        found = method.row({"text": text})
    except RefusedError as error:
        assert len(str(error)) < 200
        return
    assert len(text) <= 2000
    assert text.decode() or kind != "words"  # an empty text is the special tokens, of a tokenizer that has them
    count = int(found["mask"].sum())
    assert found["mask"].tolist() == [1] * count + [0] * (len(found["ids"]) - count)
    assert len(found["ids"]) == 16 or kind == "varying"
    assert (found["ids"] >= 0).all() and not found["types"].any()


def test_the_files_that_are_damaged_are_whole() -> None:
    for method, files in FILES.values():
        for content in files:
            assert method.row({"data": content})
    assert io.BytesIO(FILES["image"][1][0]).read(4) == b"\x89PNG"
