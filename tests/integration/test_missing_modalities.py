"""Requests that leave inputs out, of a recipe that is built and served by a real Triton."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from whole_recipe import built, served
from whole_recipe import executions as counted

from mmdeploy.building.builder import Outcome
from mmdeploy.core.contracts import Verdict
from mmdeploy.core.errors import InferenceError
from mmdeploy.triton.client import GrpcRunner
from mmdeploy.triton.golden import GOLDEN, read_golden
from mmdeploy.triton.lint import lint
from mmdeploy.triton.server import Server

pytestmark = [pytest.mark.triton, pytest.mark.slow]

RECIPE = Path(__file__).parents[1] / "missing_recipe/recipe.yaml"
ENCODERS = ("eye", "optic_nerve", "ear", "skin")


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return built(RECIPE, tmp_path_factory.mktemp("missing"))


@pytest.fixture(scope="module")
def server(outcome: Outcome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(outcome, tmp_path_factory.mktemp("log")) as running:
        yield running


@pytest.fixture
def runner(server: Server) -> Iterator[GrpcRunner]:
    with server.runner("three_senses") as opened:
        yield opened


def noise(rows: int, seed: int = 3) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {name: random.standard_normal((rows, 8)).astype(np.float32) for name in ("seen", "heard", "felt")}


def executions(server: Server) -> dict[str, int]:
    return counted(server, "three_senses", ENCODERS)


def test_every_subset_is_judged_and_what_is_published_is_whole(outcome):
    report = outcome.report
    assert report.verdict is Verdict.PASS
    names = {gate.gate: [check.name for check in gate.checks] for gate in report.gates}
    for label in ("without seen", "without heard", "without felt", "without heard and felt"):
        assert f"end to end: worst cosine ({label})" in names["parity"]
        assert f"top1 drop ({label})" in names["accuracy"]
    assert "end to end: worst cosine (mixed rows)" in names["parity"]
    assert names["graceful"] == ["top1 drop without seen", "top1 drop without heard and felt"]
    assert [finding for finding in lint(report.published) if finding.severity == "error"] == []
    partial = {tuple(one.inputs) for one in read_golden(report.published / GOLDEN).requests}
    assert partial >= {("seen", "heard", "felt"), ("heard", "felt"), ("seen",)}


def test_a_missing_input_runs_none_of_its_encoders(server, runner):
    before = executions(server)
    for _ in range(3):
        runner.infer({name: array for name, array in noise(2).items() if name != "seen"})
    runner.infer({"heard": noise(1)["heard"]})
    after = executions(server)
    assert {name: after[name] - before[name] for name in ENCODERS} == {"eye": 0, "optic_nerve": 0, "ear": 4, "skin": 3}


def test_rows_with_and_without_an_input_share_a_request(runner):
    feeds, present = noise(4), np.array([[True], [False], [True], [False]])
    mixed = runner.infer({**feeds, "heard_present": present})["logits"]
    whole = runner.infer(feeds)["logits"]
    deaf = runner.infer({name: array for name, array in feeds.items() if name != "heard"})["logits"]
    np.testing.assert_allclose(mixed, np.where(present, whole, deaf), rtol=1e-5, atol=1e-6)
    assert not np.allclose(whole, deaf, atol=1e-3)


def test_what_is_not_there_is_not_looked_at(runner):
    """A row that is marked as missing may hold anything: it is neither checked nor computed."""
    feeds = noise(2)
    feeds["felt"][1] = np.nan
    answers = runner.infer({**feeds, "felt_present": np.array([[True], [False]])})["logits"]
    assert np.isfinite(answers).all()
    with pytest.raises(InferenceError, match=r"'felt'.*NaN"):
        runner.infer(feeds)


def test_an_input_in_which_nothing_is_counts_as_missing(server, runner):
    feeds = noise(1)
    before = executions(server)
    dark = runner.infer({**feeds, "seen": np.full((1, 8), 0.5, np.float32)})["logits"]
    assert executions(server)["eye"] == before["eye"]
    np.testing.assert_array_equal(dark, runner.infer({**feeds, "seen": np.zeros((1, 8), np.float32)})["logits"])


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        ({}, "0 inputs"),
        ({"seen": np.zeros((1, 8), np.float32)}, "none of the inputs"),
        ({"heard": noise(1)["heard"], "heard_present": np.array([[False]])}, "none of the inputs"),
        ({"seen": noise(1)["seen"], "heard_present": np.array([[True]])}, "heard_present says that 'heard' is there"),
        ({"smelt": noise(1)["seen"]}, "unexpected inference input 'smelt'"),
    ],
)
def test_what_cannot_be_answered_is_said(runner, sent, told):
    with pytest.raises(InferenceError, match=told):
        runner.infer(sent)
    assert runner.infer({"heard": noise(1)["heard"]})["logits"].shape == (1, 4)
