"""Passes that write a graph in INT8, as Q/DQ pairs: one module each.

`sensitivity` measures what that costs; it is no section of a recipe, ``mmdeploy sensitivity`` runs it.
"""

from mmdeploy.core.contracts import Pass
from mmdeploy.plugins.contract import QUANTIZE
from mmdeploy.plugins.registry import Registry
from mmdeploy.quantize import auto, dynamic, qat, static
from mmdeploy.quantize import sensitivity as sensitivity

METHODS: Registry[Pass] = Registry(__name__, QUANTIZE, {"static": static, "dynamic": dynamic, "qat": qat, "auto": auto})
