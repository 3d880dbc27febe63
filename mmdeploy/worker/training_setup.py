"""The model around a component that is trained, made from a recipe: what `contracts.TrainingSetup` asks for."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmdeploy.core.artifact import Artifact
from mmdeploy.core.contracts import Array, MetricScore, Network
from mmdeploy.core.errors import DataError, MmdeployError, TrainingError
from mmdeploy.core.labels import Labels
from mmdeploy.core.samples import Samples
from mmdeploy.data.sample_sets import SampleSet
from mmdeploy.model.sources import describe, importing_from, resolve_callable
from mmdeploy.model.torch_component import load_component
from mmdeploy.model.torch_model import load_model, submodule
from mmdeploy.model.watching import reading
from mmdeploy.planning.chains import fed_outputs, yardstick
from mmdeploy.recipe.sharing import callers
from mmdeploy.recipe.wiring import topological_order
from mmdeploy.scoring.metric_spec import MetricSpec
from mmdeploy.scoring.task_metric import TaskMetric, open_metric
from mmdeploy.training.splits import Split
from mmdeploy.worker.feeds import client_inputs
from mmdeploy.worker.media import preparation
from mmdeploy.worker.missing_training import MissingInTraining
from mmdeploy.worker.modalities import Modalities
from mmdeploy.worker.training_answers import Answers, Kept, Known, Parts

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mmdeploy.recipe.schema import Recipe


@dataclass(frozen=True)
class HeldOut:
    """The recorded sets that training is judged by and must not learn from.

    Attributes:
        validation: The split that the best epoch is chosen by.
        evaluation: The gates' split, if the recipe has one.
    """

    validation: SampleSet
    evaluation: SampleSet | None = None


class RecipeTrainingSetup:
    """A component of a recipe inside its model, with the recipe's training and validation data.

    A module that several components call is put into the place of each of them.

    Nothing is loaded before it is asked for. The original model is loaded once; the component that is trained, and
    others that passes have changed, come beside it.
    """

    def __init__(
        self,
        recipe: Recipe,
        component: str,
        held_out: HeldOut,
        torch_artifacts: Mapping[str, Artifact],
        missing: MissingInTraining | None = None,
    ) -> None:
        """Set up for one component.

        Args:
            recipe: The recipe, with ``data.training``.
            component: The component that is trained.
            held_out: The recipe's validation and evaluation sets.
            torch_artifacts: What the torch passes of *other* components made of them, of format ``torch``, by
                component; whoever is missing is original.
            missing: What is done about inputs that may be missing; needed where they may.

        Raises:
            DataError: If the recipe has no training data.
        """
        if recipe.data.training is None:
            raise DataError(
                f"{component}: training needs samples, but the recipe has no data.training",
                hint="name a callable under data.training",
            )
        self._recipe, self._component, self._artifacts = recipe, component, dict(torch_artifacts)
        self._held_out = held_out
        self._missing = missing or MissingInTraining(Modalities(recipe, {}))
        self._callers = callers(recipe.components, component)
        self._order = topological_order(recipe.components)
        #: What the original model answers to the last batch, for the network and the teacher.
        self._known: tuple[Mapping[str, Tensor], Known] | None = None
        self._kept = Kept()

    @property
    def component_outputs(self) -> tuple[str, ...]:
        """The ensemble tensors that the component writes."""
        return tuple(wire.tensor for wire in self._recipe.components[self._component].outputs.values())

    @property
    def ensemble_outputs(self) -> tuple[str, ...]:
        """The ensemble's outputs."""
        return self._recipe.model_outputs

    @property
    def scored_outputs(self) -> tuple[str, ...]:
        """The ensemble's outputs that the metric sees, first those that depend on the component."""
        fed = fed_outputs(self._recipe, self._component)
        return tuple(sorted(self._spec.outputs, key=lambda name: name not in fed))

    @property
    def compares_scores(self) -> bool:
        """Whether the first output scored is one score a class, as far as the metric tells; else it is values."""
        return (self._spec.compares or ("scores" if self.larger_is_better else "values")) == "scores"

    @property
    def metric(self) -> str:
        """Name of the metric: see `planning.chains.yardstick`."""
        return self._metric.name

    @property
    def larger_is_better(self) -> bool:
        """Whether a larger metric is better."""
        return self._metric.larger_is_better

    def network(self, module: nn.Module) -> Network:
        """Put a module in the component's place, or places; the returned function runs what is read of its answers."""
        modules: dict[str, nn.Module] = dict(self._originals)
        for name, artifact in self._artifacts.items():
            if name not in self._callers:
                modules[name] = load_component(artifact).requires_grad_(False).eval()
        modules |= dict.fromkeys(self._callers, module)
        replaced = frozenset(name for name in modules if modules[name] is not self._originals[name])
        parts = Parts(self._recipe.components, modules, replaced)

        def run(feeds: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
            import torch

            # What is trained on is drawn anew; what is judged by comes again.
            known = {} if torch.is_grad_enabled() else self._kept.of(feeds)
            self._known = (feeds, known)
            return Answers(parts, feeds, known, self._missing)

        return run

    def teacher(self, feeds: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return every tensor that a component of the original model writes, without gradients."""
        import torch

        known = self._known[1] if self._known is not None and self._known[0] is feeds else {}
        with torch.no_grad():
            return Answers(Parts(self._recipe.components, self._originals), feeds, known, self._missing)

    def training(self, epoch: int, batch_size: int) -> Iterator[tuple[dict[str, Array], Labels | None]]:
        """Iterate over one epoch of the training split in batches, shuffled by the recipe's seed and the epoch.

        Raises:
            DataError: If the data is bad, or holds a sample of the validation or the evaluation split.
        """
        import numpy as np

        random = np.random.default_rng([self._recipe.seed, epoch, 1])
        return self._missing.marked(self._training.batches(epoch, batch_size, self._recipe.seed), random)

    def validation(self) -> tuple[Samples, Labels]:
        """Return the whole validation split: columns of feeds, and labels.

        Raises:
            DataError: If its samples have no labels.
        """
        samples = self._held_out.validation
        if samples.labels is None:
            raise DataError(
                f"{samples.reference}: sample 0 has no label",
                hint="yield (feed, label) for each sample: the best epoch is chosen by the task's metric",
            )
        return self._missing.modalities.marked(samples.feeds()), samples.labels

    def task_loss(self, outputs: Mapping[str, Tensor], labels: Any) -> Tensor:
        """Return the mean loss of a batch.

        It is what the recipe's ``data.loss`` gives; without one, cross-entropy of the first output that is scored for
        integer labels, and the mean squared error for others and where the metric is an error.

        Raises:
            DataError: If outputs and labels do not fit together.
            TrainingError: If the recipe's callable fails, or gives something else than a number.
        """
        reference = self._recipe.data.loss
        if reference is not None:
            return self._own_loss(reference, outputs, labels)
        import torch
        from torch.nn import functional

        if not isinstance(labels, torch.Tensor):
            raise DataError(
                f"labels that are a {type(labels).__name__} have no loss of their own",
                hint="name a callable under data.loss: it gets the outputs by name, and numbers as tensors",
            )
        answers = outputs[self.scored_outputs[0]]
        if labels.is_floating_point() or self._spec.metric in ("mse", "mae"):
            if answers.shape != labels.shape:
                raise DataError(
                    f"labels are {list(labels.shape)}, the model answers {list(answers.shape)}: no squared error",
                    hint="give labels of the output's shape, class ids as integers, or a loss under data.loss",
                )
            return functional.mse_loss(answers, labels.to(answers.dtype))
        try:
            return functional.cross_entropy(answers, labels.long())
        except (IndexError, RuntimeError, ValueError) as cause:
            raise DataError(
                f"labels of shape {list(labels.shape)}, {int(labels.min())} to {int(labels.max())}, do not fit class "
                f"scores of shape {list(answers.shape)}",
                hint="give one class id a sample, from 0, or a loss under data.loss",
            ) from cause

    def score(self, outputs: Mapping[str, Array], labels: Labels) -> MetricScore:
        """Score ensemble outputs by the task's metric.

        Raises:
            DataError: If the metric cannot take these labels.
            MetricError: If it fails.
        """
        found = self._metric.scored(outputs, labels)
        return MetricScore(found.score, found.per_unit)

    @functools.cached_property
    def _spec(self) -> MetricSpec:
        return yardstick(self._recipe, self._component).metric

    @functools.cached_property
    def _metric(self) -> TaskMetric:
        return open_metric(self._spec, self._recipe.root)

    @functools.cached_property
    def _originals(self) -> dict[str, nn.Module]:
        model = self._recipe.model
        whole = load_model(
            model.factory,
            root=self._recipe.root,
            weights=model.weights,
            prefix=model.prefix,
            adapters=model.adapters,
            allow_pickle=model.allow_pickle,
        )  # fmt: skip
        whole.requires_grad_(False)
        return {name: submodule(whole, self._recipe.components[name].module) for name in self._order}

    @functools.cached_property
    def _training(self) -> Split:
        assert self._recipe.data.training is not None
        sets = (self._held_out.evaluation, self._held_out.validation)
        forbidden = [samples.seen for samples in sets if samples is not None]
        return Split(
            self._recipe.data.training,
            self._recipe.root,
            *client_inputs(self._recipe),
            forbidden,
            prepare=preparation(self._recipe),
        )

    def _own_loss(self, reference: str, outputs: Mapping[str, Tensor], labels: Any) -> Tensor:
        """Call the recipe's loss and translate what goes wrong in it."""
        import torch

        root = self._recipe.root
        with reading(reference):
            call: Any = resolve_callable(reference, root, error=TrainingError)
        try:
            with reading(reference), importing_from(root):
                value = call(dict(outputs), labels)
        except MmdeployError:
            raise
        except Exception as cause:
            raise TrainingError(f"data.loss: {reference} failed: {describe(cause, root)}") from cause
        if not isinstance(value, torch.Tensor) or value.numel() != 1:
            shown = (
                f"a tensor of shape {list(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
            )
            raise TrainingError(
                f"data.loss: {reference} returned {shown}, expected one number as a tensor",
                hint="return the mean loss of the batch, such as torch.nn.functional.cross_entropy(...)",
            )
        return value.reshape(())
