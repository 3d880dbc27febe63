"""Files that a request may leave out, beside text that is padded to buckets: built, and served by a real Triton."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import mmdeploy
from mmdeploy.building.builder import Outcome, Settings, run_build
from mmdeploy.core.contracts import Verdict
from mmdeploy.core.errors import DataError, InferenceError
from mmdeploy.model.sources import resolve_callable
from mmdeploy.record.observer import Silent
from mmdeploy.triton import server as triton_server
from mmdeploy.triton.client import GrpcRunner
from mmdeploy.triton.http import ask_json
from mmdeploy.triton.lint import lint
from mmdeploy.triton.repository import resolve
from mmdeploy.triton.server import Server

pytestmark = [pytest.mark.triton, pytest.mark.slow, pytest.mark.xdist_group("builds")]

FOLDER = Path(__file__).parents[1] / "media_recipe"
PHOTO, CLIP = ("read_photo", "see"), ("read_clip", "hear")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = tmp_path_factory.mktemp("optional-media")
    recipe = mmdeploy.load_recipe(FOLDER / "optional.yaml")
    outcome = run_build(recipe, Settings(workdir=folder / "w", destination=folder / "p"), Silent())
    if outcome.error is not None:
        raise outcome.error
    return outcome


@pytest.fixture(scope="module")
def server(built: Outcome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    assert built.report.published is not None
    log = tmp_path_factory.mktemp("log") / "triton.log"
    with triton_server.start(resolve(built.report.published.parent), log=log) as running:
        yield running


@pytest.fixture
def runner(server: Server) -> Iterator[GrpcRunner]:
    with server.runner("optional_media") as opened:
        yield opened


@pytest.fixture(scope="module")
def sent() -> dict[str, np.ndarray]:
    """Three rows of what clients send, with captions of one length."""
    samples = resolve_callable("data.py:samples", FOLDER, error=DataError)(9, 3)
    rows = [{**row, "caption": b"a cat sees an owl"} for row in samples]
    return {name: np.array([[row[name]] for row in rows], dtype=object) for name in rows[0]}


def executions(server: Server, *names: str) -> dict[str, int]:
    statistics = ask_json(f"{server.http_url}/v2/models/stats")["model_stats"]
    counts = {one["name"].removeprefix("optional_media."): int(one["execution_count"]) for one in statistics}
    return {name: counts[name] for name in names or (*PHOTO, *CLIP)}


def test_every_subset_is_judged_and_what_is_published_is_whole(built: Outcome) -> None:
    assert built.report.verdict is Verdict.PASS
    names = {check.name for gate in built.report.gates for check in gate.checks}
    for label in ("without photo", "without photo and clip"):
        assert f"end to end.probabilities: worst cosine ({label})" in names
    assert built.report.published is not None
    assert [finding for finding in lint(built.report.published) if finding.severity == "error"] == []


def test_a_file_that_is_missing_is_neither_decoded_nor_encoded(
    server: Server, runner: GrpcRunner, sent: dict[str, np.ndarray]
) -> None:
    before = executions(server)
    runner.infer({name: array for name, array in sent.items() if name != "photo"})
    runner.infer({"caption": sent["caption"], "photo": np.full((3, 1), b"", dtype=object)})
    after = executions(server)
    assert [after[name] - before[name] for name in PHOTO] == [0, 0]
    assert [after[name] - before[name] for name in CLIP] == [1, 1]


def test_rows_with_and_without_a_file_share_a_request(runner: GrpcRunner, sent: dict[str, np.ndarray]) -> None:
    whole = runner.infer(sent)["probabilities"]
    blind = runner.infer({name: array for name, array in sent.items() if name != "photo"})["probabilities"]
    some = sent["photo"].copy()
    some[1, 0] = b""
    expected = np.where([[True], [False], [True]], whole, blind)
    np.testing.assert_allclose(runner.infer({**sent, "photo": some})["probabilities"], expected, rtol=1e-5)
    marked = {**sent, "photo": some, "photo_present": np.array([[True], [False], [True]])}
    np.testing.assert_allclose(runner.infer(marked)["probabilities"], expected, rtol=1e-5)
    assert not np.allclose(whole, blind, atol=1e-3)


def test_captions_of_many_lengths_are_padded_and_answered_as_alone(server: Server, sent: dict[str, np.ndarray]) -> None:
    def answer(words: int) -> list[list[float]]:
        caption = np.array([[b" ".join(([b"a", b"cat"] * 4)[:words])]], dtype=object)
        with server.runner("optional_media") as opened:
            return opened.infer({"photo": sent["photo"][:1], "caption": caption})["unit"].tolist()

    alone = [answer(words) for words in range(1, 9)]
    before = executions(server, "fusion", "pad-tokens")
    with ThreadPoolExecutor(8) as pool:
        np.testing.assert_allclose([*pool.map(answer, range(1, 9))], alone, rtol=1e-5)
    after = executions(server, "fusion", "pad-tokens")
    assert after["pad-tokens"] - before["pad-tokens"] == 8
    assert after["fusion"] - before["fusion"] < 8, "captions of unlike lengths were run as one"


def test_a_bad_file_is_told_by_its_row_in_the_request(runner: GrpcRunner, sent: dict[str, np.ndarray]) -> None:
    some = sent["photo"].copy()
    some[0, 0], some[2, 0] = b"", b"no photo"
    with pytest.raises(InferenceError, match="'photo', row 2: cannot be read as an image"):
        runner.infer({**sent, "photo": some})
    assert runner.infer(sent)["labels"].shape == (3, 2)
