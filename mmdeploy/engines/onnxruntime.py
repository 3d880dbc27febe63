"""ONNX Runtime, on a CPU or on an NVIDIA GPU (CUDA execution provider).

What it does to the numbers: nothing beyond its graph optimizations; precision is what the graph says (FP32,
or INT8 as Q/DQ pairs, which it fuses into integer kernels on a CPU).
When to choose it: on CPUs; on GPUs for graphs that TensorRT refuses.
Needs: the graph only. INT8 on a CPU is written with UINT8 activations (several times faster there than INT8),
on CUDA with symmetric INT8, where Q/DQ pairs run in floating point: it emulates INT8, and took 1.4 times as long
as FP32 on an H100. FP32 products are TF32 there (11 significant bits), ONNX Runtime's default.
Limits: Q/DQ graphs need ``graph_level`` all or extended; at basic they run slower than FP32.
``allow_spinning`` is honoured by mmdeploy's sessions and its embedded backend; Triton's native backend knows
no such key and spins when a session has more than one thread. Judge where you serve.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from mmdeploy.core.artifact import Artifact, file_sha256
from mmdeploy.core.contracts import INSTANCE_KIND, Encoding, MethodOptions, Runner, StepContext, Variant
from mmdeploy.core.facts import as_metadata
from mmdeploy.core.sessions import CPU, CUDA, GRAPH_LEVEL, SessionRunner, open_session, providers_available
from mmdeploy.core.target import Target, gpu_names, usable_cores
from mmdeploy.engines.built_from import BuiltFrom, check_tensors
from mmdeploy.engines.graph_files import copy_graph
from mmdeploy.engines.own_graph import settle

CONSUMES = "onnx"
PRODUCES = "onnxruntime"
REQUIRES: tuple[str, ...] = ("onnx", "onnxruntime")
MEASURES = False
NATIVE = False
BACKEND = "onnxruntime"
FILENAME = "model.onnx"
STAND_IN = None

_LEVELS = {"all": "0", "extended": "1", "basic": "-1", "disabled": "2"}


Threads = Annotated[int, Field(ge=1, le=1024)]


class Options(MethodOptions):
    """Options of the onnxruntime engine.

    Attributes:
        provider: Where it runs.
        intra_op_threads: Threads within an operator. 1 suits ensembles, whose sessions share the cores: on a busy
            machine two threads took 1.3 to 3.7 times as long as one for models of a few MB. A large model that
            answers one request at a time wants more: a number, or ``cores``, those of the machine that builds. The
            number is written into config.pbtxt: what was judged is what is served.
        inter_op_threads: Threads across operators; above 1 the graph runs in parallel execution mode.
        allow_spinning: Let waiting threads burn their core for lower latency; off, since sessions share
            cores.
        graph_level: How far ONNX Runtime rewrites the graph.
        encoding: How INT8 activations are written; left out, UINT8 asymmetric on a CPU and INT8 symmetric on CUDA. On
            x86 UINT8 is 2 to 4 times as fast as INT8. UINT8 symmetric has the numbers of INT8 symmetric: for one
            result that is served by several engines.
    """

    method: Literal["onnxruntime"] = "onnxruntime"
    provider: Literal["cpu", "cuda"] = "cpu"
    intra_op_threads: Threads | Literal["cores"] = 1
    inter_op_threads: Threads = 1
    allow_spinning: bool = False
    graph_level: Literal["all", "extended", "basic", "disabled"] = "all"
    encoding: Encoding | None = None


def encoding(options: Options) -> Encoding:
    """Say how this engine wants INT8 written."""
    if options.encoding is not None:
        return options.encoding
    return Encoding.UINT8_ASYMMETRIC if options.provider == "cpu" else Encoding.INT8_SYMMETRIC


def unavailable(options: Options) -> str | None:
    """Say why an engine cannot be run on this machine; None when it can."""
    if options.provider == "cpu":
        return None
    if not gpu_names():
        return "no NVIDIA GPU with a working driver is here"
    if CUDA[0] not in providers_available():
        return "the installed onnxruntime has no CUDA execution provider (the extra gpu brings onnxruntime-gpu)"
    return None


def unbuildable(options: Options) -> str | None:
    """Say why an engine cannot be built on this machine, besides what `REQUIRES` names: nothing else is needed."""
    return None


def serving(options: Options) -> Mapping[str, str]:
    """Return the ``parameters`` of config.pbtxt, where instances run, and the graph level if it is not the default.

    The keys ``instance_group.kind`` (`contracts.INSTANCE_KIND`) and ``optimization.graph.level``
    (`sessions.GRAPH_LEVEL`) belong into config.pbtxt's fields of those names.
    """
    threads = usable_cores() if options.intra_op_threads == "cores" else options.intra_op_threads
    spinning = "1" if options.allow_spinning else "0"
    parameters = {
        "intra_op_thread_count": str(threads),
        "inter_op_thread_count": str(options.inter_op_threads),
        "execution_mode": "1" if options.inter_op_threads > 1 else "0",
        "session.intra_op.allow_spinning": spinning,
        "session.inter_op.allow_spinning": spinning,
        INSTANCE_KIND: "KIND_CPU" if options.provider == "cpu" else "KIND_GPU",
    }
    return parameters if options.graph_level == "all" else parameters | {GRAPH_LEVEL: _LEVELS[options.graph_level]}


def data_needs(options: Options) -> frozenset[str]:
    """Return the recipe's data sets that it reads: none."""
    return frozenset()


