"""A signal is encoded step by step, remembered by a GRU of two layers and an LSTM, and scored beside a tone."""

import torch
from torch import Tensor, nn


class Memory(nn.Module):
    """What is remembered in the end FP32 [N, 6], and after each step [N, T, 6]."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.GRU(8, 5, num_layers=2, batch_first=True)
        self.second = nn.LSTM(5, 6, batch_first=True)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        each = self.second(self.first(features)[0])[0]
        return each[:, -1], each


class Head(nn.Module):
    """Scores FP32 [N, 3]."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Linear(9, 3)

    def forward(self, last: Tensor, tone: Tensor) -> Tensor:
        return self.score(torch.cat([last, tone], dim=1))


class Flow(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode, self.memory, self.head = nn.Sequential(nn.Linear(4, 8), nn.Tanh()), Memory(), Head()


def build() -> Flow:
    torch.manual_seed(3)
    return Flow().eval()
