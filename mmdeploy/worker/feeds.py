"""What a step is fed: the recipe's sets of samples, calibration batches along the chain."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from mmdeploy.core.artifact import Array, TensorSpec
from mmdeploy.core.sessions import open_session
from mmdeploy.data.calibration import masks, refuse_constant
from mmdeploy.data.sample_sets import SampleSet
from mmdeploy.engines.built_from import graph_path
from mmdeploy.model import torch_model
from mmdeploy.model.torch_component import load_component
from mmdeploy.planning.kinds import SELECT
from mmdeploy.planning.steps import DATA_SETS, samples_taken
from mmdeploy.recipe.media import may_be_constant
from mmdeploy.recipe.modalities import sees_stand_ins
from mmdeploy.recipe.sharing import above, callers
from mmdeploy.worker.modalities import Modalities
from mmdeploy.worker.task import Task

if TYPE_CHECKING:
    from torch import nn

    from mmdeploy.recipe.schema import Recipe

#: Samples a calibration batch where the pass has no ``batch_size``.
_CALIBRATION_BATCH = 16
#: What upstream computes on calibration batches is kept for the next pass over them; what is beyond is computed again.
_KEPT_BYTES = 64 * 2**20


def torch_chain(
    task: Task, components: Sequence[str], replaced: Mapping[str, nn.Module] | None = None
) -> torch_model.TorchChain:
    """Load the model, wired up to the named components, some of them replaced."""
    recipe, model = task.recipe, task.recipe.model
    parts = [torch_model.WiredModule(name, recipe.components[name].module, *wires(recipe, name)) for name in components]
    own = [part.module for part in parts if part.name not in (replaced or {})]
    module = torch_model.load_model(
        model.factory, root=recipe.root, weights=model.weights, prefix=model.prefix, adapters=model.adapters,
        allow_pickle=model.allow_pickle, parts=own,
    )  # fmt: skip
    return torch_model.TorchChain(module, parts, replaced or {})


def wires(recipe: Recipe, name: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return the ensemble tensor of each of a component's inputs and outputs, by the component's own names."""
    component = recipe.components[name]
    return (
        {key: wire.tensor for key, wire in component.inputs.items()},
        {key: wire.tensor for key, wire in component.outputs.items()},
    )


class _CalibrationFeeds:
    """Calibration batches of a component: along the chain, through what really ships upstream.

    Of a module that several components call, the batches of all of them. They are read several times. What upstream
    computes of the first of them, up to `_KEPT_BYTES`, is held in memory;
    what clients send is memory-mapped. A component that is given stand-ins where inputs are missing is fed with the
    subsets of modalities that the recipe declares too, each with a share of the samples.
    """

    def __init__(self, task: Task, samples: SampleSet, batch_size: int) -> None:
        self._samples, self._batch_size = samples, batch_size
        called_by = callers(task.recipe.components, task.step.component)
        self._inputs = [wires(task.recipe, name)[0] for name in called_by]
        self._read = {tensor for inputs in self._inputs for tensor in inputs.values()}
        self._kept: list[dict[str, Array]] = []
        self._room_bytes = _KEPT_BYTES
        self._modalities = Modalities.of(task)
        self._covers_subsets = _is_given_stand_ins(task)
        self._through = _torch_upstream(task) if task.step.sort.on_module else shipped_upstream(task)

    def __call__(self) -> Iterator[dict[str, Array]]:
        first = 0
        for index, feeds in enumerate(self._samples.batches(self._batch_size)):
            computed = self._kept[index] if index < len(self._kept) else self._computed(index, feeds, first)
            first += len(next(iter(feeds.values())))
            for inputs in self._inputs:
                yield {key: computed[tensor] if tensor in computed else feeds[tensor] for key, tensor in inputs.items()}

    def _computed(self, index: int, feeds: Mapping[str, Array], first: int) -> dict[str, Array]:
        """Return those of the tensors read that upstream computes, or that stand in for that."""
        if all(tensor in feeds for tensor in self._read):
            return {}
        through = self._modalities.through(self._through, feeds, first if self._covers_subsets else None)
        computed = {tensor: through[tensor] for tensor in sorted(self._read) if tensor not in feeds}
        self._room_bytes -= sum(array.nbytes for array in computed.values())
        if self._room_bytes >= 0 and index == len(self._kept):
            self._kept.append(computed)
        return computed


