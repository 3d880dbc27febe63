"""What a step asks a cluster for: cores, memory, a GPU, and the nodes that are of the kind that its key names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmdeploy.cluster.nodes import Facts, Node
from mmdeploy.core.errors import EnvironmentUnfitError
from mmdeploy.core.target import Target
from mmdeploy.planning.kinds import COMPOSE, ENGINE, REFERENCE, SELECT
from mmdeploy.planning.steps import PROCESSOR, Step
from mmdeploy.worker.task import Task

#: Memory of a step with its libraries, and how many times what it reads lies in it: graphs, their weights, samples.
_BASE_BYTES, _COPIES = 2**30, 4
_ON_GPU = (ENGINE, REFERENCE, SELECT, COMPOSE)


@dataclass(frozen=True)
class Demand:
    """What a step is run with.

    Attributes:
        cores: Cores that it takes; all of a node where it measures.
        gpus: GPUs that it takes.
        memory_bytes: Memory that it is thought to take.
        nodes: The nodes that may run it.
    """

    cores: int
    gpus: int
    memory_bytes: int
    nodes: tuple[Node, ...]


def demand_of(task: Task, nodes: Sequence[Node], here: Facts) -> Demand:
    """Return what a step asks for.

    Args:
        task: The step.
        nodes: Those of the cluster.
        here: The machine that the build was started on: keys are made for it.

    Raises:
        EnvironmentUnfitError: If no node can give it.
    """
    fit = fitting(task.step, task.recipe.target, nodes, here)
    gpus = int(_takes_gpu(task.step, task.recipe.target, here))
    memory = _BASE_BYTES + _COPIES * sum(one.size_bytes for one in task.artifacts.values())
    most = max(node.cores for node in fit)
    if task.step.exclusive:
        fit = tuple(node for node in fit if node.cores == most)
    return Demand(
        cores=most if task.step.exclusive else min(task.threads, most),
        gpus=gpus,
        memory_bytes=min(memory, *(node.memory_bytes for node in fit)),
        nodes=fit,
    )


def fitting(step: Step, target: Target, nodes: Sequence[Node], here: Facts) -> tuple[Node, ...]:
    """Return the nodes that may run a step.

    Raises:
        EnvironmentUnfitError: If there is none; it says why of each.
    """
    reasons = [(node, _unfit(step, target, node, here)) for node in nodes]
    fit = tuple(node for node, reason in reasons if not reason)
    if not fit:
        told = "; ".join(f"{node}: {reason}" for node, reason in reasons) or "it has no nodes"
        raise EnvironmentUnfitError(
            f"no node of the cluster can run {step.id}: {told}",
            hint="a build is for the kind of machine that it is started on: start it on a node of the kind that is "
            "wanted, or add such a node",
        )
    return fit


def _takes_gpu(step: Step, target: Target, here: Facts) -> bool:
    return target in (Target.CUDA, Target.TENSORRT) and bool(here.gpus) and (step.sort in _ON_GPU or step.exclusive)


def _unfit(step: Step, target: Target, node: Node, here: Facts) -> str:
    if node.refused:
        return node.refused
    if node.cores < 1:
        return "Ray gives no cores away there"
    if step.exclusive and node.facts.machine != here.machine:
        return f"it measures, on machines such as this one: {here.machine}"
    planned = step.identity.get(PROCESSOR)
    if planned not in (None, node.facts.instruction_sets):
        return f"it is machine code for {planned}"
    if step.identity.get("GPU", node.facts.gpus) != node.facts.gpus:
        return f"it is a plan for {step.identity['GPU']}"
    if _takes_gpu(step, target, here):
        if node.gpus < 1:
            return f"it needs a GPU ({', '.join(here.capabilities) or here.gpus}), and Ray gives none away there"
        if node.facts.gpus != here.gpus:
            return f"it needs {here.gpus}"
    return ""
