"""What the catalogue says of the experts."""

from __future__ import annotations

import torch
from torch import Tensor

from mmdeploy.core.sizes import Size
from mmdeploy.zoo.attention.entries import drawn, seeded
from mmdeploy.zoo.block import Block
from mmdeploy.zoo.experts.mixture import DenseExperts, GatheredExperts, SelectedExperts
from mmdeploy.zoo.experts.routing import Router

_DIM, _HIDDEN, _EXPERTS, _MODALITIES = 32, 48, 4, 3
_LENGTH = Size("length", 2, 16)
_VARIES = {"tokens": {1: _LENGTH}, "modality": {1: _LENGTH}}
_PAPER = "Mustafa et al., 2022, arXiv:2206.02770"


def _tokens(batch: int, seed: int, length: int = 6) -> dict[str, Tensor]:
    made = torch.Generator().manual_seed(seed)
    modality = torch.randint(_MODALITIES, (batch, length), generator=made)
    centers = 2 * torch.randn(_MODALITIES, _DIM, generator=torch.Generator().manual_seed(0))
    return {"tokens": drawn(made, batch, length, _DIM) + centers[modality], "modality": modality}


def _router() -> Router:
    return Router(_DIM, _EXPERTS, 2, _MODALITIES, hidden=16)


DENSE = Block(
    name="DenseExperts",
    what="experts for tokens of any modality, the best two of each token",
    paper=_PAPER,
    deploys="every expert sees every token and those not chosen count 0: plain linear layers",
    make=seeded(lambda: DenseExperts(_DIM, _HIDDEN, _EXPERTS, _router())),
    samples=_tokens,
    outputs=("mixed",),
    varies=_VARIES,
)

GATHERED = Block(
    name="GatheredExperts",
    what="the same, from tables of weights that tokens look up",
    paper=_PAPER,
    deploys="a fixed number of lookups a token: less arithmetic where few of many experts are chosen",
    make=seeded(lambda: GatheredExperts(DenseExperts(_DIM, _HIDDEN, _EXPERTS, _router()))),
    samples=_tokens,
    outputs=("mixed",),
    varies=_VARIES,
)

SELECTED = Block(
    name="SelectedExperts",
    what="the same, each expert given the tokens that chose it",
    paper=_PAPER,
    deploys="not on TensorRT: how many tokens torch.where finds is known only when it runs",
    make=seeded(lambda: SelectedExperts(_DIM, _HIDDEN, _EXPERTS, _router())),
    samples=_tokens,
    outputs=("mixed",),
    varies=_VARIES,
    refusals={"tensorrt_rtx": "NonZero", "static_tensorrt_rtx": "NonZero"},
)
