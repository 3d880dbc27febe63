"""All of mmdeploy's code that really runs inside a step is in the step's key."""

import sys
import threading
from pathlib import Path
from types import FrameType

import pytest

import mmdeploy
from mmdeploy.core.store import Store
from mmdeploy.planning.fingerprints import take_fingerprints
from mmdeploy.planning.planner import make_plan
from mmdeploy.planning.steps import Goal
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.worker.run_step import run_task
from mmdeploy.worker.task import Task

TESTS = Path(__file__).parents[1]
PACKAGE = Path(mmdeploy.__file__).parent
SPLITS = ("data.training=data.py:training", "data.validation=data.py:validation")
#: What addresses a step's result and what watches it: neither has a say in what the result is.
ADDRESSING = {
    "mmdeploy/core/digests.py", "mmdeploy/core/file_state.py", "mmdeploy/core/shared_notes.py",
    "mmdeploy/core/store.py", "mmdeploy/model/distributions.py", "mmdeploy/model/fanotify.py",
    "mmdeploy/model/fronts.py", "mmdeploy/model/imports.py", "mmdeploy/model/inotify.py",
    "mmdeploy/model/log_of_reads.py", "mmdeploy/model/native_opens.py", "mmdeploy/model/other_processes.py",
    "mmdeploy/model/passing_over.py", "mmdeploy/model/places.py", "mmdeploy/model/reads.py",
    "mmdeploy/model/tensors.py", "mmdeploy/worker/watched_inputs.py",
}  # fmt: skip
#: Which steps there are, of which options and inputs, stands in an identity by its value; what a method's name stands
#: for is found by the registry, and the method's own code is in the key; a gate names the metric, whose code is, too.
BY_VALUE = (
    "mmdeploy/planning/", "mmdeploy/recipe/", "mmdeploy/choice/options.py", "mmdeploy/plugins/registry.py",
    "mmdeploy/gates/accuracy.py", "mmdeploy/scoring/metric_spec.py",
)  # fmt: skip
#: What may end a kind of step early and has no say in what it gives: the original is scored by the gates' metrics so
#: that one that fails is told now and not when everything is served. The gate itself scores it again.
REFUSING = {"outputs": ("mmdeploy/scoring/",)}
RECIPES: dict[str, tuple[str, tuple[str, ...], Goal]] = {
    "static, dynamic": ("tiny", ("components.right.quantize={method: dynamic}",), "build"),
    "pruned, trained": (
        "tiny",
        (
            "components.fusion.prune={method: structured, ratio: 0.5}",
            "components.fusion.recover={method: finetune, epochs: 1}",
            "components.right.quantize={method: qat, epochs: 1}",
            *SPLITS,
        ),
        "build",
    ),
    "searched, measured": (
        "tiny",
        (
            "components.left.quantize={method: auto, max_drop: 0.5}",
            "components.left.keep=if_it_pays",
            "components.fusion.engine=auto",
            *SPLITS,
        ),
        "build",
    ),
    "sensitivity": ("tiny", SPLITS, "sensitivity"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_what_runs_in_a_step_is_in_its_key(name: str, tmp_path: Path) -> None:
    folder, overrides, goal = RECIPES[name]
    recipe = load_recipe(TESTS / f"{folder}_recipe" / "recipe.yaml", overrides)
    store = Store(tmp_path / "store")
    plan = make_plan(recipe, take_fingerprints(recipe, store), goal)
    artifacts = {}
    for step in plan.steps:
        called: set[str] = set()

        # Traced, not profiled: told of calls of Python alone, a fifth of what a profiler is told.
        def note(frame: FrameType, _: str, __: object, called: set[str] = called) -> None:
            if frame.f_code.co_name != "<module>":
                called.add(frame.f_code.co_filename)

        task = Task(step, recipe, store.root, {need: artifacts[need] for need in step.needs}, threads=2)
        threading.settrace(note)
        sys.settrace(note)
        try:
            artifacts[step.id], _ = run_task(task, lambda *_: None)
        finally:
            sys.settrace(None)
            threading.settrace(None)  # type: ignore[arg-type]
        ran = {f"mmdeploy/{Path(file).relative_to(PACKAGE)}" for file in called if file.startswith(f"{PACKAGE}/")}
        known = set(plan.parts[step.identity["mmdeploy's own code"]])
        excused = (*BY_VALUE, *REFUSING.get(step.kind, ()))
        missing = {file for file in ran - known - ADDRESSING if not file.startswith(excused)}
        assert not missing, f"{step.id} runs code that is not in its key"
        assert f"mmdeploy/{Path(step.sort.runs.partition(':')[0].replace('.', '/')).relative_to('mmdeploy')}.py" in ran