def _is_given_stand_ins(task: Task) -> bool:
    recipe = task.recipe
    return any(sees_stand_ins(recipe, name) for name in callers(recipe.components, task.step.component))


#: Takes what is given, and the components that are not run since stand-ins for what they write are among that.
Upstream: TypeAlias = Callable[[Mapping[str, Array], Collection[str]], dict[str, Array]]


def shipped_upstream(task: Task) -> Upstream:
    """Return what adds to a batch of ensemble inputs what the shipped graphs upstream make of it."""
    shipped = task.step.uses.get("shipped", {})
    sessions = {
        name: open_session(graph_path(task.artifacts[shipped[name]]), {"intra_op_thread_count": str(task.threads)})
        for name in above(task.recipe.components, task.step.component)
    }

    def through(feeds: Mapping[str, Array], without: Collection[str] = ()) -> dict[str, Array]:
        tensors: dict[str, Array] = dict(feeds)
        for name, session in sessions.items():
            if name in without:
                continue
            inputs, outputs = wires(task.recipe, name)
            answers = session.run(list(outputs), {key: tensors[tensor] for key, tensor in inputs.items()})
            tensors |= dict(zip(outputs.values(), answers, strict=True))
        return tensors

    return through


def _torch_upstream(task: Task) -> Upstream:
    """Return the same for a step on the PyTorch module: through modules as their own passes left them."""
    before = above(task.recipe.components, task.step.component)
    made = task.step.uses.get("torch", {})
    modules = {name: load_component(task.artifacts[step_id]) for name, step_id in made.items()}
    chain = torch_chain(task, before, modules) if before else None
    return lambda feeds, without: dict(feeds) | (chain.run(feeds, without=without) if chain else {})


def calibration(task: Task) -> tuple[_CalibrationFeeds | None, int]:
    """Open the calibration set in batches of the component's own inputs; also give their number."""
    samples = sample_set(task, "calibration")
    if samples is None:
        return None, 0
    first = samples.first(samples_taken(task.step.options))
    if first is not samples and task.step.sort is not SELECT:  # which only times what it is fed
        refuse_constant(first, masks(*ensemble_inputs(task.recipe)) | may_be_constant(task.recipe.preprocess))
    batch_size = int(task.step.options.get("batch_size", _CALIBRATION_BATCH))
    calls = len(callers(task.recipe.components, task.step.component))
    return _CalibrationFeeds(task, first, batch_size), calls * sum(1 for _ in first.feeds().batches(batch_size))


def sample_set(task: Task, key: str, *, as_sent: bool = False) -> SampleSet | None:
    """Open one of the recipe's sets, by its key under ``data``; None where the step was given none.

    It has what components read, or what clients send.
    """
    artifact = task.artifacts.get(DATA_SETS[key])
    if artifact is None:
        return None
    only = tuple(task.recipe.inputs if as_sent else task.recipe.sources()) if task.recipe.preprocess else None
    return SampleSet.open(artifact.path.parent, str(getattr(task.recipe.data, key)), only)


def ensemble_inputs(recipe: Recipe) -> tuple[tuple[TensorSpec, ...], dict[str, tuple[float, float]]]:
    """Return the specs of what components read from outside, and the ranges declared for them."""
    spans = {name: spec.range for name, spec in recipe.sources().items() if spec.range is not None}
    return recipe.source_specs, spans


def client_inputs(recipe: Recipe) -> tuple[tuple[TensorSpec, ...], dict[str, tuple[float, float]]]:
    """Return the specs of what clients send, and the ranges declared for them."""
    return recipe.input_specs, {name: spec.range for name, spec in recipe.inputs.items() if spec.range is not None}
