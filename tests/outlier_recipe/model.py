"""One tower and a head, in which INT8 destroys one layer by construction.

The second block is given a channel two thousand times as large as the others: one scale for the whole activation then
rounds all the others to zero. In FP32 its weights for that channel undo the size, so nothing else shows.
"""

import torch
from torch import Tensor, nn

OUTLIER = 2000.0


class Block(nn.Module):
    """Two linear layers, [N, 16] to [N, 16]."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(16, 32)
        self.down = nn.Linear(32, 16)

    def forward(self, values: Tensor) -> Tensor:
        return values + self.down(torch.relu(self.up(values)))


class Tower(nn.Module):
    """Three blocks over [N, 16]."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block(), Block()])

    def forward(self, values: Tensor) -> Tensor:
        for block in self.blocks:
            values = block(values)
        return values


class Head(nn.Module):
    """Classify [N, 16] into [N, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.classify = nn.Linear(16, 4)

    def forward(self, embedding: Tensor) -> Tensor:
        return self.classify(embedding)


class Network(nn.Module):
    """The whole model."""

    def __init__(self) -> None:
        super().__init__()
        self.tower, self.head = Tower(), Head()


def build() -> nn.Module:
    """Return the model with seeded weights and its outlier."""
    torch.manual_seed(11)
    network = Network().eval()
    with torch.no_grad():
        block = network.tower.blocks[1]
        block.up.bias[0] = 1.0
        block.up.weight[0] *= OUTLIER
        block.up.bias[0] *= OUTLIER
        block.down.weight[:, 0] /= OUTLIER
        block.down.weight *= 3.0  # let the answer depend on the block that is destroyed
    return network
