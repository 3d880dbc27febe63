"""From a recipe, its release and its report to the models that a request meets: sizes of answers and costs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmdeploy.caching.replay import AskedEnsemble, AskedModel
from mmdeploy.choice.record import EngineChoice
from mmdeploy.core.artifact import NUMPY_BY_DTYPE, TensorSpec
from mmdeploy.core.errors import UsageError, did_you_mean
from mmdeploy.core.facts import find
from mmdeploy.core.strings import BYTES
from mmdeploy.recipe.wiring import topological_order, upstream
from mmdeploy.recipe.wiring_order import sources_of
from mmdeploy.record.build_report import BuildReport
from mmdeploy.triton.config import SyntaxProblem, try_parse
from mmdeploy.triton.response_cache import packed_bytes

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInput, ModelOutput

    from mmdeploy.recipe.schema import Recipe

#: What a core is reckoned to do where nothing was measured: only ratios between components matter then.
_FLOPS_A_MS = 1e7


@dataclass(frozen=True)
class Cost:
    """What a row of a component costs.

    Attributes:
        ms: Milliseconds.
        source: Where that is from, in words.
    """

    ms: float
    source: str


@dataclass(frozen=True)
class Known:
    """What is known of a recipe's models before anything is served.

    Attributes:
        outputs: What each component gives, by its name; the ensemble's by its own.
        costs: By component.
        row_bytes: Bytes of a row of a component's answer, where the user says so.
    """

    outputs: Mapping[str, Sequence[TensorSpec]]
    costs: Mapping[str, Cost]
    row_bytes: Mapping[str, int]


def known_of(recipe: Recipe, release: Path | None, report: BuildReport | None, row_bytes: Mapping[str, int]) -> Known:
    """Read what a release and a report say of a recipe's models; the recipe's own words where there is none.

    Raises:
        UsageError: If ``row_bytes`` names what is no component.
    """
    for name in row_bytes:
        if name not in (*recipe.components, recipe.name):
            names = (*recipe.components, recipe.name)
            raise UsageError(f"--answer-bytes: {name!r} is no model of the recipe; {did_you_mean(name, names)}")
    outputs = _declared(recipe)
    if release is not None:
        outputs |= _released(recipe, release)
    return Known(outputs, {name: _cost(name, report) for name in recipe.components}, row_bytes)


def asked_ensemble(recipe: Recipe, known: Known) -> AskedEnsemble:
    """Describe what a request to the ensemble meets.

    Raises:
        UsageError: If the size of an encoder's answer is known from nowhere.
    """
    sources, levels = sources_of(recipe.components), list[list[AskedModel]]()
    depth: dict[str, int] = {}
    for name in topological_order(recipe.components):
        depth[name] = 1 + max((depth[before] for before in sources[name]), default=-1)
        if depth[name] == len(levels):
            levels.append([])
        levels[depth[name]].append(_model(recipe, name, _reads(recipe, name), known))
    return AskedEnsemble(_model(recipe, recipe.name, tuple(recipe.inputs), known), tuple(map(tuple, levels)))


def _model(recipe: Recipe, name: str, reads: tuple[str, ...], known: Known) -> AskedModel:
    header, row = _answer(name, known, needed=name in recipe.components and _is_encoder(recipe, name))
    parts = recipe.components if name == recipe.name else [name]
    asked = dict(recipe.inputs)
    if name in recipe.components:
        read = {wire.tensor for wire in recipe.components[name].inputs.values()}
        asked = {tensor: spec for tensor, spec in recipe.sources().items() if tensor in read}
    return AskedModel(
        name=name,
        reads=reads,
        header_bytes=header,
        row_bytes=row,
        input_bytes=sum(_row_bytes(spec.dtype, spec.shape) or 0 for spec in asked.values()),
        compute_ms=sum(known.costs[part].ms for part in parts),
    )


def _answer(name: str, known: Known, *, needed: bool) -> tuple[int, int]:
    """Return the bytes of an answer's headers and of one row."""
    specs = known.outputs.get(name, ())
    header = packed_bytes((spec.name, spec.dtype, (0, *(spec.shape or (1,)))) for spec in specs)
    if name in known.row_bytes:
        return header, known.row_bytes[name]
    sizes = [_row_bytes(spec.dtype, spec.shape) for spec in specs]
    if sizes and None not in sizes:
        return header, sum(filter(None, sizes))
    if not needed:
        return header, 0
    raise UsageError(
        f"the size of an answer of {name!r} is not known: its outputs "
        + ("vary in size" if specs else "are declared nowhere, and there is no release"),
        hint=f"build the recipe first, or say the bytes of a row: --answer-bytes {name}=3072",
    )


