"""The seams of mmdeploy: what a pass, an engine, a gate and a runner must offer.

A pass, an engine or a gate is a *module* that satisfies the protocol; there is nothing to inherit from. Each
package's ``__init__`` holds one literal dict of its modules, and ``tests/contract`` runs every entry of it
through the same lifecycle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict

from mmdeploy.core.artifact import Array as Array
from mmdeploy.core.artifact import Artifact
from mmdeploy.core.judged_parts import EvidenceCascade as EvidenceCascade
from mmdeploy.core.judged_parts import EvidenceSubset as EvidenceSubset
from mmdeploy.core.judged_parts import WiredComponent as WiredComponent
from mmdeploy.core.labels import Labels
from mmdeploy.core.runner import FeedDict as FeedDict
from mmdeploy.core.runner import Runner as Runner
from mmdeploy.core.samples import Samples as Samples
from mmdeploy.core.sizes import Lengths, Sizes
from mmdeploy.core.surroundings import FusedOutput as FusedOutput
from mmdeploy.core.surroundings import FusedScore as FusedScore
from mmdeploy.core.surroundings import LatencyEstimate as LatencyEstimate
from mmdeploy.core.surroundings import MetricScore as MetricScore
from mmdeploy.core.surroundings import Network as Network
from mmdeploy.core.surroundings import Timed as Timed
from mmdeploy.core.surroundings import TrainingSetup as TrainingSetup
from mmdeploy.core.target import Hardware, Target
from mmdeploy.core.verdicts import Check as Check
from mmdeploy.core.verdicts import GateResult as GateResult
from mmdeploy.core.verdicts import ReviewTable as ReviewTable
from mmdeploy.core.verdicts import Verdict as Verdict


class MethodOptions(BaseModel):
    """Options of a pass, an engine or a gate as the recipe gives them: inspectable data, frozen, no extras.

    A subclass names itself with ``method: Literal["..."]``; the recipe's schema is made of these classes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


def method_of(options: MethodOptions) -> str:
    """Return the method that options belong to: the name of their module in its package's dict."""
    return str(options.model_dump(include={"method"})["method"])


class Encoding(StrEnum):
    """How an engine wants INT8 activations written; weights are always symmetric INT8.

    One set of ranges serves all three: ``INT8_SYMMETRIC`` with zero point 0 and ``UINT8_SYMMETRIC`` with zero
    point 128 are the same numbers.
    """

    INT8_SYMMETRIC = "int8_symmetric"
    UINT8_SYMMETRIC = "uint8_symmetric"
    UINT8_ASYMMETRIC = "uint8_asymmetric"


class Progress(Protocol):
    """Where a step says how far it is."""

    def __call__(self, done: int, total: int | None, what: str) -> None:
        """Report ``done`` of ``total`` (None when unknown) units of ``what``."""


def no_progress(done: int, total: int | None, what: str) -> None:
    """Discard progress: the default where nobody watches."""


@dataclass(frozen=True)
class StepContext:
    """What a pass or an engine gets besides its artifact and its options.

    Attributes:
        component: Name of the component.
        workdir: Empty folder to write into; it becomes the artifact's folder.
        target: What the recipe is compiled for.
        encoding: How the component's engine wants INT8 written.
        max_batch_size: Largest batch that the component will be served with.
        seed: For anything random.
        threads: Threads that the step may use.
        examples: Makes a feed dict of the component with the given batch size, of the recipe's first samples
            (calibration, else evaluation; made-up values where it names neither) and, for inputs that upstream
            components compute, by running those in PyTorch.
        at_lengths: Makes a feed dict of so many samples at each of several lengths of the sizes that have a name, the
            smallest and the largest among them, and says at which; nothing where no size has a name.
        calibration: Iterates over the calibration set as feed dicts of the component, batched along axis 0;
            for inputs that upstream components compute, what their *shipped* graphs put out. May be called
            again for another pass over the same batches. None when the recipe has no calibration data.
        calibration_batches: Number of batches that ``calibration`` gives; 0 without calibration data.
        progress: Where to report long work.
        scratch: Folder that survives when the step is killed, and is removed when it succeeds: checkpoints and
            journals, from which the same step goes on when it is run again. None where nothing is kept.
        training: The model around the component, for passes that train. None when the recipe has no training
            or no validation data.
        fused: Scores graphs of the component at the ensemble's output. None when the recipe has no validation
            data.
        timed: Measures graphs of the component as its engine would run them. None where that engine cannot run
            on this machine.
        settles: Whether an engine must answer as its graph does, and the graph may be changed until it does. Whoever
            looks for what an engine gets wrong wants it as it is.
    """

    component: str
    workdir: Path
    target: Target
    encoding: Encoding
    max_batch_size: int
    seed: int
    threads: int
    examples: Callable[[int], dict[str, Array]]
    at_lengths: Callable[[int], Iterator[tuple[Lengths, dict[str, Array]]]] = lambda batch: iter(())
    calibration: Callable[[], Iterator[dict[str, Array]]] | None = None
    calibration_batches: int = 0
    progress: Progress = no_progress
    scratch: Path | None = None
    training: TrainingSetup | None = None
    fused: FusedOutput | None = None
    timed: Timed | None = None
    settles: bool = True


