"""Score graphs of one component at the ensemble's output, in process, on the validation split.

`FusedEnsemble` is the seam `mmdeploy.core.contracts.FusedOutput` for one component of a recipe. What feeds the
component is run through the graphs that ship, what follows it, and what joins it later, through the FP32 exports.
Everything that does not depend on the candidate is computed once and kept, so that a score costs the candidate and what
follows it. A component that is given stand-ins where inputs are missing is scored on samples of which every second
lacks what a subset of the modalities leaves out, as in its calibration.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmdeploy.core.contracts import Array, FusedScore, Runner
from mmdeploy.core.errors import DataError, EngineError, InferenceError
from mmdeploy.core.labels import Labels
from mmdeploy.core.samples import Samples, picked
from mmdeploy.data.columns import load_column
from mmdeploy.planning.chains import fed_outputs, yardstick
from mmdeploy.recipe.modalities import sees_stand_ins
from mmdeploy.recipe.sharing import above, below, callers
from mmdeploy.recipe.wiring import topological_order, upstream
from mmdeploy.scoring import closeness, ragged
from mmdeploy.scoring.scored import Scored
from mmdeploy.scoring.task_metric import TaskMetric, open_metric
from mmdeploy.worker.graph_chain import BATCH, GraphChain
from mmdeploy.worker.modalities import PRESENT, Modalities

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from mmdeploy.recipe.schema import Recipe
    from mmdeploy.scoring.metrics import FloatArray


@dataclass(frozen=True)
class Graphs:
    """ONNX files of a recipe's components.

    Attributes:
        shipped: What ships of each component that feeds the one judged.
        exported: The FP32 export of every component.
    """

    shipped: Mapping[str, Path]
    exported: Mapping[str, Path]


@dataclass(frozen=True)
class Validation:
    """The validation split.

    Attributes:
        feeds: Columns by ensemble input.
        labels: One a sample, or None when the split has none.
        source: The callable that gave them, for messages.
    """

    feeds: Mapping[str, Array]
    labels: Labels | None
    source: str = "data.validation"


class FusedEnsemble:
    """The ensemble around one component; satisfies `mmdeploy.core.contracts.FusedOutput`."""

    def __init__(
        self,
        recipe: Recipe,
        component: str,
        graphs: Graphs,
        samples: Validation,
        *,
        threads: int = 1,
        modalities: Modalities | None = None,
        known: Mapping[str, Array] | None = None,
    ) -> None:
        """Take the ensemble apart; nothing is run before the first score.

        Args:
            recipe: The recipe.
            component: What is judged.
            graphs: ONNX files of the components.
            samples: The validation split.
            threads: Of each session.
            modalities: What stands in for inputs that samples lack; needed where they may.
            known: What the FP32 exports write on these samples, as far as that has been recorded.

        Raises:
            DataError: If the validation split has no labels, or the output scored does not depend on the component.
        """
        if samples.labels is None:
            raise DataError(
                f"{samples.source} gives no labels, and accuracy at the ensemble's output needs them",
                hint="let the callable that data.validation names yield (feed, label)",
            )
        self._recipe, self._component, self._graphs = recipe, component, graphs
        self._modalities = modalities or Modalities(recipe, {})
        stand_ins_seen = any(sees_stand_ins(recipe, name) for name in callers(recipe.components, component))
        self._feeds = self._modalities.marked(Samples.of(samples.feeds), in_turns=stand_ins_seen)
        self._labels = samples.labels
        self._chain = GraphChain(recipe, self._modalities, threads=threads)
        self._known = {} if stand_ins_seen else known or {}
        self._metric = open_metric(yardstick(recipe, component).metric, recipe.root)
        self._outputs = self._metric.outputs
        if not fed_outputs(recipe, component) & {*self._outputs}:
            seen = " and ".join(map(repr, self._outputs))
            raise DataError(
                f"{component} does not feed {seen}, which is what {self._metric.name} scores",
                hint="add an accuracy gate whose metric sees an output that depends on it",
            )
        self._callers = callers(recipe.components, component)
        self._before = above(recipe.components, component)
        self._after = _followers(recipe, component, self._outputs)
        self._runners: dict[Path, Runner] = {}
        self._around: dict[str, Array] | None = None
        self._originals: dict[str, Array] | None = None

    @property
    def metric(self) -> str:
        """Name of the task's metric: see `planning.chains.yardstick`."""
        return self._metric.name

    @property
    def larger_is_better(self) -> bool:
        """Whether a larger metric is better."""
        return self._metric.larger_is_better

    @property
    def samples(self) -> int:
        """Number of validation samples."""
        return len(self._labels)

    def original(self, part: slice | None = None) -> FusedScore:
        """Score the FP32 export of every component, on all samples or a slice of them.

        Raises:
            DataError: If the labels are not what the metric takes.
            EngineError: If a graph does not load.
            InferenceError: If one does not run.
        """
        chosen = part or slice(None)
        return self._scored(_part(self._original_answers(), chosen), chosen)

    def unchanged(self) -> FusedScore:
        """Score the component's own FP32 export, behind what ships upstream, on all samples.

        Raises:
            DataError: If the labels are not what the metric takes.
            EngineError: If a graph does not load.
            InferenceError: If one does not run.
        """
        if self._begins_alike:
            return self.original()
        tensors = Samples(self._fixed())
        return self._scored(self._answers_with(self._exported(self._component), tensors, BATCH), slice(None))

    def score(self, graph: Path | Runner, part: slice | None = None) -> FusedScore:
        """Score a graph in the component's place, on all samples or a slice of them.

        A sample whose answer is not finite counts as a wrong one.

        Args:
            graph: An ONNX file, or an engine of the component that is loaded in this process.
            part: The samples; None for all.

        Raises:
            DataError: If the labels are not what the metric takes.
            EngineError: If a graph does not load or run.
            InferenceError: If a runner that was given refuses a request.
        """
        chosen = part or slice(None)
        tensors = Samples(self._fixed()).select(chosen)
        if not isinstance(graph, Path):
            return self._scored(self._answers_with(graph, tensors, self._largest_batch), chosen)
        candidate = self._chain.opened(graph)
        try:
            return self._scored(self._answers_with(candidate, tensors, BATCH), chosen)
        except InferenceError as error:
            raise EngineError(error.message, hint=error.hint) from error
        finally:
            candidate.close()

    def _answers_with(self, candidate: Runner, tensors: Samples, batch_size: int) -> dict[str, Array]:
        runners = dict.fromkeys(self._callers, candidate) | {name: self._exported(name) for name in self._after}
        return self._chain.through(runners, tensors, keep=self._outputs, batch_size=batch_size)

    @property
    def _largest_batch(self) -> int:
        """What an engine may be asked at once."""
        return min(BATCH, max(1, self._recipe.components[self._component].serving.max_batch_size))

    def _scored(self, answers: Mapping[str, Array], part: slice) -> FusedScore:
        import numpy as np

        reference, labels = _part(self._original_answers(), part), self._labels[part]
        broken = np.zeros(len(labels), dtype=bool)
        for column in answers.values():
            broken |= ~ragged.finite(column)
        finite = {name: ragged.zeroed(column, broken) for name, column in answers.items()}
        metric, per_sample = _metric_with(broken, self._metric.scored(finite, labels), self._metric)
        sqnr_db, cosine = closeness.output_noise(reference, finite, broken)
        return FusedScore(metric, per_sample, sqnr_db, cosine, len(labels))

    def _original_answers(self) -> dict[str, Array]:
        if self._originals is None and {*self._outputs} <= {*self._known}:
            self._originals = {name: self._known[name] for name in self._outputs}
        if self._originals is None:
            if self._begins_alike:  # it is computed anyway
                rest, tensors = (*self._callers, *self._after), Samples(self._fixed())
            else:
                rest, tensors = topological_order(self._recipe.components), self._feeds
            runners = {name: self._exported(name) for name in rest}
            self._originals = self._chain.through(runners, tensors, keep=self._outputs)
        return self._originals

    @property
    def _begins_alike(self) -> bool:
        """Whether all that feeds the component ships as the FP32 export."""
        return all(self._graphs.shipped[name] == self._graphs.exported[name] for name in self._before)

    def _fixed(self) -> dict[str, Array]:
        """Return what the component and its followers read and no candidate changes, over all samples."""
        if self._around is None:
            readers = (*self._callers, *self._after)
            read = {wire.tensor for name in readers for wire in self._recipe.components[name].inputs.values()}
            written = {wire.tensor for name in readers for wire in self._recipe.components[name].outputs.values()}
            keep = sorted({*read, *self._outputs, *self._marks} - written)
            there = {**self._feeds, **(self._known if self._begins_alike else {})}
            if {*keep} <= {*there}:
                self._around = {name: there[name] for name in keep}
            else:
                self._around = self._chain.through(self._beside(), self._feeds, keep=keep)
        return self._around

    def _beside(self) -> dict[str, Runner]:
        """Open what does not depend on the component, in order: what ships upstream, and the exports elsewhere."""
        return {
            name: self._chain.opened(self._graphs.shipped[name]) if name in self._before else self._exported(name)
            for name in topological_order(self._recipe.components)
            if name not in {*self._callers, *below(self._recipe.components, self._component)}
        }

    @property
    def _marks(self) -> tuple[str, ...]:
        """The column that says which inputs samples have, where they may lack any."""
        return (PRESENT,) if PRESENT in self._feeds else ()

    def _exported(self, component: str) -> Runner:
        path = self._graphs.exported[component]
        if path not in self._runners:
            self._runners[path] = self._chain.opened(path)
        return self._runners[path]


