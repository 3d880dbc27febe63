"""Passes that turn a PyTorch module into a graph: one module each."""

from mmdeploy.export import onnx_dynamo

METHODS = {"onnx": onnx_dynamo}
