"""Three small towers over pixels, sound and words, and a head."""

import torch
from torch import Tensor, nn


class See(nn.Module):
    """Pixels [N, 3, 16, 16] to [N, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)

    def forward(self, pixels: Tensor) -> Tensor:
        return torch.relu(self.patches(pixels)).mean((2, 3))


class Hear(nn.Module):
    """Sound [N, 1600] to [N, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.frames = nn.Conv1d(1, 8, 64, 32)

    def forward(self, sound: Tensor) -> Tensor:
        return torch.relu(self.frames(sound[:, None])).mean(2)


class Fusion(nn.Module):
    """Embeddings, token ids [N, 8] with their mask and two counts to logits [N, 3] and an embedding [N, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(8, 8)
        self.counts = nn.Linear(2, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, seen: Tensor, heard: Tensor, ids: Tensor, mask: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        weights = mask.to(torch.float32)[..., None]
        words = (self.words(ids) * weights).sum(1) / weights.sum(1)
        embedding = seen + heard + words + self.counts(counts)
        return self.head(embedding), embedding


class Whole(nn.Module):
    """All of it."""

    def __init__(self) -> None:
        super().__init__()
        self.see, self.hear, self.fusion = See(), Hear(), Fusion()


def build() -> nn.Module:
    """Return the model with weights of a fixed seed."""
    torch.manual_seed(7)
    return Whole()
