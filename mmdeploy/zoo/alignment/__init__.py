"""Alignment: modalities in one space, and text out of it."""

from mmdeploy.zoo.block import Block

BLOCKS: dict[str, Block] = {}

__all__ = ["BLOCKS"]
