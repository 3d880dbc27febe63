"""A tower and a head; half of the tower's hidden units give nothing, by construction."""

import torch
from torch import Tensor, nn

WIDTH = 64


class Tower(nn.Module):
    """An MLP over [N, 16] with a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(16, WIDTH)
        self.down = nn.Linear(WIDTH, 16)

    def forward(self, values: Tensor) -> Tensor:
        return values + self.down(torch.relu(self.up(values)))


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
    """Return the model with seeded weights and its idle units."""
    torch.manual_seed(5)
    network = Network().eval()
    with torch.no_grad():
        network.tower.down.weight *= 8.0  # let the answer depend on the units that work
        idle = torch.randperm(WIDTH)[: WIDTH // 2]
        network.tower.down.weight[:, idle] = 0.0
        network.tower.up.weight[idle] *= 0.01
    return network
