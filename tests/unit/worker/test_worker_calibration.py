"""Calibration batches are made once where they fit in memory, and made again, the same, where they do not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmdeploy.planning.steps import Step
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.worker import feeds as step_feeds
from mmdeploy.worker.task import Task

RECIPE = Path(__file__).parents[2] / "tiny_recipe/recipe.yaml"
COUNT = 5


class CountedBatches:
    """Five batches; remembers how many were made."""

    def __init__(self, name: str) -> None:
        self.name, self.made = name, 0

    def __iter__(self) -> Any:
        for index in range(COUNT):
            self.made += 1
            yield {self.name: np.full((2, 4), index, np.float32)}  # 32 bytes


@pytest.fixture
def component() -> tuple[Any, str, str, str]:
    recipe = load_recipe(RECIPE)
    for name, part in recipe.components.items():
        tensors = {key: wire.tensor for key, wire in part.inputs.items()}
        if len(tensors) == 1 and set(tensors.values()) <= set(recipe.inputs):
            key, tensor = next(iter(tensors.items()))
            return recipe, name, key, tensor
    raise AssertionError("the tiny recipe has no component with one input of the ensemble")


def feeds_of(component: tuple[Any, str, str, str], tmp_path: Path) -> tuple[Any, CountedBatches, str]:
    recipe, name, key, tensor = component
    step = Step(f"{name}/quantize", name, "quantize", "static", {}, (), {})
    batches = CountedBatches(tensor)
    return step_feeds._CalibrationFeeds(Task(step, recipe, tmp_path, {}, 1), batches, COUNT), batches, key  # type: ignore[arg-type]


def values(iterable: Any, key: str) -> list[float]:
    return [float(feed[key][0, 0]) for feed in iterable]


def test_a_second_pass_makes_nothing_anew(component, tmp_path):
    feeds, batches, key = feeds_of(component, tmp_path)
    assert values(feeds(), key) == values(feeds(), key) == [0, 1, 2, 3, 4]
    assert batches.made == COUNT


def test_what_does_not_fit_is_made_again(component, tmp_path, monkeypatch):
    monkeypatch.setattr(step_feeds, "_KEPT_BYTES", 2 * 32)
    feeds, batches, key = feeds_of(component, tmp_path)
    assert values(feeds(), key) == values(feeds(), key) == values(feeds(), key) == [0, 1, 2, 3, 4]
    assert len(feeds._kept) == 2
    assert batches.made == 3 * COUNT


def test_a_pass_that_stops_early_leaves_the_next_one_whole(component, tmp_path):
    feeds, _, key = feeds_of(component, tmp_path)
    first = feeds()
    assert float(next(first)[key][0, 0]) == 0
    first.close()
    assert values(feeds(), key) == [0, 1, 2, 3, 4]
