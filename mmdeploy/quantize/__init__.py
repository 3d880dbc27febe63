"""Passes that turn an ONNX graph into one with INT8 Q/DQ pairs: one module each."""

from mmdeploy.quantize import sensitivity as sensitivity
from mmdeploy.quantize import static

METHODS = {"static": static}
