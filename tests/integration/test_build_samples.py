"""Sets of samples in whole builds: made once, shared, and the only thing that runs again where they stay the same."""

import re
from pathlib import Path

import numpy as np
import pytest
from labelled_recipe import with_splits
from user_view import replaced

import mmdeploy
from mmdeploy.building.builder import Outcome, run_build
from mmdeploy.building.settings import Settings
from mmdeploy.core.errors import DataError
from mmdeploy.core.store import Store
from mmdeploy.record.observer import Silent

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("builds")]

COUNTED = """

def _counted(name, made):
    with open({counts!r}, "a") as stream:
        stream.write(name + chr(10))
    yield from made


_given = calibration, evaluation, validation


def calibration():
    return _counted("calibration", _given[0]())


def evaluation():
    return _counted("evaluation", _given[1]())


def validation():
    return _counted("validation", _given[2]())
"""


def build(recipe: Path, workdir: Path, *overrides: str) -> Outcome:
    loaded = mmdeploy.load_recipe(recipe, overrides)
    settings = Settings(workdir=workdir, destination=recipe.parents[1] / "published")
    outcome = run_build(loaded, settings, Silent())
    if outcome.error is not None:
        raise outcome.error
    return outcome


def ran(outcome: Outcome) -> set[str]:
    return {step.id for step in outcome.report.steps if step.status == "ran"}


@pytest.mark.triton
def test_each_data_callable_is_called_once_a_build(tiny_recipe: Path, tmp_path: Path) -> None:
    with_splits(tiny_recipe)
    counts = tmp_path / "counts"
    data = tiny_recipe.with_name("data.py")
    data.write_text(data.read_text() + COUNTED.format(counts=str(counts)))
    outcome = build(
        tiny_recipe,
        tmp_path / "work",
        "components.left.keep=if_it_pays",
        "components.right.quantize={method: auto, max_drop: 0.5, samples: 32}",
        "components.fusion.recover={method: finetune, epochs: 1}",
    )
    assert {"left/engine", "right/quantize", "fusion/recover", "original/outputs"} <= ran(outcome)
    assert sorted(counts.read_text().split()) == ["calibration", "evaluation", "validation"]
    metadata = {step.id: step.metadata for step in outcome.report.steps}
    assert [metadata[f"data/{key}"]["samples"] for key in ("calibration", "evaluation", "validation")] == [64, 128, 128]
    original = Store(tmp_path / "work" / "store").entry(outcome.report.steps[-1].key)
    files = [path.name for path in original.glob("*.npy")]
    assert outcome.report.steps[-1].id == "original/outputs" and len(files) == 3  # an output of each component, no feed


def test_only_what_reads_other_samples_runs_again(tiny_recipe: Path, shared_workdir: Path) -> None:
    data = tiny_recipe.with_name("data.py")
    build(tiny_recipe, shared_workdir, "gates=[]")
    data.write_text(data.read_text() + "\nIN_OTHER_WORDS = True\n")
    again = build(tiny_recipe, shared_workdir, "gates=[]")
    assert ran(again) == {"data/calibration"}
    assert {step.why for step in again.report.steps if step.status == "reused"} == {"nothing changed"}
    replaced(data, "_samples(1, 64)", "_samples(1, 63)")
    towers = {f"{name}/{kind}" for name in ("left", "right") for kind in ("quantize", "engine")}
    assert ran(build(tiny_recipe, shared_workdir, "gates=[]")) == {"data/calibration"} | towers
    fewer = build(tiny_recipe, shared_workdir, "gates=[]", "components.left.quantize.samples=40")
    assert ran(fewer) == {"left/quantize", "left/engine"}
    more = build(tiny_recipe, shared_workdir, "gates=[]", "components.right.quantize.samples=50")
    assert ran(more) == {"right/quantize", "right/engine"}


def test_a_set_that_was_damaged_is_recorded_again_and_nothing_else(tiny_recipe: Path, tmp_path: Path) -> None:
    first = build(tiny_recipe, tmp_path / "work", "gates=[]")
    (key,) = (step.key for step in first.report.steps if step.id == "data/calibration")
    damaged = Store(tmp_path / "work" / "store").entry(key) / "digests.bin"
    damaged.write_bytes(bytes(damaged.stat().st_size))
    again = build(tiny_recipe, tmp_path / "work", "gates=[]")
    assert ran(again) == {"data/calibration"}
    assert [step.key for step in again.report.steps] == [step.key for step in first.report.steps]


def test_a_callable_that_never_ends_is_stopped(tiny_recipe: Path, shared_workdir: Path) -> None:
    replaced(tiny_recipe.with_name("data.py"), "return _samples(1, 64)", "return _samples(1, 10**12)")
    assert build(tiny_recipe, shared_workdir, "gates=[]")  # the components want 64 of them
    replaced(tiny_recipe.with_name("data.py"), "return _labelled(2, 128)", "return _samples(2, 10**12)")
    with pytest.raises(
        DataError, match=r"data.py:evaluation gives more than 1e-05 GiB: stopped at sample \d+"
    ) as caught:
        build(tiny_recipe, shared_workdir, "data.max_gib=1e-5", "gates=[{method: parity, min_cosine: 0.9}]")
    assert caught.value.step == "data/evaluation"
    assert caught.value.log == str(
        shared_workdir / "runs/two_towers" / Path(caught.value.log).parts[-3] / "logs" / "data.evaluation.log"
    )
    left = [path.name for path in (shared_workdir / "store" / "staging").iterdir()]
    assert not [name for name in left if "damaged" not in name]  # those of another test of the same process


RAGGED = """
import numpy as np

def calibration():
    random = np.random.default_rng(0)
    for length in [3, 5, 4, 5, 3, 6]:
        yield {name: random.standard_normal((length, 8)).astype(np.float32) for name in ("a", "b")}

def evaluation():
    return calibration()
"""


def test_calibration_samples_may_differ_in_length(tiny_recipe: Path, tmp_path: Path) -> None:
    replaced(tiny_recipe, "a: {dtype: FP32, shape: [8]}", "a: {dtype: FP32, shape: [-1, 8]}")
    replaced(tiny_recipe, "b: {dtype: FP32, shape: [8]}", "b: {dtype: FP32, shape: [-1, 8]}")
    replaced(tiny_recipe.with_name("model.py"), "dim=1))))", "dim=-1))))")
    tiny_recipe.with_name("data.py").write_text(RAGGED)
    settings = ("gates=[]", "components.left.quantize.batch_size=1", "components.right.quantize=null")
    outcome = build(tiny_recipe, tmp_path / "work", *settings)
    metadata = {step.id: step.metadata for step in outcome.report.steps}
    assert metadata["data/calibration"]["inputs"]["a"]["shape"] == [[3, 6], 8]
    assert metadata["left/quantize"]["samples"] == 6
    config = (outcome.report.staged / "two_towers.fusion" / "config.pbtxt").read_text()
    dims = [int(size) for size in re.findall(r"dims: (-?\d+)", config)]
    assert dims == [-1, 16, -1, 16, -1, 4]  # upstream gives any length, declared or not
    assert build(tiny_recipe, tmp_path / "work", "gates=[]", "components.right.quantize=null").report.failure is None
    assert np.isfinite(metadata["left/quantize"]["cosine"]["embedding"])
