"""Passes that turn a PyTorch module into a graph: one module each."""

from mmdeploy.core.contracts import Pass
from mmdeploy.export import onnx_dynamo
from mmdeploy.plugins.contract import EXPORT
from mmdeploy.plugins.registry import Registry

METHODS: Registry[Pass] = Registry(__name__, EXPORT, {"onnx": onnx_dynamo})
