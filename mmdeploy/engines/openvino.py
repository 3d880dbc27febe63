"""OpenVINO on an x86-64 CPU, served by Triton's ``openvino`` backend.

What it does to the numbers: nothing beyond its graph optimizations at ``precision: fp32``; at ``bf16`` it computes
in bfloat16 (8 bits of mantissa) what the graph leaves in floating point. INT8 is what the graph says in Q/DQ
pairs, at either precision.
When to choose it: on CPUs, above all those with AMX, where BF16 needs no calibration; measure it against
onnxruntime, since which is faster differs by component. Needs: the graph; for bf16 a CPU with avx512_bf16 or
amx_bf16 (without one OpenVINO computes in FP32: judged by a substitute).
Limits: the model is an IR, ``model.xml`` with ``model.bin``, which an OpenVINO older than the one that wrote it may
refuse. Triton's native backend honours INFERENCE_NUM_THREADS, NUM_STREAMS and HINT_BF16. It has no word for FP32,
and OpenVINO computes in BF16 by itself where the CPU can: so at fp32 every operation in the IR is marked
``precise``, which OpenVINO keeps to whatever it is asked. It compiles for exactly ``max_batch_size`` and pads smaller
batches (ENABLE_BATCH_PADDING): its latency is that of the full batch, so set ``serving.max_batch_size`` to what you
send, or to 0, which takes any batch and groups no requests. mmdeploy's embedded backend runs a batch as it comes, and
one of ``fixed_batches`` on a graph that was compiled for just that size; the native one, which has a graph of one size
in any case, passes over the parameter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal
from xml.etree import ElementTree

from pydantic import Field

from mmdeploy.core.agreement import EXACT_DB, LOW_PRECISION_DB
from mmdeploy.core.artifact import DTYPE_BY_NUMPY, Artifact, TensorSpec, file_sha256
from mmdeploy.core.contracts import (
    INSTANCE_KIND,
    Array,
    Encoding,
    FeedDict,
    MethodOptions,
    Runner,
    StepContext,
    Variant,
)
from mmdeploy.core.errors import EngineError, EnvironmentUnfitError, InferenceError
from mmdeploy.core.facts import as_metadata
from mmdeploy.core.sessions import misfit
from mmdeploy.core.target import Target, this_hardware, usable_cores
from mmdeploy.engines.built_from import BuiltFrom, check_tensors
from mmdeploy.engines.graph_files import copy_graph
from mmdeploy.engines.openvino_forms import read_keys_transposed
from mmdeploy.engines.own_graph import settle
from mmdeploy.engines.own_scalars import own_scalars

CONSUMES = "onnx"
PRODUCES = "openvino"
REQUIRES: tuple[str, ...] = ("onnx", "openvino")
MEASURES = False
NATIVE = False
BACKEND = "openvino"
FILENAME = "model.xml"
STAND_IN = None
_WEIGHTS = "model.bin"
_GRAPH = "model.onnx"
_EXACT_DB = {"fp32": EXACT_DB, "bf16": LOW_PRECISION_DB}
_BF16 = frozenset({"avx512_bf16", "amx_bf16"})

#: The parameter that says which batch sizes have a graph of their own: their numbers, commas between.
FIXED_BATCHES = "FIXED_BATCHES"

Threads = Annotated[int, Field(ge=1, le=1024)]
BatchSize = Annotated[int, Field(ge=1, le=65536)]


class Options(MethodOptions):
    """Options of the openvino engine.

    Attributes:
        precision: What it computes in where the graph is not INT8.
        threads: Threads of an inference. 1 suits ensembles, whose models share the cores; a large model that
            answers one request at a time wants more: a number, or ``cores``, those of the machine that builds.
        encoding: How INT8 activations are written. On a CPU with AMX, one thread, INT8 symmetric was as fast as UINT8
            asymmetric for a ViT-B/32 image tower, and 1.1 to 1.3 times as fast for three models of under 1 ms.
        fixed_batches: Batch sizes with a compiled graph of their own, beside the one that takes any: OpenVINO plans
            ahead what it otherwise finds at each request (1.02 to 1.09 times as fast for a ViT-B/32 image tower in
            INT8, as fast in BF16). Each costs its time of compiling when the model is loaded, and memory for another
            copy of what is packed for the CPU.
    """

    method: Literal["openvino"] = "openvino"
    precision: Literal["fp32", "bf16"] = "fp32"
    threads: Threads | Literal["cores"] = 1
    encoding: Encoding = Encoding.INT8_SYMMETRIC
    fixed_batches: Annotated[tuple[BatchSize, ...], Field(max_length=8)] = ()


def encoding(options: Options) -> Encoding:
    """Say how this engine wants INT8 written."""
    return options.encoding


def unavailable(options: Options) -> str | None:
    """Say why an engine cannot be run on this machine; None when it can."""
    if find_spec("openvino") is None:
        return "the distribution openvino is not installed (the extra cpu brings it)"
    if options.precision == "bf16" and not _BF16.intersection(this_hardware().isa):
        return f"this CPU has no bfloat16 ({' or '.join(sorted(_BF16))}): OpenVINO would compute in FP32"
    return None


def unbuildable(options: Options) -> str | None:
    """Say why an engine cannot be built on this machine, besides what `REQUIRES` names: nothing else is needed."""
    return None


def serving(options: Options) -> Mapping[str, str]:
    """Return the ``parameters`` of config.pbtxt, in the words of Triton's openvino backend."""
    parameters = {
        "INFERENCE_NUM_THREADS": str(usable_cores() if options.threads == "cores" else options.threads),
        "NUM_STREAMS": "1",
        "ENABLE_BATCH_PADDING": "YES",
        INSTANCE_KIND: "KIND_CPU",
    }
    if options.fixed_batches:
        parameters[FIXED_BATCHES] = ",".join(map(str, sorted(set(options.fixed_batches))))
    return parameters | ({"HINT_BF16": "YES"} if options.precision == "bf16" else {})


