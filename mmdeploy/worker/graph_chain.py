"""Components' graphs run one after the other on samples, a batch at a time, in process.

Tensors are kept in memory while they are small, and in unnamed memory-mapped files otherwise.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmdeploy.core.contracts import Array, Runner
from mmdeploy.core.errors import InferenceError
from mmdeploy.core.samples import Gathered, Samples
from mmdeploy.core.sessions import SessionRunner, open_session

if TYPE_CHECKING:
    from mmdeploy.recipe.schema import Recipe
    from mmdeploy.worker.modalities import Modalities

#: Samples that pass through a component at once.
BATCH = 32
#: Tensors larger than this are kept in files.
IN_MEMORY_BYTES = 64 * 2**20


class GraphChain:
    """Runs graphs of a recipe's components."""

    def __init__(self, recipe: Recipe, modalities: Modalities, *, threads: int) -> None:
        """Take the recipe.

        Args:
            recipe: The recipe.
            modalities: What stands in for inputs that samples lack.
            threads: Of each session.
        """
        self._recipe, self._modalities = recipe, modalities
        self._parameters = {"intra_op_thread_count": str(threads)}

    def opened(self, path: Path) -> Runner:
        """Load a graph.

        Raises:
            EngineError: If ONNX Runtime refuses it.
        """
        return SessionRunner(open_session(path, self._parameters))

    def through(
        self,
        runners: Mapping[str, Runner],
        tensors: Samples,
        *,
        keep: Sequence[str],
        batch_size: int = BATCH,
    ) -> dict[str, Array]:
        """Run samples through components in order, a batch at a time; return the columns to keep.

        Args:
            runners: By component, in the order in which they run.
            tensors: What they read that none of them writes.
            keep: Names of ensemble tensors.
            batch_size: Samples that pass through at once.

        Raises:
            InferenceError: If a component does not run, naming it.
        """
        known = {name: tensors[name] for name in keep if name in tensors}
        made = {name: Gathered(tensors.count, _room) for name in keep if name not in known}
        for rows in tensors.batches(batch_size) if made else ():
            batch = tensors.take(rows)
            batch = self._modalities.through(functools.partial(self._run, runners), batch)
            for name, gathered in made.items():
                gathered.put(rows, batch[name])
        return known | {name: gathered.column() for name, gathered in made.items()}

    def _run(
        self, runners: Mapping[str, Runner], batch: dict[str, Array], without: Collection[str]
    ) -> dict[str, Array]:
        for component, runner in runners.items():
            if component not in without:
                batch |= self._answers(component, runner, batch)
        return batch

    def _answers(self, component: str, runner: Runner, tensors: Mapping[str, Array]) -> dict[str, Array]:
        wires = self._recipe.components[component]
        try:
            answers = runner.infer({name: tensors[wire.tensor] for name, wire in wires.inputs.items()})
        except InferenceError as error:
            raise InferenceError(f"{component}, run on validation samples: {error.message}", hint=error.hint) from error
        return {wire.tensor: answers[name] for name, wire in wires.outputs.items()}


def _room(samples: int, like: Array) -> Array:
    """Return an array for all samples of a tensor of which a batch is given; a large one lies in an unnamed file."""
    import numpy as np

    shape = (samples, *like.shape[1:])
    if like.nbytes // max(1, len(like)) * samples <= IN_MEMORY_BYTES:
        return np.empty(shape, like.dtype)
    with tempfile.TemporaryFile(prefix="mmdeploy-fused-") as file:  # the mapping keeps it after it is closed
        return np.memmap(file, like.dtype, "w+", shape=shape)
