"""recipes/support_desk, built with few samples and served: three answers and a queue, with a screenshot or without."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from whole_recipe import built, served

from mmdeploy.building.builder import Outcome
from mmdeploy.core.contracts import Verdict
from mmdeploy.core.errors import DataError
from mmdeploy.model.sources import resolve_callable
from mmdeploy.triton.client import GrpcRunner, HttpRunner
from mmdeploy.triton.server import Server

pytestmark = [pytest.mark.triton, pytest.mark.slow]

FOLDER = Path(__file__).parents[2] / "recipes" / "support_desk"
NAME = "support_desk_small"


@pytest.fixture(scope="module")
def samples() -> list[tuple[dict[str, Any], dict[str, int]]]:
    """The tickets of the small build."""
    return list(resolve_callable("data.py:evaluation_small", FOLDER, error=DataError)())


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return built(FOLDER / "variants" / "small.yaml", tmp_path_factory.mktemp("desk"))


@pytest.fixture(scope="module")
def server(outcome: Outcome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(outcome, tmp_path_factory.mktemp("log")) as running:
        yield running


@pytest.fixture(scope="module")
def runner(server: Server) -> Iterator[GrpcRunner]:
    with server.runner(NAME) as opened:
        yield opened


def request(feeds: list[dict[str, Any]], names: tuple[str, ...]) -> dict[str, np.ndarray]:
    sent = [{"text": feed["text"].encode(), "screenshot": feed["screenshot"]} for feed in feeds]
    return {name: np.array([[one[name]] for one in sent], dtype=object) for name in names}


def test_each_output_is_judged_by_its_label_and_it_is_published(outcome):
    assert outcome.report.verdict is Verdict.PASS, outcome.report.gates
    judged = {check.name for gate in outcome.report.gates if gate.gate == "accuracy" for check in gate.checks}
    assert {"f1_macro of intent", "f1_macro of urgency", "top1 of queue"} <= judged


@pytest.mark.parametrize(("names", "least"), [(("text", "screenshot"), 0.8), (("text",), 0.6)])
def test_intents_are_told_with_a_screenshot_and_less_well_without(runner, samples, names, least):
    found = [runner.infer(request([feed for feed, _ in samples[at : at + 30]], names)) for at in range(0, 120, 30)]
    intents = np.concatenate([one["intent"] for one in found]).argmax(axis=1)
    assert np.mean(intents == [labels["intent"] for _, labels in samples]) >= least


def test_the_queue_follows_the_rule(runner, samples):
    route = resolve_callable("routing.py:route", FOLDER, error=DataError)
    found = runner.infer(request([feed for feed, _ in samples[:30]], ("text", "screenshot")))
    for row in range(30):
        scores = {name: found[name][row] for name in ("intent", "sentiment", "urgency")}
        assert found["queue"][row] == route(**scores)["queue"]


@pytest.mark.parametrize("screenshot", [b"", b"no picture"], ids=["empty", "no picture"])
def test_a_screenshot_that_cannot_be_read_counts_as_missing(runner, samples, screenshot):
    text_only = runner.infer(request([samples[0][0]], ("text",)))
    found = runner.infer(request([{**samples[0][0], "screenshot": screenshot}], ("text", "screenshot")))
    np.testing.assert_allclose(found["intent"], text_only["intent"], atol=1e-5)


def test_http_answers_what_grpc_does(server, runner, samples):
    with HttpRunner(server.http_url, NAME) as by_http:
        for names in (("text", "screenshot"), ("text",)):
            asked = request([samples[1][0]], names)
            by_grpc = runner.infer(asked)
            for name, answer in by_http.infer(asked).items():
                np.testing.assert_allclose(answer, by_grpc[name], atol=1e-5)
