"""Passes that turn a PyTorch module into a graph: one module each."""

from collections.abc import Mapping

from mmdeploy.core.contracts import Pass
from mmdeploy.export import onnx_dynamo

METHODS: Mapping[str, Pass] = {"onnx": onnx_dynamo}
