"""The spoken_digits recipe: its data is fair and fixed, and its committed weights are worth fusing."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "recipes" / "spoken_digits"


def load_module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"spoken_digits_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def data() -> ModuleType:
    return load_module("data")


@pytest.fixture(scope="module")
def network():
    safetensors = pytest.importorskip("safetensors.torch")
    network = load_module("model").build()
    network.load_state_dict(safetensors.load_file(FOLDER / "weights.safetensors"), strict=True)
    return network.eval()


def test_splits_share_no_image_no_speaker_and_no_clip(data):
    splits = [data.recordings(split) for split in data.SPLITS]
    for rows in (
        [{image.tobytes() for image in split.images} for split in splits],
        [set(split.speakers.tolist()) for split in splits],
        [{clip.tobytes() for clip in split.clips} for split in splits],
    ):
        assert len(set.union(*rows)) == sum(len(each) for each in rows)


def test_every_speaker_sounds_different(data):
    """A voice name that espeak-ng half understands gives another speaker's sound: it did, for ``en-gb+…``."""
    clips = np.concatenate([data.recordings(split).clips for split in data.SPLITS])
    assert len(np.unique(clips, axis=0)) == len(clips)


@pytest.mark.parametrize(
    ("callable_name", "count"),
    [("training", 4096), ("calibration", 512), ("validation", 1000), ("evaluation", 1600)],
)
def test_samples_are_what_the_recipe_declares(data, callable_name, count):
    samples = list(getattr(data, callable_name)())
    assert len(samples) == count
    for feed, label in samples:
        assert feed.keys() == {"image", "audio"}
        assert (feed["image"].dtype, feed["image"].shape) == (np.uint8, (8, 8))
        assert (feed["audio"].dtype, feed["audio"].shape) == (np.float32, (4000,))
        assert type(label) is int
    loudest = np.array([np.abs(feed["audio"]).max() for feed, _ in samples])
    assert np.isfinite(loudest).all()
    assert 0.0 < loudest.min() < loudest.max() <= 1.0
    assert np.bincount([label for _, label in samples], minlength=10).min() >= 0.08 * count


def test_evaluation_is_the_same_each_time_and_from_the_test_split_only(data):
    first, second = data.pairs("test", 300, seed=4), data.pairs("test", 300, seed=4)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(first.images, data.pairs("test", 300, seed=5).images)
    images = np.stack([feed["image"] for feed, _ in data.evaluation()])
    np.testing.assert_array_equal(images, data.pairs("test", 1600, seed=4).images)


def test_pairs_show_and_speak_the_same_digit(data, monkeypatch):
    """Without damage, each image and clip must be one of those recorded for the label."""
    monkeypatch.setattr(data, "damage_images", lambda ink, random: ink)
    monkeypatch.setattr(data, "damage_clips", lambda clips, lengths, random: clips)
    clean, drawn = data.recordings("test"), data.pairs("test", 200, seed=0)
    seen = dict(zip((image.tobytes() for image in clean.images), clean.image_labels, strict=True))
    heard = dict(zip((clip.tobytes() for clip in clean.clips), clean.clip_labels, strict=True))
    assert [seen[image.tobytes()] for image in drawn.images] == drawn.labels.tolist()
    assert [heard[clip.tobytes()] for clip in drawn.waveforms] == drawn.labels.tolist()


def test_spectrogram_is_the_log_mel_of_torch_stft(network):
    torch = pytest.importorskip("torch")
    spectrogram = network.audio_encoder.spectrogram
    waveform = 0.1 * torch.randn(2, 4000, generator=torch.Generator().manual_seed(0))
    stft = torch.stft(waveform, 160, 80, window=torch.hann_window(160), center=False, return_complex=True)
    power = stft.abs().square().transpose(1, 2) @ spectrogram.mel
    log_mel = torch.log(power / power.mean(dim=(1, 2), keepdim=True) + 1e-3)
    expected = 0.5 * (log_mel - log_mel.mean(dim=(1, 2), keepdim=True))
    torch.testing.assert_close(spectrogram(waveform), expected, rtol=1e-3, atol=1e-3)


