"""Export a PyTorch module to ONNX with ``torch.export`` and the dynamo exporter; numbers stay FP32.

What it does to the numbers: nothing but the order of sums, and FP32 in the place of FP64 where that stays within the
tolerance (`mmdeploy.export.single_precision`). The exporter's detours in attention are taken out, so that
engines fuse it (`mmdeploy.export.simplify`), and where one position of a sequence is read, such as a class token, the
last layer is computed for it alone (`mmdeploy.export.needed_positions`). The graph is run by ONNX Runtime against
PyTorch at several batch sizes, and a difference beyond ``atol + rtol * |reference|`` fails the step.

When to choose it: always; it is the only exporter that torch develops further.

What it needs: a module whose ``forward`` takes tensors by name and returns a tensor, a tuple or a mapping of
tensors, whose control flow does not depend on tensor values, and whose axis 0 may be of any size. What it answers to a
sample must depend on that sample alone (`mmdeploy.export.demands`).

Limits: opsets 18 to 23. A graph above 2 GB keeps its weights in ``model.onnx.data`` beside it.

Nodes are named after the modules that made them, ``<attribute path>/<operator>``. The linear layer
``blocks.0.attention.query`` becomes ``blocks.0.attention.query/MatMul`` and ``blocks.0.attention.query/Add``;
the second product written in the ``forward`` of ``blocks.0.attention`` is ``blocks.0.attention/MatMul_1``; an
operator of the component's own ``forward`` is plainly ``Concat``. These names are what globs such as
``quantize.exclude: ["blocks.0.*"]`` are matched against.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from mmdeploy.core.artifact import Artifact, TensorSpec, file_sha256
from mmdeploy.core.contracts import MethodOptions, StepContext
from mmdeploy.core.errors import ExportError
from mmdeploy.core.facts import as_metadata
from mmdeploy.core.graph_writing import write_graph
from mmdeploy.core.sessions import AS_WRITTEN, SessionRunner, open_session, specs
from mmdeploy.core.sizes import Size
from mmdeploy.engines import own_answers
from mmdeploy.engines.graph_files import weights_bytes
from mmdeploy.engines.int8_forms import is_quantized
from mmdeploy.export import demands, lengths, naming, needed_positions, parity, simplify, single_precision, trace
from mmdeploy.model import costs
from mmdeploy.model.torch_component import ComponentFacts, component_facts, load_component
from mmdeploy.model.torch_model import torch_threads
from mmdeploy.model.traced import TRACED_BATCH, WRAPPER, open_axes

if TYPE_CHECKING:
    from torch import nn

logger = logging.getLogger(__name__)

CONSUMES = "torch"
PRODUCES = "onnx"
REQUIRES: tuple[str, ...] = ("torch", "onnx", "onnxscript", "onnxruntime")
MEASURES = False
FILENAME = "model.onnx"

#: Protobuf's limit is 2 GiB for the whole file; leave room for the graph itself.
_EXTERNAL_DATA_BYTES = 1_900_000_000


class Options(MethodOptions):
    """Options of the ONNX export.

    Attributes:
        method: ``onnx``.
        opset: Version of ONNX's operator set, 18 to 23. 20 is the first with Gelu as one operator, and is
            read by every engine that mmdeploy supports.
        parity_batch_sizes: Batch sizes at which the graph is compared with PyTorch; sizes above the largest
            that is served are replaced by that one.
        atol: Absolute difference allowed.
        rtol: Difference allowed relative to PyTorch's answer.
        positions: Which positions of a sequence are computed where a single one is read of it at the end: that one from
            the last layer's query on (``needed``: the answers are the same, and one layer of twelve costs a fifth), or
            ``all``.
    """

    method: Literal["onnx"] = "onnx"
    opset: Annotated[int, Field(ge=18, le=23)] = 20
    parity_batch_sizes: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (1, 2, 5)
    atol: Annotated[float, Field(gt=0)] = 1e-4
    rtol: Annotated[float, Field(gt=0)] = 1e-3
    positions: Literal["needed", "all"] = "needed"


def data_needs(options: Options) -> frozenset[str]:
    """Return the recipe's data sets that it reads: none."""
    return frozenset()


def run(artifact: Artifact, options: Options, context: StepContext) -> Artifact:
    """Export one component.

    Args:
        artifact: Format ``torch``, with `mmdeploy.model.torch_component.ComponentFacts`. Inputs in
            ``artifact.inputs`` with a size of -1 keep that axis dynamic, as the batch always is.
        options: Of this pass.
        context: Of the step; ``examples`` gives the inputs that are traced and compared.

    Returns:
        The graph; metadata: ``opset``, ``nodes_by_op_type``, ``parameters``, ``bytes``, ``parity``, and ``costs``: what
        the module costs (see `mmdeploy.model.costs.Costs`).

    Raises:
        ModelError: When the module cannot be loaded or called.
        ExportError: When it cannot be exported, or the graph answers differently.
    """
    of = component_facts(artifact)
    with torch_threads(context.threads):
        context.progress(0, 3, "loading the model")
        module = load_component(artifact)
        subject = demands.Subject(
            component=context.component, module=module, fresh=lambda: load_component(artifact),
            inputs=of.inputs, outputs=of.outputs, atol=options.atol, rtol=options.rtol,
        )  # fmt: skip
        first = demands.require_no_memory(subject, context.examples)
        context.progress(1, 3, "exporting to ONNX")
        exported = _export(module, artifact, options, context)
        demands.require_own_answers(subject, first)
        context.progress(2, 3, "comparing with PyTorch")
        kept = _written(exported, module, of, options, context)
    path, (inputs, outputs) = context.workdir / FILENAME, specs(kept.session)
    context.progress(3, 3, "comparing with PyTorch")
    return Artifact(
        format=PRODUCES,
        path=path,
        sha256=file_sha256(path),
        inputs=with_sizes(inputs, exported.sizes),
        outputs=with_sizes(outputs, kept.sizes),
        produced_by="onnx",
        metadata=_figures(kept.proto, path, options) | {"parity": kept.compared} | _costs(module, of.inputs, context),
    )