class Pass(Protocol):
    """A step that turns an artifact into another: a module with these members.

    Attributes:
        CONSUMES: Format of the artifact that it takes.
        PRODUCES: Format of the artifact that it gives.
        REQUIRES: Imports that it needs.
        MEASURES: Whether it measures time, so that nothing may run beside it.
    """

    __name__: str
    CONSUMES: str
    PRODUCES: str
    REQUIRES: tuple[str, ...]
    MEASURES: bool

    @property
    def Options(self) -> type[MethodOptions]:  # noqa: N802 - read-only, so that a module's own subclass fits
        """The class of the method's options."""

    def data_needs(self, options: Any) -> frozenset[str]:
        """Return the recipe's data sets that it reads: of ``calibration``, ``training`` and ``validation``."""

    def run(self, artifact: Artifact, options: Any, context: StepContext) -> Artifact:
        """Do the work; write only into ``context.workdir``."""


@runtime_checkable
class Rewriter(Protocol):
    """A quantization that can write in another encoding what an earlier step found: a `Pass` with this member."""

    def write(self, artifact: Artifact, made: Artifact, options: Any, context: StepContext) -> Artifact:
        """Write ``artifact``, a float graph, with the numbers of ``made``.

        That is, of a pass that consumes ``onnx`` and searches, its own first result; of one that consumes ``torch``
        and trains, the trained module.
        """


@dataclass(frozen=True)
class Variant:
    """A way to run a component that is worth trying.

    Attributes:
        options: The engine's options.
        graph: Whether it is built from the graph in floating point, or from the one with Q/DQ pairs.
    """

    options: MethodOptions
    graph: Literal["float", "quantized"] = "float"


#: The key among `Engine.serving`'s parameters that becomes ``instance_group { kind }`` of config.pbtxt, "KIND_CPU" or
#: "KIND_GPU", where the recipe leaves the kind open. Left out, Triton takes a GPU as soon as the server has one.
INSTANCE_KIND = "instance_group.kind"


class Engine(Pass, Protocol):
    """A pass whose product Triton serves: a module with the members of `Pass` and these.

    Attributes:
        BACKEND: Name of Triton's backend, for config.pbtxt.
        FILENAME: Name of the model file in a version folder.
        NATIVE: Whether it is machine code for the processor that builds it, whose instruction sets are then in the key.
    """

    BACKEND: str
    FILENAME: str
    NATIVE: bool

    @property
    def STAND_IN(self) -> Path | None:  # noqa: N802 - a constant of the module
        """Folder with a ``model.py``, a Python-based backend; None where mmdeploy has one, or needs none.

        It stands in for the native backend where the server has only the one for Python, and is named as it.
        """

    def encoding(self, options: Any) -> Encoding:
        """Say how this engine wants INT8 written."""

    def unavailable(self, options: Any) -> str | None:
        """Say why an engine cannot be *run* on this machine; None when it can. Building may still work."""

    def unbuildable(self, options: Any) -> str | None:
        """Say why an engine cannot be *built* on this machine, and what to do, besides what ``REQUIRES`` names."""

    def serving(self, options: Any) -> Mapping[str, str]:
        """Return the ``parameters`` of config.pbtxt that make Triton run the engine as it was judged.

        `INSTANCE_KIND` among them says where.
        """

    def load(self, artifact: Artifact, options: Any) -> Runner:
        """Load the engine in this process."""

    def candidates(self, target: Target, *, threads: int = 1) -> tuple[Variant, ...]:
        """Return the variants that ``engine: auto`` measures on a target, the simplest first; none where it has none.

        Args:
            target: What the recipe is compiled for.
            threads: The most threads that a variant may have. 1 by default: the components of an ensemble share the
                cores but are measured alone, where more threads look faster than they are beside the others.
        """


