"""Fusion: ways to put modalities together.

A fusion takes tensors in order, one or more a modality; `Named` gives them names, as a component has them.
"""

from mmdeploy.zoo.block import Block
from mmdeploy.zoo.fusion import entries, token_entries
from mmdeploy.zoo.fusion.early import EarlyFusion
from mmdeploy.zoo.fusion.intermediate import IntermediateFusion
from mmdeploy.zoo.fusion.late import LateFusion
from mmdeploy.zoo.fusion.modalities import Named
from mmdeploy.zoo.fusion.pooling import AttentionPooling, HierarchicalPooling
from mmdeploy.zoo.fusion.products import BilinearFusion, LowRankFusion, TensorFusion
from mmdeploy.zoo.fusion.sequence import SequenceFusion
from mmdeploy.zoo.fusion.unified import UnifiedSizes, UnifiedTransformer
from mmdeploy.zoo.fusion.weighted import AdaptiveFusion, AttentionFusion, GatedFusion

BLOCKS: dict[str, Block] = {
    "early": entries.EARLY,
    "sequence": token_entries.SEQUENCE,
    "late": entries.LATE,
    "intermediate": entries.INTERMEDIATE,
    "attention": entries.ATTENTION,
    "gated": entries.GATED,
    "adaptive": entries.ADAPTIVE,
    "bilinear": entries.BILINEAR,
    "tensor": entries.TENSOR,
    "low_rank": entries.LOW_RANK,
    "hierarchical": token_entries.HIERARCHICAL,
    "unified": token_entries.UNIFIED,
}

__all__ = [
    "BLOCKS",
    "AdaptiveFusion",
    "AttentionFusion",
    "AttentionPooling",
    "BilinearFusion",
    "EarlyFusion",
    "GatedFusion",
    "HierarchicalPooling",
    "IntermediateFusion",
    "LateFusion",
    "LowRankFusion",
    "Named",
    "SequenceFusion",
    "TensorFusion",
    "UnifiedSizes",
    "UnifiedTransformer",
]
