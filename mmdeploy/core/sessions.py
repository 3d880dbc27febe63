"""ONNX Runtime sessions, made in one place so that calibration, judging and serving run the same way.

Session options are spelled as in config.pbtxt for Triton's onnxruntime backend, as strings: what is written
there is what our own sessions, the embedded backend and the native backend all read. The native backend
(its ``src/onnxruntime.cc``) reads ``intra_op_thread_count``, ``inter_op_thread_count``, ``execution_mode``,
``enable_mem_arena``, ``enable_mem_pattern``, ``session.use_device_allocator_for_initializers`` and, from its
own field of the config, ``optimization.graph.level``; it ignores every other key. Our sessions also take ONNX
Runtime's other ``session.`` and ``optimization.`` entries, such as ``session.intra_op.allow_spinning``.
"""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdeploy.core.artifact import TensorSpec
from mmdeploy.core.errors import EngineError, EnvironmentUnfitError, InferenceError

if TYPE_CHECKING:
    import numpy.typing as npt

CPU = ("CPUExecutionProvider",)
CUDA = ("CUDAExecutionProvider", "CPUExecutionProvider")

#: Where a graph level travels among the parameters; the repository's writer lifts it into config.pbtxt's
#: field ``optimization { graph { level } }``, which is where the native backend reads it.
GRAPH_LEVEL = "optimization.graph.level"
#: The level at which ONNX Runtime changes nothing; at "basic" it folds constants, biases among them.
AS_WRITTEN = "2"
_GRAPH_LEVELS = {
    "-1": "ORT_ENABLE_BASIC",
    "0": "ORT_ENABLE_ALL",
    "1": "ORT_ENABLE_EXTENDED",
    "2": "ORT_DISABLE_ALL",
}
_DTYPE_BY_ORT = {
    "tensor(float)": "FP32", "tensor(float16)": "FP16", "tensor(double)": "FP64", "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8", "tensor(int8)": "INT8", "tensor(uint16)": "UINT16",
    "tensor(int16)": "INT16", "tensor(uint32)": "UINT32", "tensor(int32)": "INT32",
    "tensor(uint64)": "UINT64", "tensor(int64)": "INT64",
}  # fmt: skip


def open_session(
    model: Path | bytes,
    parameters: Mapping[str, str],
    *,
    providers: Sequence[str] = CPU,
    graph_level: str | None = None,
) -> Any:
    """Open an ``onnxruntime.InferenceSession``.

    Args:
        model: Path of the ONNX file (external data is found beside it), or its bytes.
        parameters: The keys named at the top of this module, each a string.
        providers: Execution providers in order of preference; the first must be there.
        graph_level: Triton's ``optimization.graph.level``; None takes it from ``parameters``, where "0", all
            optimizations, is the default as it is Triton's.

    Raises:
        EngineError: If ONNX Runtime refuses the graph.
        EnvironmentUnfitError: If ONNX Runtime or the first provider is missing.
    """
    ort = _onnxruntime()
    _require_provider(ort, providers[0])
    missing = _load_cuda() if providers[0] == CUDA[0] else ""
    options = _session_options(ort, parameters, graph_level or parameters.get(GRAPH_LEVEL, "0"))
    source, name = (model, "the graph") if isinstance(model, bytes) else (str(model), str(model))
    try:
        session = ort.InferenceSession(source, options, providers=list(providers))
    except Exception as error:  # ONNX Runtime's exceptions share no class of their own
        raise EngineError(
            f"ONNX Runtime {ort.__version__} cannot load {name}: {_first_line(error)}",
            hint="check the graph with onnx.checker; an operator or opset newer than this ONNX Runtime is the"
            " commonest cause: export with a lower opset or install a newer onnxruntime",
        ) from error
    if session.get_providers()[0] != providers[0]:  # a provider that is installed but cannot start falls back
        why = missing or "no driver, or not the CUDA or cuDNN that it was built for?"
        raise _provider_missing(providers[0], f"is installed but did not start ({why})")
    return session


def providers_available() -> tuple[str, ...]:
    """Return the execution providers that the installed ONNX Runtime was built with."""
    return tuple(_onnxruntime().get_available_providers())


