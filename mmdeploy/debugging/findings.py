"""What a comparison found, as data: written as JSON, shown as a table and as Markdown."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict


class _Found(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TensorFinding(_Found):
    """A tensor against its reference, over all samples: the worst batch.

    Attributes:
        tensor: Its name in the graph that is judged.
        reference: Its name in what it is compared with.
        node: The node that makes it.
        op_type: The node's operator.
        sqnr_db: Signal to noise with everything upstream as it is; None where nothing differs.
        own_sqnr_db: The same when the node reads the reference's tensors, so of this node alone; None where nothing
            differs.
        own_known: Whether the node was looked at alone.
        own_within: Whether the node alone keeps the tolerance.
        cosine: Of the tensor and its reference.
        max_error: Largest absolute difference.
        magnitude: Largest absolute value of the reference.
        tolerance: What it was held against, in words.
        within: Whether it keeps that, the node alone included.
        finite: Whether it has no NaN or Inf of its own.
        is_output: Whether it is an output of the component.
        batch: The batch in which it is worst.
    """

    tensor: str
    reference: str
    node: str
    op_type: str
    sqnr_db: float | None
    own_sqnr_db: float | None = None
    own_known: bool = False
    own_within: bool = True
    cosine: float
    max_error: float
    magnitude: float
    tolerance: str
    within: bool
    finite: bool = True
    is_output: bool = False
    batch: int = 0

    @property
    def label(self) -> str:
        """The tensor as people know it: by its name in the float graph."""
        return self.reference if self.tensor == self.reference else f"{self.reference}, rounded"


class Reproduction(_Found):
    """The smallest piece of a graph that shows the fault, on disk.

    Attributes:
        folder: Where it lies: ``subgraph.onnx``, ``inputs.json``, ``expected.json`` and ``command.sh``.
        nodes: Number of nodes in the piece.
        inputs: Tensors that it starts from, with the values of the reference.
        command: A shell command that runs it and fails while the fault is there.
        reproduces: Whether the command was run here and showed the fault.
    """

    folder: Path
    nodes: int
    inputs: tuple[str, ...]
    command: str
    reproduces: bool


class Comparison(_Found):
    """Two forms of a component.

    Attributes:
        stage: Id of the step that made what is judged.
        what: What is judged, in words.
        against: What it is compared with, in words.
        tensors: In the order of the graph.
        first: The first tensor that leaves its tolerance; None where none does.
        grows_most: Where the error grows most; None where nothing differs.
        skipped: Why nothing was compared; empty where it was.
        notes: What a reader must know.
        reproduction: Of the first tensor.
    """

    stage: str
    what: str
    against: str
    tensors: tuple[TensorFinding, ...] = ()
    first: TensorFinding | None = None
    grows_most: TensorFinding | None = None
    skipped: str = ""
    notes: tuple[str, ...] = ()
    reproduction: Reproduction | None = None

    @property
    def within(self) -> bool:
        """Whether every tensor keeps its tolerance, as far as it was compared."""
        return self.first is None


class DebugReport(_Found):
    """All comparisons of a component.

    Attributes:
        recipe: Name of the recipe.
        component: The component.
        samples: Number of samples.
        source: Where they came from, in words.
        comparisons: In the order of the build.
        failed: What steps of the component failed with, by step id.
        libraries: Versions of what took part.
    """

    recipe: str
    component: str
    samples: int
    source: str
    comparisons: tuple[Comparison, ...]
    failed: dict[str, str] = {}
    libraries: dict[str, str] = {}

    @property
    def within(self) -> bool:
        """Whether every tensor of every comparison keeps its tolerance."""
        return all(comparison.within for comparison in self.comparisons)