def test_spectrogram_ignores_the_level_and_survives_silence(network):
    """A client needs no gain control, and digital silence must not become an infinity or NaN."""
    torch = pytest.importorskip("torch")
    spectrogram = network.audio_encoder.spectrogram
    waveform = 0.5 * torch.randn(2, 4000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(spectrogram(0.2 * waveform), spectrogram(waveform), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(spectrogram(0.0 * waveform), torch.zeros(2, 49, 32))


@pytest.fixture(scope="module")
def accuracy(data, network):
    """Top-1 accuracy on the test split: of both, and with the image blank or the recording silent."""
    torch = pytest.importorskip("torch")
    test = data.pairs("test", count=1600, seed=4)
    images, waveforms, labels = (torch.from_numpy(array) for array in test)
    with torch.inference_mode():
        seen, heard = network.image_encoder(images), network.audio_encoder(waveforms)
        blank = network.image_encoder(torch.zeros_like(images[:1])).expand_as(seen)
        silent = network.audio_encoder(torch.zeros_like(waveforms[:1])).expand_as(heard)
        inputs = {"both": (seen, heard), "image": (seen, silent), "audio": (blank, heard)}
        return {
            name: (network.fusion(*each).argmax(1) == labels).float().mean().item() for name, each in inputs.items()
        }


def test_both_modalities_together_reach_the_recipes_gate(accuracy):
    assert accuracy["both"] >= 0.97


@pytest.mark.parametrize("modality", ["image", "audio"])
def test_one_modality_alone_is_useful_but_clearly_worse(accuracy, modality):
    """If one were enough, a broken fusion would go unnoticed; if one were useless, nothing would be fused."""
    assert 0.75 <= accuracy[modality] <= accuracy["both"] - 0.05


@pytest.fixture(scope="module")
def classify(network):
    """Classify with one encoder and the linear head that was trained with it, see train.py."""
    torch = pytest.importorskip("torch")
    heads = pytest.importorskip("safetensors.torch").load_file(FOLDER / "heads.safetensors")
    encoders = {"image": network.image_encoder, "audio": network.audio_encoder}

    def digits(modality: str, inputs: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            pooled = encoders[modality](torch.from_numpy(inputs)).mean(dim=1)
            logits = torch.nn.functional.linear(pooled, heads[f"{modality}.weight"], heads[f"{modality}.bias"])
        return logits.argmax(dim=1).numpy()

    return digits


def test_one_encoder_with_its_own_head_is_no_substitute_for_fusion(data, classify, accuracy):
    test = data.pairs("test", count=1600, seed=4)
    for modality, inputs in (("image", test.images), ("audio", test.waveforms)):
        assert np.mean(classify(modality, inputs) == test.labels) <= accuracy["both"] - 0.05


def test_undamaged_recordings_of_new_speakers_are_understood(data, classify):
    """A network that was trained on noisy recordings only once failed on clean ones."""
    clean = data.recordings("test")
    assert np.mean(classify("audio", clean.clips) == clean.clip_labels) >= 0.97


def test_encoders_give_the_token_shapes_that_the_recipe_declares(network):
    torch = pytest.importorskip("torch")
    assert network.image_encoder(torch.zeros(2, 8, 8, dtype=torch.uint8)).shape == (2, 17, 192)
    assert network.audio_encoder(torch.zeros(2, 4000)).shape == (2, 25, 192)


def test_committed_files_are_small():
    sizes = {path.name: path.stat().st_size for path in FOLDER.iterdir() if path.suffix in (".npz", ".safetensors")}
    assert sizes.keys() == {"digits.npz", "weights.safetensors", "heads.safetensors"}
    assert max(sizes.values()) <= 4_000_000
