"""torch's ahead-of-time compiler (AOTInductor) on an x86-64 CPU: the PyTorch module as machine code.

What it does to the numbers: nothing beyond the order of sums at ``precision: fp32``; at ``bf16`` it computes products
and convolutions in bfloat16 (8 bits of mantissa), as ``torch.autocast`` does, and softmax and norms in FP32.
When to choose it: for a module that the ONNX exporter or an engine refuses or is slow on; elsewhere onnxruntime and
openvino were faster on CPUs, and INT8 is theirs alone (``quantize`` writes a graph, which this engine does not take).
Needs: torch, a C++ compiler (g++) where it is built and torch where it is served; for bf16 a CPU with avx512_bf16 or
amx_bf16. Building runs the compiler: half a minute for a small module and one to two for a ViT-B/32, so that
``engine: auto`` tries it only where its ``engines`` name it.
Limits: the package is machine code for the processor that builds it: one that lacks its instruction sets, or another
torch, refuses to load it, in words. It is unpacked to TMPDIR when it is loaded. Triton's release containers have no
backend of this name: mmdeploy's stands in for it, and every instance is a process with a torch of its own. Their
``pytorch`` backend loads such packages (``platform: "torch_aoti"``, beta, from 26.03), as its documentation says for
its own torch, for inputs named by position and without a batch dimension: no release of ours is of that form.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from mmdeploy.core.artifact import Artifact, file_sha256
from mmdeploy.core.contracts import INSTANCE_KIND, Encoding, MethodOptions, Runner, StepContext, Variant
from mmdeploy.core.errors import EngineError, EnvironmentUnfitError, MmdeployError
from mmdeploy.core.target import Target, this_hardware, usable_cores
from mmdeploy.core.temporary import temporary_folder
from mmdeploy.engines import aot_package
from mmdeploy.engines.aot_package import ISA, TORCH, metadata_of_build, names_of, open_package
from mmdeploy.engines.threads import THREADS as THREADS_OF
from mmdeploy.model.torch_component import component_facts, load_component
from mmdeploy.model.torch_model import torch_threads
from mmdeploy.model.traced import TRACED_BATCH, dynamic_shapes, in_order, open_axes, quiet

if TYPE_CHECKING:
    from torch import nn

CONSUMES = "torch"
PRODUCES = "aot_inductor"
REQUIRES: tuple[str, ...] = ("torch",)
MEASURES = False
NATIVE = True
BACKEND = aot_package.BACKEND
FILENAME = aot_package.FILENAME
STAND_IN = None
#: Parameter of config.pbtxt; Triton's pytorch backend calls it so too.
THREADS = THREADS_OF["aot_inductor"].parameter
_BF16 = frozenset({"avx512_bf16", "amx_bf16"})
_LONGEST_REASON = 300
_COMPILING = "compiling, which takes a minute or two for a large module"

Threads = Annotated[int, Field(ge=1, le=1024)]


def _no_int8(value: Any) -> Any:
    if str(value).lower() == "int8":
        raise ValueError(
            "aot_inductor has fp32 and bf16 only; INT8 is written by quantize and run by onnxruntime, openvino or "
            "tensorrt"
        )
    return value


class Options(MethodOptions):
    """Options of the aot_inductor engine.

    Attributes:
        precision: What products and convolutions are computed in.
        threads: Threads of an inference, compiled in. 1 suits ensembles, whose models share the cores; a large model
            that answers one request at a time wants more: a number, or ``cores``, those of the machine that builds.
    """

    method: Literal["aot_inductor"] = "aot_inductor"
    precision: Annotated[Literal["fp32", "bf16"], BeforeValidator(_no_int8)] = "fp32"
    threads: Threads | Literal["cores"] = 1


def encoding(options: Options) -> Encoding:
    """Say how this engine wants INT8 written: it takes none, so as any engine that is not asked."""
    return Encoding.INT8_SYMMETRIC


def unavailable(options: Options) -> str | None:
    """Say why an engine cannot be run on this machine; None when it can."""
    if find_spec("torch") is None:
        return "the distribution torch is not installed (the extra cpu brings it)"
    if options.precision == "bf16" and not _BF16.intersection(this_hardware().isa):
        return f"this CPU has no bfloat16 ({' or '.join(sorted(_BF16))}): PyTorch would emulate it"
    return None


def unbuildable(options: Options) -> str | None:
    """Say why an engine cannot be built on this machine, and what to do; None when it can."""
    compiler = shlex.split(os.environ.get("CXX", "")) or ["g++"]
    if shutil.which(compiler[0]) is not None:
        return None
    return f"there is no C++ compiler ({compiler[0]}): install g++ (apt-get install g++), or name one with CXX"


def serving(options: Options) -> Mapping[str, str]:
    """Return the ``parameters`` of config.pbtxt."""
    return {THREADS: str(_threads(options)), INSTANCE_KIND: "KIND_CPU"}


def data_needs(options: Options) -> frozenset[str]:
    """Return the recipe's data sets that it reads: none."""
    return frozenset()