def run(artifact: Artifact, options: Options, context: StepContext) -> Artifact:
    """Copy the graph to ``model.onnx`` and prove that a session opens on it and answers as it does (`own_graph`).

    Where the CUDA provider cannot run, the proof is made on the CPU provider and the metadata says so.

    Raises:
        EngineError: If ONNX Runtime refuses the graph, its tensors are not the ones that the artifact names, or it
            answers something else when it has optimized it.
    """
    context.progress(0, 1, "opening an ONNX Runtime session")
    path = context.workdir / FILENAME
    copy_graph(artifact.path, path)
    providers = CPU if unavailable(options) else _providers(options)

    def build(graph: Path) -> SessionRunner:
        runner = SessionRunner(open_session(graph, serving(options), providers=providers))
        check_tensors(context.component, artifact, inputs=runner.inputs, outputs=runner.outputs)
        return runner

    import onnxruntime

    runner, own = settle(artifact, path, context, build, whose=f"ONNX Runtime {onnxruntime.__version__}")
    runner.close()
    context.progress(1, 1, "opening an ONNX Runtime session")

    return Artifact(
        format=PRODUCES,
        path=path,
        sha256=file_sha256(path),
        inputs=artifact.inputs,
        outputs=artifact.outputs,
        produced_by="onnxruntime",
        metadata={
            "onnxruntime_version": onnxruntime.__version__,
            "provider": options.provider,
            "verified_with": providers[0],
            **as_metadata(BuiltFrom(FILENAME)),
            **as_metadata(own),
        },
    )


def load(artifact: Artifact, options: Options) -> Runner:
    """Load the engine in this process, with the session options that are served.

    Raises:
        EngineError: If ONNX Runtime refuses the graph.
        EnvironmentUnfitError: If the provider is not there.
    """
    return SessionRunner(open_session(artifact.path, serving(options), providers=_providers(options)))


def candidates(target: Target, *, threads: int = 1) -> tuple[Variant, ...]:
    """Return the variants that ``engine: auto`` measures on a target, the simplest first.

    On a CPU, INT8 symmetric is left out: the same numbers as UINT8 symmetric through slower kernels. On CUDA, INT8 is
    emulated in any encoding.
    """
    if target is Target.CUDA:
        cuda = Options(provider="cuda")
        return (Variant(cuda), Variant(cuda, "quantized"))
    if target is not Target.CPU:
        return ()
    return tuple(
        variant
        for count in dict.fromkeys((1, threads))
        for variant in (
            Variant(Options(intra_op_threads=count)),
            Variant(Options(intra_op_threads=count), "quantized"),
            Variant(Options(intra_op_threads=count, encoding=Encoding.UINT8_SYMMETRIC), "quantized"),
        )
    )


def _providers(options: Options) -> tuple[str, ...]:
    return CPU if options.provider == "cpu" else CUDA
