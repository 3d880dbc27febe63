"""Steps in processes of their own: whatever becomes of one, the scheduler says it and nothing is left running."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from pathlib import Path

import living_processes
import psutil
import pytest
from recorded_sets import set_artifact

from mmdeploy.building.scheduler import WorkerBugError, Workers
from mmdeploy.core.errors import DataError, MmdeployError, ModelError, StepError
from mmdeploy.planning.fingerprints import take_fingerprints
from mmdeploy.planning.kinds import OUTPUTS
from mmdeploy.planning.planner import make_plan
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.worker.run_step import Task

#: Steps that are quick and need no library: they record what the model answers, and a factory decides how it ends.
ENDINGS = {
    "well": "return Model()",
    "error": "raise OSError('no checkpoint')",
    "killed": "os.kill(os.getpid(), 9)",
    "exits": "os._exit(3)",
    "interrupted": "os.kill(os.getpid(), 2); return Model()",
    "refused": "from mmdeploy.core.errors import InferenceError; raise InferenceError('the model refused')",
    "hungry": "return np.empty(2**56)",
    "hungry tensor": "return torch.empty(2**60)",
    "long": "time.sleep(300)",
}
MODEL = """
import os, time, numpy as np, torch

class Sum(torch.nn.Module):
    def forward(self, x):
        print("said by the model", flush=True)
        return x.sum(1, keepdim=True)

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.sum = Sum()

def build():
    {ending}
"""
DATA = """
import numpy as np
def evaluation():
    for index in range(200):
        yield {"x": np.full(4, index, np.float32)}
"""
RECIPE = """
schema_version: 1
name: endings
target: cpu
model: {factory: model.py:build}
data: {evaluation: data.py:evaluation}
inputs: {x: {dtype: FP32, shape: [4]}}
components: {all: {module: sum, inputs: {x: x}, outputs: {y: y}}}
outputs: {y: {}}
gates: [{method: parity, min_cosine: 0.9}]
"""


@pytest.fixture
def task(tmp_path: Path) -> Callable[[str], Task]:
    """Makes the step that records what a model answers; the model's factory ends as asked."""

    def make(ending: str) -> Task:
        folder = tmp_path / ending
        folder.mkdir()
        (folder / "model.py").write_text(MODEL.format(ending=ENDINGS[ending]))
        (folder / "data.py").write_text(DATA)
        (folder / "recipe.yaml").write_text(RECIPE)
        recipe = load_recipe(folder / "recipe.yaml")
        step = make_plan(recipe, take_fingerprints(recipe)).step("original/outputs")
        needed = {"data/evaluation": set_artifact(recipe, "evaluation", tmp_path / "sets")}
        return Task(step, recipe, tmp_path / "store", needed, threads=1)

    return make


@pytest.fixture
def seen() -> list[tuple[str, int, int | None, str]]:
    return []


@pytest.fixture
def workers(tmp_path: Path, seen: list[tuple[str, int, int | None, str]]) -> Iterator[Workers]:
    (tmp_path / "logs").mkdir()
    with Workers([OUTPUTS], tmp_path / "logs", lambda *event: seen.append(event)) as running:
        yield running


LOG = "original.outputs.log"


def test_a_step_that_ends_well(
    task: Callable[[str], Task], workers: Workers, seen: list[tuple[str, int, int | None, str]], tmp_path: Path
) -> None:
    workers.start(task("well"))
    assert len(workers) == 1
    finished = workers.wait()
    assert len(workers) == 0
    assert (finished.step_id, finished.made) == ("original/outputs", True)
    assert finished.artifact.metadata["samples"] == 200
    assert finished.artifact.path.is_relative_to(tmp_path / "store" / "entries")
    assert finished.seconds > 0
    assert seen[-1] == ("original/outputs", 200, 200, "samples through the PyTorch model")
    assert "said by the model" in (tmp_path / "logs" / LOG).read_text()


def test_what_is_in_the_store_is_not_made_twice(task: Callable[[str], Task], workers: Workers) -> None:
    wanted = task("well")
    workers.start(wanted)
    made = workers.wait()
    workers.start(wanted)
    found = workers.wait()
    assert (made.made, found.made) == (True, False)
    assert found.artifact == made.artifact


