"""Run TensorRT engines in this process, their tensors on the GPU through PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mmdeploy.core import facts
from mmdeploy.core.agreement import LOW_PRECISION_DB
from mmdeploy.core.artifact import Artifact, TensorSpec, file_sha256
from mmdeploy.core.contracts import Runner, StepContext
from mmdeploy.core.errors import EngineError, EnvironmentUnfitError, InferenceError
from mmdeploy.core.sessions import misfit
from mmdeploy.core.target import gpus
from mmdeploy.engines.own_graph import judge
from mmdeploy.engines.trt_build import BuiltBy, Flavor, import_tensorrt
from mmdeploy.engines.trt_messages import Messages, collecting

if TYPE_CHECKING:
    import numpy.typing as npt


#: TensorRT multiplies in TF32, ten bits, where the graph says FP32 and the GPU has it.
_TF32_DB = 40.0


def compute_capabilities() -> tuple[str, ...]:
    """Return the compute capability of each GPU, such as ``SM89``; empty without a working driver."""
    return tuple(f"SM{capability.replace('.', '')}" for capability in gpus("compute_cap"))


class TensorRTRunner:
    """A `Runner` over a deserialized engine; one request at a time, on a stream of its own."""

    def __init__(
        self, engine: Any, *, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], trt: Any
    ) -> None:
        import torch

        self._trt = trt
        self._inputs, self._outputs = inputs, outputs
        self._engine: Any = engine
        self._context: Any = engine.create_execution_context()
        self._stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        if self._context is None:
            raise EngineError(
                "TensorRT could not create an execution context: the GPU's memory may be too small or taken",
                hint="lower engine.optimization_profile.max_batch, or free memory on the GPU",
            )

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
            InferenceError: If a tensor is missing or does not fit the optimization profile, or the GPU fails.
        """
        import torch

        if self._context is None:
            raise InferenceError("the engine is closed")
        problem = misfit(self._inputs, feed_dict)
        if problem:
            raise InferenceError(problem)
        try:
            with torch.cuda.stream(self._stream):
                held = [self._bind_input(spec.name, feed_dict[spec.name]) for spec in self._inputs]
                answers = {spec.name: self._bind_output(spec) for spec in self._outputs}
                if not self._context.execute_async_v3(self._stream.cuda_stream):
                    raise InferenceError("TensorRT refused to run the engine; see its log")
                self._stream.synchronize()
            del held  # inputs must outlive the run
            return {name: tensor.cpu().numpy() for name, tensor in answers.items()}
        except RuntimeError as error:  # torch's CUDA errors, out of memory included
            raise InferenceError(f"CUDA: {error}") from error

    def close(self) -> None:
        """Free the engine and its memory; calling it twice is fine."""
        self._context = None
        self._engine = None

    def _bind_input(self, name: str, array: npt.NDArray[Any]) -> Any:
        import numpy as np
        import torch

        tensor = torch.from_numpy(np.ascontiguousarray(array)).cuda(non_blocking=True)
        if not self._context.set_input_shape(name, tuple(tensor.shape)):
            low, _, high = self._engine.get_tensor_profile_shape(name, 0)
            raise InferenceError(
                f"input {name!r} has shape {list(array.shape)}; the engine's optimization profile takes"
                f" {list(low)} to {list(high)}"
            )
        self._context.set_tensor_address(name, tensor.data_ptr())
        return tensor

    def _bind_output(self, spec: TensorSpec) -> Any:
        import numpy as np
        import torch

        shape = tuple(self._context.get_tensor_shape(spec.name))
        if any(size < 0 for size in shape):
            raise InferenceError(f"output {spec.name!r} has a size that depends on the data, which is not served")
        dtype = torch.from_numpy(np.empty(0, spec.numpy_dtype)).dtype
        tensor = torch.empty(shape, dtype=dtype, device="cuda")
        self._context.set_tensor_address(spec.name, tensor.data_ptr())
        return tensor


def load_engine(artifact: Artifact, *, flavor: Flavor, version_compatible: bool = False) -> TensorRTRunner:
    """Deserialize an engine that mmdeploy built: deserializing runs native code, so nothing else is accepted.

    Raises:
        EngineError: If the file is not the one that was built, or not of this TensorRT's version.
        EnvironmentUnfitError: If TensorRT, a GPU with its driver, or PyTorch for CUDA is missing.
    """
    verify_engine(artifact, flavor=flavor)
    trt = import_tensorrt(flavor)
    _check_version(artifact, trt, version_compatible)
    _require_cuda()
    with collecting(trt) as (logger, messages):
        runtime = trt.Runtime(logger)
        if version_compatible:
            runtime.engine_host_code_allowed = True
        engine = runtime.deserialize_cuda_engine(artifact.path.read_bytes())
        if engine is None:
            raise EngineError(_refusal(artifact, messages), hint="build the engine anew for this GPU")
        return TensorRTRunner(engine, inputs=artifact.inputs, outputs=artifact.outputs, trt=trt)


def compared(
    built: Artifact, source: Artifact, context: StepContext, load: Callable[[], Runner], *, unavailable: str | None
) -> Artifact:
    """Hold an engine against the graph that it was built from, where it runs on this machine.

    Args:
        built: The engine.
        source: What it was built from.
        context: Of the step.
        load: Loads it.
        unavailable: Why it cannot run here; None where it can.

    Raises:
        EngineError: If it answers something else.
    """
    if unavailable is not None:
        return replace(built, metadata={**built.metadata, "compared": f"not compared with its graph: {unavailable}"})
    built_by = facts.read(BuiltBy, built)
    largest = min(shapes["max"][0] for shapes in built_by.optimization_profile.values())
    exact_db = _TF32_DB if built_by.precision == "fp32" else LOW_PRECISION_DB
    return judge(built, source, context, load, exact_db=exact_db, largest=largest)


def verify_engine(artifact: Artifact, *, flavor: Flavor) -> None:
    """Check that the file is the one that a build of ours wrote.

    Raises:
        EngineError: If its format or its SHA-256 is another.
    """
    if artifact.format != flavor.product:
        raise EngineError(f"{artifact.path.name} is a {artifact.format}; {flavor.module} loads {flavor.product} only")
    if file_sha256(artifact.path) != artifact.sha256:
        raise EngineError(
            f"{artifact.path} is not the file that was built: its SHA-256 differs",
            hint="an engine runs native code when it is loaded, so a changed one is refused: build it again",
        )


def _check_version(artifact: Artifact, trt: Any, version_compatible: bool) -> None:
    found = facts.find(BuiltBy, artifact.metadata)
    built_by = found.tensorrt_version if found else "of a version that it does not say"
    if built_by != str(trt.__version__) and not version_compatible:
        raise EngineError(
            f"{artifact.path.name} was built by TensorRT {built_by}; this is {trt.__version__}",
            hint="build it again here, or (tensorrt) with engine.version_compatible: true",
        )


def _require_cuda() -> None:
    import torch

    if not torch.cuda.is_available():
        raise EnvironmentUnfitError(
            "running a TensorRT engine needs an NVIDIA GPU, its driver and a PyTorch built for CUDA"
            f" (this is torch {torch.__version__})",
            hint="run on such a machine; here the same graph (graph.onnx) can be judged through ONNX Runtime",
        )


def _refusal(artifact: Artifact, messages: Messages) -> str:
    said = "; ".join(messages.errors[-3:]) or "TensorRT gave no reason"
    return f"TensorRT could not load {artifact.path.name}: {said}"
