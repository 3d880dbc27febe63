"""Components in three styles of attention and with convolutions, in a network that trains them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmdeploy.core.artifact import Artifact, TensorSpec
from mmdeploy.core.contracts import Encoding, MetricScore, StepContext
from mmdeploy.core.facts import as_metadata
from mmdeploy.core.target import Target
from mmdeploy.export import onnx_dynamo
from mmdeploy.model.torch_component import ComponentFacts
from mmdeploy.quantize import qat

WIDTH, TOKENS, CLASSES = 16, 6, 3
Arrays = dict[str, np.ndarray]


class OneAttention(nn.Module):
    """`nn.MultiheadAttention` on its own, tokens asking themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, 4, batch_first=True)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, values: Tensor) -> Tensor:
        normed = self.norm(values)
        return self.head((values + self.attention(normed, normed, normed, need_weights=False)[0]).mean(dim=1))


class CrossAttention(nn.Module):
    """`nn.MultiheadAttention` with time first, queries other than keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.question = nn.Linear(WIDTH, WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, 2)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, values: Tensor) -> Tensor:
        swapped = values.transpose(0, 1)
        found, _ = self.attention(self.question(swapped), swapped, swapped)
        return self.head(found.mean(dim=0))


class Encoder(nn.Module):
    """`nn.TransformerEncoder`."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 2 * WIDTH, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(WIDTH, CLASSES)
        for parameter in self.encoder.parameters():  # nn.TransformerEncoder starts its layers as copies
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, values: Tensor) -> Tensor:
        return self.head(self.encoder(values).mean(dim=1))


class PlainAttention(nn.Module):
    """Attention from plain linear layers, and an MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, values: Tensor) -> Tensor:
        scores = self.query(values) @ self.key(values).transpose(1, 2) / WIDTH**0.5
        found = values + torch.softmax(scores, dim=-1) @ self.value(values)
        return self.head((found + self.mlp(found)).mean(dim=1))


class Convolutions(nn.Module):
    """Convolutions with and without bias before batch normalizations, and one before a linear layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(TOKENS, 8, 3, bias=False)
        self.first_norm = nn.BatchNorm1d(8)
        self.second = nn.Conv1d(8, 8, 3)
        self.second_norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, CLASSES)
        self.head_norm = nn.BatchNorm1d(CLASSES)
        for norm in (self.first_norm, self.second_norm, self.head_norm):
            nn.init.uniform_(norm.running_mean, -0.5, 0.5)
            nn.init.uniform_(norm.running_var, 0.2, 2.0)
            nn.init.uniform_(norm.weight, 0.5, 2.0)
            nn.init.uniform_(norm.bias, -0.5, 0.5)

    def forward(self, values: Tensor) -> Tensor:
        hidden = torch.relu(self.first_norm(self.first(values)))
        hidden = torch.relu(self.second_norm(self.second(hidden)))
        return self.head_norm(self.head(hidden.mean(dim=2)))


class NothingToQuantize(nn.Module):
    """No layer with a weight that is multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, values: Tensor) -> Tensor:
        return self.norm(values).mean(dim=1)[:, :CLASSES]


class WithoutBias(nn.Module):
    """Products alone, so that nothing is rounded in one encoding and not in the other."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, 2 * WIDTH, bias=False)
        self.head = nn.Linear(2 * WIDTH, CLASSES, bias=False)

    def forward(self, values: Tensor) -> Tensor:
        return self.head(torch.relu(self.first(values)).mean(dim=1))


class UnevenRows(nn.Module):
    """A first layer whose rows differ a hundredfold in size, undone by the second."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)
        sizes = torch.logspace(-2.5, 0, WIDTH)
        with torch.no_grad():
            self.first.weight.mul_(sizes[:, None])
            self.first.bias.mul_(sizes)
            self.head.weight.div_(sizes)

    def forward(self, values: Tensor) -> Tensor:
        return self.head(torch.relu(self.first(values)).mean(dim=1))


class Renamed(nn.Linear):
    """A linear layer under another name."""


class Own(nn.Linear):
    """A linear layer with a forward of its own."""

    def forward(self, values: Tensor) -> Tensor:
        return super().forward(torch.tanh(values))


class Subclasses(nn.Module):
    """Linear layers that are not `nn.Linear` by name, and two that are parametrized."""

    def __init__(self) -> None:
        super().__init__()
        self.renamed = Renamed(WIDTH, WIDTH)
        self.own = Own(WIDTH, WIDTH)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH))
        self.spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(WIDTH, WIDTH))
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, values: Tensor) -> Tensor:
        return self.head(self.spectral(self.normed(self.own(self.renamed(values)))).mean(dim=1))


class NormalizedWeights(nn.Module):
    """Layers under weight normalization, old and new, one before a batch normalization and one with a dead row."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.utils.weight_norm(nn.Conv1d(TOKENS, 8, 3))
        self.norm = nn.BatchNorm1d(8)
        self.second = nn.utils.parametrizations.weight_norm(nn.Conv1d(8, 8, 3, bias=False))
        self.third = nn.utils.weight_norm(nn.Linear(8, 8), dim=None)
        self.head = nn.Linear(8, CLASSES)
        nn.init.uniform_(self.norm.running_mean, -0.5, 0.5)
        nn.init.uniform_(self.norm.running_var, 0.2, 2.0)
        with torch.no_grad():
            self.second.parametrizations.weight.original0[2] = 0.0

    def forward(self, values: Tensor) -> Tensor:
        hidden = torch.relu(self.second(torch.relu(self.norm(self.first(values)))))
        return self.head(torch.relu(self.third(hidden.mean(dim=2))))


