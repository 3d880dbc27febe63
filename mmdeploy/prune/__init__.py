"""Passes that take weights away, on the PyTorch module."""

from typing import TYPE_CHECKING

from mmdeploy.core.contracts import Pass
from mmdeploy.plugins.contract import PRUNE
from mmdeploy.plugins.registry import Registry

if TYPE_CHECKING:  # the type checker holds each against the contract; who runs one imports no other
    from mmdeploy.prune import auto, magnitude, n_m, structured

    PASSES: tuple[Pass, ...] = (magnitude, n_m, structured, auto)

METHODS: Registry[Pass] = Registry(
    __name__, PRUNE, {"magnitude": "magnitude", "n_m": "n_m", "structured": "structured", "auto": "auto"}
)
