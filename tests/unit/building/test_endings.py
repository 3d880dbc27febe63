"""How a build that was stopped tells of its steps, of its error, and of a release that is live all the same."""

import errno
from pathlib import Path

import pytest

from mmdeploy.building.endings import exit_code, failure, placed, unfinished
from mmdeploy.core.errors import InferenceError, RecipeError, StepError, StoreError
from mmdeploy.planning.fingerprints import take_fingerprints
from mmdeploy.planning.planner import make_plan
from mmdeploy.planning.steps import Step
from mmdeploy.recipe.loader import load_recipe


@pytest.fixture
def steps(tiny_recipe: Path) -> dict[str, Step]:
    recipe = load_recipe(tiny_recipe)
    return {step.id: step for step in make_plan(recipe, take_fingerprints(recipe)).steps}


def test_a_step_that_was_cut_short_is_not_one_that_was_never_reached(steps: dict[str, Step]) -> None:
    under_way = {"left/export": 2.04}
    interrupted = unfinished(steps["left/export"], KeyboardInterrupt(), under_way)
    assert (interrupted.status, interrupted.why) == ("skipped", "interrupted after 2.0 s")
    assert interrupted.seconds == 2.04
    assert unfinished(steps["left/quantize"], KeyboardInterrupt(), under_way).why == "not reached"
    other = StepError("no", step="right/export")
    assert unfinished(steps["left/export"], other, under_way).why == "ended after 2.0 s, since right/export failed"
    failed = unfinished(steps["right/export"], other, {"right/export": 1.0, **under_way})
    assert (failed.status, failed.why, failed.seconds) == ("failed", "", 1.0)


def test_an_interrupt_says_what_ran_and_whether_the_release_is_live(tmp_path: Path) -> None:
    told = failure(KeyboardInterrupt(), tmp_path, {"left/export": 1.0, "right/export": 1.0}, None)
    assert told.message == "interrupted while left/export, right/export ran"
    after = failure(KeyboardInterrupt(), tmp_path, {}, tmp_path / "live")
    assert after.message == f"interrupted; the release is live all the same: {tmp_path / 'live'}"
    assert failure(ValueError("x"), tmp_path, {}, None).message == "a bug: ValueError: x"


def test_an_error_keeps_its_place(tmp_path: Path) -> None:
    refused = InferenceError("no")
    refused.step = "left/engine"
    assert placed(refused, tmp_path).log == str(tmp_path / "logs")  # type: ignore[attr-defined]
    assert failure(refused, tmp_path, {}, None).step == "left/engine"
    assert placed(RecipeError([]), tmp_path).log is None  # type: ignore[attr-defined]


def test_a_full_disk_outside_of_a_step_is_no_bug(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space") as caught:
        Path("/dev/full").write_text("x")
    assert caught.value.errno == errno.ENOSPC
    told = placed(caught.value, tmp_path)
    assert isinstance(told, StoreError)
    assert "no space left" in told.message
    assert (exit_code(told), told.__cause__) == (3, caught.value)
    assert placed(OSError(errno.EIO, "broken"), tmp_path).errno == errno.EIO  # type: ignore[attr-defined]
