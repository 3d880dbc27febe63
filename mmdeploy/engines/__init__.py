"""Engines: what an ONNX graph, or a PyTorch module, becomes so that Triton can serve it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmdeploy.core.contracts import Engine
from mmdeploy.plugins.contract import ENGINE
from mmdeploy.plugins.registry import Registry

if TYPE_CHECKING:  # the type checker holds each against the contract; who runs one imports no other
    from mmdeploy.engines import aot_inductor, onnxruntime, openvino, tensorrt, tensorrt_rtx

    ENGINES: tuple[Engine, ...] = (onnxruntime, openvino, tensorrt, tensorrt_rtx, aot_inductor)

METHODS: Registry[Engine] = Registry(
    __name__,
    ENGINE,
    {
        "onnxruntime": "onnxruntime",
        "openvino": "openvino",
        "tensorrt": "tensorrt",
        "tensorrt_rtx": "tensorrt_rtx",
        "aot_inductor": "aot_inductor",
    },
)

#: Engines that take minutes to build: ``engine: auto`` tries them where its ``engines`` name them, and only there.
SLOW_TO_BUILD = frozenset({"aot_inductor"})
