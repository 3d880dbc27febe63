"""Experts: parts of a network that only some inputs use."""

from mmdeploy.zoo.block import Block

BLOCKS: dict[str, Block] = {}

__all__ = ["BLOCKS"]
