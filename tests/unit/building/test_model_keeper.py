"""The model is loaded once and steps are forked from that process: what they make and know is as if each had loaded."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import living_processes
import psutil
import pytest
from recorded_sets import set_artifact

from mmdeploy.building.scheduler import Workers
from mmdeploy.core.errors import ModelError, StepError
from mmdeploy.core.store import Store
from mmdeploy.planning.fingerprints import take_fingerprints
from mmdeploy.planning.kinds import OUTPUTS
from mmdeploy.planning.planner import make_plan
from mmdeploy.planning.recipe_inputs import take_inputs
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.worker.run_step import Task
from mmdeploy.worker.step_process import Finished

MODEL = """
import os, random, threading, time
from pathlib import Path
import numpy as np, torch

class Sum(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.asked = 0
        self.weight = torch.nn.Parameter(torch.rand(1) + float(np.random.rand()) + random.random())

    def forward(self, x):
        self.asked += 1
        {called}
        return x.sum(1, keepdim=True) * self.weight

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.sum = Sum()

def build():
    with open("{calls}", "a") as calls:
        calls.write("called\\n")
    Path(__file__).with_name("size.txt").read_text()
    torch.manual_seed(3); np.random.seed(3); random.seed(3)
    {does}
    return Model()
"""
RECIPE = """
schema_version: 1
name: kept
target: cpu
model: {factory: model.py:build}
data: {evaluation: data.py:evaluation}
inputs: {x: {dtype: FP32, shape: [4]}}
components: {all: {module: sum, inputs: {x: x}, outputs: {y: y}}}
outputs: {y: {}}
gates: [{method: parity, min_cosine: 0.9}]
"""
DATA = """
import numpy as np
def evaluation():
    for index in range(3):
        yield {"x": np.full(4, index, np.float32)}
"""
Tasks = Callable[..., list[Task]]


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    return tmp_path / "calls.txt"


@pytest.fixture
def tasks(tmp_path: Path, calls: Path) -> Tasks:
    """Makes two steps that record what one model answers, which does things while it is built and when it is called."""

    def make(*, does: str = "pass", called: str = "pass") -> list[Task]:
        folder = tmp_path / "recipe"
        folder.mkdir(exist_ok=True)
        (folder / "model.py").write_text(MODEL.format(does=does, called=called, calls=calls))
        (folder / "size.txt").write_text("4")
        (folder / "data.py").write_text(DATA)
        (folder / "recipe.yaml").write_text(RECIPE)
        recipe = load_recipe(folder / "recipe.yaml")
        step = make_plan(recipe, take_fingerprints(recipe)).step("original/outputs")
        needed = {"data/evaluation": set_artifact(recipe, "evaluation", tmp_path / "sets")}
        again = replace(step, id="original/again", identity={**step.identity, "again": "yes"})
        return [Task(one, recipe, tmp_path / "store", needed, threads=1) for one in (step, again)]

    return make


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    (tmp_path / "logs").mkdir()
    with Workers([OUTPUTS], tmp_path / "logs", lambda *_: None) as running:
        yield running


def answers(finished: Finished) -> bytes:
    """Return what the model answered in a step."""
    return b"".join(file.read_bytes() for file in sorted(finished.artifact.path.parent.glob("*.npy")))


def ran(workers: Workers, tasks: list[Task]) -> list[bytes]:
    """Run steps one after the other as a build does; return what the model answered in each."""
    made = []
    for index, task in enumerate(tasks):
        workers.foresee(one.step for one in tasks[index:])
        workers.start(task)
        made.append(answers(workers.wait()))
    return made


def test_two_steps_call_the_factory_once_and_each_has_a_model_that_nobody_called(
    tasks: Tasks, workers: Workers, calls: Path
) -> None:
    both = tasks(called="assert self.asked <= 2")  # each step asks twice: all samples, and those at the bounds
    shared = ran(workers, both)
    assert calls.read_text().splitlines() == ["called"]
    workers.foresee([])
    alone = [replace(task, fresh=True) for task in both[:1]]
    assert ran(workers, alone) == shared[:1] == shared[1:]  # as seeded
    assert len(calls.read_text().splitlines()) == 2


def test_the_model_can_be_loaded_before_its_steps_may_start(tasks: Tasks, workers: Workers, calls: Path) -> None:
    both = tasks()
    workers.foresee(one.step for one in both[:1])
    workers.prepare(both[0])  # not for one step, which may as well load it
    workers.foresee(one.step for one in both)
    for _ in range(2):
        workers.prepare(replace(both[0], artifacts={}))
    deadline = time.monotonic() + 60
    while not calls.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(set(ran(workers, both))) == 1
    assert calls.read_text().splitlines() == ["called"]


def test_what_the_factory_read_is_known_as_if_each_step_had_loaded_it(
    tasks: Tasks, workers: Workers, tmp_path: Path
) -> None:
    both = tasks()
    ran(workers, both[:1])
    store, recipe = Store(tmp_path / "store"), both[0].recipe
    alone = take_inputs(recipe, store)
    ran(workers, [replace(task, fresh=True) for task in both])
    assert take_inputs(recipe, store) == alone
    (recipe.root / "size.txt").write_text("5")
    assert take_inputs(recipe, store) != alone


def test_a_file_that_changes_after_the_model_was_loaded_stops_the_steps(tasks: Tasks, workers: Workers) -> None:
    both = tasks()
    workers.foresee(one.step for one in both)
    workers.start(both[0])
    workers.wait()
    (both[0].recipe.root / "size.txt").write_text("another")
    workers.start(both[1])
    with pytest.raises(StepError, match=r"size.txt changed while model.py:build was running"):
        workers.wait()


def test_a_step_that_was_planned_after_code_or_weights_changed_has_the_new_model(
    tasks: Tasks, workers: Workers, calls: Path, tmp_path: Path
) -> None:
    first, store = tasks()[0], Store(tmp_path / "store")
    waiting = [replace(first, inputs=take_inputs(first.recipe, store)), *tasks()]
    workers.foresee(one.step for one in waiting)
    workers.start(waiting[0])
    old = answers(workers.wait())
    code = first.recipe.root / "model.py"
    code.write_text(code.read_text().replace("manual_seed(3)", "manual_seed(4)"))
    planned = [replace(one, inputs=take_inputs(first.recipe, store), fresh=True) for one in waiting[:2]]
    made = set()
    for task in planned:
        workers.start(task)
        made.add(answers(workers.wait()))
    assert len(made) == 1 and old not in made
    assert len(calls.read_text().splitlines()) == 2


def test_a_process_that_was_killed_between_steps_is_made_again(tasks: Tasks, workers: Workers, calls: Path) -> None:
    both = tasks()
    workers.foresee(one.step for one in both)
    workers.start(both[0])
    made = answers(workers.wait())
    (keeper,) = workers._keeper._processes
    keeper.kill()
    keeper.join()
    workers.start(both[1])
    assert answers(workers.wait()) == made
    assert len(calls.read_text().splitlines()) == 2


def test_threads_that_end_by_themselves_and_those_of_progress_bars_are_waited_for(
    tasks: Tasks, workers: Workers, calls: Path
) -> None:
    ran(workers, tasks(does="import tqdm; [*tqdm.tqdm([1])]; threading.Thread(target=time.sleep, args=(0.3,)).start()"))
    assert calls.read_text().splitlines() == ["called"]


@pytest.mark.parametrize(
    "does",
    [
        "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
        "global kept; kept = open(__file__)",
        "import subprocess; subprocess.Popen(['sleep', '10'])",
        "if len(open('{calls}').readlines()) == 1: os.kill(os.getpid(), 9)",
        "if len(open('{calls}').readlines()) == 1: os._exit(0)",
        "import mmap; global kept; kept = mmap.mmap(-1, 4096)",
    ],
)
def test_a_process_that_no_fork_copies_is_not_shared(tasks: Tasks, workers: Workers, calls: Path, does: str) -> None:
    both = tasks(does=does.format(calls=calls))
    assert len(set(ran(workers, both))) == 1
    assert len(calls.read_text().splitlines()) == 3


def test_a_factory_that_fails_is_told_of_by_its_step(tasks: Tasks, workers: Workers) -> None:
    with pytest.raises(ModelError, match=r"the factory model.py:build failed: OSError at model.py:\d+ \(build\): gone"):
        ran(workers, tasks(does="raise OSError('gone')"))


def test_a_step_that_dies_is_one_failed_step(tasks: Tasks, workers: Workers) -> None:
    both = tasks(called="os.kill(os.getpid(), 11)")
    with pytest.raises(StepError, match="the process of step original/outputs died: signal SIGSEGV"):
        ran(workers, both)
    assert len(workers) == 0


def test_nothing_is_left_of_a_model_that_is_still_loaded_when_the_build_ends(
    tasks: Tasks, workers: Workers, calls: Path
) -> None:
    both = tasks(does="open(calls.name, 'a').write(str(os.getpid()) + '\\n'); time.sleep(300)")
    workers.foresee(one.step for one in both)
    workers.prepare(both[0])
    deadline = time.monotonic() + 60
    while len(calls.read_text().splitlines() if calls.exists() else ()) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    loading = psutil.Process(int(calls.read_text().splitlines()[1]))
    workers.stop()
    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        assert not loading.num_fds(), "a disk that it writes its log to could not be taken away"


def test_nothing_is_left_of_steps_that_are_ended(tasks: Tasks, workers: Workers, calls: Path) -> None:
    both = tasks(called=f"open('{calls}', 'a').write(str(os.getpid()) + '\\n'); time.sleep(300)")
    workers.foresee(one.step for one in both)
    for task in both:
        workers.start(task)
    deadline = time.monotonic() + 60
    while len(calls.read_text().splitlines() if calls.exists() else ()) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    processes = [psutil.Process(int(line)) for line in calls.read_text().splitlines()[1:]]
    assert len(processes) == 2
    workers.stop()
    living_processes.assert_ended(processes)