class Alone(nn.MultiheadAttention):
    """A component that is one attention."""

    def __init__(self) -> None:
        super().__init__(WIDTH, 2, batch_first=True)


class Functional(nn.Module):
    """A product with a parameter that is no module, and one that is."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(WIDTH, WIDTH) / WIDTH**0.5)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, values: Tensor) -> Tensor:
        return self.head(torch.tanh(values @ self.weight).mean(dim=1))


STYLES = (OneAttention, CrossAttention, Encoder, PlainAttention, Convolutions)


def build(name: str) -> nn.Module:
    torch.manual_seed(7)
    return globals()[name]()


class Network:
    """`TrainingSetup` in which the component is all there is: class ids that the original gives."""

    component_outputs = ensemble_outputs = scored_outputs = ("logits",)
    compares_scores = True
    metric = "top1"
    larger_is_better = True

    def __init__(self, original: nn.Module, samples: int = 64) -> None:
        self.original = original.eval().requires_grad_(False)
        self.samples, self.held_back = self._labelled(samples, 1), self._labelled(40, 2)

    def _labelled(self, count: int, seed: int) -> tuple[Arrays, np.ndarray]:
        values = np.random.default_rng(seed).standard_normal((count, TOKENS, WIDTH)).astype(np.float32)
        return {"values": values}, self.teacher({"values": torch.from_numpy(values)})["logits"].argmax(1).numpy()

    def network(self, module: nn.Module) -> Callable[[Mapping[str, Tensor]], dict[str, Tensor]]:
        return lambda feeds: {"logits": module(feeds["values"])}

    def teacher(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with torch.no_grad():
            return self.network(self.original)(feeds)

    def training(self, epoch: int, batch_size: int) -> Iterator[tuple[Arrays, np.ndarray | None]]:
        feeds, labels = self.samples
        order = np.random.default_rng([5, epoch]).permutation(len(labels))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            yield {"values": feeds["values"][rows]}, labels[rows]

    def validation(self) -> tuple[Arrays, np.ndarray]:
        return self.held_back

    def task_loss(self, outputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs["logits"], labels)

    def score(self, outputs: Mapping[str, np.ndarray], labels: np.ndarray) -> MetricScore:
        right = (outputs["logits"].argmax(axis=1) == labels).astype(np.float64)
        return MetricScore(float(right.mean()), right)


def component(name: str, folder: Path, **metadata: Any) -> Artifact:
    """The artifact that a build starts from, with a factory of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    factory = folder / "model.py"
    factory.write_text(f"from qat_samples import build as make\n\ndef build():\n    return make({name!r})\n")
    facts = ComponentFacts("model.py:build", folder, None, "", ("values",), ("logits",))
    inputs = (TensorSpec("values", "FP32", (TOKENS, WIDTH)),)
    outputs = (TensorSpec("logits", "FP32", (CLASSES,)),)
    return Artifact("torch", factory, "", inputs, outputs, "recipe", as_metadata(facts) | metadata)


def feeds(count: int = 4, seed: int = 3, batch: int = 16) -> Iterator[Arrays]:
    random = np.random.default_rng(seed)
    for _ in range(count):
        yield {"values": random.standard_normal((batch, TOKENS, WIDTH)).astype(np.float32)}


def context(folder: Path, setup: Any, **changes: Any) -> StepContext:
    folder.mkdir(parents=True, exist_ok=True)
    plain = StepContext(
        component="part", workdir=folder, target=Target.CPU, encoding=Encoding.INT8_SYMMETRIC, max_batch_size=8,
        seed=11, threads=1, examples=lambda batch: next(feeds(1, 4, batch)), calibration=feeds,
        calibration_batches=4, training=setup,
    )  # fmt: skip
    return replace(plain, **changes)


def trained(
    name: str, folder: Path, *, source: Artifact | None = None, encoding: Encoding = Encoding.INT8_SYMMETRIC,
    **options: Any,
) -> Artifact:  # fmt: skip
    """Run quantization-aware training on a component."""
    setup = Network(build(name))
    given = {"epochs": 1, "batch_size": 16, "learning_rate": 1e-3} | options
    step = context(folder / "qat", setup, encoding=encoding)
    return qat.run(source or component(name, folder / "source"), qat.Options(**given), step)


def exported(artifact: Artifact, folder: Path) -> Artifact:
    return onnx_dynamo.run(artifact, onnx_dynamo.Options(), context(folder / "export", None))
