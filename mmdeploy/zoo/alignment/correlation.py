"""Canonical correlation: directions of two modalities in which they agree most, linear or behind two networks.

Deployable: what is found is solved for in training, in double precision; what is served are linear layers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmdeploy.zoo.outside import tells_shapes


@tells_shapes
class Cca(nn.Module):
    """Canonical correlation analysis: a linear layer for each of two modalities.

    Hotelling, 1936, "Relations Between Two Sets of Variates", Biometrika 28.
    """

    correlations: Tensor

    def __init__(self, dims: tuple[int, int], components: int) -> None:
        """Make the layers; `fit` fills them.

        Args:
            dims: Width of each modality's features.
            components: Directions.

        Raises:
            ValueError: If there are more directions than the narrower has features.
        """
        super().__init__()
        if not 1 <= components <= min(dims):
            raise ValueError(f"{components} components of widths {dims}: from 1 to {min(dims)}")
        self.first, self.second = nn.Linear(dims[0], components), nn.Linear(dims[1], components)
        self.register_buffer("correlations", torch.zeros(components))

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Project both.

        Args:
            first: FP32 [N, width of the first].
            second: FP32 [N, width of the second].

        Returns:
            Both FP32 [N, components]; over what it was fitted to, with mean 0, variance 1 and no correlation but that
            of a component with its twin, ``correlations``.

        Raises:
            ValueError: If a width is another one.
        """
        _check(first, second, (self.first.in_features, self.second.in_features))
        return self.first(first), self.second(second)

    def fit(self, first: Tensor, second: Tensor, ridge: float = 0.0) -> Cca:
        """Find the directions.

        Args:
            first: FP32 [samples, width of the first]; row i belongs to row i of the second.
            second: FP32 [samples, width of the second].
            ridge: Added to the variances.

        Returns:
            Itself.

        Raises:
            ValueError: If a width is another one, there are not as many of both, or features depend on each other and
                no ridge is added.
        """
        _check(first, second, (self.first.in_features, self.second.in_features))
        with torch.no_grad():
            sides = [given.double() for given in (first, second)]
            left, values, right, roots = _solve(sides[0], sides[1], ridge)
            count = len(self.correlations)
            signs = left[:, :count].gather(0, left[:, :count].abs().argmax(dim=0)[None]).sign()
            for layer, given, root, turned in zip(
                (self.first, self.second), sides, roots, (left, right.T), strict=True
            ):
                weight = torch.linalg.solve_triangular(root.T, turned[:, :count] * signs, upper=True)
                layer.weight.copy_(weight.T)
                layer.bias.copy_(-given.mean(dim=0) @ weight)
            self.correlations.copy_(values[:count])
        return self


@tells_shapes
class DeepCca(nn.Module):
    """Two networks trained so that their features correlate, and the directions in which they do.

    Andrew et al., 2013, "Deep Canonical Correlation Analysis", ICML; in batches as Wang et al., 2015, "Unsupervised
    Learning of Acoustic Features via Deep Canonical Correlation Analysis", ICASSP.
    """

    def __init__(self, first: nn.Module, second: nn.Module, dims: tuple[int, int], components: int) -> None:
        """Take the networks.

        Args:
            first: Turns the first modality into features FP32 [N, first of ``dims``].
            second: As much for the second.
            dims: Width of the features.
            components: Directions.

        Raises:
            ValueError: If there are more directions than the narrower has features.
        """
        super().__init__()
        self.first, self.second = first, second
        self.cca = Cca(dims, components)

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Project both modalities, as the networks take them, to FP32 [N, components]; see `Cca.forward`.

        Raises:
            ValueError: If features have another width.
        """
        found: tuple[Tensor, Tensor] = self.cca(self.first(first), self.second(second))
        return found

    def loss(self, first: Tensor, second: Tensor, ridge: float = 1e-3) -> Tensor:
        """Return minus the sum of the correlations over a batch, which is best far larger than the features are wide.

        Raises:
            ValueError: If there are not as many of both.
        """
        return correlation_loss(self.first(first), self.second(second), len(self.cca.correlations), ridge)

    def fit(self, first: Tensor, second: Tensor, ridge: float = 1e-3) -> DeepCca:
        """Find the directions of the features that the networks give now; last, after training.

        Raises:
            ValueError: As `Cca.fit`.
        """
        with torch.no_grad():
            self.cca.fit(self.first(first), self.second(second), ridge)
        return self


def correlation_loss(first: Tensor, second: Tensor, components: int, ridge: float = 1e-3) -> Tensor:
    """Return minus the sum of the largest canonical correlations of two [samples, width]; gradients reach both.

    Raises:
        ValueError: If there are not as many of both, or features depend on each other and no ridge is added.
    """
    _, values, _, _ = _solve(first.double(), second.double(), ridge)
    return -values[:components].sum().to(first.dtype)


def _solve(first: Tensor, second: Tensor, ridge: float) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """Return singular vectors and values of the whitened cross-covariance, and the Cholesky roots that whiten."""
    if len(first) != len(second) or len(first) < 2:
        raise ValueError(f"{len(first)} samples of the first, {len(second)} of the second: as many of both, 2 or more")
    sides = [given - given.mean(dim=0) for given in (first, second)]
    roots = []
    for name, given in zip(("first", "second"), sides, strict=True):
        variance = given.T @ given / (len(given) - 1)
        root, failed = torch.linalg.cholesky_ex(variance + ridge * torch.eye(len(variance), dtype=variance.dtype))
        if (
            int(failed)
            or float((root.detach().diagonal() ** 2 / variance.detach().diagonal().clamp(min=1e-300)).min()) < 1e-10
        ):
            raise ValueError(f"features of the {name} are constant or depend on each other: drop some, or add a ridge")
        roots.append(root)
    across = sides[0].T @ sides[1] / (len(first) - 1)
    half = torch.linalg.solve_triangular(roots[0], across, upper=False)
    left, values, right = torch.linalg.svd(
        torch.linalg.solve_triangular(roots[1], half.T, upper=False).T, full_matrices=False
    )
    return left, values, right, roots


def _check(first: Tensor, second: Tensor, dims: tuple[int, int]) -> None:
    for name, given, width in (("first", first, dims[0]), ("second", second, dims[1])):
        if given.dim() != 2 or given.shape[-1] != width:
            raise ValueError(f"{name} of {list(given.shape)}: made for [N, {width}]")