def data_needs(options: Options) -> frozenset[str]:
    """Return the recipe's data sets that it reads: none."""
    return frozenset()


def run(artifact: Artifact, options: Options, context: StepContext) -> Artifact:
    """Convert the graph to an IR, and prove that it compiles and answers as the graph does (`own_graph`).

    Raises:
        EngineError: If OpenVINO refuses the graph, its tensors are not the ones that the artifact names, it answers
            something else, or a fixed batch is larger than any that is served.
        EnvironmentUnfitError: If OpenVINO is missing.
    """
    largest = max(options.fixed_batches, default=0)
    if largest > context.max_batch_size > 0:
        raise EngineError(
            f"{context.component}: engine.fixed_batches has {largest}, and no batch is larger than"
            f" {context.max_batch_size}",
            hint=f"name sizes of 1 to {context.max_batch_size}, or raise serving.max_batch_size",
        )
    context.progress(0, 1, "converting to OpenVINO's IR")
    path = context.workdir / FILENAME
    copy_graph(artifact.path, context.workdir / _GRAPH)

    def build(graph: Path) -> OpenVINORunner:
        _write_ir(graph, path, artifact.inputs)
        if options.precision == "fp32":
            _mark_precise(path)
        runner = open_model(path, serving(options))
        check_tensors(context.component, artifact, inputs=runner.inputs, outputs=runner.outputs)
        return runner

    whose, exact_db = f"OpenVINO {_openvino().__version__}", _EXACT_DB[options.precision]
    runner, own = settle(artifact, context.workdir / _GRAPH, context, build, whose=whose, exact_db=exact_db)
    computed_in = runner.precision
    runner.close()
    context.progress(1, 1, "converting to OpenVINO's IR")
    return Artifact(
        format=PRODUCES,
        path=path,
        sha256=file_sha256(path),
        inputs=artifact.inputs,
        outputs=artifact.outputs,
        produced_by="openvino",
        metadata={
            "openvino_version": _openvino().__version__,
            "computed_in": computed_in,
            **as_metadata(BuiltFrom(_GRAPH)),
            **as_metadata(own),
        },
        beside=(_WEIGHTS,),
    )


