"""Where an engine leaves its graph: the tensors inside it are seen by building engines that end there.

An engine shows its outputs only, and marking more of them would hinder the very fusion that may be at fault. So an
engine is built from the graph up to a tensor, with that tensor as its only output, and held against ONNX Runtime's run
of the graph as it is written. The first bad tensor is found by halving; then all that it depends on is good.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmdeploy import engines
from mmdeploy.core.artifact import Array, Artifact, file_sha256
from mmdeploy.core.contracts import MethodOptions, Runner, StepContext
from mmdeploy.core.errors import MmdeployError
from mmdeploy.core.sessions import AS_WRITTEN, open_session, specs
from mmdeploy.core.temporary import temporary_folder
from mmdeploy.debugging.figures import Figures, Tolerance, measure, worst
from mmdeploy.debugging.findings import TensorFinding
from mmdeploy.debugging.pairs import rounds
from mmdeploy.debugging.tensors import TensorGraph
from mmdeploy.engines.graph_files import save_graph

logger = logging.getLogger(__name__)


class EngineProbe:
    """Builds an engine from pieces of a graph and compares what they answer."""

    def __init__(
        self, graph: TensorGraph, options: MethodOptions, context: StepContext, tolerances: Mapping[str, Tolerance]
    ) -> None:
        """Remember what to build with.

        Args:
            graph: What the engine was built from.
            options: Of the engine.
            context: Of the step that built it.
            tolerances: By tensor; that of "" for all others.
        """
        self.graph, self.options, self._context, self._tolerances = graph, options, context, tolerances
        self._known: dict[str, dict[int, Figures] | None] = {}

    def tolerance(self, tensor: str) -> Tolerance:
        """Return what a tensor may differ by."""
        return self._tolerances.get(tensor, self._tolerances[""])

    def loaded(self, model: Any, feed: Mapping[str, Array], folder: Path) -> Runner:
        """Build the engine from a model and load it.

        Raises:
            MmdeployError: If the engine refuses the model.
        """
        path = folder / "piece.onnx"
        save_graph(model, path)
        inputs, outputs = specs(open_session(path, {"intra_op_thread_count": "1"}, graph_level=AS_WRITTEN))
        source = Artifact("onnx", path, file_sha256(path), inputs, outputs, "debug")
        workdir = folder / "engine"
        workdir.mkdir()
        context = dataclasses.replace(
            self._context,
            workdir=workdir,
            examples=lambda size: {name: array[:size] for name, array in feed.items()},
            settles=False,
        )
        module = engines.METHODS.of(self.options)
        return module.load(module.run(source, self.options, context), self.options)

    def answers(self, model: Any, feeds: Sequence[Mapping[str, Array]]) -> list[Mapping[str, Array]]:
        """Return what the engine answers when it is built from a model.

        Raises:
            MmdeployError: If the engine refuses the model or what it is fed.
        """
        names = [value.name for value in model.graph.input]
        with temporary_folder("debug") as folder:
            runner = self.loaded(model, {name: feeds[0][name] for name in names}, folder)
            try:
                return [runner.infer({name: feed[name] for name in names}) for feed in feeds]
            finally:
                runner.close()

    def upto(self, tensor: str, wanted: Sequence[Mapping[str, Array]]) -> dict[int, Figures] | None:
        """Compare a tensor in the engine that ends there, by batch; None when the engine takes no such piece.

        Args:
            tensor: Where to end.
            wanted: Inputs of the graph and what the tensor should be, by batch.
        """
        if tensor not in self._known:
            inputs = {name: wanted[0][name] for name in self.graph.inputs if self._depends(tensor, name)}
            try:
                got = self.answers(self.graph.cut_out(inputs, [tensor]), wanted)
            except (MmdeployError, ValueError) as refusal:
                logger.info("no engine that ends at %s: %s", tensor, refusal)
                self._known[tensor] = None
            else:
                tolerance = self.tolerance(tensor)
                self._known[tensor] = {
                    batch: measure(reference[tensor], answer[tensor], tolerance)
                    for batch, (reference, answer) in enumerate(zip(wanted, got, strict=True))
                }
        return self._known[tensor]

    def first_bad(self, output: str, cuts: Sequence[str], wanted: Sequence[Mapping[str, Array]]) -> str:
        """Return a tensor that is bad though all that it depends on is good.

        Args:
            output: An output that is bad.
            cuts: Tensors to look at, in the order of the graph.
            wanted: Inputs of the graph and what each of the tensors should be, by batch.
        """
        bad = output
        while True:
            line = [name for name in cuts if name in self.graph.upstream(bad, set(cuts)) and name != bad]
            low, high = 0, len(line)  # line[low - 1] is good, line[high] is bad or `bad` itself
            while low < high:
                middle = (low + high) // 2
                if self._is_bad(line[middle], wanted):
                    high = middle
                else:
                    low = middle + 1
            found = line[high] if high < len(line) else bad
            direct = [name for name in self.graph.before(found, set(cuts)) if name in cuts]
            worse = next((name for name in direct if self._is_bad(name, wanted)), None)
            if worse is None and found == bad:
                return bad
            bad = worse or found

    def findings(self) -> dict[str, TensorFinding]:
        """Return what was found of the tensors that were looked at."""
        return {
            name: finding(self.graph, name, figures, self.tolerance(name))
            for name, figures in self._known.items()
            if figures
        }

    def _is_bad(self, tensor: str, wanted: Sequence[Mapping[str, Array]]) -> bool:
        figures = self.upto(tensor, wanted)
        return figures is not None and not all(one.within for one in figures.values())

    def _depends(self, tensor: str, graph_input: str) -> bool:
        return graph_input in self.graph.before(tensor, ())


def finding(graph: TensorGraph, tensor: str, figures: Mapping[int, Figures], tolerance: Tolerance) -> TensorFinding:
    """Return a tensor of an engine as a finding."""
    first, *others = figures.values()
    for other in others:
        first = first.worse(other)
    node = graph.node(tensor)
    return TensorFinding(
        tensor=tensor,
        reference=(rounds(graph, tensor) if node is not None else None) or tensor,
        node=node.name if node is not None else "",
        op_type=node.op_type if node is not None else "",
        sqnr_db=first.sqnr_db,
        cosine=first.cosine,
        max_error=first.max_error,
        magnitude=first.magnitude,
        tolerance=str(tolerance),
        within=first.within,
        finite=first.finite,
        is_output=tensor in graph.outputs,
        batch=worst(figures),
    )
