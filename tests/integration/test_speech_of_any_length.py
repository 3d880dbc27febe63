"""A Wav2Vec2 checkpoint of ``transformers`` on sounds of half a second to ten, in one recipe and one graph."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from whole_recipe import built, served

from mmdeploy.core.errors import InferenceError

pytestmark = [pytest.mark.triton, pytest.mark.slow]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The recipe's folder with a checkpoint of random weights in it, and the model that was saved."""
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

    folder = tmp_path_factory.mktemp("speech") / "recipe"
    shutil.copytree(Path(__file__).parents[1] / "speech_recipe", folder)
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96, conv_dim=(32,) * 7,
        vocab_size=32, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
    )  # fmt: skip
    model = Wav2Vec2ForCTC(config).eval()
    model.save_pretrained(folder / "checkpoint")
    Wav2Vec2FeatureExtractor().save_pretrained(folder / "checkpoint")
    return folder, model


def test_served_sounds_of_any_length_are_answered_as_transformers_answers_them(checkpoint, tmp_path):
    import torch
    from transformers import Wav2Vec2FeatureExtractor

    folder, model = checkpoint
    outcome = built(folder / "recipe.yaml", tmp_path)
    processor, random = Wav2Vec2FeatureExtractor.from_pretrained(folder / "checkpoint"), np.random.default_rng(3)
    with served(outcome, tmp_path) as running:
        runner = running.runner("speech")
        for samples in (8000, 8001, 12345, 47999, 160000):
            sounds = random.uniform(-0.8, 0.8, (2, samples)).astype(np.float32)
            with torch.inference_mode():
                prepared = processor(list(sounds), sampling_rate=16000, return_tensors="pt")
                expected = model(**prepared).logits.numpy()
            together = runner.infer({"sound": sounds})["letters"]
            np.testing.assert_allclose(together, expected, atol=2e-5)
            alone = [runner.infer({"sound": one[None]})["letters"][0] for one in sounds]
            np.testing.assert_allclose(together, np.stack(alone), atol=2e-6)
        for samples in (7999, 160001):
            told = f"input 'sound': a length of {samples}, accepted for 'samples': 8000 to 160000"
            with pytest.raises(InferenceError, match=told):
                runner.infer({"sound": np.zeros((2, samples), np.float32)})
        assert runner.infer({"sound": np.zeros((1, 8000), np.float32)})["letters"].shape == (1, 24, 32)
        runner.close()
