"""recipes/moods, built with few samples and served: text, sound and video in any combination."""

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

FOLDER = Path(__file__).parents[2] / "recipes" / "moods"
NAME = "moods_small"
ALL = ("text", "audio", "video")


@pytest.fixture(scope="module")
def samples() -> list[tuple[dict[str, Any], int]]:
    """The people of the small build."""
    return list(resolve_callable("data.py:evaluation_small", FOLDER, error=DataError)())


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return built(FOLDER / "variants" / "small.yaml", tmp_path_factory.mktemp("moods"))


@pytest.fixture(scope="module")
def server(outcome: Outcome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(outcome, tmp_path_factory.mktemp("log")) as running:
        yield running


@pytest.fixture(scope="module")
def runner(server: Server) -> Iterator[GrpcRunner]:
    with server.runner(NAME) as opened:
        yield opened


def request(feed: dict[str, Any], names: tuple[str, ...]) -> dict[str, np.ndarray]:
    return {
        name: np.array([[feed[name].encode()]], dtype=object) if name == "text" else feed[name][None] for name in names
    }


def test_it_is_built_judged_and_published(outcome):
    assert outcome.report.verdict is Verdict.PASS, outcome.report.gates


def test_people_are_the_same_each_time_and_moods_are_equally_frequent(samples):
    again = resolve_callable("data.py:evaluation_small", FOLDER, error=DataError)()
    for (one, label), (other, same) in zip(samples, again, strict=True):
        assert (one["text"], label) == (other["text"], same)
        np.testing.assert_array_equal(one["audio"], other["audio"])
        np.testing.assert_array_equal(one["video"], other["video"])
    assert np.bincount([label for _, label in samples]).tolist() == [20] * 5
    assert {len(feed["audio"]) for feed, _ in samples} == set(range(4000, 12001, 2000))


@pytest.mark.parametrize(("names", "least"), [(ALL, 0.7), (("audio", "video"), 0.6), (("video",), 0.45)])
def test_who_sends_less_is_answered_less_well_and_still_answered(runner, samples, names, least):
    answers = [runner.infer(request(feed, names))["logits"][0] for feed, _ in samples]
    assert np.mean([answer.argmax() == label for answer, (_, label) in zip(answers, samples, strict=True)]) >= least


def test_silence_a_blank_picture_and_an_empty_text_count_as_missing(runner, samples):
    feed = samples[0][0]
    nothing = {"text": "", "audio": np.zeros_like(feed["audio"]), "video": np.full_like(feed["video"], 7)}
    for name in ALL:
        others = {one: nothing[one] for one in ALL if one != name}
        blank = runner.infer(request({**feed, **others}, ALL))["logits"]
        np.testing.assert_allclose(blank, runner.infer(request(feed, (name,)))["logits"], atol=1e-5)


def test_http_answers_what_grpc_does(server, runner, samples):
    with HttpRunner(server.http_url, NAME) as by_http:
        for names in (ALL, ("text",), ("audio", "video")):
            asked = request(samples[1][0], names)
            np.testing.assert_allclose(by_http.infer(asked)["logits"], runner.infer(asked)["logits"], atol=1e-5)


def test_committed_files_are_small():
    assert max(path.stat().st_size for path in FOLDER.iterdir()) < 400_000
