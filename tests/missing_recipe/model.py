"""A tiny model of three senses, any of which may be missing; seeded, so it needs no weights file."""

import torch
from torch import Tensor, nn


class Encoder(nn.Module):
    """Project [N, width] to an embedding [N, 16]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, 16)
        self.norm = nn.LayerNorm(16)

    def forward(self, values: Tensor) -> Tensor:
        return torch.relu(self.norm(self.project(values)))


class Nerve(nn.Module):
    """A second stage behind an encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(16, 16)

    def forward(self, features: Tensor) -> Tensor:
        return torch.tanh(self.project(features))


class Head(nn.Module):
    """Classify three embeddings; sound is masked where nothing is heard, and the others weigh more then."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing_felt = nn.Parameter(torch.linspace(-1.0, 1.0, 16))
        self.classify = nn.Linear(16, 4)

    def forward(self, sight: Tensor, sound: Tensor, touch: Tensor, hearing: Tensor) -> Tensor:
        there = hearing.to(sight.dtype)
        together = sight + torch.where(hearing, sound, torch.zeros_like(sound)) + touch
        return self.classify(together / (2.0 + there))


class Senses(nn.Module):
    """The whole model."""

    def __init__(self) -> None:
        super().__init__()
        self.eye, self.ear, self.skin = Encoder(8), Encoder(8), Encoder(8)
        self.optic_nerve, self.head = Nerve(), Head()


def build() -> nn.Module:
    """Return the model with seeded weights."""
    torch.manual_seed(7)
    return Senses()
