"""NVIDIA TensorRT for RTX: engines for GeForce and RTX GPUs, built ahead of time on any machine.

What it does to the numbers: as TensorRT, it keeps the precision that the graph states (FP32, FP16, INT8 as
Q/DQ). When to choose it: RTX GPUs serve, or a CI machine without a GPU must prove that a graph becomes a
TensorRT engine. Needs: ``pip install tensorrt-rtx``, which is whole on PyPI; building needs no GPU. INT8 is
symmetric with zero point 0. Limits: runs on compute capabilities 7.5, 8.6, 8.9 and 12.x, which leaves
data-center GPUs such as H100 out. Kernels are finished on the GPU when the engine is loaded first. Its
support matrix promises INT8 for weights only: a graph with INT8 activations builds, at no promised speed. No
timing cache, no version compatibility. Two builds of the same graph differ in bytes. Triton's release
container has no backend of this name: mmdeploy's stands in for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Annotated, Any, Literal

from pydantic import Field

from mmdeploy.core.artifact import Artifact
from mmdeploy.core.contracts import INSTANCE_KIND, Encoding, Runner, StepContext, Variant
from mmdeploy.core.errors import EngineError
from mmdeploy.core.target import Target
from mmdeploy.engines.trt_build import PLAN_FILENAME, Flavor, build_engine
from mmdeploy.engines.trt_options import TensorRTOptions
from mmdeploy.engines.trt_run import compared, compute_capabilities, load_engine

CONSUMES = "onnx"
PRODUCES = "tensorrt_rtx_plan"
REQUIRES: tuple[str, ...] = ("onnx", "tensorrt_rtx")
MEASURES = False
NATIVE = False
BACKEND = "tensorrt_rtx"
FILENAME = PLAN_FILENAME
STAND_IN = None
FLAVOR = Flavor(module="tensorrt_rtx", distribution="tensorrt-rtx", extra="cpu", product=PRODUCES)

ComputeCapability = Literal["SM75", "SM80", "SM86", "SM89", "SM120", "SM121"]


class Options(TensorRTOptions):
    """Options of the tensorrt_rtx engine, besides the shared ones.

    Attributes:
        compute_capabilities: GPUs that the one engine is for: SM86 Ampere, SM89 Ada, SM120 Blackwell, SM75
            Turing.
    """

    method: Literal["tensorrt_rtx"] = "tensorrt_rtx"
    compute_capabilities: Annotated[tuple[ComputeCapability, ...], Field(min_length=1)] = (
        "SM86",
        "SM89",
        "SM120",
    )


def encoding(options: Options) -> Encoding:
    """Say how this engine wants INT8 written."""
    return Encoding.INT8_SYMMETRIC


def unavailable(options: Options) -> str | None:
    """Say why an engine cannot be run on this machine; None when it can. Building still works."""
    if find_spec(FLAVOR.module) is None:
        return "the distribution tensorrt-rtx is not installed (the extra cpu brings it)"
    here = compute_capabilities()
    if not here:
        return "no NVIDIA GPU with a working driver is here"
    if not set(here) & set(options.compute_capabilities):
        return f"the GPU is {', '.join(here)}, the engine is for {', '.join(options.compute_capabilities)}"
    return None


def unbuildable(options: Options) -> str | None:
    """Say why an engine cannot be built on this machine, besides what `REQUIRES` names: nothing else is needed."""
    return None


def serving(options: Options) -> Mapping[str, str]:
    """Return the ``parameters`` of config.pbtxt: none but where it runs, everything else is in the plan."""
    return {INSTANCE_KIND: "KIND_GPU"}


def data_needs(options: Options) -> frozenset[str]:
    """Return the recipe's data sets that it reads: none."""
    return frozenset()


def run(artifact: Artifact, options: Options, context: StepContext) -> Artifact:
    """Build the engine from an ONNX artifact; where it runs on this machine it must answer as its graph does.

    Raises:
        EngineError: If TensorRT refuses the graph, the profile or the build, or the engine answers something else.
        EnvironmentUnfitError: If TensorRT for RTX is missing.
    """
    built = build_engine(artifact, options, context, flavor=FLAVOR, configured=_configured(options))
    return compared(built, artifact, context, lambda: load(built, options), unavailable=unavailable(options))


def load(artifact: Artifact, options: Options) -> Runner:
    """Load the engine in this process.

    Raises:
        EngineError: If the file is not the one that was built, or was built by another version.
        EnvironmentUnfitError: If TensorRT for RTX, the GPU or PyTorch for CUDA is missing.
    """
    return load_engine(artifact, flavor=FLAVOR)


def candidates(target: Target, *, threads: int = 1) -> tuple[Variant, ...]:
    """Return the variants that ``engine: auto`` measures on a target, the simplest first; threads mean nothing here."""
    if target not in (Target.TENSORRT_RTX,):
        return ()
    full, half = Options(), Options(precision="fp16")
    return (Variant(full), Variant(half), Variant(full, "quantized"), Variant(half, "quantized"))


def _configured(options: Options) -> Callable[[Any, Any], Any]:
    @contextmanager
    def configured(trt: Any, config: Any) -> Iterator[Mapping[str, Any]]:
        names = tuple(dict.fromkeys(options.compute_capabilities))
        config.num_compute_capabilities = len(names)
        for index, name in enumerate(names):
            if not config.set_compute_capability(getattr(trt.ComputeCapability, name), index):
                raise EngineError(f"this tensorrt-rtx {trt.__version__} cannot build for {name}")
        yield {"compute_capabilities": list(names)}

    return configured
