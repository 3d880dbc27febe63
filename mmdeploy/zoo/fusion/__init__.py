"""Fusion: ways to put modalities together."""

from mmdeploy.zoo.block import Block

BLOCKS: dict[str, Block] = {}

__all__ = ["BLOCKS"]
