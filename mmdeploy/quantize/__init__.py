"""Passes that write a graph in INT8, as Q/DQ pairs: one module each.

`sensitivity` measures what that costs; it is no section of a recipe, ``mmdeploy sensitivity`` runs it.
"""

from collections.abc import Mapping

from mmdeploy.core.contracts import Pass
from mmdeploy.quantize import auto, dynamic, qat, static
from mmdeploy.quantize import sensitivity as sensitivity

METHODS: Mapping[str, Pass] = {"static": static, "dynamic": dynamic, "qat": qat, "auto": auto}
