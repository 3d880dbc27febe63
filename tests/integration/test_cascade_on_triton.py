"""A cascade that is built, judged and served by a real Triton: row by row the rule of the recipe, in both protocols."""

import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from settled_counts import settled
from whole_recipe import executions, served

import mmdeploy
from mmdeploy.building.builder import Outcome, run_build
from mmdeploy.building.settings import Settings
from mmdeploy.core.contracts import Verdict
from mmdeploy.core.errors import UsageError
from mmdeploy.explaining.run import Asked, explained
from mmdeploy.performance.measure import Limits
from mmdeploy.performance.service_measure import measure_service_times
from mmdeploy.performance.target import open_target
from mmdeploy.record.observer import Silent
from mmdeploy.triton.client import HttpRunner
from mmdeploy.triton.golden import GOLDEN, read_golden
from mmdeploy.triton.http import ask_json
from mmdeploy.triton.lint import lint
from mmdeploy.triton.server import Server
from mmdeploy.triton.steps.condition import asks_further

pytestmark = [pytest.mark.triton, pytest.mark.slow, pytest.mark.xdist_group("builds")]

RECIPE = Path(__file__).parents[1] / "tiny_recipe" / "cascade.yaml"
NAME = "sure_towers"
LATE = ("right", "fusion")


@pytest.fixture(scope="module")
def outcome(shared_workdir: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    settings = Settings(workdir=shared_workdir, destination=tmp_path_factory.mktemp("published"))
    found = run_build(mmdeploy.load_recipe(RECIPE), settings, Silent())
    assert found.error is None, found.error
    return found


@pytest.fixture(scope="module")
def server(outcome: Outcome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(outcome, tmp_path_factory.mktemp("log")) as running:
        yield running


def noise(rows: int, seed: int = 3) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {name: random.standard_normal((rows, 8)).astype(np.float32) for name in ("a", "b")}


def by_hand(server: Server, feeds: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Ask the components one by one, and decide in this process; return the answers and who left early."""

    def ask(model: str, **given: np.ndarray) -> np.ndarray:
        with server.runner(f"{NAME}.{model}") as runner:
            [answer] = runner.infer(given).values()
            return answer.copy()

    left = ask("left", values=feeds["a"])
    quick = ask("quick", left=left, right=left)
    whole = ask("fusion", left=left, right=ask("right", values=feeds["b"]))
    further = asks_further(mmdeploy.load_recipe(RECIPE).cascade.when, {"quick_logits": quick})
    return np.where(further[:, None], whole, quick), ~further


def test_the_share_that_leaves_early_is_judged_and_what_is_published_is_whole(outcome):
    report = outcome.report
    assert report.verdict is Verdict.PASS, report.gates
    checks = {check.name: check for gate in report.gates if gate.gate == "early_exit" for check in gate.checks}
    assert checks.keys() == {"left early", "other way than in PyTorch"}
    assert [finding for finding in lint(report.published) if finding.severity == "error"] == []
    assert {*read_golden(report.published / GOLDEN).tolerances} == {"logits"}


def test_explain_says_what_leaving_early_costs_and_of_whom(outcome, shared_workdir):
    asked = Asked("accuracy", mmdeploy.load_recipe(RECIPE), shared_workdir, groups=False, passed=True)
    found = explained(outcome.report, asked, Silent())
    _, chain, ways, alone, back = found.sections
    exported, leaving, shipped, whole = chain.shares
    assert exported.value == 0 and leaving.value > 0.05
    assert whole.value == pytest.approx(leaving.value + shipped.value)
    gates = {gate.gate: gate.details for gate in outcome.report.gates}
    assert whole.value == pytest.approx(gates["accuracy"]["drop"])  # decided here as it is in the server
    early, further = ways.shares
    assert early.what == f"left early, {gates['early_exit']['left_early']:.1%} of the samples"
    assert early.told == "loses" and further.told == "cannot be told from none"
    assert early.value + further.value == pytest.approx(whole.value)
    for section in (alone, back):
        assert {one.what for one in section.shares} == {"left", "right", "fusion", "quick"}
        assert max(abs(one.value) for one in section.shares) < 0.02
    assert found.conclusions[0].startswith("leaving early by itself, all in FP32, loses; no component by itself")


def test_each_row_of_a_batch_goes_its_own_way_in_its_place_by_both_protocols(server):
    feeds = noise(8)
    expected, left = by_hand(server, feeds)
    assert 0 < left.sum() < len(left)
    with server.runner(NAME) as grpc, HttpRunner(server.http_url, NAME) as http:
        answers = [grpc.infer(feeds), http.infer(feeds)]
        alone = [grpc.infer({name: rows[row : row + 1] for name, rows in feeds.items()}) for row in range(8)]
        alone = [{name: array.copy() for name, array in one.items()} for one in alone]
    answers.append({name: np.concatenate([one[name] for one in alone]) for name in alone[0]})
    for answer in answers:
        assert answer["left_early"][:, 0].tolist() == left.tolist()
        np.testing.assert_allclose(answer["logits"], expected, rtol=1e-5, atol=1e-6)


def test_capacity_says_that_it_does_not_reckon_a_cascade(server):
    with pytest.raises(UsageError, match=f"{NAME}.cascade asks the rest of a cascade for some rows only"):
        measure_service_times(open_target(server.http_url, NAME), Limits())


def test_rows_that_leave_early_run_nothing_of_the_rest(server):
    feeds = noise(8)
    _, left = by_hand(server, feeds)
    sure, unsure = ({name: rows[some] for name, rows in feeds.items()} for some in (left, ~left))

    def read() -> dict[str, int]:
        statistics = ask_json(f"{server.http_url}/v2/models/stats")["model_stats"]
        counts = {one["name"].removeprefix(f"{NAME}."): int(one["inference_count"]) for one in statistics}
        return {name: counts[name] for name in LATE}

    rows = functools.partial(settled, read)
    with server.runner(NAME) as runner:
        before, ran = rows(), executions(server, NAME, LATE)
        runner.infer(sure)
        assert (rows(), executions(server, NAME, LATE)) == (before, ran)
        runner.infer(feeds)
        assert {name: rows()[name] - before[name] for name in LATE} == dict.fromkeys(LATE, int((~left).sum()))
        assert not runner.infer(unsure)["left_early"].any()
