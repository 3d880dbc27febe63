"""NVIDIA TensorRT: the fastest engine on data-center GPUs.

What it does to the numbers: it fuses and picks kernels in the precision that the graph states (FP32, with
TF32 where the GPU has it; FP16 when asked; INT8 where the quantize step wrote Q/DQ pairs) and changes none of
them. When to choose it: one kind of NVIDIA GPU serves, and latency or throughput matters.
Needs: ``pip install tensorrt`` (10.13 or later) and, since kernels are timed while building, a GPU of the
kind that will serve. INT8 is symmetric with zero point 0.
Limits: an engine belongs to its TensorRT version and kind of GPU, unless ``version_compatible`` or
``hardware_compatibility`` is set (both cost speed; Triton must then be started with
``--backend-config=tensorrt,version-compatible=true``). No UINT8 arithmetic, no dynamic quantization, no
strings.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from mmdeploy.core.artifact import Artifact
from mmdeploy.core.contracts import INSTANCE_KIND, Encoding, Runner, StepContext, Variant
from mmdeploy.core.target import Target, gpu_names
from mmdeploy.engines.trt_build import PLAN_FILENAME, Flavor, build_engine
from mmdeploy.engines.trt_options import TensorRTOptions
from mmdeploy.engines.trt_run import compared, load_engine

CONSUMES = "onnx"
PRODUCES = "tensorrt_plan"
REQUIRES: tuple[str, ...] = ("onnx", "tensorrt")
MEASURES = False
NATIVE = False
BACKEND = "tensorrt"
FILENAME = PLAN_FILENAME
STAND_IN = None
FLAVOR = Flavor(module="tensorrt", distribution="tensorrt", extra="gpu", product=PRODUCES)

logger = logging.getLogger(__name__)


class Options(TensorRTOptions):
    """Options of the tensorrt engine, besides the shared ones.

    Attributes:
        timing_cache: File that remembers kernel timings between builds; made if missing, safe to share.
        hardware_compatibility: Let one engine run on Ampere and later, or on all GPUs of its compute
            capability.
        version_compatible: Let the engine run on later versions of the same major TensorRT.
    """

    method: Literal["tensorrt"] = "tensorrt"
    timing_cache: Path | None = None
    hardware_compatibility: Literal["none", "ampere_plus", "same_compute_capability"] = "none"
    version_compatible: bool = False


def encoding(options: Options) -> Encoding:
    """Say how this engine wants INT8 written."""
    return Encoding.INT8_SYMMETRIC


def unavailable(options: Options) -> str | None:
    """Say why an engine cannot be run on this machine; None when it can."""
    if find_spec(FLAVOR.module) is None:
        return "the distribution tensorrt is not installed (the extra gpu brings it)"
    return None if gpu_names() else "no NVIDIA GPU with a working driver is here"


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
        EnvironmentUnfitError: If TensorRT is missing.
    """
    built = build_engine(artifact, options, context, flavor=FLAVOR, configured=_configured(options))
    return compared(built, artifact, context, lambda: load(built, options), unavailable=unavailable(options))


def load(artifact: Artifact, options: Options) -> Runner:
    """Load the engine in this process.

    Raises:
        EngineError: If the file is not the one that was built, or was built by another version.
        EnvironmentUnfitError: If TensorRT, the GPU or PyTorch for CUDA is missing.
    """
    return load_engine(artifact, flavor=FLAVOR, version_compatible=options.version_compatible)


def candidates(target: Target, *, threads: int = 1) -> tuple[Variant, ...]:
    """Return the variants that ``engine: auto`` measures on a target, the simplest first; threads mean nothing here."""
    if target not in (Target.TENSORRT, Target.CUDA):
        return ()
    full, half = Options(), Options(precision="fp16")
    return (Variant(full), Variant(half), Variant(full, "quantized"), Variant(half, "quantized"))


def _configured(options: Options) -> Callable[[Any, Any], Any]:
    @contextmanager
    def configured(trt: Any, config: Any) -> Iterator[Mapping[str, Any]]:
        if options.version_compatible:
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        level = getattr(trt.HardwareCompatibilityLevel, options.hardware_compatibility.upper())
        config.hardware_compatibility_level = level
        with _timing_cache(config, options.timing_cache):
            yield {
                "hardware_compatibility": options.hardware_compatibility,
                "version_compatible": options.version_compatible,
            }

    return configured


@contextmanager
def _timing_cache(config: Any, path: Path | None) -> Iterator[None]:
    """Read the cache before the build and merge what the build timed into the file after it."""
    if path is None:
        yield
        return
    from filelock import FileLock

    lock = FileLock(f"{path}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with lock:
        known = path.read_bytes() if path.exists() else b""
    cache = config.create_timing_cache(known)
    if not config.set_timing_cache(cache, False):  # of another TensorRT or GPU: start anew
        logger.warning("%s was written by another TensorRT or on another GPU: starting it anew", path)
        config.set_timing_cache(config.create_timing_cache(b""), False)
    yield
    with lock:
        merged = config.get_timing_cache()
        others = path.read_bytes() if path.exists() else b""
        if others != known:
            merged.combine(config.create_timing_cache(others), True)
        staging = path.with_name(path.name + ".part")
        staging.write_bytes(merged.serialize())
        staging.replace(path)
