"""Engines: what an ONNX graph, or a PyTorch module, becomes so that Triton can serve it."""

from __future__ import annotations

from collections.abc import Mapping

from mmdeploy.core.contracts import Engine, MethodOptions
from mmdeploy.core.target import Target
from mmdeploy.engines import onnxruntime, openvino, tensorrt, tensorrt_rtx
from mmdeploy.plugins.contract import ENGINE
from mmdeploy.plugins.registry import Registry

METHODS: Registry[Engine] = Registry(
    __name__,
    ENGINE,
    {
        "onnxruntime": onnxruntime,
        "openvino": openvino,
        "tensorrt": tensorrt,
        "tensorrt_rtx": tensorrt_rtx,
    },
)

#: What a component gets whose recipe names no engine.
DEFAULT_BY_TARGET: Mapping[Target, MethodOptions] = {
    Target.CPU: onnxruntime.Options(),
    Target.CUDA: onnxruntime.Options(provider="cuda"),
    Target.TENSORRT: tensorrt.Options(),
    Target.TENSORRT_RTX: tensorrt_rtx.Options(),
}