class Deployment(Protocol):
    """A served ensemble under judgement: the candidate, or the FP32 reference beside it."""

    def runner(self, model: str | None = None) -> Runner:
        """Open a new connection to a composing model, or to the ensemble when ``model`` is None."""

    def memory_bytes(self) -> int:
        """Return the resident set of the server and its children now, in bytes."""

    def size_bytes(self) -> Mapping[str, int]:
        """Return the bytes on disk of each component's engine as it would be published, whatever stands in for it."""


@dataclass(frozen=True)
class Evidence:
    """Everything a gate may ask; both deployments are up while the gates run.

    Attributes:
        candidate: What would be published, served.
        reference: The same ensemble in FP32, served beside it for paired measurement.
        components: Wiring, in an order in which each follows what feeds it.
        ensemble_outputs: Names of the ensemble's outputs.
        feeds: The evaluation samples: columns by ensemble input. Samples may differ in shape, or leave an input out.
        labels: One a sample, or None when the evaluation data has none.
        original: What the PyTorch model gives on ``feeds`` for every tensor that a component writes: columns by
            ensemble tensor, see `mmdeploy.core.samples`.
        sizes: Sizes of the axes of each input, and of what steps make of inputs, where the recipe names them.
        bounds: Samples at bounds of sizes that no evaluation sample has, and ``original`` of these.
        hardware: The machine that serves.
        max_batch_size: Of the ensemble; 0 when it does not batch.
        substitute: Why the candidate is a stand-in for the real engines (so latency says nothing), or None.
        seed: For bootstrap and order.
        cores: Logical cores that the servers and the client share.
        progress: Where to report long work.
        root: Folder of the recipe, which paths in gates are relative to.
        subsets: Subsets of the modalities that are judged besides whole requests. `mmdeploy.gates.run_all` asks the
            gates that judge subsets once for each.
        mixed: Requests whose rows lack other inputs each, or none: all of the ensemble's outputs, asked by parity.
        cascade: What leaves early, and its answers; None where the candidate answers all samples alike.
        recut: Of a stream: the candidate as a client asks it that cuts samples into other chunks, by words for these.
        answered: What gates before this one were answered, by what they asked; see `mmdeploy.scoring.ask.of_ensemble`.
    """

    candidate: Deployment
    reference: Deployment
    components: tuple[WiredComponent, ...]
    ensemble_outputs: tuple[str, ...]
    feeds: Samples
    labels: Labels | None
    original: Mapping[str, Array]
    hardware: Hardware
    max_batch_size: int
    substitute: str | None = None
    seed: int = 0
    cores: int = 1
    progress: Progress = no_progress
    root: Path = Path()
    sizes: Mapping[str, Sizes] = field(default_factory=dict)
    bounds: tuple[Samples, Mapping[str, Array]] | None = None
    subsets: tuple[EvidenceSubset, ...] = ()
    mixed: EvidenceSubset | None = None
    cascade: EvidenceCascade | None = None
    recut: Mapping[str, Deployment] = field(default_factory=dict)
    answered: dict[Any, tuple[Deployment, Mapping[str, Array]]] = field(default_factory=dict, repr=False)


class Gate(Protocol):
    """A judgement: a module with these members.

    Attributes:
        REQUIRES: Imports that it needs.
        NEEDS_LABELS: Whether the evaluation data must have labels: said before anything is served.
    """

    __name__: str
    REQUIRES: tuple[str, ...]
    NEEDS_LABELS: bool

    @property
    def Options(self) -> type[MethodOptions]:  # noqa: N802 - read-only, so that a module's own subclass fits
        """The class of the method's options."""

    def check(self, options: Any, evidence: Evidence) -> GateResult:
        """Measure and compare. A "no" is a result; only broken tools raise."""

    def advice(self, options: Any, result: GateResult) -> str | None:
        """Say what to do about a result that is no pass; None where its checks say everything."""
