"""The model around a component, as passes see it that train the component or judge it at the ensemble's output."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from mmdeploy.core.artifact import Array, Artifact
from mmdeploy.core.labels import Labels
from mmdeploy.core.samples import Samples

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor, nn

    from mmdeploy.core.runner import Runner


@dataclass(frozen=True)
class MetricScore:
    """The task's metric of some answers.

    Attributes:
        score: Over all samples.
        per_sample: Of each sample, or of what else ``score`` is the mean of; None where it is no mean.
    """

    score: float
    per_sample: npt.NDArray[np.float64] | None


@dataclass(frozen=True)
class FusedScore:
    """How the whole ensemble does on validation samples with one graph in a component's place.

    Attributes:
        metric: The task's metric over the samples.
        per_sample: The metric of each sample, or of what else ``metric`` is the mean of; None where it is no mean.
        sqnr_db: Mean over the samples of the signal-to-quantization-noise ratio of the first floating-point output
            that the metric sees and that changed, against the FP32 original, in dB.
        cosine: The same of the cosine.
        samples: Number of samples.
    """

    metric: float
    per_sample: npt.NDArray[np.float64] | None
    sqnr_db: float
    cosine: float
    samples: int


class FusedOutput(Protocol):
    """The ensemble around a component, for judging graphs of it at the *fused* output, in process.

    What lies upstream is what ships; what lies downstream is the FP32 export. Samples are those of the validation
    split: never the test split, on which the gates judge.
    """

    @property
    def metric(self) -> str:
        """Name of the task's metric: that of the recipe's accuracy gate, or ``top1``."""

    @property
    def larger_is_better(self) -> bool:
        """Whether a larger metric is better."""

    @property
    def samples(self) -> int:
        """Number of validation samples."""

    def original(self, part: slice | None = None) -> FusedScore:
        """Score the FP32 export of every component, on all samples or a slice of them."""

    def unchanged(self) -> FusedScore:
        """Score the component's own FP32 export, behind what ships upstream, on all samples."""

    def score(self, graph: Path | Runner, part: slice | None = None) -> FusedScore:
        """Score an ONNX graph, or an engine, in the component's place, on all samples or a slice of them.

        Args:
            graph: Path of a graph, which ONNX Runtime runs; or an open runner, which computes as it is served
                (BF16, FP16 and fused integer kernels are not what the graph says). The caller closes the runner.
            part: Which samples.

        Raises:
            EngineError: If ONNX Runtime refuses the graph.
            InferenceError: If the runner refuses a request.
        """


@dataclass(frozen=True)
class LatencyEstimate:
    """How long a graph takes on a component's engine, among others that were measured in the same rounds.

    Attributes:
        median_ms: Of one request.
        ratio: Its latency over that of the first graph, paired by rounds.
        ratio_interval: Confidence interval of ``ratio``, lower and upper.
    """

    median_ms: float
    ratio: float
    ratio_interval: tuple[float, float]


#: Builds the component's engine from each graph, by label, and measures them in turns, each in a process of its own.
#: A graph is an ONNX file, or an artifact of format ``torch``, which is exported first. Estimates come by the same
#: labels; ratios are to the first graph.
Timed: TypeAlias = "Callable[[Mapping[str, Path | Artifact]], Mapping[str, LatencyEstimate]]"

Network: TypeAlias = "Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]"


class TrainingSetup(Protocol):
    """The model around a component that is trained, with the data that the recipe names for it.

    Attributes are cheap; data is read when it is asked for. Tensors are named as in the ensemble, batch on axis 0.
    """

    @property
    def component_outputs(self) -> tuple[str, ...]:
        """The ensemble tensors that the component writes: what embedding matching compares."""

    @property
    def ensemble_outputs(self) -> tuple[str, ...]:
        """The ensemble's outputs."""

    @property
    def scored_outputs(self) -> tuple[str, ...]:
        """The ensemble's outputs that the metric sees; the first is what distillation compares as the answer.

        Those that depend on the component come first.
        """

    @property
    def compares_scores(self) -> bool:
        """Whether the first output scored is one score a class, as far as the metric tells; else it is values."""

    @property
    def metric(self) -> str:
        """Name of the task's metric: that of the recipe's accuracy gate, or ``top1``."""

    @property
    def larger_is_better(self) -> bool:
        """Whether a larger metric is better."""

    def network(self, module: nn.Module) -> Network:
        """Put a module in the component's place.

        Returns:
            A function from the ensemble's inputs to every tensor that a component writes; each may be computed only
            when it is read. Upstream components are as their own torch passes left them, downstream ones original, all
            in eval mode and frozen. Gradients reach the module's parameters and no others.
        """

    def teacher(self, feeds: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return every tensor that a component of the *original* model writes, without gradients."""

    def training(self, epoch: int, batch_size: int) -> Iterator[tuple[dict[str, Array], Labels | None]]:
        """Iterate over one epoch of the training split, shuffled by the recipe's seed and the epoch.

        Raises:
            DataError: If the data is bad, or holds a sample of the evaluation split.
        """

    def validation(self) -> tuple[Samples, Labels]:
        """Return the whole validation split: columns of feeds, and labels.

        Raises:
            DataError: If the data is bad, has no labels, or holds a sample of the evaluation split.
        """

    def task_loss(self, outputs: Mapping[str, Tensor], labels: Any) -> Tensor:
        """Return the mean loss of a batch: the recipe's ``data.loss`` callable, or cross-entropy for class ids.

        Args:
            outputs: By ensemble tensor.
            labels: Numbers as a tensor, text and what varies in length as a list, several by name as a dict of these.
        """

    def score(self, outputs: Mapping[str, Array], labels: Labels) -> MetricScore:
        """Score finite ensemble outputs by the task's metric."""
