"""Which nodes may take a step, and what it asks them for."""

from dataclasses import replace
from pathlib import Path

import pytest

from mmdeploy.cluster.demands import demand_of, fitting
from mmdeploy.cluster.nodes import Facts, Node
from mmdeploy.core.errors import EnvironmentUnfitError
from mmdeploy.core.target import Target
from mmdeploy.planning.fingerprints import take_fingerprints
from mmdeploy.planning.planner import make_plan
from mmdeploy.planning.steps import PROCESSOR, Step
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.worker.task import Task

HERE = Facts("here", ("boot",), "EPYC, 4 cores", "x86_64 avx2", "", (), {"torch": "2.13.0"}, {"mmdeploy/a.py": "1"})
L4 = replace(HERE, name="l4", gpus="NVIDIA L4", capabilities=("sm89",))
NODE = Node("1", 4, 0, 2**34, HERE)


@pytest.fixture
def step(tiny_recipe: Path) -> Step:
    recipe = load_recipe(tiny_recipe)
    return make_plan(recipe, take_fingerprints(recipe)).step("fusion/engine")


def node(name: str, *, cores: int = 4, gpus: int = 0, refused: str = "", **facts: object) -> Node:
    return Node(name, cores, gpus, 2**34, replace(HERE, name=name, **facts), refused)  # type: ignore[arg-type]


def test_a_step_runs_anywhere_unless_its_key_names_hardware(step: Step) -> None:
    other = node("other", machine="Xeon, 8 cores", instruction_sets="x86_64 amx_int8")
    assert fitting(step, Target.CPU, [NODE, other], HERE) == (NODE, other)
    native = replace(step, identity={**step.identity, PROCESSOR: "x86_64 amx_int8"})
    assert fitting(native, Target.CPU, [NODE, other], HERE) == (other,)
    assert fitting(replace(step, exclusive=True), Target.CPU, [NODE, other], HERE) == (NODE,)


def test_a_kind_of_node_that_is_not_there_is_named_at_once(step: Step) -> None:
    native = replace(step, identity={**step.identity, PROCESSOR: "x86_64 amx_int8"})
    with pytest.raises(EnvironmentUnfitError, match=r"no node of the cluster can run fusion/engine: here .*amx_int8"):
        fitting(native, Target.CPU, [NODE], HERE)
    with pytest.raises(EnvironmentUnfitError, match=r"it needs a GPU \(sm89\), and Ray gives none away there"):
        fitting(step, Target.CUDA, [NODE], L4)
    with pytest.raises(EnvironmentUnfitError, match="it has no nodes"):
        fitting(step, Target.CPU, [], HERE)


def test_a_node_that_is_refused_takes_nothing(step: Step) -> None:
    refused = node("stale", refused="torch is 2.12.0 there and 2.13.0 here")
    assert fitting(step, Target.CPU, [refused, NODE], HERE) == (NODE,)
    with pytest.raises(EnvironmentUnfitError, match=r"stale .*: torch is 2\.12\.0 there and 2\.13\.0 here"):
        fitting(step, Target.CPU, [refused], HERE)


def test_what_measures_takes_all_of_a_node(step: Step, tiny_recipe: Path) -> None:
    task = Task(step, load_recipe(tiny_recipe), Path("store"), {}, threads=2)
    small = node("small", cores=1)
    asked = demand_of(task, [small, NODE], HERE)
    assert (asked.cores, asked.gpus, asked.nodes) == (2, 0, (small, NODE))
    assert asked.memory_bytes == 2**30
    alone = demand_of(replace(task, step=replace(step, exclusive=True)), [small, NODE], HERE)
    assert (alone.cores, alone.nodes) == (4, (NODE,))


def test_a_gpu_is_asked_for_by_what_runs_on_one(step: Step, tiny_recipe: Path) -> None:
    recipe = load_recipe(tiny_recipe).model_copy(update={"target": Target.CUDA})
    with_gpu = Node("l4", 4, 1, 2**34, L4)
    assert demand_of(Task(step, recipe, Path("store"), {}, threads=2), [NODE, with_gpu], L4).gpus == 1
    export = replace(step, kind="export", id="fusion/export")
    assert demand_of(Task(export, recipe, Path("store"), {}, threads=2), [NODE, with_gpu], L4).gpus == 0
