"""Engines: what an ONNX graph, or a PyTorch module, becomes so that Triton can serve it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmdeploy.core.contracts import Engine, MethodOptions
from mmdeploy.core.target import Target
from mmdeploy.plugins.contract import ENGINE
from mmdeploy.plugins.registry import Registry

if TYPE_CHECKING:  # the type checker holds each against the contract; who runs one imports no other
    from mmdeploy.engines import onnxruntime, openvino, tensorrt, tensorrt_rtx

    ENGINES: tuple[Engine, ...] = (onnxruntime, openvino, tensorrt, tensorrt_rtx)

METHODS: Registry[Engine] = Registry(
    __name__,
    ENGINE,
    {
        "onnxruntime": "onnxruntime",
        "openvino": "openvino",
        "tensorrt": "tensorrt",
        "tensorrt_rtx": "tensorrt_rtx",
    },
)


def default_for(target: Target) -> MethodOptions:
    """Return what a component gets whose recipe names no engine."""
    if target is Target.TENSORRT:
        return METHODS["tensorrt"].Options()
    if target is Target.TENSORRT_RTX:
        return METHODS["tensorrt_rtx"].Options()
    from mmdeploy.engines import onnxruntime

    return onnxruntime.Options(provider="cuda") if target is Target.CUDA else onnxruntime.Options()
