"""Attention: ways to look from tokens to tokens."""

from mmdeploy.zoo.attention import entries
from mmdeploy.zoo.attention.blocks import BlockAttention, HierarchicalAttention
from mmdeploy.zoo.attention.crossing import ThreeWayAttention, TwoWayAttention
from mmdeploy.zoo.attention.gated import GatedCrossAttention, GatedDecoder
from mmdeploy.zoo.attention.heads import Attention, DecoderLayer
from mmdeploy.zoo.attention.low_rank import LowRankAttention
from mmdeploy.zoo.attention.merging import TokenMerging
from mmdeploy.zoo.attention.random_pattern import RandomAttention
from mmdeploy.zoo.attention.resampling import PerceiverResampler, QFormer
from mmdeploy.zoo.attention.reuse import FixedReuse, GrowingReuse
from mmdeploy.zoo.attention.rotary import RotaryAttention
from mmdeploy.zoo.attention.windows import WindowAttention
from mmdeploy.zoo.block import Block

BLOCKS: dict[str, Block] = {
    "two_way": entries.TWO_WAY,
    "three_way": entries.THREE_WAY,
    "window": entries.WINDOW,
    "block": entries.BLOCK,
    "random": entries.RANDOM,
    "low_rank": entries.LOW_RANK,
    "hierarchical": entries.HIERARCHICAL,
    "token_merging": entries.TOKEN_MERGING,
    "token_merging_product": entries.TOKEN_MERGING_PRODUCT,
    "rotary": entries.ROTARY,
    "rotary_complex": entries.ROTARY_COMPLEX,
    "growing_reuse": entries.GROWING_REUSE,
    "fixed_reuse": entries.FIXED_REUSE,
    "perceiver_resampler": entries.PERCEIVER_RESAMPLER,
    "q_former": entries.Q_FORMER,
    "gated_decoder": entries.GATED_DECODER,
}

__all__ = [
    "BLOCKS", "Attention", "BlockAttention", "DecoderLayer", "FixedReuse", "GatedCrossAttention", "GatedDecoder",
    "GrowingReuse", "HierarchicalAttention", "LowRankAttention", "PerceiverResampler", "QFormer", "RandomAttention",
    "RotaryAttention", "ThreeWayAttention", "TokenMerging", "TwoWayAttention", "WindowAttention",
]  # fmt: skip
