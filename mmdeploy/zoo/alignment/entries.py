"""What the catalogue says of alignment."""

from __future__ import annotations

import copy
import functools

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmdeploy.core.sizes import Size
from mmdeploy.zoo.alignment.captions import CaptionDecoder, GreedyCaptions
from mmdeploy.zoo.alignment.contrastive import AlignHead, ClipHead
from mmdeploy.zoo.alignment.correlation import Cca, DeepCca
from mmdeploy.zoo.alignment.zero_shot import ZeroShotTable
from mmdeploy.zoo.attention.entries import drawn, padding, seeded
from mmdeploy.zoo.block import Block

_DIMS, _SPACE = (32, 24), 16
_LENGTH = Size("length", 2, 16)
_START, _END = 1, 2
_SAID = ((3, 4, 2, 2), (5, 6, 7, 2), (8, 2, 2, 2), (9, 10, 11, 3))
_ENDS = "it has no widths but those of its inputs and outputs"
_EMBEDDED = ("first_embedded", "second_embedded", "logit")
_PROJECTED = ("first_projected", "second_projected")


def _pairs(batch: int, seed: int) -> dict[str, Tensor]:
    """Return features of two modalities that share causes."""
    made = torch.Generator().manual_seed(seed)
    fixed = torch.Generator().manual_seed(0)
    cause = torch.randn(batch, 8, generator=made)
    first, second = (
        cause @ torch.randn(8, width, generator=fixed) + torch.randn(batch, width, generator=made) for width in _DIMS
    )
    return {"first": first, "second": second}


def _fitting() -> tuple[Tensor, Tensor]:
    pairs = _pairs(256, 0)
    return pairs["first"], pairs["second"]


def _embedding(batch: int, seed: int) -> dict[str, Tensor]:
    return {"embedding": torch.randn(batch, _SPACE, generator=torch.Generator().manual_seed(seed))}


def _features(batch: int, seed: int, length: int = 5) -> dict[str, Tensor]:
    """Return features of one of four things each."""
    made = torch.Generator().manual_seed(seed)
    things = torch.arange(seed, seed + batch) % len(_SAID)
    centers = 2 * torch.randn(len(_SAID), 16, generator=torch.Generator().manual_seed(0))
    context = drawn(made, batch, length, 16) / 4 + centers[things, None]
    return {"context": context, "mask": padding(made, batch, length)}


def _network(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 48), nn.GELU(), nn.Linear(48, 16))


@functools.cache
def _taught() -> CaptionDecoder:
    """Return a decoder that has learned what to say: the words of one that has not are a matter of rounding."""
    decoder = CaptionDecoder(12, 4, 32, 4, 16, depth=1)
    optimizer = torch.optim.Adam(decoder.parameters(), 0.01)
    for step in range(60):
        said = torch.tensor(_SAID)[torch.arange(step, step + 16) % len(_SAID)]
        before = functional.pad(said[:, :-1], (1, 0), value=_START)
        logits = decoder(before, **_features(16, step))
        loss = functional.cross_entropy(logits.flatten(0, 1), said.flatten(), label_smoothing=0.3)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return decoder.requires_grad_(False)


def _captions() -> GreedyCaptions:
    return GreedyCaptions(copy.deepcopy(_taught()).requires_grad_(), start=_START, end=_END)


CLIP_HEAD = Block(
    name="ClipHead",
    what="two modalities in one space, and how alike a pair is",
    paper="Radford et al., 2021, arXiv:2103.00020",
    deploys="serves a vector a sample and the logit of each pair; all against all is training's: it would mix requests",
    make=seeded(lambda: ClipHead(_DIMS, _SPACE)),
    samples=_pairs,
    outputs=_EMBEDDED,
    not_pruned=_ENDS,
)

ALIGN_HEAD = Block(
    name="AlignHead",
    what="the same with a temperature that is learned as it is, and smoothed labels",
    paper="Jia et al., 2021, arXiv:2102.05918",
    deploys="the temperature is a constant of the graph",
    make=seeded(lambda: AlignHead(_DIMS, _SPACE, 0.1)),
    samples=_pairs,
    outputs=_EMBEDDED,
    not_pruned=_ENDS,
)

CCA = Block(
    name="Cca",
    what="directions in which two modalities agree most",
    paper="Hotelling, 1936, Biometrika 28",
    deploys="solved for in training, in double precision; a linear layer each is served",
    make=seeded(lambda: Cca(_DIMS, 8).fit(*_fitting())),
    samples=_pairs,
    outputs=_PROJECTED,
    not_pruned=_ENDS,
)

DEEP_CCA = Block(
    name="DeepCca",
    what="the same behind two networks trained for it",
    paper="Andrew et al., 2013, ICML",
    deploys="the directions are fitted after training; networks and linear layers are served",
    make=seeded(lambda: DeepCca(_network(_DIMS[0]), _network(_DIMS[1]), (16, 16), 8).fit(*_fitting())),
    samples=_pairs,
    outputs=_PROJECTED,
)

ZERO_SHOT = Block(
    name="ZeroShotTable",
    what="classes by what they are called",
    paper="Radford et al., 2021, arXiv:2103.00020",
    deploys="prompts are encoded when the table is made: one linear layer is served, no text encoder",
    make=seeded(lambda: ZeroShotTable(torch.randn(10, 3, _SPACE).unbind())),
    samples=_embedding,
    outputs=("logits",),
    not_pruned=_ENDS,
)

CAPTIONS = Block(
    name="GreedyCaptions",
    what="features to a caption by greedy search",
    paper="Vinyals et al., 2014, arXiv:1411.4555",
    deploys="the loop runs a fixed number of times and is written out; keys and values are kept within the call",
    make=seeded(_captions),
    samples=_features,
    outputs=("tokens", "scores"),
    varies={"context": {1: _LENGTH}, "mask": {1: _LENGTH}},
)
