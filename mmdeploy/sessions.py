"""ONNX Runtime sessions, made in one place so that calibration, judging and serving run the same way.

Session options are spelled as the ``parameters`` of Triton's onnxruntime backend (config.pbtxt), as strings:
what is written there is what our own sessions, the embedded backend and the native backend all read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmdeploy.artifact import TensorSpec

CPU = ("CPUExecutionProvider",)
_GRAPH_LEVELS = {"-1": "ORT_DISABLE_ALL", "1": "ORT_ENABLE_BASIC", "2": "ORT_ENABLE_EXTENDED"}
_DTYPE_BY_ORT = {
    "tensor(float)": "FP32", "tensor(float16)": "FP16", "tensor(double)": "FP64", "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8", "tensor(int8)": "INT8", "tensor(uint16)": "UINT16", "tensor(int16)": "INT16",
    "tensor(uint32)": "UINT32", "tensor(int32)": "INT32", "tensor(uint64)": "UINT64", "tensor(int64)": "INT64",
}  # fmt: skip


def open_session(
    model: Path | bytes,
    parameters: Mapping[str, str],
    *,
    providers: Sequence[str] = CPU,
    graph_level: str = "0",
) -> Any:
    """Open an ``onnxruntime.InferenceSession``.

    Args:
        model: Path of the ONNX file (external data is found beside it), or its bytes.
        parameters: ``intra_op_thread_count``, ``inter_op_thread_count``, ``execution_mode`` ("0" sequential) and
            any ONNX Runtime session config entry (keys with a dot, such as ``session.intra_op.allow_spinning``).
        providers: Execution providers in order of preference.
        graph_level: Triton's ``optimization.graph.level``: "0" is all optimizations, as Triton's default is.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = int(parameters.get("intra_op_thread_count", "0"))
    options.inter_op_num_threads = int(parameters.get("inter_op_thread_count", "0"))
    options.execution_mode = ort.ExecutionMode(int(parameters.get("execution_mode", "0")))
    level = _GRAPH_LEVELS.get(graph_level, "ORT_ENABLE_ALL")
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    for key, value in parameters.items():
        if key.startswith(("session.", "optimization.")):
            options.add_session_config_entry(key, value)
    source = model if isinstance(model, bytes) else str(model)
    return ort.InferenceSession(source, options, providers=list(providers))


def specs(session: Any) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Return the inputs and outputs of a session, axis 0 taken as the batch and left out."""
    return _specs(session.get_inputs()), _specs(session.get_outputs())


def _specs(nodes: Sequence[Any]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(
            node.name,
            _DTYPE_BY_ORT[node.type],
            tuple(size if isinstance(size, int) else -1 for size in node.shape[1:]),
        )
        for node in nodes
    )
