"""Nodes that go back to float where INT8 leaves too little of a graph's answers: the worst first, until enough is left.

Each quantized node is looked at alone, its inputs being those of the float graph, so that a node that is bad is told
from one that only passes on what was bad before it. Of a graph that is good enough the worst nodes are told, on very
few samples: a gate that fails later names them.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmdeploy.core import graph_passes
from mmdeploy.core.agreement import sqnr_db
from mmdeploy.core.artifact import Array
from mmdeploy.core.errors import QuantizeError
from mmdeploy.core.sessions import AS_WRITTEN
from mmdeploy.quantize import ranges
from mmdeploy.quantize.set_aside import SetAside

logger = logging.getLogger(__name__)

#: Nodes that are told of, and the samples that they are looked at on where that is for advice alone.
_TOLD_NODES = 3
_SAMPLES_FOR_ADVICE = 2
#: Stands before the name of what a node computes where its readers are given the float graph's tensor.
_OWN = "own noise of "


@dataclass(frozen=True)
class WorstNodes:
    """The nodes that INT8 takes most from, for advice.

    Attributes:
        worst_nodes: SQNR of each alone, in dB, the worst first.
    """

    worst_nodes: dict[str, float]


def worst_nodes(
    model: Any, quantized: Any, nodes: Collection[str], feed: Mapping[str, Array], *, threads: int
) -> WorstNodes:
    """Look at the quantized nodes one by one on the first samples of a batch, for advice; arguments as `own_noise_db`.

    A graph that cannot be cut open is no failure here: then no node is named.
    """
    few = {name: array[:_SAMPLES_FOR_ADVICE] for name, array in feed.items()}
    try:
        alone = own_noise_db(model, quantized, nodes, few, threads=threads)
    except QuantizeError as error:
        logger.info("no node is looked at alone: %s", error)
        return WorstNodes({})
    return WorstNodes(dict(itertools.islice(alone.items(), _TOLD_NODES)))


def own_noise_db(
    model: Any, quantized: Any, nodes: Collection[str], feed: Mapping[str, Array], *, threads: int
) -> dict[str, float]:
    """Return the SQNR of what each node gives from exact inputs, the worst first.

    Args:
        model: The float graph, set aside or whole.
        quantized: The same with Q/DQ pairs.
        nodes: Names of its quantized nodes; those whose output the float graph does not have are left out.
        feed: A batch of inputs.
        threads: Threads for ONNX Runtime.
    """
    computed = {name for node in model.graph.node for name in node.output if name}
    rounded = [node.input[0] for node in quantized.graph.node if node.op_type == "QuantizeLinear"]
    given = [name for name in dict.fromkeys(rounded) if name in computed]
    outputs = {node.name: node.output[0] for node in quantized.graph.node if node.name in nodes}
    outputs = {node: name for node, name in outputs.items() if name in computed}
    wanted = list(dict.fromkeys([*given, *outputs.values()]))
    with ranges.watching(model, wanted, threads) as watch:
        exact = dict(watch(feed))
    answers = _apart(quantized, given, list(dict.fromkeys(outputs.values())), {**feed, **exact}, threads)
    found = {node: sqnr_db(exact[name], answers[name]) for node, name in outputs.items()}
    return dict(sorted(((node, db) for node, db in found.items() if db is not None), key=lambda one: one[1]))


def for_their_size(alone: Mapping[str, float], model: Any) -> list[str]:
    """Return nodes in another order: the most noise for the numbers in their weights first.

    Args:
        alone: SQNR of each alone, in dB.
        model: The float graph.
    """
    sizes = {weight.name: math.prod(weight.dims) for weight in model.graph.initializer}
    numbers = {node.name: max(sizes.get(name, 1) for name in node.input) for node in model.graph.node if node.input}
    return sorted(alone, key=lambda node: alone[node] + 10 * math.log10(numbers[node]))


def portions(ranked: Sequence[str], total: int) -> list[list[str]]:
    """Return how many of the worst nodes to give back at a time: 1, 2, 4 and so on, and never all there are."""
    found, count = [], 1
    while count <= len(ranked) and count < total:
        found.append(list(ranked[:count]))
        count *= 2
    return found


def _apart(
    model: Any, given: Sequence[str], outputs: Sequence[str], tensors: Mapping[str, Array], threads: int
) -> dict[str, Array]:
    """Run a graph as it is written with the given tensors in place of what it computes there."""
    from onnx import TensorProto, helper

    cut = SetAside(model)
    graph, replaced = cut.graph, set(given)
    for node in graph.node:
        for index, name in enumerate(node.output):
            if name in replaced:
                node.output[index] = f"{_OWN}{name}"
    graph.input.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in given)
    called = {f"{_OWN}{name}" if name in replaced else name: name for name in outputs}
    del graph.output[:], graph.value_info[:]
    graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in called)
    graph_passes.drop_unused(cut.model)
    try:
        session = cut.session(threads, level=AS_WRITTEN)
        wanted = {value.name for value in session.get_inputs()}
        answers = session.run(list(called), {name: tensors[name] for name in wanted})
    except Exception as cause:
        raise QuantizeError(f"ONNX Runtime cannot run the quantized nodes alone: {cause}") from cause
    return dict(zip(called.values(), answers, strict=True))
