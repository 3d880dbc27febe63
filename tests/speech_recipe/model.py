"""A Wav2Vec2 with a CTC head, from a checkpoint folder as ``save_pretrained`` leaves it."""

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

CHECKPOINT = Path(__file__).parent / "checkpoint"


class Listener(nn.Module):
    """Turn raw sound [N, samples] into scores of letters [N, frames, letters]."""

    def __init__(self, model: Wav2Vec2ForCTC) -> None:
        super().__init__()
        self.model = model

    def forward(self, sound: Tensor) -> Tensor:
        # What Wav2Vec2FeatureExtractor does to a sound, in the graph.
        mean, variance = sound.mean(dim=-1, keepdim=True), sound.var(dim=-1, keepdim=True, correction=0)
        return self.model(input_values=(sound - mean) / torch.sqrt(variance + 1e-7)).logits


class Speech(nn.Module):
    """The whole model."""

    def __init__(self) -> None:
        super().__init__()
        self.listener = Listener(Wav2Vec2ForCTC(Wav2Vec2Config.from_pretrained(CHECKPOINT)))


def build() -> nn.Module:
    """Return the model; its weights are the recipe's to load."""
    return Speech()