def recorded(index: Path) -> dict[str, Array]:
    """Return what `mmdeploy.worker.original_answers` wrote down, columns by ensemble tensor."""
    entries = json.loads(index.read_text(encoding="utf-8"))
    return {name: load_column(index.parent, entry) for name, entry in entries.items()}


def _followers(recipe: Recipe, component: str, outputs: Sequence[str]) -> tuple[str, ...]:
    """Return the components that depend on one and that one of the outputs depends on, in order."""
    writers = [
        name
        for name, part in recipe.components.items()
        if any(wire.tensor in outputs for wire in part.outputs.values())
    ]
    wanted = {*writers, *(name for writer in writers for name in upstream(recipe.components, writer))}
    return tuple(
        name for name in topological_order(recipe.components) if name in wanted & below(recipe.components, component)
    )


def _part(answers: Mapping[str, Array], part: slice) -> dict[str, Array]:
    return {name: picked(column, part) for name, column in answers.items()}


def _metric_with(broken: npt.NDArray[np.bool_], found: Scored, metric: TaskMetric) -> tuple[float, FloatArray | None]:
    """Return the metric and that of each sample, with samples whose answer is not finite as bad as can be."""
    import numpy as np

    if not broken.any():
        return found.score, found.per_unit
    if found.per_unit is None or len(found.per_unit) != len(broken):
        return metric.worst, None
    per_sample = np.where(broken, metric.worst, found.per_unit)
    return float(per_sample.mean()), per_sample