def run(artifact: Artifact, options: Options, context: StepContext) -> Artifact:
    """Compile a component's PyTorch module, as the torch passes left it, and prove that the package loads.

    Raises:
        EngineError: If torch cannot trace the module, or compile what it traced.
        EnvironmentUnfitError: If torch or a C++ compiler is missing.
    """
    if (reason := unbuildable(options)) is not None:
        raise EnvironmentUnfitError(f"aot_inductor: {reason}")
    by_name = {spec.name: spec for spec in artifact.outputs}
    outputs = tuple(by_name[name] for name in component_facts(artifact).outputs)
    context.progress(0, 2, "tracing the module")
    with torch_threads(_threads(options)):
        program = _traced(artifact, options, context)
        context.progress(1, 2, _COMPILING)
        _compile(program, options, context, names_of(artifact.inputs, outputs))
    path, built = context.workdir / FILENAME, metadata_of_build()
    made = Artifact(
        PRODUCES, path, file_sha256(path), artifact.inputs, outputs, PRODUCES,
        metadata={"torch_version": built[TORCH], "isa": built[ISA].split()},
    )  # fmt: skip
    if unavailable(options) is None:
        load(made, options).close()
    context.progress(2, 2, _COMPILING)
    return made


def load(artifact: Artifact, options: Options) -> Runner:
    """Load the engine in this process, as it is served.

    Raises:
        EngineError: If torch refuses the file.
        EnvironmentUnfitError: If torch, bfloat16 in this CPU, or what the package was built for, is missing.
    """
    if reason := unavailable(options):
        raise EnvironmentUnfitError(reason, hint="set engine.precision: fp32, or build where it is served")
    return open_package(artifact.path, inputs=artifact.inputs, outputs=artifact.outputs, threads=_threads(options))


def candidates(target: Target, *, threads: int = 1) -> tuple[Variant, ...]:
    """Return the variants that ``engine: auto`` measures on a target where it names this engine, the simplest first."""
    if target is not Target.CPU:
        return ()
    precisions: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")
    return tuple(
        Variant(Options(precision=precision, threads=count))
        for count in dict.fromkeys((1, threads))
        for precision in precisions
    )


def _threads(options: Options) -> int:
    return usable_cores() if options.threads == "cores" else options.threads


def _traced(artifact: Artifact, options: Options, context: StepContext) -> Any:
    """Trace a module in the order of its artifact's tensors; batch and sizes that vary stay open."""
    import numpy as np
    import torch

    order = tuple(spec.name for spec in artifact.inputs)
    module = in_order(load_component(artifact), order, component_facts(artifact).outputs)
    if options.precision == "bf16":
        module = _in_bfloat16(module)
    examples = context.examples(TRACED_BATCH)
    values = tuple(torch.from_numpy(np.array(examples[name])) for name in order)
    shapes = dynamic_shapes({spec.name: open_axes(spec) for spec in artifact.inputs}, order)
    try:
        with quiet(), torch.no_grad():
            return torch.export.export(module, values, dynamic_shapes=shapes, strict=False)
    except MmdeployError:
        raise
    except Exception as cause:
        raise EngineError(
            f"{context.component}: torch.export cannot trace the module: {_reason(cause)}",
            hint="name an engine that takes the ONNX graph (onnxruntime, openvino) for this component",
        ) from cause


def _in_bfloat16(module: nn.Module) -> nn.Module:
    """Return a module that computes in bfloat16 what `torch.autocast` does, and answers in the types that it had."""
    import torch

    class Autocast(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                found = self.module(*values)
            return tuple(one.float() if one.dtype is torch.bfloat16 else one for one in found)

    return Autocast().eval()


def _compile(program: Any, options: Options, context: StepContext, names: Mapping[str, str]) -> None:
    """Compile a traced module into the step's folder; what the compiler leaves besides is removed."""
    import torch
    from torch._inductor.utils import fresh_cache

    with temporary_folder("aot") as folder:
        settings = {
            "cpp.threads": _threads(options),
            "freezing": True,
            "aot_inductor.enable_line_tables": False,
            "aot_inductor.enable_frame_pointer": False,
            "aot_inductor.metadata": {**metadata_of_build(), **names},
        }
        try:
            # A cache of its own, which goes with the folder: nothing old is taken, and no copy of the weights stays.
            with quiet(), fresh_cache(dir=str(folder)), torch.no_grad():
                torch._inductor.aoti_compile_and_package(
                    program, package_path=str(context.workdir / FILENAME), inductor_configs=settings
                )
        except Exception as cause:
            raise EngineError(
                f"{context.component}: torch's compiler refuses the module: {_reason(cause)}",
                hint="name an engine that takes the ONNX graph (onnxruntime, openvino) for this component",
            ) from cause


def _reason(cause: BaseException) -> str:
    return next((line.strip() for line in str(cause).splitlines() if line.strip()), type(cause).__name__)[
        :_LONGEST_REASON
    ]
