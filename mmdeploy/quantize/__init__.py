"""Passes that turn an ONNX graph into one with INT8 Q/DQ pairs: one module each.

`sensitivity` measures what that costs; it is no section of a recipe, ``mmdeploy sensitivity`` runs it.
"""

from mmdeploy.quantize import auto, static
from mmdeploy.quantize import sensitivity as sensitivity

METHODS = {"static": static, "auto": auto}