def test_an_error_crosses_whole_with_step_and_log(
    task: Callable[[str], Task], workers: Workers, tmp_path: Path
) -> None:
    workers.start(task("error"))
    with pytest.raises(StepError, match=r"failed: OSError at model.py:15 \(build\): no checkpoint") as caught:
        workers.wait()
    assert (caught.value.step, caught.value.log) == ("original/outputs", str(tmp_path / "logs" / LOG))
    assert "Traceback" in (tmp_path / "logs" / LOG).read_text()
    assert len(workers) == 0


def test_evaluation_data_without_labels_is_refused_where_a_gate_needs_them(
    task: Callable[[str], Task], workers: Workers, tmp_path: Path
) -> None:
    unlabelled = task("well")
    recipe = load_recipe(tmp_path / "well" / "recipe.yaml", ["gates=[{method: accuracy, metric: top1, min: 0.5}]"])
    step = make_plan(recipe, take_fingerprints(recipe)).step("data/evaluation")
    workers.start(Task(step, recipe, unlabelled.store, {}, threads=1))
    with pytest.raises(DataError, match=r"the accuracy gate needs labels, but data.py:evaluation gives none") as caught:
        workers.wait()
    assert (caught.value.step, caught.value.log) == (step.id, str(tmp_path / "logs" / "data.evaluation.log"))


@pytest.mark.parametrize(
    ("ending", "how"),
    [("killed", r"signal SIGKILL \(often the kernel, for want of memory\)"), ("exits", "exit status 3")],
)
def test_a_process_that_dies_is_one_failed_step(
    task: Callable[[str], Task], workers: Workers, tmp_path: Path, ending: str, how: str
) -> None:
    workers.start(task(ending))
    with pytest.raises(StepError, match=f"the process of step original/outputs died: {how}") as caught:
        workers.wait()
    assert (caught.value.step, caught.value.log) == ("original/outputs", str(tmp_path / "logs" / LOG))
    assert caught.value.hint is not None
    assert len(workers) == 0


def test_any_error_inside_a_step_names_the_step_and_its_log(
    task: Callable[[str], Task], workers: Workers, tmp_path: Path
) -> None:
    workers.start(task("refused"))
    with pytest.raises(MmdeployError, match="the model refused") as caught:
        workers.wait()
    assert (caught.value.step, caught.value.log) == ("original/outputs", str(tmp_path / "logs" / LOG))


@pytest.mark.parametrize("ending", ["hungry", "hungry tensor"])
def test_memory_that_runs_out_in_the_recipes_code_is_told_with_what_needs_less(
    task: Callable[[str], Task], workers: Workers, tmp_path: Path, ending: str
) -> None:
    workers.start(task(ending))
    with pytest.raises(ModelError, match=r"the factory model.py:build failed: \S*Error at model.py:15") as caught:
        workers.wait()
    assert (caught.value.step, caught.value.log) == ("original/outputs", str(tmp_path / "logs" / LOG))
    assert caught.value.hint is not None
    assert "--jobs 1" in caught.value.hint


class NoMemory:
    """A place that no step can be run at for want of memory."""

    def absolute(self) -> Path:
        raise MemoryError


def test_memory_that_runs_out_anywhere_else_is_no_bug(
    task: Callable[[str], Task], workers: Workers, tmp_path: Path
) -> None:
    whole = task("well")
    workers.start(Task(whole.step, whole.recipe, NoMemory(), whole.artifacts, threads=1))  # type: ignore[arg-type]
    with pytest.raises(StepError, match="out of memory") as caught:
        workers.wait()
    assert (caught.value.step, caught.value.log) == ("original/outputs", str(tmp_path / "logs" / LOG))
    assert caught.value.hint is not None
    assert "--jobs 1" in caught.value.hint
    assert "MemoryError" in (tmp_path / "logs" / LOG).read_text()


def test_ctrl_c_is_for_the_scheduler_to_handle(task: Callable[[str], Task], workers: Workers) -> None:
    workers.start(task("interrupted"))
    assert workers.wait().made


def test_a_bug_names_its_step_and_keeps_its_traceback(
    task: Callable[[str], Task], workers: Workers, tmp_path: Path
) -> None:
    broken = task("well")
    workers.start(Task(broken.step, broken.recipe, None, broken.artifacts, threads=1))  # type: ignore[arg-type]
    with pytest.raises(WorkerBugError, match=r"^step original/outputs: ") as caught:
        workers.wait()
    assert (caught.value.step, caught.value.log) == ("original/outputs", str(tmp_path / "logs" / LOG))
    (note,) = caught.value.__notes__
    assert "in run_task" in note
    assert "\n" not in str(caught.value)


