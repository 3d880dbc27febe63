"""Inputs that are missing while a component is trained: stand-ins in the place of embeddings, row by row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmdeploy.core.artifact import Array
from mmdeploy.worker.modalities import PRESENT, Modalities

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from mmdeploy.core.labels import Labels


@dataclass(frozen=True)
class MissingInTraining:
    """What training does about inputs that may be missing.

    Attributes:
        modalities: Of the recipe.
        rate: Share of the training samples that lose what one of the subsets leaves out.
    """

    modalities: Modalities
    rate: float = 0.0

    def marked(
        self, batches: Iterator[tuple[dict[str, Array], Labels | None]], random: np.random.Generator
    ) -> Iterator[tuple[dict[str, Array], Labels | None]]:
        """Give batches with a tensor beside the inputs that says which of them each row has."""
        if not self.modalities.branches:
            yield from batches
            return
        for feeds, labels in batches:
            there = self.modalities.dropped(self.modalities.holds(feeds), self.rate, random)
            yield {**feeds, PRESENT: there}, labels

    def given(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what components are given before any has run: inputs, presence, embeddings of inputs not sent."""
        tensors = {name: tensor for name, tensor in feeds.items() if name != PRESENT}
        if not self.modalities.branches:
            return tensors
        there = self._there(feeds)
        for column, (name, branch) in enumerate(self.modalities.branches.items()):
            if name in self.modalities.presence:
                tensors[self.modalities.presence[name]] = there[:, column : column + 1]
            if not self.modalities.sent(name, feeds):
                for tensor in branch.embeddings:
                    stand_in = self._stand_in(tensor, there)
                    tensors[tensor] = stand_in.expand(len(there), *stand_in.shape[1:])
        return tensors

    def not_run(self, feeds: Mapping[str, Tensor]) -> frozenset[str]:
        """Return the components of branches whose input was not sent."""
        return self.modalities.skipped(
            [name for name in self.modalities.branches if not self.modalities.sent(name, feeds)]
        )

    def standing(self, tensor: str, answer: Tensor, feeds: Mapping[str, Tensor]) -> Tensor:
        """Return an embedding with its stand-in in the rows that lack the input; other tensors as they are."""
        import torch

        for column, branch in enumerate(self.modalities.branches.values()):
            if tensor in branch.embeddings:
                there = self._there(feeds)[:, column]
                if bool(there.all()):
                    return answer
                stand_in = self._stand_in(tensor, answer)
                return torch.where(there.reshape(-1, *[1] * (answer.ndim - 1)), answer, stand_in)
        return answer

    def _there(self, feeds: Mapping[str, Tensor]) -> Tensor:
        import torch

        if PRESENT in feeds:
            return feeds[PRESENT]
        first = next(iter(feeds.values()))
        sent = [self.modalities.sent(name, feeds) for name in self.modalities.branches]
        return torch.tensor([sent], device=first.device).expand(len(first), -1)

    def _stand_in(self, tensor: str, like: Tensor) -> Tensor:
        import torch

        return torch.from_numpy(self.modalities.stand_in(tensor)[None].copy()).to(like.device)
