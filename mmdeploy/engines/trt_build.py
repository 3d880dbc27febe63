"""Build serialized TensorRT engines: one implementation for both libraries, the module passed in."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmdeploy.core.artifact import Artifact, TensorSpec, file_sha256
from mmdeploy.core.contracts import Progress, StepContext
from mmdeploy.core.errors import EngineError, EnvironmentUnfitError
from mmdeploy.core.facts import as_metadata
from mmdeploy.engines.built_from import BuiltFrom, Warned, check_tensors
from mmdeploy.engines.fp16 import to_fp16
from mmdeploy.engines.fp16_emulation import emulate_fp16
from mmdeploy.engines.graph_files import copy_graph, load_graph, save_graph
from mmdeploy.engines.trt_graph import cast_uint8_inputs, check_network_dtypes
from mmdeploy.engines.trt_messages import Messages, builder_error, collecting, parser_error
from mmdeploy.engines.trt_options import InputProfile, TensorRTOptions, resolve_profile

#: Given the module and the builder's config, sets on the config what only one flavor has, gives what of it
#: belongs into the metadata, and after a build that succeeded does what is left to do.
Configured = Callable[[Any, Any], AbstractContextManager[Mapping[str, Any]]]
#: The graph that TensorRT parsed, kept beside the plan.
GRAPH_FILENAME = "graph.onnx"
#: With FP16, what stands in for it where the engine cannot run.
EMULATION_FILENAME = "graph_fp16_emulated.onnx"
PLAN_FILENAME = "model.plan"


@dataclass(frozen=True)
class Flavor:
    """What tells the two TensorRT libraries apart.

    Attributes:
        module: Python module, which is also the name of the engine method.
        distribution: What pip installs.
        extra: The extra of mmdeploy that brings it.
        product: Format of the artifact.
    """

    module: str
    distribution: str
    extra: str
    product: str


@dataclass(frozen=True)
class BuiltBy:
    """What an engine's artifact says of the library that built it, and of the shapes that it takes.

    Attributes:
        tensorrt_version: Of the library.
        precision: What the graph is in beside INT8: ``fp32`` or ``fp16``.
        optimization_profile: By input the shapes ``min``, ``opt`` and ``max``, the batch first.
    """

    tensorrt_version: str
    precision: str
    optimization_profile: Mapping[str, Mapping[str, tuple[int, ...]]]


def import_tensorrt(flavor: Flavor) -> Any:
    """Import the flavor's module.

    Raises:
        EnvironmentUnfitError: If it is not installed, or its libraries cannot be loaded.
    """
    try:
        return importlib.import_module(flavor.module)
    except (ImportError, OSError) as error:
        raise EnvironmentUnfitError(
            f"engine.method {flavor.module} needs the distribution {flavor.distribution}, which cannot be"
            f" imported: {error}",
            hint=f"pip install {flavor.distribution}, or pip install 'multimodal-deploy[{flavor.extra}]'",
        ) from error


def _typical(artifact: Artifact, context: StepContext) -> dict[str, tuple[int, ...]]:
    """Return the shape of a usual sample of each input; nothing where no size varies."""
    if all(-1 not in spec.shape for spec in artifact.inputs):
        return {}
    feed = context.examples(2)  # of several, each size has its typical length
    return {spec.name: feed[spec.name].shape[1:] for spec in artifact.inputs}


def build_engine(
    artifact: Artifact,
    options: TensorRTOptions,
    context: StepContext,
    *,
    flavor: Flavor,
    configured: Configured,
) -> Artifact:
    """Build an engine from an ONNX artifact.

    Beside the plan lie the graph that was parsed, named in the metadata as ``parsed_graph``, and the one to serve
    through ONNX Runtime where the engine cannot run (`BuiltFrom`; with FP16 it is another, see `fp16_emulation`).

    Args:
        artifact: The ONNX graph, Q/DQ pairs included where it is INT8.
        options: Of the engine.
        context: Of the step.
        flavor: Which TensorRT.
        configured: Sets what only this flavor has, see `Configured`.

    Raises:
        EngineError: If TensorRT refuses the graph, the profile or the build.
        EnvironmentUnfitError: If TensorRT is missing.
    """
    trt = import_tensorrt(flavor)
    check_network_dtypes((*artifact.inputs, *artifact.outputs), context.component)
    profile = resolve_profile(
        options.optimization_profile,
        artifact.inputs,
        max_batch_size=context.max_batch_size,
        component=context.component,
        typical=_typical(artifact, context),
    )
    started = time.perf_counter()
    graph_path, path = context.workdir / GRAPH_FILENAME, context.workdir / PLAN_FILENAME
    facts = _write_graph(artifact, options, graph_path, context.component)
    with _reporting(trt, context.progress) as monitor, collecting(trt) as (logger, messages):
        build = _Build(trt, trt.Builder(logger), logger, messages, context)
        build.builder.max_threads = max(context.threads, 1)
        network, parser = _parse(build, graph_path)
        _check_tensors(build, network, artifact)
        config = _config(build, options, _native_profile(build, network, profile))
        config.progress_monitor = monitor
        with configured(trt, config) as flavor_facts:
            plan = build.builder.build_serialized_network(network, config)
            if plan is None:
                raise builder_error(messages, component=context.component)
        facts |= {"network_layers": network.num_layers, **as_metadata(Warned(tuple(messages.warnings))), **flavor_facts}
        path.write_bytes(plan)
        del parser  # it owns weights that the network refers to: it must outlive the build
    facts |= {
        **as_metadata(BuiltBy(str(trt.__version__), options.precision, _shapes(profile))),
        "build_s": round(time.perf_counter() - started, 3),
        "engine_bytes": path.stat().st_size,
    }
    return replace(
        artifact,
        format=flavor.product,
        path=path,
        sha256=file_sha256(path),
        produced_by=flavor.module,
        metadata=facts,
    )


def _shapes(profile: Mapping[str, InputProfile]) -> dict[str, dict[str, tuple[int, ...]]]:
    return {name: {"min": one.min, "opt": one.opt, "max": one.max} for name, one in profile.items()}


@dataclass(frozen=True)
class _Build:
    """What the parts of one build share."""

    trt: Any
    builder: Any
    logger: Any
    messages: Messages
    context: StepContext


def _write_graph(artifact: Artifact, options: TensorRTOptions, path: Path, component: str) -> dict[str, Any]:
    """Write the graph that TensorRT will parse, and return what was changed in it."""
    skeleton = load_graph(artifact.path, weights=False)
    cast_inputs = cast_uint8_inputs(skeleton)
    facts: dict[str, Any] = {"parsed_graph": path.name, **as_metadata(BuiltFrom(path.name))}
    if options.precision == "fp32" and not cast_inputs:
        copy_graph(artifact.path, path)
        return facts
    model = load_graph(artifact.path)
    cast_uint8_inputs(model)
    facts |= {"cast_inputs": list(cast_inputs)} if cast_inputs else {}
    if options.precision == "fp16":
        model, kept = to_fp16(model, options.keep_fp32, component=component)
        facts |= {"kept_fp32": list(kept), **as_metadata(BuiltFrom(EMULATION_FILENAME))}
    save_graph(model, path)
    if options.precision == "fp16":
        save_graph(emulate_fp16(model), path.with_name(EMULATION_FILENAME))
    return facts


def _parse(build: _Build, path: Path) -> tuple[Any, Any]:
    flag = getattr(build.trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = build.builder.create_network(0 if flag is None else 1 << int(flag))  # without the flag: always so
    parser = build.trt.OnnxParser(network, build.logger)
    if not parser.parse_from_file(str(path)):
        model = load_graph(path, weights=False)
        raise parser_error(parser, build.messages, model=model, component=build.context.component)
    return network, parser


def _check_tensors(build: _Build, network: Any, artifact: Artifact) -> None:
    """Refuse a network whose inputs and outputs are not what the ensemble will send and read."""
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    check_tensors(
        build.context.component,
        artifact,
        inputs=[_spec(build.trt, tensor) for tensor in inputs],
        outputs=[_spec(build.trt, tensor) for tensor in outputs],
        whose="the TensorRT network's",
        hint="an input that the graph does not use is dropped: remove it from the component",
    )


def _spec(trt: Any, tensor: Any) -> TensorSpec:
    return TensorSpec(tensor.name, _dtype(trt, tensor.dtype), tuple(tensor.shape)[1:])


def _dtype(trt: Any, dtype: Any) -> str:
    names = {
        trt.DataType.FLOAT: "FP32", trt.DataType.HALF: "FP16", trt.DataType.INT8: "INT8",
        trt.DataType.BOOL: "BOOL", trt.DataType.UINT8: "UINT8", trt.DataType.INT32: "INT32",
        trt.DataType.INT64: "INT64",
    }  # fmt: skip
    return names.get(dtype, str(dtype))


def _config(build: _Build, options: TensorRTOptions, native_profile: Any) -> Any:
    config = build.builder.create_builder_config()
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(build.trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if config.add_optimization_profile(native_profile) < 0:
        raise builder_error(build.messages, component=build.context.component)
    return config


def _native_profile(build: _Build, network: Any, profile: Mapping[str, InputProfile]) -> Any:
    native = build.builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shapes = profile[tensor.name]
        for axis, size in enumerate(tuple(tensor.shape)):
            if size not in (-1, shapes.max[axis]):
                raise EngineError(
                    f"{build.context.component}: axis {axis} of {tensor.name!r} is fixed at {size} in the graph,"
                    f" and the optimization profile asks up to {shapes.max[axis]}",
                    hint="export with a dynamic batch" if axis == 0 else "declare the size as it is in the graph",
                )
        native.set_shape(tensor.name, shapes.min, shapes.opt, shapes.max)
    return native


@contextmanager
def _reporting(trt: Any, progress: Progress) -> Iterator[Any]:
    """Yield a progress monitor; what ``progress`` raises, such as Ctrl-C, stops the build and comes out here.

    TensorRT calls it from C++, where an exception must not pass: the monitor cancels the build instead.
    """
    raised: list[BaseException] = []

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            try:
                progress(step + 1, self.steps.get(phase_name), f"TensorRT: {phase_name.lower()}")
            except BaseException as error:  # noqa: BLE001 - raised again below, once TensorRT has returned
                raised.append(error)
            return not raised

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

    try:
        yield Monitor()
    except EngineError:
        if not raised:
            raise
    if raised:
        raise raised[0]
