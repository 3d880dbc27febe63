"""What the catalogue says of fusions of sequences."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmdeploy.core.sizes import Size
from mmdeploy.zoo.block import Block
from mmdeploy.zoo.fusion.entries import made
from mmdeploy.zoo.fusion.pooling import HierarchicalPooling
from mmdeploy.zoo.fusion.sequence import SequenceFusion
from mmdeploy.zoo.fusion.unified import UnifiedSizes, UnifiedTransformer

_LENGTHS = {"image": {1: Size("patches", 2, 12)}, "text": {1: Size("words", 1, 9)}}
_MASKED = ("image", "text", "image_mask", "text_mask")
_MASKED_LENGTHS = {**_LENGTHS, "image_mask": _LENGTHS["image"], "text_mask": _LENGTHS["text"]}


def _lengths(batch: int, longest: int, made: torch.Generator) -> Tensor:
    """Make masks of sequences of which the first is the longest."""
    lengths = torch.randint(1, longest + 1, (batch,), generator=made)
    lengths[0] = longest
    return torch.arange(longest) < lengths[:, None]


def _sequences(batch: int, seed: int, patches: int = 6, words: int = 5) -> dict[str, Tensor]:
    """Make patches, and words with padding behind them."""
    made = torch.Generator().manual_seed(seed)
    image = torch.randn(batch, 1, 24, generator=made) + 0.5 * torch.randn(batch, patches, 24, generator=made)
    mask = _lengths(batch, words, made)
    text = torch.randn(batch, words, 20, generator=made) * mask[..., None]
    return {"image": image, "text": text, "image_mask": torch.ones(batch, patches, dtype=torch.bool), "text_mask": mask}


def _three(batch: int, seed: int, words: int = 5, frames: int = 6) -> dict[str, Tensor]:
    made = torch.Generator().manual_seed(seed)
    text_mask, frames_mask = _lengths(batch, words, made), _lengths(batch, frames, made)
    ids = torch.randint(1, 50, (batch, words), generator=made) * text_mask
    patches = torch.randn(batch, 1, 12, generator=made) + 0.5 * torch.randn(batch, 6, 12, generator=made)
    heard = torch.randn(batch, frames, 8, generator=made) * frames_mask[..., None]
    return {"ids": ids, "text_mask": text_mask, "patches": patches, "frames": heard, "frames_mask": frames_mask}


def _unified() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        sizes = UnifiedSizes(50, 8, (2, 3), 12, 10, 8, width=32, depth=1, heads=4, classes=5)
        return UnifiedTransformer(sizes).eval()


SEQUENCE = Block(
    name="SequenceFusion",
    what="tokens of all modalities as one sequence for one transformer",
    paper="Kim et al., 2021, arXiv:2102.03334",
    deploys="padding is a boolean mask; a class token keeps every row of attention from being empty",
    make=made(lambda: SequenceFusion((24, 20), 32, depth=1, heads=4, classes=5), _MASKED),
    samples=_sequences,
    outputs=("scores",),
    varies=_MASKED_LENGTHS,
)

HIERARCHICAL = Block(
    name="HierarchicalPooling",
    what="tokens of each modality pooled by attention, then the modalities",
    paper="Yang et al., 2016, NAACL, doi:10.18653/v1/N16-1174",
    deploys="softmax over an axis of any length; padding by a finite number, since -inf becomes NaN in graphs",
    make=made(lambda: HierarchicalPooling((24, 20), 32, 16), _MASKED),
    samples=_sequences,
    outputs=("pooled",),
    varies=_MASKED_LENGTHS,
)

UNIFIED = Block(
    name="UnifiedTransformer",
    what="one transformer over text, patches and frames, with embeddings of place, time and modality",
    paper="Hu and Singh, 2021, arXiv:2102.10772",
    deploys="padding is a boolean mask over all tokens, the first of which is always there",
    make=_unified,
    samples=_three,
    outputs=("scores", "summary"),
    varies={
        "ids": {1: Size("words", 1, 8)},
        "text_mask": {1: Size("words", 1, 8)},
        "frames": {1: Size("frames", 1, 10)},
        "frames_mask": {1: Size("frames", 1, 10)},
    },
)
