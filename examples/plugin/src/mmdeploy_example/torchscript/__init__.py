"""TorchScript: the PyTorch module itself, traced and frozen, served by Triton's ``pytorch`` backend.

What it does to the numbers: nothing; the kernels are PyTorch's own, without ONNX in between.
When to choose it: for a module that the exporter or an engine refuses, or to see what ONNX costs or gains.
What it needs: torch. Limits: FP32 only, no ``quantize``. Tracing writes down the operations of one example: branches on
values are fixed. PyTorch 2.13 still writes and runs TorchScript, and calls it deprecated.

The release containers of Triton bring the ``pytorch`` backend; for the server of the wheel, which has only the python
backend, ``pytorch/model.py`` stands in for it. It reads the same files and parameters.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from mmdeploy.core.artifact import Array, Artifact, TensorSpec, file_sha256
from mmdeploy.core.contracts import FeedDict, MethodOptions, StepContext, Variant
from mmdeploy.core.errors import EngineError, InferenceError
from mmdeploy.core.target import Target

if TYPE_CHECKING:
    from torch.jit import ScriptModule

CONSUMES, PRODUCES = "torch", "torchscript"
REQUIRES = ("torch",)
BACKEND, FILENAME = "pytorch", "model.pt"
STAND_IN = Path(__file__).parent / "pytorch"
#: Not 1: what is traced with one sample may take the batch for a constant.
_TRACED_BATCH = 2


class Options(MethodOptions):
    """Options of the torchscript engine.

    Attributes:
        threads: Threads within an operator.
    """

    threads: int = Field(1, ge=1, le=1024)


def unavailable(options: Options) -> str | None:
    """Say why it cannot run here."""
    return None if find_spec("torch") else "torch is not installed"


def serving(options: Options) -> Mapping[str, str]:
    """Return what the ``pytorch`` backend reads."""
    return {"INFERENCE_MODE": "true", "INTRA_OP_THREAD_COUNT": str(options.threads), "INTER_OP_THREAD_COUNT": "1"}


def candidates(target: Target, *, threads: int = 1) -> tuple[Variant, ...]:
    """Return what ``engine: auto`` may try."""
    return tuple(Variant(Options(threads=count)) for count in {1, threads}) if target is Target.CPU else ()


def run(artifact: Artifact, options: Options, context: StepContext) -> Artifact:
    """Trace the component's module and freeze it.

    Raises:
        EngineError: If the module cannot be traced.
    """
    import torch

    from mmdeploy.model.torch_component import load_component

    order = [spec.name for spec in artifact.inputs]
    examples = context.examples(_TRACED_BATCH)
    example = {name: torch.from_numpy(examples[name]) for name in order}
    path = context.workdir / FILENAME
    try:
        with _quietly(), torch.inference_mode():
            traced = torch.jit.trace(load_component(artifact), example_kwarg_inputs=example, strict=False)
            torch.jit.freeze(traced).save(str(path))
    except RuntimeError as error:
        raise EngineError(f"{context.component} cannot be traced: {str(error).splitlines()[0]}") from error
    return Artifact(
        PRODUCES, path, file_sha256(path), artifact.inputs, artifact.outputs, "torchscript",
        metadata={"torch_version": torch.__version__},
    )  # fmt: skip


def load(artifact: Artifact, options: Options) -> Runner:
    """Load the engine in this process.

    Raises:
        EngineError: If the file is no TorchScript.
    """
    import torch

    try:
        with _quietly():
            module = torch.jit.load(str(artifact.path), map_location="cpu").eval()
    except RuntimeError as error:
        raise EngineError(f"{artifact.path.name} is no TorchScript: {str(error).splitlines()[0]}") from error
    return Runner(module, artifact.inputs, artifact.outputs, options.threads)


class Runner:
    """Answers feed dicts with a loaded module."""

    def __init__(
        self, module: ScriptModule, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], threads: int
    ) -> None:
        self.inputs, self.outputs = inputs, outputs
        self._module: ScriptModule | None = module
        self._threads = threads

    def infer(self, feed_dict: FeedDict) -> dict[str, Array]:
        """Answer one request."""
        import torch

        if self._module is None:
            raise InferenceError("the model is closed")
        torch.set_num_threads(self._threads)
        try:
            with torch.inference_mode():
                given = [torch.from_numpy(feed_dict[spec.name]) for spec in self.inputs]
                answered = self._module(*given)
        except (KeyError, RuntimeError) as error:
            raise InferenceError(f"TorchScript: {error}") from error
        tensors = answered.values() if isinstance(answered, dict) else answered
        tensors = tensors if isinstance(answered, dict | tuple | list) else (answered,)
        return {spec.name: tensor.numpy() for spec, tensor in zip(self.outputs, tensors, strict=True)}

    def close(self) -> None:
        """Drop the module."""
        self._module = None


@contextmanager
def _quietly() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracer, and that TorchScript is deprecated
        yield
