"""recipes/moderation, built with few samples and served: posts are approved, reviewed or rejected."""

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

FOLDER = Path(__file__).parents[2] / "recipes" / "moderation"
NAME = "moderation_small"


@pytest.fixture(scope="module")
def samples() -> list[tuple[dict[str, Any], int]]:
    """The posts of the small build."""
    return list(resolve_callable("data.py:evaluation_small", FOLDER, error=DataError)())


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return built(FOLDER / "variants" / "small.yaml", tmp_path_factory.mktemp("moderation"))


@pytest.fixture(scope="module")
def server(outcome: Outcome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(outcome, tmp_path_factory.mktemp("log")) as running:
        yield running


@pytest.fixture(scope="module")
def answers(server: Server, samples: list[tuple[dict[str, Any], int]]) -> dict[str, np.ndarray]:
    with server.runner(NAME) as runner:
        return ask(runner, [feed for feed, _ in samples])


def ask(runner: GrpcRunner | HttpRunner, feeds: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    found = [
        runner.infer({
            "text": np.array([[feed["text"].encode()] for feed in feeds[start : start + 30]], dtype=object),
            "picture": np.array([[feed["picture"]] for feed in feeds[start : start + 30]], dtype=object),
        })
        for start in range(0, len(feeds), 30)
    ]  # fmt: skip
    return {name: np.concatenate([one[name] for one in found]) for name in found[0]}


def test_recall_and_calibration_are_judged_and_it_is_published(outcome):
    assert outcome.report.verdict is Verdict.PASS, outcome.report.gates
    judged = {check.name for gate in outcome.report.gates if gate.gate == "accuracy" for check in gate.checks}
    assert {"worst_class_recall of decision", "ece of probabilities"} <= judged


def test_the_decision_is_that_of_the_policy_on_the_probabilities_that_are_served(answers):
    policy = resolve_callable("policy.py:decide", FOLDER, error=DataError)
    for probabilities, risk, decision in zip(
        answers["probabilities"], answers["risk"], answers["decision"], strict=True
    ):
        wanted = policy(probabilities, review=0.25, reject=0.7)
        assert decision == wanted["decision"]
        np.testing.assert_allclose(risk, wanted["risk"], rtol=1e-6)
    np.testing.assert_allclose(answers["probabilities"].sum(axis=1), 1.0, rtol=1e-5)


def test_most_posts_are_treated_as_they_are(answers, samples):
    assert np.mean(answers["decision"][:, 0] == [label for _, label in samples]) >= 0.7


def test_http_answers_what_grpc_does(server, answers, samples):
    with HttpRunner(server.http_url, NAME) as runner:
        found = ask(runner, [feed for feed, _ in samples[:5]])
    for name, answer in found.items():
        np.testing.assert_allclose(answer, answers[name][:5], atol=1e-5)
