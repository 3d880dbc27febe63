"""Alignment: modalities in one space, and text out of it."""

from mmdeploy.zoo.alignment import entries
from mmdeploy.zoo.alignment.captions import CaptionDecoder, GreedyCaptions
from mmdeploy.zoo.alignment.contrastive import AlignHead, ClipHead
from mmdeploy.zoo.alignment.correlation import Cca, DeepCca, correlation_loss
from mmdeploy.zoo.alignment.zero_shot import ZeroShotTable
from mmdeploy.zoo.block import Block

BLOCKS: dict[str, Block] = {
    "clip_head": entries.CLIP_HEAD,
    "align_head": entries.ALIGN_HEAD,
    "cca": entries.CCA,
    "deep_cca": entries.DEEP_CCA,
    "zero_shot": entries.ZERO_SHOT,
    "captions": entries.CAPTIONS,
}

__all__ = [
    "BLOCKS", "AlignHead", "CaptionDecoder", "Cca", "ClipHead", "DeepCca", "GreedyCaptions", "ZeroShotTable",
    "correlation_loss",
]  # fmt: skip
