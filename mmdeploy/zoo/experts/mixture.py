"""Mixtures of experts for tokens of several modalities, in three forms that answer alike.

Mustafa et al., 2022, "LIMoE", arXiv:2206.02770 (one mixture for tokens of all modalities); Han et al., 2024, "FuseMoE",
arXiv:2402.03226 (routers that know the modality). Train `DenseExperts`; serve it, or `GatheredExperts` made of it:

- `DenseExperts`: every expert sees every token and those not chosen count 0. Plain linear layers: quantized, pruned.
- `GatheredExperts`: the weights of the chosen experts are looked up for each token: less arithmetic where few of many
  experts are chosen, and much memory where there are many tokens (``N * L * chosen * 2 * dim * hidden`` numbers).
- `SelectedExperts`: each expert takes the tokens that chose it, by ``torch.where``. How many those are is known only
when
  it runs, so TensorRT does not take it. It is here to show that.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmdeploy.zoo.experts.routing import Router, balance_loss, best, gates
from mmdeploy.zoo.outside import tells_shapes


@tells_shapes
class DenseExperts(nn.Module):
    """Experts that see all tokens, weighed by the router."""

    def __init__(self, dim: int, hidden: int, experts: int, router: Router) -> None:
        """Make the experts.

        Args:
            dim: Width of the tokens.
            hidden: Width within an expert.
            experts: How many.
            router: That chooses among as many.

        Raises:
            ValueError: If the router chooses among another number.
        """
        super().__init__()
        if router.modality.embedding_dim != experts:
            raise ValueError(f"{experts} experts and a router for {router.modality.embedding_dim}: as many of both")
        self.router = router
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim)) for _ in range(experts)
        )

    def forward(self, tokens: Tensor, modality: Tensor) -> Tensor:
        """Let the chosen experts answer.

        Args:
            tokens: FP32 [N, L, dim].
            modality: The number of each token's modality, INT64 [N, L]; each token is answered for itself, so padding
                may have any number that there is.

        Returns:
            FP32 [N, L, dim].

        Raises:
            ValueError: If the two do not belong together.
        """
        _check(tokens, modality)
        return self._mixed(tokens, *self.router(tokens, modality))

    def balanced(self, tokens: Tensor, modality: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return what `forward` does, and the loss that keeps experts in use; for training."""
        _check(tokens, modality)
        probabilities = self.router.probabilities(tokens, modality)
        share, number = best(probabilities, self.router.chosen)
        return self._mixed(tokens, share, number), balance_loss(probabilities, number, mask)

    def _mixed(self, tokens: Tensor, share: Tensor, number: Tensor) -> Tensor:
        weighed = gates(share, number, len(self.experts)).chunk(len(self.experts), dim=-1)
        answers = [expert(tokens) * weight for expert, weight in zip(self.experts, weighed, strict=True)]
        return torch.stack(answers).sum(dim=0)


@tells_shapes
class SelectedExperts(DenseExperts):
    """The same experts, each given only the tokens that chose it: not for TensorRT."""

    def _mixed(self, tokens: Tensor, share: Tensor, number: Tensor) -> Tensor:
        rows, share, number = tokens.flatten(0, 1), share.flatten(0, 1), number.flatten(0, 1)
        mixed = torch.zeros_like(rows)
        for index, expert in enumerate(self.experts):
            chosen, place = torch.where(number == index)
            mixed = mixed.index_add(0, chosen, expert(rows[chosen]) * share[chosen, place, None])
        return torch.unflatten(mixed, 0, tokens.shape[:2])


@tells_shapes
class GatheredExperts(nn.Module):
    """The same experts as tables of weights, of which each token looks up its own."""

    def __init__(self, dense: DenseExperts) -> None:
        """Take the weights of experts; the router is shared.

        Args:
            dense: Trained experts.
        """
        super().__init__()
        self.router = dense.router
        experts = cast(Iterable[nn.Sequential], dense.experts)
        layers = [(cast(nn.Linear, expert[0]), cast(nn.Linear, expert[-1])) for expert in experts]
        self.enter = nn.Parameter(torch.stack([first.weight.detach().T for first, _ in layers]))
        self.enter_bias = nn.Parameter(torch.stack([first.bias.detach() for first, _ in layers]))
        self.leave = nn.Parameter(torch.stack([last.weight.detach().T for _, last in layers]))
        self.leave_bias = nn.Parameter(torch.stack([last.bias.detach() for _, last in layers]))

    def forward(self, tokens: Tensor, modality: Tensor) -> Tensor:
        """Let the chosen experts answer, as `DenseExperts` does.

        Args:
            tokens: FP32 [N, L, dim].
            modality: The number of each token's modality, INT64 [N, L].

        Returns:
            FP32 [N, L, dim].

        Raises:
            ValueError: If the two do not belong together.
        """
        _check(tokens, modality)
        share, number = self.router(tokens, modality)
        own = tokens[:, :, None].expand(-1, -1, number.shape[-1], -1)
        inside = own[..., None, :] @ self.enter[number] + self.enter_bias[number][..., None, :]
        answer = functional.gelu(inside) @ self.leave[number] + self.leave_bias[number][..., None, :]
        found: Tensor = (answer[..., 0, :] * share[..., None]).sum(dim=2)
        return found


def _check(tokens: Tensor, modality: Tensor) -> None:
    if tokens.dim() != 3 or tokens.shape[:2] != modality.shape:
        raise ValueError(
            f"tokens of {list(tokens.shape)}, modalities of {list(modality.shape)}: [N, L, dim] and [N, L]"
        )
