"""Passes that turn an ONNX graph into one with INT8 Q/DQ pairs: one module each.

`sensitivity` measures what that costs and is no pass of a recipe: ``mmdeploy sensitivity`` runs it.
"""

from mmdeploy.quantize import sensitivity, static

__all__ = ["METHODS", "sensitivity"]

METHODS = {"static": static}
