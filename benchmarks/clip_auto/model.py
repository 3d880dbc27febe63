"""A CLIP ViT-B/32 pair and a head over both embeddings, weights drawn by a seed."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn

sys.path.append(str(Path(__file__).parents[1]))
import clip_pair

CLASSES = 10


class Head(nn.Module):
    """Class scores of two embeddings."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.score = nn.Linear(2 * width, CLASSES)

    def forward(self, image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Normalize both [N, width], and score them together [N, 10]."""
        both = [nn.functional.layer_norm(one, one.shape[-1:]) for one in (image, text)]
        return self.score(torch.cat(both, dim=-1))


def build() -> nn.Module:
    """Return the towers and the head."""
    towers = clip_pair.build()
    torch.manual_seed(1)
    return nn.ModuleDict({"image": towers["image"], "text": towers["text"], "head": Head(512)}).eval()