def load(artifact: Artifact, options: Options) -> Runner:
    """Load the engine in this process, as it is served.

    Raises:
        EngineError: If OpenVINO refuses the file.
        EnvironmentUnfitError: If OpenVINO, or bfloat16 in this CPU, is missing.
    """
    if reason := unavailable(options):
        raise EnvironmentUnfitError(reason, hint="set engine.precision: fp32, or build where it is served")
    return open_model(artifact.path, serving(options))


def candidates(target: Target, *, threads: int = 1) -> tuple[Variant, ...]:
    """Return the variants that ``engine: auto`` measures on a target, the simplest first.

    Each precision for the graph in floating point, and beside INT8 in two encodings: symmetric, and the UINT8
    asymmetric one, whose ranges fit activations that are mostly of one sign. UINT8 symmetric is left out: the numbers
    of INT8 symmetric. Then INT8 symmetric again with a graph for batch 1 alone, the size of most requests; in floating
    point that brought nothing (`benchmarks/clip_towers.py`).
    """
    if target is not Target.CPU:
        return ()
    bf16 = Options(precision="bf16")
    plain = (
        Variant(Options()),
        Variant(bf16),
        *(
            Variant(options.model_copy(update={"encoding": encoding}), "quantized")
            for options in (Options(), bf16)
            for encoding in (Encoding.INT8_SYMMETRIC, Encoding.UINT8_ASYMMETRIC)
        ),
    )
    fixed = (Variant(Options(), "quantized"), Variant(bf16, "quantized"))
    return tuple(
        replace(variant, options=variant.options.model_copy(update={"threads": count, "fixed_batches": batches}))
        for count in dict.fromkeys((1, threads))
        for batches, variants in (((), plain), ((1,), fixed))
        for variant in variants
    )


def open_model(path: Path, parameters: Mapping[str, str]) -> OpenVINORunner:
    """Compile a model as config.pbtxt says.

    Args:
        path: An IR, its weights beside it.
        parameters: The keys of `serving`; without HINT_BF16 it computes in FP32.

    Raises:
        EngineError: If OpenVINO refuses the file.
        EnvironmentUnfitError: If OpenVINO is missing.
    """
    openvino = _openvino()
    properties = {
        "INFERENCE_NUM_THREADS": parameters.get("INFERENCE_NUM_THREADS", "0"),
        "NUM_STREAMS": parameters.get("NUM_STREAMS", "1"),
        "INFERENCE_PRECISION_HINT": "bf16" if parameters.get("HINT_BF16", "").upper() == "YES" else "f32",
        # Every process would pin its threads to the same first cores.
        "ENABLE_CPU_PINNING": "NO",
    }
    try:
        core = openvino.Core()
        model = core.read_model(path)
        # Compiled, a tensor also answers to the names of what was fused into it, so the names are read before.
        inputs, outputs = _specs(model.inputs), _specs(model.outputs)
        compiled = core.compile_model(model, "CPU", properties)
        sizes = [int(size) for size in parameters.get(FIXED_BATCHES, "").split(",") if size]
        fixed = {size: core.compile_model(_of_batch(core.read_model(path), size), "CPU", properties) for size in sizes}
        return OpenVINORunner(compiled, inputs=inputs, outputs=outputs, fixed=fixed)
    except RuntimeError as error:
        raise EngineError(f"OpenVINO {openvino.__version__} cannot load {path}: {_reason(error)}") from error


