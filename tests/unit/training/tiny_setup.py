"""A training setup around a tiny module: two inputs, three classes, all in memory."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmdeploy.core.contracts import Encoding, MetricScore, StepContext
from mmdeploy.core.target import Target

Arrays = dict[str, np.ndarray]


def module(seed: int = 0, dropout: float = 0.0) -> nn.Module:
    """An encoder [N, 6] to [N, 8]."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 8))


class Head(nn.Module):
    """What lies downstream, frozen."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(99)
        self.classify = nn.Linear(8, 3)

    def forward(self, embedding: Tensor) -> Tensor:
        return self.classify(embedding)


class TinySetup:
    """`TrainingSetup` over random samples that the teacher labels."""

    component_outputs = ("embedding",)
    ensemble_outputs = scored_outputs = ("logits",)
    compares_scores = True
    metric = "top1"
    larger_is_better = True

    def __init__(self, samples: int = 70, labelled: bool = True) -> None:
        self.original = module(seed=1).eval().requires_grad_(False)
        self.head = Head().eval().requires_grad_(False)
        self.labelled = labelled
        self.samples = self._labelled(samples, seed=2)
        self.held_back = self._labelled(50, seed=3)
        self.epochs_read: list[int] = []

    def _labelled(self, count: int, seed: int) -> tuple[Arrays, np.ndarray]:
        values = np.random.default_rng(seed).standard_normal((count, 6)).astype(np.float32)
        answers = self.teacher({"values": torch.from_numpy(values)})["logits"]
        return {"values": values}, answers.argmax(dim=1).numpy()

    def network(self, module: nn.Module) -> Callable[[Mapping[str, Tensor]], dict[str, Tensor]]:
        def run(feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
            embedding = module(feeds["values"])
            return {"embedding": embedding, "logits": self.head(embedding)}

        return run

    def teacher(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with torch.no_grad():
            return self.network(self.original)(feeds)

    def training(self, epoch: int, batch_size: int) -> Iterator[tuple[Arrays, np.ndarray | None]]:
        self.epochs_read.append(epoch)
        feeds, labels = self.samples
        order = np.random.default_rng([5, epoch]).permutation(len(labels))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            yield {"values": feeds["values"][rows]}, labels[rows] if self.labelled else None

    def validation(self) -> tuple[Arrays, np.ndarray]:
        return self.held_back

    def task_loss(self, outputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs["logits"], labels)

    def score(self, outputs: Mapping[str, np.ndarray], labels: np.ndarray) -> MetricScore:
        right = (outputs["logits"].argmax(axis=1) == labels).astype(np.float64)
        return MetricScore(float(right.mean()), right)


def context(setup: Any, folder: Path, **changes: Any) -> StepContext:
    """A step's context around a setup."""
    plain = StepContext(
        component="encoder",
        workdir=folder,
        target=Target("cpu"),
        encoding=Encoding.INT8_SYMMETRIC,
        max_batch_size=8,
        seed=11,
        threads=1,
        examples=lambda batch: {"values": np.zeros((batch, 6), np.float32)},
        training=setup,
    )
    return replace(plain, **changes)
