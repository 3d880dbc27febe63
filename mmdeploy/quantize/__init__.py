"""Passes that turn an ONNX graph into one with INT8 Q/DQ pairs: one module each."""

from mmdeploy.quantize import qat, static
from mmdeploy.quantize import sensitivity as sensitivity

METHODS = {"qat": qat, "static": static}