class OpenVINORunner:
    """A `Runner` over a compiled model, and over others that are compiled for one batch size each."""

    def __init__(
        self,
        compiled: Any,
        *,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        fixed: Mapping[int, Any] = MappingProxyType({}),
    ) -> None:
        self._inputs, self._outputs = inputs, outputs
        self._precision = str(compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name())
        self._request: Any = compiled.create_infer_request()
        self._fixed: dict[int, Any] = {size: one.create_infer_request() for size, one in fixed.items()}

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The tensors it takes."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The tensors it gives."""
        return self._outputs

    @property
    def precision(self) -> str:
        """What OpenVINO was asked to compute in, and says it does: ``f32`` or ``bf16``."""
        return self._precision

    def infer(self, feed_dict: FeedDict) -> dict[str, Array]:
        """Answer one request; every array has the batch as axis 0.

        Raises:
            InferenceError: If a tensor is missing, unknown or does not fit, or the graph fails on it.
        """
        if self._request is None:
            raise InferenceError("the model is closed")
        # Asked first: OpenVINO casts another dtype, and takes the last request's tensor for one that is missing.
        if problem := misfit(self._inputs, feed_dict):
            raise InferenceError(problem)
        request = self._fixed.get(len(next(iter(feed_dict.values()), ())), self._request)
        try:
            answers = request.infer(dict(feed_dict), share_inputs=True)
        except RuntimeError as error:
            raise InferenceError(f"OpenVINO: {_reason(error)}") from error
        return {spec.name: answers[index] for index, spec in enumerate(self._outputs)}

    def close(self) -> None:
        """Drop the model; calling it twice is fine."""
        self._request = None
        self._fixed.clear()


def _of_batch(model: Any, size: int) -> Any:
    """Fix the batch of a model's inputs."""
    openvino = _openvino()
    shapes = {port: openvino.PartialShape([size, *list(port.partial_shape)[1:]]) for port in model.inputs}
    model.reshape(shapes)
    return model


def _write_ir(graph: Path, path: Path, inputs: Sequence[TensorSpec]) -> None:
    openvino = _openvino()
    try:
        model = openvino.Core().read_model(graph)
        if bounds := _bounds(openvino, inputs):
            model.reshape(bounds)
        read_keys_transposed(model)
        own_scalars(model)
        openvino.save_model(model, path, compress_to_fp16=False)
    except RuntimeError as error:
        raise EngineError(
            f"OpenVINO {openvino.__version__} cannot read the graph: {_reason(error)}",
            hint="an operator or opset that OpenVINO lacks is the commonest cause: export with a lower opset, or use"
            " engine.method: onnxruntime for this component",
        ) from error


def _bounds(openvino: Any, inputs: Sequence[TensorSpec]) -> dict[str, Any]:
    """Return the shapes, the batch first, of inputs with sizes whose bounds are known."""
    found = {}
    for spec in inputs:
        if not any(size is not None and size.bounded for size in spec.sizes):
            continue
        dims = [
            openvino.Dimension(size.min, size.max) if size is not None and size.bounded else openvino.Dimension(dim)
            for dim, size in zip(spec.shape, spec.sizes, strict=True)
        ]
        found[spec.name] = openvino.PartialShape([openvino.Dimension(), *dims])
    return found


def _mark_precise(path: Path) -> None:
    """Mark every operation of an IR, so that none is computed in a lower precision than its type."""
    tree = ElementTree.parse(path)
    for layer in tree.iter("layer"):
        if layer.get("type") in ("Const", "Parameter", "Result"):
            continue
        marks = layer.find("rt_info")
        if marks is None:
            marks = ElementTree.SubElement(layer, "rt_info")
        ElementTree.SubElement(marks, "attribute", {"name": "precise", "version": "0"})
    tree.write(path, encoding="utf-8", xml_declaration=True)


def _specs(ports: Sequence[Any]) -> tuple[TensorSpec, ...]:
    specs = []
    for port in ports:
        dtype = DTYPE_BY_NUMPY.get(port.element_type.to_dtype().name)
        if dtype is None:
            raise EngineError(f"tensor {port.any_name!r} has the type {port.element_type}, which cannot be served")
        sizes = (size.get_length() if size.is_static else -1 for size in list(port.partial_shape)[1:])
        specs.append(TensorSpec(port.any_name, dtype, tuple(sizes)))
    return tuple(specs)


def _openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise EnvironmentUnfitError(
            f"the distribution openvino is missing or broken: {error}",
            hint="pip install 'multimodal-deploy[cpu]'",
        ) from error
    return openvino


def _reason(error: BaseException) -> str:
    """Return what OpenVINO says, without the lines that point into its own source files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Exception from ", "Check '"))]
    return " ".join(told or lines)[:500] or type(error).__name__
