"""Parts of one loaded model are given out twice only where they have nothing in common."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mmdeploy.model.held_model import HeldModel, RandomStates, apart


class Keeps(nn.Module):
    """Keeps anything."""

    def __init__(self, *things: Any) -> None:
        super().__init__()
        self.things = things


def calling(module: nn.Module) -> Any:
    return lambda value: module(value)


LINEAR, COUNTS, MEMORY, ARRAY, PARTS = nn.Linear(2, 2), {"asked": 0}, torch.zeros(8), np.zeros(8), nn.ModuleDict()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Keeps(LINEAR), Keeps(LINEAR)),
        (Keeps(LINEAR), LINEAR),
        (Keeps(COUNTS), Keeps([COUNTS])),
        (Keeps(MEMORY[:4]), Keeps(MEMORY[4:])),
        (Keeps(ARRAY[1:]), Keeps(ARRAY[:1])),
        (Keeps(calling(LINEAR)), Keeps(LINEAR)),
        (Keeps(LINEAR.forward), Keeps(LINEAR.weight)),
        (PARTS, Keeps(PARTS)),
    ],
)
def test_what_two_parts_could_see_of_each_other(one: nn.Module, other: nn.Module) -> None:
    assert not apart([one], [other])
    assert not apart([nn.Linear(2, 2), other], [one])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (nn.TransformerEncoderLayer(8, 2), nn.TransformerEncoderLayer(8, 2)),
        (nn.LSTM(2, 2), nn.LSTM(2, 2)),
        (
            Keeps(torch.relu, torch.float32, (1, "a"), None, nn.Linear),
            Keeps(torch.relu, torch.float32, (1, "a"), nn.Linear),
        ),
    ],
)
def test_what_cannot_change_may_be_in_both(one: nn.Module, other: nn.Module) -> None:
    assert apart([one], [other])


def test_a_part_is_given_once() -> None:
    model = nn.ModuleDict({"left": nn.Linear(2, 2), "right": nn.Linear(2, 2)})
    held = HeldModel("known", model, RandomStates({}))
    assert held.give([model["left"]])
    assert held.give([model["right"]])
    assert not held.give([model["left"]])
    assert not held.give([model])


def test_whoever_is_given_a_model_draws_the_numbers_that_follow_its_loading() -> None:
    def drawn() -> tuple[float, float, float]:
        return float(torch.rand(1)), float(np.random.rand()), random.random()

    before = RandomStates.now()
    torch.manual_seed(1)
    np.random.seed(1)
    after = RandomStates.now()
    assert after.moved_since(before) == {"torch", "numpy"}
    wanted = drawn()
    held = HeldModel("known", nn.Linear(1, 1), after.only(["torch", "numpy"]))
    drawn()
    held.give([held.model])
    assert drawn()[:2] == wanted[:2]
    before.restore()
