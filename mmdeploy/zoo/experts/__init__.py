"""Experts: parts of a network that only some inputs use."""

from mmdeploy.zoo.block import Block
from mmdeploy.zoo.experts import entries
from mmdeploy.zoo.experts.mixture import DenseExperts, GatheredExperts, SelectedExperts
from mmdeploy.zoo.experts.routing import Router, balance_loss

BLOCKS: dict[str, Block] = {
    "dense": entries.DENSE,
    "gathered": entries.GATHERED,
    "selected": entries.SELECTED,
}

__all__ = ["BLOCKS", "DenseExperts", "GatheredExperts", "Router", "SelectedExperts", "balance_loss"]