def _row_bytes(dtype: str, shape: Sequence[int | str]) -> int | None:
    """Return the bytes of one row; None where they vary."""
    sizes = [size for size in shape if isinstance(size, int) and size >= 0]
    if len(sizes) < len(shape) or dtype == BYTES or dtype not in NUMPY_BY_DTYPE:
        return None
    return math.prod(sizes) * TensorSpec("", dtype, ()).numpy_dtype.itemsize


def _reads(recipe: Recipe, name: str) -> tuple[str, ...]:
    """Return the clients' inputs that decide a component's answers, through the steps of ``preprocess`` too."""
    parts = (*upstream(recipe.components, name), name)
    read = {wire.tensor for part in parts for wire in recipe.components[part].inputs.values()}
    while more := {
        tensor
        for step in recipe.preprocess.values()
        if read & set(step.tensors.values())
        for tensor in step.inputs.values()
        if tensor not in read
    }:
        read |= more
    return tuple(one for one in recipe.inputs if one in read)


def _is_encoder(recipe: Recipe, name: str) -> bool:
    return not sources_of(recipe.components)[name]


def _declared(recipe: Recipe) -> dict[str, tuple[TensorSpec, ...]]:
    """Return the outputs of components whose wires say what they hold."""
    found = {}
    for name, part in recipe.components.items():
        specs = [
            recipe.tensor(key, wire.dtype, wire.shape)
            for key, wire in part.outputs.items()
            if wire.dtype is not None and wire.shape is not None
        ]
        if len(specs) == len(part.outputs):
            found[name] = tuple(specs)
    return found


def _released(recipe: Recipe, release: Path) -> dict[str, tuple[TensorSpec, ...]]:
    """Return the outputs of the models of a release."""
    found = {}
    for name in (*recipe.components, recipe.name):
        path = release / (name if name == recipe.name else f"{recipe.name}.{name}") / "config.pbtxt"
        config = try_parse(path.read_text("utf-8")) if path.is_file() else SyntaxProblem(0, "")
        if not isinstance(config, SyntaxProblem):
            found[name] = tuple(specs_of(config.output, config))
    return found


def specs_of(tensors: Iterable[ModelInput | ModelOutput], config: ModelConfig) -> Iterator[TensorSpec]:
    """Give what tensors of a model hold, the batch left out."""
    from tritonclient.grpc.model_config_pb2 import DataType

    for tensor in tensors:
        dims = tuple(tensor.dims) if config.max_batch_size else tuple(tensor.dims)[1:]
        dtype = DataType.Name(tensor.data_type).removeprefix("TYPE_")
        yield TensorSpec(tensor.name, BYTES if dtype == "STRING" else dtype, dims)


def _cost(name: str, report: BuildReport | None) -> Cost:
    """Return what a row costs: as measured in the latest build, else by its FLOPs, else the same for all."""
    if report is None:
        return Cost(1.0, "unknown: every component counts alike, for there is no build")
    for record in report.latencies:
        if record.component == name and record.statistic == "p50" and record.candidate_ms:
            return Cost(record.candidate_ms / record.batch_size, "latency gate, p50")
    for step in report.steps:
        choice = find(EngineChoice, step.metadata) if step.component == name else None
        if choice is not None and choice.winner.p50_ms:
            return Cost(choice.winner.p50_ms / choice.batch_size, "measured when the engine was chosen, p50")
    for costs in report.costs:
        flops = (costs.after or costs.before).flops
        if costs.component == name and flops:
            return Cost(flops / _FLOPS_A_MS, f"{flops / 1e6:.3g} MFLOPs, at 10 GFLOP/s")
    return Cost(1.0, "unknown: measured by no build")
