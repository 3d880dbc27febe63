"""Attention: ways to look from tokens to tokens."""

from mmdeploy.zoo.block import Block

BLOCKS: dict[str, Block] = {}

__all__ = ["BLOCKS"]
