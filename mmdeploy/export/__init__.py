"""Passes that turn a PyTorch module into a graph: one module each."""

from typing import TYPE_CHECKING

from mmdeploy.core.contracts import Pass
from mmdeploy.plugins.contract import EXPORT
from mmdeploy.plugins.registry import Registry

if TYPE_CHECKING:  # the type checker holds each against the contract; who runs one imports no other
    from mmdeploy.export import onnx_dynamo

    PASSES: tuple[Pass, ...] = (onnx_dynamo,)

METHODS: Registry[Pass] = Registry(__name__, EXPORT, {"onnx": "onnx_dynamo"})
