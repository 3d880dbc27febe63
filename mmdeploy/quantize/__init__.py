"""Passes that write a graph in INT8, as Q/DQ pairs: one module each.

`sensitivity` measures what that costs; it is no section of a recipe, ``mmdeploy sensitivity`` runs it.
"""

from typing import TYPE_CHECKING

from mmdeploy.core.contracts import Pass
from mmdeploy.plugins.contract import QUANTIZE
from mmdeploy.plugins.registry import Registry

if TYPE_CHECKING:  # the type checker holds each against the contract; who runs one imports no other
    from mmdeploy.quantize import auto, dynamic, qat, sensitivity, static

    PASSES: tuple[Pass, ...] = (static, dynamic, qat, auto, sensitivity)

METHODS: Registry[Pass] = Registry(
    __name__, QUANTIZE, {"static": "static", "dynamic": "dynamic", "qat": "qat", "auto": "auto"}
)
