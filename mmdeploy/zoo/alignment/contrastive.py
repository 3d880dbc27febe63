"""Heads that put two modalities into one space, with the temperature that is learned with it.

Deployable: what is served is a unit vector a sample, or how alike the two of a pair are. The table of all against all
is for training: in a server it would mix the requests of a batch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmdeploy.zoo.outside import tells_shapes


@tells_shapes
class ClipHead(nn.Module):
    """Projections without a bias and a scale that is learned as its logarithm, at most 100.

    Radford et al., 2021, "Learning Transferable Visual Models From Natural Language Supervision", arXiv:2103.00020.
    """

    def __init__(self, dims: tuple[int, int], space: int) -> None:
        """Make the projections.

        Args:
            dims: Width of each modality's features.
            space: Width of what both become.
        """
        super().__init__()
        self.first = nn.Linear(dims[0], space, bias=False)
        self.second = nn.Linear(dims[1], space, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Embed pairs.

        Args:
            first: FP32 [N, width of the first].
            second: FP32 [N, width of the second].

        Returns:
            Unit vectors FP32 [N, space] of both, and the logit of each pair FP32 [N].

        Raises:
            ValueError: If a width is another one.
        """
        one, other = self.embed(first, second)
        return one, other, (one * other).sum(dim=-1) * self.scale()

    def embed(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Return unit vectors FP32 [N, space] of both.

        Raises:
            ValueError: If a width is another one.
        """
        for name, given, layer in (("first", first, self.first), ("second", second, self.second)):
            if given.dim() != 2 or given.shape[-1] != layer.in_features:
                raise ValueError(f"{name} of {list(given.shape)}: made for [N, {layer.in_features}]")
        return functional.normalize(self.first(first), dim=-1), functional.normalize(self.second(second), dim=-1)

    def scale(self) -> Tensor:
        """Return what cosines are multiplied by."""
        return self.log_scale.clamp(max=math.log(100)).exp()

    def loss(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the mean cross-entropy of finding the other of a pair, both ways; row i belongs to row i.

        Raises:
            ValueError: If there are not as many of both.
        """
        if len(first) != len(second):
            raise ValueError(f"{len(first)} of the first and {len(second)} of the second: they are pairs")
        one, other = self.embed(first, second)
        return self._loss(one @ other.T * self.scale())

    def _loss(self, logits: Tensor, smoothing: float = 0.0) -> Tensor:
        own = torch.arange(len(logits), device=logits.device)
        return sum(functional.cross_entropy(side, own, label_smoothing=smoothing) for side in (logits, logits.T)) / 2  # type: ignore[return-value]


@tells_shapes
class AlignHead(ClipHead):
    """A temperature that cosines are divided by, learned as it is, and labels smoothed by 0.1.

    Jia et al., 2021, "Scaling Up Visual and Vision-Language Representation Learning With Noisy Text Supervision",
    arXiv:2102.05918.
    """

    def __init__(self, dims: tuple[int, int], space: int, temperature: float = 1.0) -> None:
        """Make the projections.

        Args:
            dims: Width of each modality's features.
            space: Width of what both become.
            temperature: To begin with.

        Raises:
            ValueError: If it is not above 0.
        """
        super().__init__(dims, space)
        if temperature <= 0:
            raise ValueError(f"a temperature of {temperature}: above 0")
        del self.log_scale
        self.temperature = nn.Parameter(torch.tensor(float(temperature)))

    def scale(self) -> Tensor:
        """Return what cosines are multiplied by."""
        return 1 / self.temperature

    def _loss(self, logits: Tensor, smoothing: float = 0.1) -> Tensor:
        return super()._loss(logits, smoothing)