def test_stop_ends_what_runs(task: Callable[[str], Task], workers: Workers) -> None:
    workers.start(task("long"))
    (running,) = workers._running.values()
    process = psutil.Process(running.process.pid)
    workers.stop()
    living_processes.assert_ended([process])


def test_leaving_the_context_ends_what_runs(task: Callable[[str], Task], tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    with pytest.raises(KeyboardInterrupt), Workers([OUTPUTS], tmp_path / "logs", lambda *_: None) as workers:
        workers.start(task("long"))
        process = psutil.Process(next(iter(workers._running.values())).process.pid)
        raise KeyboardInterrupt
    living_processes.assert_ended([process])


def test_the_signal_mask_is_left_as_it_was(task: Callable[[str], Task], workers: Workers) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    workers.start(task("well"))
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
    workers.wait()


@pytest.mark.parametrize("told", [False, True])
def test_ctrl_c_in_the_middle_of_a_start_waits_and_breaks_no_process(
    task: Callable[[str], Task],
    workers: Workers,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    told: bool,
) -> None:
    """A thread of a library has no mask, takes the signal, and Python raises in this one all the same."""
    ended = threading.Event()
    threading.Thread(target=ended.wait, daemon=True).start()
    connect = forkserver._forkserver.connect_to_new_process
    heard: list[int] = []

    def interrupted(descriptors: list[int]) -> tuple[int, int]:
        found = connect(descriptors)
        came, told_by = os.pipe()
        os.set_blocking(told_by, False)
        before = signal.set_wakeup_fd(told_by)
        try:
            os.kill(os.getpid(), signal.SIGINT)
            assert select.select([came], [], [], 60)[0], "the thread that takes it has not run"
        finally:
            signal.set_wakeup_fd(before)
            os.close(came)
            os.close(told_by)
        return found

    monkeypatch.setattr(forkserver, "connect_to_new_process", interrupted)
    before = signal.signal(signal.SIGINT, lambda number, _: heard.append(number)) if told else None
    try:
        with contextlib.nullcontext() if told else pytest.raises(KeyboardInterrupt):
            workers.start(task("well"))
        assert len(workers) == 1, "it is known, and can be ended"
        assert workers.wait().step_id
    finally:
        ended.set()
        if before is not None:
            signal.signal(signal.SIGINT, before)
    assert heard == [signal.SIGINT] * told
    assert "Traceback" not in capfd.readouterr().err


LEAVES_A_SEMAPHORE = """
import os
import multiprocessing
from mmdeploy.building.scheduler import start_tracker
if {quiet}:
    start_tracker()
lock = multiprocessing.get_context("spawn").Lock()
os._exit(0)  # as a step does that is ended: it gives nothing back
"""


@pytest.mark.parametrize("quiet", [True, False])
def test_what_an_ended_step_leaves_is_removed_without_a_word(quiet: bool) -> None:
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONWARNINGS"}
    script = LEAVES_A_SEMAPHORE.format(quiet=quiet)
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environ, check=True)
    assert ("leaked" in run.stderr) is not quiet


def test_steps_find_the_methods_that_the_recipe_names_imported(tmp_path):
    recipe = Path(__file__).parents[2] / "tiny_recipe/recipe.yaml"
    program = (
        "from multiprocessing import forkserver\n"
        "from pathlib import Path\n"
        "from mmdeploy.building.scheduler import Workers\n"
        "from mmdeploy.recipe.loader import load_recipe\n"
        f"load_recipe(Path({str(recipe)!r}))\n"
        f"Workers((), Path({str(tmp_path)!r}), print)\n"
        "print(*forkserver._forkserver._preload_modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    preloaded = done.stdout.split()
    assert {"mmdeploy.quantize.static", "mmdeploy.engines.onnxruntime", "mmdeploy.gates.parity"} <= {*preloaded}
    assert "mmdeploy.quantize.qat" not in preloaded
    assert preloaded[-1] == "mmdeploy.worker.preloaded"  # it freezes what is there