def specs(session: Any) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Return the inputs and outputs of a session, axis 0 taken as the batch and left out.

    Raises:
        EngineError: If a tensor's type cannot be served (strings, sequences, maps).
    """
    return _specs(session.get_inputs()), _specs(session.get_outputs())


class SessionRunner:
    """A `Runner` over an ONNX Runtime session."""

    def __init__(self, session: Any) -> None:
        self._session: Any = session
        self._inputs, self._outputs = specs(session)
        self._output_names = [spec.name for spec in self._outputs]

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The tensors it takes."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The tensors it gives."""
        return self._outputs

    def infer(self, feed_dict: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Answer one request; every array has the batch as axis 0.

        Raises:
            InferenceError: If a tensor is missing, unknown or does not fit, or the graph fails on it.
        """
        if self._session is None:
            raise InferenceError("the session is closed")
        try:
            answers = self._session.run(self._output_names, dict(feed_dict))
        except Exception as error:  # ONNX Runtime's exceptions share no class of their own
            raise InferenceError(misfit(self._inputs, feed_dict) or f"ONNX Runtime: {_first_line(error)}") from error
        return dict(zip(self._output_names, answers, strict=True))

    def close(self) -> None:
        """Drop the session; calling it twice is fine."""
        self._session = None


def misfit(inputs: Sequence[TensorSpec], feed_dict: Mapping[str, npt.NDArray[Any]]) -> str | None:
    """Say how a batched feed dict differs from the inputs of a model; None when it fits."""
    import numpy as np

    wanted = {spec.name: spec for spec in inputs}
    for name in feed_dict:
        if name not in wanted:
            return f"unknown input {name!r}; the inputs are {', '.join(wanted)}"
    for name, spec in wanted.items():
        if name not in feed_dict:
            return f"input {name!r} is missing; the inputs are {', '.join(wanted)}"
        array = np.asarray(feed_dict[name])
        if array.ndim == 0 or array.shape[0] == 0:
            return f"input {name!r}: the batch (axis 0) is empty or missing"
        problem = spec.mismatch(array[0])
        if problem:
            return f"input {name!r}: {problem} for one sample"
    sizes = {name: len(array) for name, array in feed_dict.items()}
    return f"inputs differ in batch size: {sizes}" if len(set(sizes.values())) > 1 else None


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise EnvironmentUnfitError(
            f"the distribution onnxruntime is missing or broken: {error}",
            hint="pip install 'multimodal-deploy[cpu]', or [gpu] on a machine with an NVIDIA GPU",
        ) from error
    return onnxruntime


@functools.cache
def _load_cuda() -> str:
    """Load CUDA and cuDNN from NVIDIA's wheels, where the loader does not look; return what could not be loaded.

    A process that has imported PyTorch has them already; Triton's stub has not. Other installations of CUDA are on the
    loader's path, where ONNX Runtime looks as well.
    """
    said = io.StringIO()
    with contextlib.redirect_stdout(said):  # it prints what it does not find
        _onnxruntime().preload_dlls()
    return next((line for line in said.getvalue().splitlines() if line.startswith("Failed")), "")


def _require_provider(ort: Any, provider: str) -> None:
    if provider not in ort.get_available_providers():  # InferenceSession would fall back with only a warning
        raise _provider_missing(provider, f"is not in this onnxruntime {ort.__version__}")


def _provider_missing(provider: str, why: str) -> EnvironmentUnfitError:
    return EnvironmentUnfitError(
        f"the ONNX Runtime execution provider {provider} {why}",
        hint="pip uninstall onnxruntime, then pip install 'multimodal-deploy[gpu]' (onnxruntime-gpu: both own"
        " the same module), on a machine with an NVIDIA GPU and driver; or set engine.provider: cpu",
    )


def _session_options(ort: Any, parameters: Mapping[str, str], graph_level: str) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = int(parameters.get("intra_op_thread_count", "0"))
    options.inter_op_num_threads = int(parameters.get("inter_op_thread_count", "0"))
    options.execution_mode = ort.ExecutionMode(int(parameters.get("execution_mode", "0")))
    options.enable_cpu_mem_arena = _is_true(parameters.get("enable_mem_arena", "1"))
    options.enable_mem_pattern = _is_true(parameters.get("enable_mem_pattern", "1"))
    # The native backend takes a level that it does not know for "all".
    level = _GRAPH_LEVELS.get(graph_level, "ORT_ENABLE_ALL")
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    for key, value in parameters.items():
        if key.startswith(("session.", "optimization.")) and key != GRAPH_LEVEL:
            options.add_session_config_entry(key, value)
    return options


def _is_true(value: str) -> bool:
    return value.strip().lower() in ("1", "true")


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _specs(nodes: Sequence[Any]) -> tuple[TensorSpec, ...]:
    for node in nodes:
        if node.type not in _DTYPE_BY_ORT:
            raise EngineError(
                f"tensor {node.name!r} has the type {node.type}, which cannot be served",
                hint=f"accepted: {', '.join(sorted(_DTYPE_BY_ORT.values()))}",
            )
    return tuple(
        TensorSpec(
            node.name,
            _DTYPE_BY_ORT[node.type],
            tuple(size if isinstance(size, int) else -1 for size in node.shape[1:]),
        )
        for node in nodes
    )
