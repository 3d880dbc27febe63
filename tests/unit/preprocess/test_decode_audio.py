"""Sound files as samples: formats, rates, lengths; and limits that hold whatever a header says."""

import io
from typing import Any

import numpy as np
import pytest
from media_files import sound

from mmdeploy.preprocess import DecodeAudio, RefusedError


def decoded(content: bytes, **options: Any) -> dict[str, np.ndarray]:
    return DecodeAudio(**{"rate": 8000, **options}).row({"data": content})


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
def test_samples_are_those_of_the_file(kind: str) -> None:
    import soundfile

    content = sound(kind, channels=2, seconds=0.3)
    wanted, _ = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    found = decoded(content)
    np.testing.assert_allclose(found["samples"], wanted.mean(axis=1), atol=1e-6)
    assert found["length"].tolist() == [len(wanted)] and found["mask"].all()


def test_it_is_resampled_cut_and_filled_with_silence() -> None:
    content = sound(seconds=0.1, rate=16_000)
    assert decoded(content)["samples"].shape == (800,)
    assert abs(np.abs(decoded(content)["samples"]).max() - 0.5) < 0.05
    filled = decoded(content, samples=1000)
    assert not filled["samples"][800:].any() and filled["mask"].sum() == 800 == filled["length"][0]
    both = decoded(content, samples=1000, pad="both")
    assert not both["mask"][:100].any() and both["mask"][100:900].all()
    whole, start, centre = (
        decoded(content, **more)["samples"] for more in ({}, {"samples": 200}, {"samples": 200, "crop": "centre"})
    )
    np.testing.assert_array_equal(start, whole[:200])
    np.testing.assert_array_equal(centre, whole[300:500])


def test_it_is_scaled_before_silence_is_filled_in() -> None:
    scaled = decoded(sound(), samples=1000, scaling="unit_variance")["samples"]
    assert abs(scaled[:800].std() - 1) < 1e-3 and not scaled[800:].any()
    assert abs(np.abs(decoded(sound(), scaling="peak")["samples"]).max() - 1) < 1e-6


def raw(values: Any, rate: int = 8000, subtype: str = "FLOAT") -> bytes:
    import soundfile

    with io.BytesIO() as stream:
        soundfile.write(stream, np.asarray(values), rate, format="WAV", subtype=subtype)
        return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (sound(seconds=70), "70 seconds long, at most 60"),
        (sound("FLAC", seconds=70), "70 seconds long, at most 60"),
        (sound("MP3", seconds=70), "seconds"),
        (sound("OGG", seconds=70), "seconds"),
        (raw(np.zeros((5, 9))), "9 channels, at most 8"),
        (raw([np.nan, 0.0]), "no numbers"),
        (raw([np.inf, 0.0]), "no numbers"),
        (raw(np.zeros(0)), "holds no samples"),
        (raw(np.zeros(50), rate=100), "100 samples a second"),
        (sound(subtype="IMA_ADPCM"), "is WAV in IMA_ADPCM"),
        (sound("FLAC")[:40], "cannot be read as FLAC|holds no samples"),
        (b"RIFF\x00\x00\x00\x00WAVE", "cannot be read as WAV"),
        (b"junk" * 20, "is no sound that is taken"),
        (b"", "is empty"),
    ],
)
def test_what_is_no_sound_or_too_much_is_refused(content: bytes, why: str) -> None:
    with pytest.raises(RefusedError, match=why):
        decoded(content)


def test_a_file_that_is_longer_than_its_header_says_is_refused_by_what_is_read() -> None:
    flac = bytearray(sound("FLAC", seconds=70))
    flac[21] &= 0xF0
    flac[22:26] = bytes(4)  # 0 samples: the encoder did not know
    with pytest.raises(RefusedError, match=r"seconds|cannot be read"):
        decoded(bytes(flac))


def test_short_sounds_are_refused_where_that_is_asked_for() -> None:
    with pytest.raises(RefusedError, match=r"0\.1 seconds long, at least 0\.5"):
        decoded(sound(), min_seconds=0.5)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_file_that_was_cut_off_is_refused(kind: str, share: float) -> None:
    content = sound(kind, seconds=2)
    assert len(decoded(content)["samples"]) >= 16_000
    with pytest.raises(RefusedError, match=r"cut off|cannot be read"):
        decoded(content[: int(share * len(content))])


def test_a_wav_whose_writer_did_not_know_its_size_is_taken() -> None:
    content = bytearray(sound(seconds=0.5))
    at = content.index(b"data") + 4
    content[at : at + 4] = content[4:8] = b"\xff" * 4
    assert len(decoded(bytes(content))["samples"]) == 4000