def _export(module: nn.Module, artifact: Artifact, options: Options, context: StepContext) -> trace.Exported:
    of = component_facts(artifact)
    order = of.inputs
    feed, specs_of = context.examples(TRACED_BATCH), {spec.name: spec for spec in artifact.inputs}
    missing = [name for name in order if name not in feed]
    if missing:
        raise ExportError(f"{context.component}: no example for input {missing[0]!r}")
    request = trace.Request(
        component=context.component,
        module=module,
        feed={name: feed[name] for name in order},
        outputs=of.outputs,
        axes={name: open_axes(specs_of.get(name)) for name in order},
        opset=options.opset,
        root=of.root,
    )
    exported = trace.to_onnx(request)
    simplify.simplify(exported.proto)
    if options.positions == "needed":
        needed_positions.pick_early(exported.proto)
    naming.name_by_module(exported.proto, prefix=WRAPPER)
    return exported


def _save(proto: Any, path: Path) -> None:
    import onnx

    try:
        if weights_bytes(proto) > _EXTERNAL_DATA_BYTES:
            onnx.save_model(proto, path, save_as_external_data=True, location=f"{path.name}.data")
        else:
            write_graph(proto, path)
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as cause:
        raise ExportError(f"torch.onnx wrote a graph that is not valid ONNX: {cause}") from cause


@dataclass(frozen=True)
class _Written:
    """A graph on disk that answers as PyTorch does: the graph, its session, and the figures by batch and lengths."""

    proto: Any
    session: Any
    compared: dict[str, dict[str, float]]
    sizes: Mapping[str, Mapping[int, Size]]


def _written(
    exported: trace.Exported, module: nn.Module, of: ComponentFacts, options: Options, context: StepContext
) -> _Written:
    """Write a graph and compare it with PyTorch: with FP32 in the place of FP64 where that answers alike."""

    def written(graph: Any) -> _Written:
        _save(graph, context.workdir / FILENAME)
        path, threads = context.workdir / FILENAME, {"intra_op_thread_count": str(context.threads)}
        session = open_session(path, threads, graph_level=AS_WRITTEN)  # engines are held against that
        pair = parity.Pair(context.component, module, session, of.outputs)
        at_batches = _compare(pair, of.inputs, options, context)
        at_lengths, sizes = lengths.compare(
            pair,
            exported.sizes,
            context,
            inputs=of.inputs,
            every=exported.bounded,
            atol=options.atol,
            rtol=options.rtol,
        )
        runner, asked = SessionRunner(session), own_answers.asked_of(context).feeds
        own_answers.keep(path, asked, [runner.infer(feed) for feed in asked], quantized=is_quantized(graph))
        return _Written(graph, session, at_batches | at_lengths, sizes)

    narrow = _without_doubles(exported.proto)
    if narrow is None:
        return written(exported.proto)
    try:
        return written(narrow)
    except ExportError as problem:
        logger.info("%s: its FP64 is kept, in FP32 it answers otherwise: %s", context.component, problem.message)
        return written(exported.proto)


def _without_doubles(proto: Any) -> Any:
    """Return a copy of a graph with FP32 in the place of FP64; None where there is nothing to replace."""
    if not single_precision.holds_doubles(proto):
        return None
    narrow = type(proto)()
    narrow.CopyFrom(proto)
    single_precision.narrow(narrow)
    return narrow


def _compare(
    pair: parity.Pair, inputs: Sequence[str], options: Options, context: StepContext
) -> dict[str, dict[str, float]]:
    largest = context.max_batch_size or max(options.parity_batch_sizes)
    compared = {}
    for size in sorted({min(size, largest) for size in options.parity_batch_sizes}):
        feed = context.examples(size)
        compared[str(size)] = parity.compare(
            pair, {name: feed[name] for name in inputs}, atol=options.atol, rtol=options.rtol
        ).figures
    return compared


def _costs(module: nn.Module, inputs: Sequence[str], context: StepContext) -> dict[str, Any]:
    """Count what the module costs on one sample; nothing where that cannot be counted: no export may fail by it."""
    import numpy as np
    import torch

    feed = context.examples(1)
    try:
        found = costs.measure(module, {name: torch.from_numpy(np.array(feed[name])) for name in inputs})
    except Exception as problem:  # noqa: BLE001 - whatever operators do under PyTorch's counter
        logger.warning("%s: what it costs cannot be counted: %s", context.component, problem)
        return {}
    return {costs.COSTS: as_metadata(found)}


def with_sizes(found: Sequence[TensorSpec], sizes: Mapping[str, Mapping[int, Size]]) -> tuple[TensorSpec, ...]:
    """Return specs with what is known of their sizes, by name and axis, the batch being axis 0."""
    return tuple(
        replace(spec, sizes=tuple(sizes[spec.name].get(axis) for axis in range(1, len(spec.shape) + 1)))
        if spec.name in sizes
        else spec
        for spec in found
    )


def _figures(proto: Any, path: Path, options: Options) -> dict[str, Any]:
    import onnx

    data = path.with_name(f"{path.name}.data")
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
    return {
        "opset": options.opset,
        "nodes_by_op_type": dict(sorted(Counter(node.op_type for node in proto.graph.node).items())),
        "parameters": sum(math.prod(weight.dims) for weight in proto.graph.initializer if weight.data_type in floats),
        "bytes": path.stat().st_size + (data.stat().st_size if data.exists() else 0),
    }
