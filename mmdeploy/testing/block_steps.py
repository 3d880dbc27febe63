"""A block as passes and engines are given it: its module, examples at its sizes, a network that trains it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mmdeploy.core.artifact import DTYPE_BY_NUMPY, Array, Artifact, TensorSpec, file_sha256
from mmdeploy.core.contracts import Encoding, MetricScore, Network, StepContext
from mmdeploy.core.facts import as_metadata
from mmdeploy.core.labels import Labels
from mmdeploy.core.samples import Samples
from mmdeploy.core.sizes import Lengths, Size
from mmdeploy.core.target import Target
from mmdeploy.model.torch_component import ComponentFacts

if TYPE_CHECKING:
    from torch import Tensor, nn

LARGEST_BATCH = 5
_BATCH, _BATCHES = 8, 3
_FACTORY = "from mmdeploy.testing.block_steps import made\n\n\ndef build():\n    return made({key})\n"
_counted = itertools.count()
_makers: dict[int, Callable[[], nn.Module]] = {}


class Provable(Protocol):
    """What must be known of a block: `mmdeploy.zoo.block.Block` has it, and says what each is."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def make(self) -> Callable[[], nn.Module]: ...  # noqa: D102
    @property
    def samples(self) -> Callable[..., dict[str, Tensor]]: ...  # noqa: D102
    @property
    def outputs(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def varies(self) -> Mapping[str, Mapping[int, Size]]: ...  # noqa: D102
    @property
    def not_pruned(self) -> str: ...  # noqa: D102
    @property
    def not_quantized(self) -> str: ...  # noqa: D102
    @property
    def float_nodes(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def int8_cosine(self) -> float: ...  # noqa: D102
    @property
    def refusals(self) -> Mapping[str, str]: ...  # noqa: D102


def made(key: int) -> nn.Module:
    """Return a new module of a block whose artifact this process wrote."""
    return _makers[key]()


@dataclass(frozen=True)
class Subject:
    """A block in a folder of its own."""

    block: Provable
    folder: Path

    def examples(self, batch: int, seed: int = 11, lengths: Lengths | None = None) -> dict[str, Array]:
        """Return a feed dict, at the block's usual lengths or others."""
        made = self.block.samples(batch, seed, **(lengths or {}))
        return {name: tensor.detach().numpy() for name, tensor in made.items()}

    def at_lengths(self, batch: int) -> Iterator[tuple[Lengths, dict[str, Array]]]:
        """Give a feed dict at several lengths of the sizes that vary; several sizes do not grow together."""
        sizes = {size.name: size for axes in self.block.varies.values() for size in axes.values()}
        tried = {name: size.tried() for name, size in sizes.items()}
        for index in range(max(map(len, tried.values()), default=0)):
            lengths = {
                name: lengths[(index if place % 2 == 0 else -1 - index) % len(lengths)]
                for place, (name, lengths) in enumerate(tried.items())
            }
            yield lengths, self.examples(batch, lengths=lengths)

    def source(self) -> Artifact:
        """Write the block's module as a recipe's factory would give it."""
        feed = self.examples(2)
        key = next(_counted)
        _makers[key] = self.block.make
        folder = self.folder / "source"
        folder.mkdir()
        path = folder / f"block_{key}.py"
        path.write_text(_FACTORY.format(key=key), encoding="utf-8")
        of = ComponentFacts(f"{path.name}:build", folder, None, "", tuple(feed), self.block.outputs)
        answers = answered(self.block.make(), feed, self.block.outputs)
        return Artifact(
            "torch",
            path,
            file_sha256(path),
            tuple(_spec(name, array, self.block.varies.get(name, {})) for name, array in feed.items()),
            tuple(_spec(name, array, {}) for name, array in answers.items()),
            "recipe",
            as_metadata(of),
        )

    def context(self, step: str, **changes: Any) -> StepContext:
        """Return the context of a step that writes into a new folder; ``changes`` replace fields."""
        workdir = self.folder / step
        workdir.mkdir()
        fields: dict[str, Any] = {
            "component": self.block.name.replace(" ", "_"),
            "workdir": workdir,
            "target": Target.CPU,
            "encoding": Encoding.UINT8_ASYMMETRIC,
            "max_batch_size": LARGEST_BATCH,
            "seed": 0,
            "threads": 1,
            "examples": self.examples,
            "at_lengths": self.at_lengths,
            "calibration": lambda: (self.examples(_BATCH, seed) for seed in range(_BATCHES)),
            "calibration_batches": _BATCHES,
        }
        return StepContext(**(fields | changes))


def _spec(name: str, array: Array, varies: Mapping[int, Size]) -> TensorSpec:
    shape = tuple(-1 if axis in varies else size for axis, size in enumerate(array.shape) if axis)
    sizes = tuple(varies.get(axis) for axis in range(1, array.ndim)) if varies else ()
    return TensorSpec(name, DTYPE_BY_NUMPY[array.dtype.name], shape, sizes)


def answered(module: nn.Module, feed: Mapping[str, Array], outputs: tuple[str, ...]) -> dict[str, Array]:
    """Return what a module answers in PyTorch."""
    import torch

    from mmdeploy.model.torch_model import call_module

    given = {name: torch.from_numpy(array.copy()) for name, array in feed.items()}
    with torch.inference_mode():
        answers = call_module(module, given, outputs, name="block")
    return {name: tensor.numpy() for name, tensor in answers.items()}


class Likeness:
    """`TrainingSetup` in which a block is all there is, and learns to answer as the original does."""

    compares_scores = False
    metric = "likeness"
    larger_is_better = True

    def __init__(self, subject: Subject) -> None:
        """Take the block's own module for the teacher."""
        self._subject, self._original = subject, subject.block.make().requires_grad_(False)
        self._feeds = subject.examples(_BATCH, seed=21)
        self._wanted = answered(self._original, self._feeds, subject.block.outputs)
        floats = tuple(name for name, array in self._wanted.items() if array.dtype.kind == "f")
        self.component_outputs = self.ensemble_outputs = self.scored_outputs = floats

    def network(self, module: nn.Module) -> Network:
        """Put a module in the block's place."""
        from mmdeploy.model.torch_model import call_module

        return lambda feeds: call_module(module, feeds, self._subject.block.outputs, name="block")

    def teacher(self, feeds: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return what the original answers."""
        import torch

        with torch.no_grad():
            return self.network(self._original)(feeds)

    def training(self, epoch: int, batch_size: int) -> Iterator[tuple[dict[str, Array], Labels | None]]:
        """Iterate over new samples, a batch at a time."""
        for batch in range(_BATCHES):
            yield self._subject.examples(batch_size, seed=100 + 10 * epoch + batch), None

    def validation(self) -> tuple[Samples, Labels]:
        """Return samples that are not trained on; their labels mean nothing."""
        import numpy as np

        return Samples.of(self._feeds), np.zeros(_BATCH, np.int64)

    def task_loss(self, outputs: Mapping[str, Tensor], labels: Any) -> Tensor:
        """Return nothing: there is no task.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError("a block alone has no task: it is distilled")

    def score(self, outputs: Mapping[str, Array], labels: Labels) -> MetricScore:
        """Score answers by their cosine to those of the original."""
        from mmdeploy.testing.block_figures import cosine

        found = min(cosine(self._wanted[name], outputs[name]) for name in self.scored_outputs)
        return MetricScore(found, None)
