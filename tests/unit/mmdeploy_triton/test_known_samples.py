"""The samples that lie beside a repository's models: what was written is read, and damage costs a warning only."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from served import IMAGE, three_components

from mmdeploy.triton.config import ServedEnsemble
from mmdeploy.triton.known_samples import SAMPLES, read_samples
from mmdeploy.triton.staging import stage

PIXELS, WAVE = np.arange(64, dtype=np.uint8).reshape(8, 8), np.ones(4000, np.float32)
EMBEDDING = np.ones(32, np.float32)


def with_samples(folder: Path, *samples: dict[str, np.ndarray]) -> ServedEnsemble:
    ensemble = three_components(folder)
    parts = [replace(part, sample=sample) for part, sample in zip(ensemble.components, samples, strict=True)]
    return replace(ensemble, components=tuple(parts))


def test_each_model_and_the_ensemble_keep_one_sample(tmp_path: Path) -> None:
    head = {"image": EMBEDDING, "audio": EMBEDDING}
    ensemble = with_samples(tmp_path, {"pixels": PIXELS}, {"waveform": WAVE}, head)
    staged = [stage(tmp_path / place, ensemble) for place in ("staged", "again")]
    found = read_samples([staged[0].path])
    shapes = {model: {name: array.shape for name, array in one.items()} for model, one in found.items()}
    assert shapes == {
        "image_encoder": {"pixels": (8, 8)}, "audio_encoder": {"waveform": (4000,)},
        "fusion": {"image": (32,), "audio": (32,)}, "spoken_digits": {"image": (8, 8), "audio": (4000,)},
    }  # fmt: skip
    np.testing.assert_array_equal(found["spoken_digits"][IMAGE.name], PIXELS)
    assert staged[0].files == staged[1].files and SAMPLES in staged[0].files


def test_of_an_ensemble_that_is_not_known_whole_there_is_none(tmp_path: Path) -> None:
    staged = stage(tmp_path / "staged", with_samples(tmp_path, {"pixels": PIXELS}, {}, {}))
    assert {*read_samples([staged.path])} == {"image_encoder"}


def test_a_repository_of_somebody_else_has_none(tmp_path: Path) -> None:
    staged = stage(tmp_path / "staged", three_components(tmp_path))
    assert not (staged.path / SAMPLES).exists() and read_samples([staged.path]) == {}


@pytest.mark.parametrize("cut", [0, 30, -30])
def test_a_damaged_file_is_passed_over(tmp_path: Path, cut: int, caplog: pytest.LogCaptureFixture) -> None:
    staged = stage(tmp_path / "staged", with_samples(tmp_path, {"pixels": PIXELS}, {}, {}))
    path = staged.path / SAMPLES
    path.write_bytes(path.read_bytes()[:cut])
    assert read_samples([staged.path]) == {}
    assert "probed with made-up values" in caplog.text
