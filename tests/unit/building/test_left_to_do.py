"""When a plan is made anew in the middle of a build, every step is done, running or still waiting: none is lost."""

from pathlib import Path

from mmdeploy.building.builder import _Run
from mmdeploy.building.settings import Settings
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.record.observer import Silent


def test_the_twin_of_a_running_step_goes_on_waiting_for_it(tiny_recipe: Path, tmp_path: Path) -> None:
    run = _Run(load_recipe(tiny_recipe), Settings(workdir=tmp_path / "work"), Silent(), "build", None)
    everything = {one.step.id: one for one in run._left_to_do({})}
    running = everything["fusion/reference"]
    assert running.step.key == everything["fusion/engine"].step.key, "the component is not compressed"
    left = {one.step.id for one in run._left_to_do({running.step.key: running})}
    assert left == everything.keys() - {"fusion/reference"}
