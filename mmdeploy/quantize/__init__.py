"""Passes that turn an ONNX graph into one with INT8 Q/DQ pairs: one module each."""

from mmdeploy.quantize import qat, static

METHODS = {"qat": qat, "static": static}
