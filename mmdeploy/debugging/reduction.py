"""The smallest piece of a graph that shows a fault, on disk, with the ``polygraphy run`` that shows it again."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmdeploy.core.artifact import Array
from mmdeploy.core.errors import MmdeployError
from mmdeploy.debugging.figures import Tolerance, measure, quiet
from mmdeploy.debugging.findings import Reproduction
from mmdeploy.debugging.tensors import TensorGraph
from mmdeploy.engines.graph_files import save_graph

logger = logging.getLogger(__name__)

MODEL, INPUTS, EXPECTED, SCRIPT = "subgraph.onnx", "inputs.json", "expected.json", "command.sh"
_SECONDS = 300


@dataclasses.dataclass(frozen=True)
class Fault:
    """A tensor that is bad.

    Attributes:
        graph: Where it is.
        tensor: Its name.
        wanted: Reference of one batch: the graph's inputs, and what each tensor should be.
        cuts: Tensors at which a piece may start.
        tolerance: What the tensor leaves.
    """

    graph: TensorGraph
    tensor: str
    wanted: Mapping[str, Array]
    cuts: Sequence[str]
    tolerance: Tolerance


#: Runs a model on a feed dict.
Run = Callable[[Any, Mapping[str, Array]], Mapping[str, Array]]


def reduced(fault: Fault, run: Run) -> Any:
    """Return the model of the fewest nodes before a bad tensor that is still bad when it is fed what should be there.

    It starts as short as can be and grows by the nodes before it; the whole graph up to the tensor is the last resort.
    """
    graph, cuts = fault.graph, set(fault.cuts)
    model: Any = None
    for starts in _longer_and_longer(graph, fault.tensor, cuts):
        given = {name: fault.wanted[name] for name in starts}
        try:
            model = graph.cut_out(given, [fault.tensor])
            answer = run(model, given)[fault.tensor]
        except (MmdeployError, ValueError) as refusal:
            logger.info("no piece that starts at %s: %s", ", ".join(starts), refusal)
            continue
        if not measure(fault.wanted[fault.tensor], answer, fault.tolerance).within:
            break
    if model is None:
        inputs = {name: fault.wanted[name] for name in graph.inputs}
        model = graph.cut_out(inputs, [fault.tensor])
    return model


def _longer_and_longer(graph: TensorGraph, tensor: str, cuts: set[str]) -> Iterator[list[str]]:
    """Yield where a piece may start: at the nearest tensors, then 1, 2, 4 … nodes before them, up to the inputs."""
    inside: set[str] = set()
    further = 1
    starts = graph.before(tensor, cuts - {tensor})
    while True:
        yield starts
        if all(name in graph.inputs for name in starts):
            return
        for _ in range(further):
            inside.update(name for name in starts if name not in graph.inputs)
            starts = graph.before(tensor, cuts - inside - {tensor})
        further *= 2


def write(fault: Fault, run: Run, folder: Path, runner: Sequence[str]) -> Reproduction:
    """Reduce a fault and write it down, with the command that shows it.

    Args:
        fault: The bad tensor.
        run: What shows the fault.
        folder: Where to write.
        runner: Arguments of ``polygraphy run`` that run a model in the same way.
    """
    from polygraphy.comparator import RunResults
    from polygraphy.json import save_json

    model = reduced(fault, run)
    inputs = {value.name: fault.wanted[value.name] for value in model.graph.input}
    folder.mkdir(parents=True, exist_ok=True)
    save_graph(model, folder / MODEL)
    with quiet():
        save_json([inputs], str(folder / INPUTS))
        expected = RunResults()
        expected.add([{fault.tensor: fault.wanted[fault.tensor]}], runner_name="reference")
        expected.save(str(folder / EXPECTED))
    arguments = [
        "run", MODEL, *runner, "--load-inputs", INPUTS, "--load-outputs", EXPECTED,
        *_stricter(fault.tolerance).arguments(),
    ]  # fmt: skip
    line = shlex.join(["polygraphy", *arguments])
    (folder / SCRIPT).write_text(
        f'#!/bin/sh\n# Fails while the fault is there.\ncd "$(dirname "$0")" && exec {line}\n', encoding="utf-8"
    )
    (folder / SCRIPT).chmod(0o755)
    return Reproduction(
        folder=folder,
        nodes=len(model.graph.node),
        inputs=tuple(inputs),
        command=f"cd {shlex.quote(str(folder))} && {line}",
        reproduces=_fails(arguments, folder),
    )


def _stricter(tolerance: Tolerance) -> Tolerance:
    """Return the tolerance that Polygraphy's command judges by.

    It takes the power of the answer for the signal, where we take that of the reference. An answer is at most as strong
    as the reference and the noise together: what fails here then fails there.
    """
    if tolerance.min_sqnr_db is None:
        return tolerance
    ratio = 10 ** (tolerance.min_sqnr_db / 20) + 1
    return Tolerance(math.ceil(200 * math.log10(ratio)) / 10)


def _fails(arguments: Sequence[str], folder: Path) -> bool:
    """Say whether the command shows the fault, by running it."""
    program = [sys.executable, "-c", "import sys; from polygraphy.tools import main; sys.exit(main())"]
    try:
        done = subprocess.run(
            [*program, *arguments], cwd=folder, capture_output=True, text=True, timeout=_SECONDS, check=False,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return False
    (folder / "command.log").write_text(done.stdout + done.stderr, encoding="utf-8")
    return done.returncode != 0 and "Pass Rate" in done.stdout + done.stderr
