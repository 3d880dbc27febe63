"""Passes that take weights away, on the PyTorch module."""

from mmdeploy.core.contracts import Pass
from mmdeploy.plugins.contract import PRUNE
from mmdeploy.plugins.registry import Registry
from mmdeploy.prune import auto, magnitude, n_m, structured

METHODS: Registry[Pass] = Registry(
    __name__, PRUNE, {"magnitude": magnitude, "n_m": n_m, "structured": structured, "auto": auto}
)
