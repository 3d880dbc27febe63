"""A text module that works at 77 tokens only, and a sound module that takes any length: both mind their masks."""

import torch
from torch import nn


def mean(values, mask):
    """Return the mean over what is real."""
    real = mask.to(values.dtype).unsqueeze(-1)
    return (values * real).sum(1) / real.sum(1)


class Text(nn.Module):
    """Tokens with a position each, of which there are 77."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(50, 8)
        self.places = nn.Parameter(torch.randn(77, 8))

    def forward(self, ids, mask):
        return mean(torch.tanh(self.table(ids) + self.places), mask)


class Sound(nn.Module):
    """The mean of what frames become."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 8)

    def forward(self, frames, mask):
        return mean(torch.tanh(self.layer(frames)), mask)


class Whole(nn.Module):
    """Both, and a head."""

    def __init__(self):
        super().__init__()
        self.text, self.sound, self.head = Text(), Sound(), nn.Bilinear(8, 8, 3)


def build():
    """Return the model, the same each time."""
    torch.manual_seed(0)
    return Whole().eval()
