"""All blocks of the zoo, by family; each family is a package whose ``__init__`` holds one literal dict ``BLOCKS``."""

from __future__ import annotations

from collections.abc import Mapping

from mmdeploy.zoo import alignment, attention, encoders, experts, front_ends, fusion
from mmdeploy.zoo.block import Block

FAMILIES: Mapping[str, Mapping[str, Block]] = {
    "front_ends": front_ends.BLOCKS,
    "encoders": encoders.BLOCKS,
    "fusion": fusion.BLOCKS,
    "attention": attention.BLOCKS,
    "experts": experts.BLOCKS,
    "alignment": alignment.BLOCKS,
}


def blocks() -> dict[str, Block]:
    """Return every block by ``family/key``, in the order in which documents list them."""
    return {f"{family}/{key}": block for family, found in FAMILIES.items() for key, block in found.items()}
