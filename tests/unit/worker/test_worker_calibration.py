"""Calibration batches: what clients send is read from the recorded set; what upstream computes is computed once."""

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fused_samples import exported
from recorded_sets import recorded_set, set_artifact

from mmdeploy.core.errors import DataError
from mmdeploy.planning.steps import DATA_SETS, Step
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.recipe.schema import Recipe
from mmdeploy.worker import feeds as step_feeds
from mmdeploy.worker.task import Task

RECIPE = Path(__file__).parents[2] / "tiny_recipe/recipe.yaml"
STATIC = {"samples": 40, "batch_size": 16}


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe(RECIPE)


@pytest.fixture(scope="module")
def artifacts(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The calibration set and the graphs of both towers."""
    folder = tmp_path_factory.mktemp("calibration")
    graphs = {f"{name}/export": exported(recipe, name, folder / name) for name in ("left", "right")}
    return {DATA_SETS["calibration"]: set_artifact(recipe, "calibration", folder), **graphs}


def feeds_of(
    recipe: Recipe, artifacts: dict[str, Any], component: str, kind: str = "quantize", **options: Any
) -> tuple[Any, int]:
    shipped = {"shipped": {"left": "left/export", "right": "right/export"}} if component == "fusion" else {}
    step = Step(f"{component}/{kind}", component, kind, "static", STATIC | options, (), {}, uses=shipped)
    return step_feeds.calibration(Task(step, recipe, Path(), artifacts, 1))


def mapped(array: np.ndarray) -> bool:
    """Say whether an array is a view of a file and no copy."""
    while isinstance(array, np.ndarray):
        array = array.base  # type: ignore[assignment]
    return isinstance(array, mmap.mmap)


def test_the_first_samples_come_in_batches_of_the_wanted_size(recipe, artifacts, tmp_path):
    feeds, count = feeds_of(recipe, artifacts, "left")
    whole = recorded_set(recipe, "calibration", tmp_path).feeds()["a"]
    for _ in range(2):
        batches = [batch["values"] for batch in feeds()]
        assert [len(batch) for batch in batches] == [16, 16, 8]
        assert count == 3
        np.testing.assert_array_equal(np.concatenate(batches), whole[:40])


def test_nothing_of_what_clients_send_is_copied(recipe, artifacts):
    feeds, _ = feeds_of(recipe, artifacts, "left")
    assert all(mapped(batch["values"]) for batch in feeds())
    assert feeds._kept == []


class CountedUpstream:
    """Counts how often upstream is run."""

    def __init__(self, feeds: Any) -> None:
        self.through, self.runs = feeds._through, 0
        feeds._through = self

    def __call__(self, feeds: Any, without: Any) -> Any:
        self.runs += 1
        return self.through(feeds, without)


def values(feeds: Any) -> list[bytes]:
    return [b"".join(batch[key].tobytes() for key in sorted(batch)) for batch in feeds()]


def test_what_upstream_computes_is_computed_once_where_it_fits(recipe, artifacts):
    feeds, _ = feeds_of(recipe, artifacts, "fusion")
    upstream = CountedUpstream(feeds)
    assert values(feeds) == values(feeds)
    assert upstream.runs == 3


def test_what_does_not_fit_is_computed_again(recipe, artifacts, monkeypatch):
    monkeypatch.setattr(step_feeds, "_KEPT_BYTES", 16 * 2 * 16 * 4)
    feeds, _ = feeds_of(recipe, artifacts, "fusion")
    upstream = CountedUpstream(feeds)
    assert values(feeds) == values(feeds) == values(feeds)
    assert len(feeds._kept) == 1
    assert upstream.runs == 3 + 2 + 2


def test_a_pass_that_stops_early_leaves_the_next_one_whole(recipe, artifacts):
    feeds, _ = feeds_of(recipe, artifacts, "fusion")
    first = feeds()
    next(first)
    first.close()
    assert [len(batch["left"]) for batch in feeds()] == [16, 16, 8]


CONSTANT_AT_FIRST = """
import numpy as np

def calibration():
    for index in range(8):
        value = 1.0 if index < 4 else float(index)
        yield {"a": np.full(8, value, np.float32), "b": np.full(8, index + 1.0, np.float32)}

def evaluation():
    return calibration()
"""


def test_the_first_samples_are_held_to_what_the_whole_set_is(tiny_recipe, tmp_path):
    tiny_recipe.with_name("data.py").write_text(CONSTANT_AT_FIRST)
    recipe = load_recipe(tiny_recipe)
    artifacts = {DATA_SETS["calibration"]: set_artifact(recipe, "calibration", tmp_path)}
    with pytest.raises(DataError, match="input 'a' is 1 everywhere in all 3 samples"):
        feeds_of(recipe, artifacts, "left", samples=3)
    assert feeds_of(recipe, artifacts, "left", samples=5)[1] == 1
    assert feeds_of(recipe, artifacts, "left", kind="select", samples=3)[1] == 1  # which only measures time


def test_without_calibration_data_there_are_no_batches(recipe):
    assert feeds_of(recipe, {}, "left") == (None, 0)
