"""Encoders: one modality to features."""

from mmdeploy.zoo.block import Block

BLOCKS: dict[str, Block] = {}

__all__ = ["BLOCKS"]
