"""Which of the steps that wait may start now."""

import pytest

from mmdeploy.building.crew import Crew
from mmdeploy.building.turns import next_with_model, startable
from mmdeploy.planning.steps import Decision, Step


def decided(step_id: str, *, needs: tuple[str, ...] = (), exclusive: bool = False) -> Decision:
    component, _, kind = step_id.partition("/")
    step = Step(step_id, component, kind, kind, {}, needs, {"made": step_id}, exclusive=exclusive)
    return Decision(step, False, "never built")


HEAD, IMAGE = decided("head/export"), decided("image/export")
TEXT = decided("text/quantize", needs=("text/export",))
MADE = {"text/export": None}


@pytest.mark.parametrize(
    ("running", "waiting", "order"),
    [
        ([], [TEXT, HEAD], ["head/export", "text/quantize"]),  # then the model can be let go
        ([IMAGE], [HEAD, TEXT], ["text/quantize", "head/export"]),  # it is held anyway, and the tower takes longer
        ([decided("text/engine")], [TEXT, HEAD], ["head/export", "text/quantize"]),
        ([IMAGE], [HEAD, TEXT, decided("x/engine"), decided("x/prune")],
         ["x/prune", "text/quantize", "head/export", "x/engine"]),
        ([HEAD], [TEXT, IMAGE, decided("image/quantize", needs=("image/export",))], ["image/export", "text/quantize"]),
    ],
)  # fmt: skip
def test_a_small_export_waits_while_the_model_is_held_anyway(running, waiting, order):
    under_way = {one.step.key: one for one in running}
    assert [one.step.id for one in startable(waiting, MADE, under_way)] == order


@pytest.mark.parametrize(
    ("running", "waiting", "ahead"),
    [
        (["data/samples"], [TEXT, decided("image/export", needs=("data/samples",))], "image/export"),
        (["data/samples"], [decided("head/export", needs=("text/export", "image/engine")), TEXT], None),
        (["data/samples"], [TEXT], None),
    ],
)
def test_the_model_is_loaded_for_a_step_that_waits_for_nothing_but_what_runs(running, waiting, ahead):
    found = next_with_model(waiting, MADE, {one: decided(one) for one in running})
    assert (found and found.id) == ahead


class Loading:
    """Notes for which steps the model is to be loaded."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def prepare(self, task: str) -> None:
        self.asked.append(task)


@pytest.mark.parametrize(
    ("jobs", "at_once", "running", "asked"),
    [
        (2, None, decided("data/samples"), ["task"]),
        (1, None, decided("data/samples"), []),
        (2, 4, decided("data/samples"), []),  # on a cluster each step loads it where it runs
        (2, None, decided("text/engine", exclusive=True), []),  # what is timed has the machine to itself
    ],
)
def test_a_core_that_no_step_can_use_loads_the_model(jobs, at_once, running, asked):
    workers = Loading()
    Crew(workers, jobs, at_once).prepare("task", {"key": running})
    assert workers.asked == asked
