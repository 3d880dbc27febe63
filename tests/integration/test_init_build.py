"""From a model that has no recipe to a published ensemble: init, validate, build."""

import textwrap
from pathlib import Path

import pytest

import mmdeploy
from mmdeploy.building.builder import run_build
from mmdeploy.building.settings import Settings
from mmdeploy.cli import commands
from mmdeploy.cli.outcome import run
from mmdeploy.core.contracts import Verdict
from mmdeploy.record.observer import Silent

pytestmark = [pytest.mark.triton, pytest.mark.slow, pytest.mark.xdist_group("builds")]

MODEL = """
import torch
from torch import nn


class Meter(nn.Module):
    def __init__(self):
        super().__init__()
        self.image = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 16))
        self.words, self.reads = nn.Embedding(30, 16), nn.GRU(16, 16, batch_first=True)
        self.out = nn.Linear(32, 4)

    def forward(self, image, tokens):
        seen = nn.functional.normalize(self.image(image), dim=-1)
        _, read = self.reads(self.words(tokens))
        return self.out(torch.cat([seen, read[-1]], dim=1))


def build():
    torch.manual_seed(0)
    return Meter()
"""
DATA = """
import numpy as np


def samples():
    random = np.random.default_rng(0)
    for index in range(48):
        length = int(random.integers(2, 7))
        yield {"image": random.random(12, np.float32), "tokens": random.integers(0, 30, length)}, index % 4
"""


def test_a_model_without_a_recipe_is_published(
    tmp_path: Path, shared_workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "net.py").write_text(textwrap.dedent(MODEL))
    (tmp_path / "loader.py").write_text(textwrap.dedent(DATA))
    monkeypatch.chdir(tmp_path)
    assert run(commands, ["init", "net.py:build", "--data", "loader.py:samples", "--name", "meter"]) == 0
    assert run(commands, ["validate", "recipe.yaml"]) == 0
    written = mmdeploy.load_recipe("recipe.yaml")
    assert [part.module for part in written.components.values()] == ["image", "tokens_encoder", "head"]
    quicker = [f"components.{name}.keep=always" for name in ("image", "head")]  # nothing is measured
    gates = "[{method: parity, min_cosine: 0.98}, {method: accuracy, metric: top1, max_drop: 0.1}]"
    recipe = mmdeploy.load_recipe("recipe.yaml", [*quicker, f"gates={gates}"])
    outcome = run_build(recipe, Settings(workdir=shared_workdir, destination=tmp_path / "published"), Silent())
    if outcome.error is not None:
        raise outcome.error
    assert outcome.report.verdict is Verdict.PASS
    assert outcome.report.published is not None
