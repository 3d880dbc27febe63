"""Caches behind optional inputs, on a real Triton: hits are counted, and nobody gets an answer that is not his."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from settled_counts import settled

import mmdeploy
from mmdeploy.building.builder import Settings, run_build
from mmdeploy.record.observer import Silent
from mmdeploy.rollout.generation import belongs, plain_name
from mmdeploy.rollout.promote import examined, promote
from mmdeploy.triton import server as triton_server
from mmdeploy.triton.http import ask_json
from mmdeploy.triton.response_cache import settings_of
from mmdeploy.triton.server import Server

pytestmark = [pytest.mark.triton, pytest.mark.slow, pytest.mark.xdist_group("builds")]

FOLDER = Path(__file__).parents[1] / "missing_recipe"
#: ``skin`` is asked by the step of optional inputs itself, ``eye`` by the ensemble that is its branch.
CACHED = ["gates=[]", *(f"components.{name}.serving.response_cache=true" for name in ("skin", "eye"))]
#: What an old release does not have: an encoder of another precision, and a head.
CHANGED = ("components.eye.quantize={method: dynamic}", "components.head.quantize=null")
WHOLE = "response_cache={size_mib: 1, ensemble: true}"
Feed = dict[str, np.ndarray]


def release(folder: Path, workdir: Path, *overrides: str) -> Path:
    recipe = mmdeploy.load_recipe(FOLDER / "recipe.yaml", [*CACHED, *overrides])
    outcome = run_build(recipe, Settings(workdir=workdir, destination=folder), Silent())
    if outcome.error is not None:
        raise outcome.error
    assert outcome.report.published is not None
    return outcome.report.published


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory, shared_workdir: Path) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("cached-branches")
    old = release(folder / "old", shared_workdir, WHOLE)
    return old, release(folder / "new", shared_workdir, *CHANGED, WHOLE)


@pytest.fixture(scope="module")
def server(releases: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of the old release; a test may put the new one into its place."""
    folder = tmp_path_factory.mktemp("serving")
    shutil.copytree(releases[0], folder / "serving")
    with triton_server.start(
        [folder / "serving"], log=folder / "triton.log", model_control="explicit", load=("*",),
        response_cache_bytes=settings_of([releases[1]]).bytes,
    ) as running:  # fmt: skip
        yield running


def row(seed: int, rows: int = 1) -> np.ndarray:
    return np.random.default_rng(9000 + seed).standard_normal((rows, 8)).astype(np.float32)


def counts(running: Server, model: str) -> np.ndarray:
    """Return how often a model answered from the cache and how often it computed."""
    found = settled(lambda: ask_json(f"{running.http_url}/v2/models/three_senses.{model}/stats")["model_stats"])
    return np.array(
        [
            sum(int(one["inference_stats"][what].get("count", 0)) for one in found)
            for what in ("cache_hit", "cache_miss")
        ]
    )


def answer(running: Server, feed: Feed) -> np.ndarray:
    with running.runner("three_senses") as runner:
        return runner.infer(feed)["logits"].copy()


def changes(running: Server, feed: Feed) -> dict[str, list[int]]:
    before = {name: counts(running, name) for name in ("skin", "eye")}
    answer(running, feed)
    return {name: (counts(running, name) - was).tolist() for name, was in before.items()}


def test_an_encoder_behind_an_optional_input_answers_from_the_cache(server: Server) -> None:
    whole = {"seen": row(1), "heard": row(2), "felt": row(3)}
    assert changes(server, whole) == {"skin": [0, 1], "eye": [0, 1]}
    assert changes(server, {**whole, "heard": row(4)}) == {"skin": [1, 0], "eye": [1, 0]}
    assert changes(server, {**whole, "felt": row(5)}) == {"skin": [0, 1], "eye": [1, 0]}


def test_what_is_missing_is_not_looked_up_and_has_the_stand_in_not_the_answer_of_another(server: Server) -> None:
    whole = {"seen": row(11), "heard": row(12), "felt": row(13)}
    answer(server, whole)
    without = {name: array for name, array in whole.items() if name != "felt"}
    assert changes(server, without) == {"skin": [0, 0], "eye": [1, 0]}
    marked = {**whole, "felt_present": np.array([[False]])}
    assert changes(server, marked) == {"skin": [0, 0], "eye": [1, 0]}
    np.testing.assert_array_equal(answer(server, without), answer(server, marked))
    assert np.abs(answer(server, without) - answer(server, whole)).max() > 1e-3
    same = row(14)  # the same bytes by another name are another question
    alone = [answer(server, {name: same}) for name in ("seen", "heard", "felt")]
    again = [answer(server, {name: same}) for name in ("seen", "heard", "felt")]
    np.testing.assert_array_equal(alone, again)
    assert not np.allclose(alone[0], alone[1]) and not np.allclose(alone[1], alone[2])


def test_rows_of_several_requests_are_looked_up_each_for_itself(server: Server) -> None:
    feeds = [{"seen": row(20 + index), "heard": row(30), "felt": row(40 + index)} for index in range(6)]
    before = {name: counts(server, name) for name in ("skin", "eye")}
    with ThreadPoolExecutor(6) as pool:
        [*pool.map(lambda feed: answer(server, feed), feeds)]
        [*pool.map(lambda feed: answer(server, {**feed, "heard": row(31)}), feeds)]  # the ensemble does not know it
    for name, was in before.items():
        assert (counts(server, name) - was).tolist() == [6, 6], name
    some = {"seen": row(50, 3), "heard": row(51, 3), "felt": row(52, 3)}
    some["felt_present"] = np.array([[True], [False], [True]])
    assert changes(server, some)["skin"] == [0, 1]  # the two rows that are there, as one question
    alone = {name: array[[0, 2]] for name, array in some.items()}
    assert changes(server, alone) == {"skin": [1, 0], "eye": [0, 1]}


def test_a_new_release_answers_by_its_own_encoders_head_and_ensemble(
    server: Server, releases: tuple[Path, Path], tmp_path: Path
) -> None:
    feeds = [
        {"seen": row(60), "heard": row(61), "felt": row(62)},
        {"seen": row(60), "felt": row(62)},
        {"seen": row(60)},
    ]
    old = [answer(server, feed) for feed in feeds for _ in range(2)]
    with triton_server.start([releases[1]], log=tmp_path / "fresh.log") as fresh:  # without a cache
        expected = [answer(fresh, feed) for feed in feeds for _ in range(2)]
    serving = server.log.with_name("serving")
    models = [path.parent.name for path in sorted(releases[1].glob("*/config.pbtxt"))]
    for new in (True, False):
        shutil.rmtree(serving)
        shutil.copytree(releases[1] if new else releases[0], serving)
        for model in (*(name for name in models if name != "three_senses"), "three_senses"):
            server.load(model)
        found = [answer(server, feed) for feed in feeds for _ in range(2)]
        np.testing.assert_allclose(found, expected if new else old, rtol=1e-6, atol=1e-7)
        if new:
            (stats,) = settled(lambda: ask_json(f"{server.http_url}/v2/models/three_senses/stats")["model_stats"])
            assert int(stats["inference_stats"]["cache_hit"]["count"]) == 3
    assert np.abs(np.array(old) - np.array(expected)).max() > 1e-4


def test_a_promotion_swaps_what_is_asked_behind_optional_inputs(releases: tuple[Path, Path], tmp_path: Path) -> None:
    feeds = [
        {"seen": row(70), "heard": row(71), "felt": row(72)},
        {"seen": row(70), "felt": row(72)},
        {"seen": row(70)},
    ]
    with triton_server.start([releases[1]], log=tmp_path / "fresh.log") as fresh:  # without a cache
        expected = [answer(fresh, feed) for feed in feeds]
    with triton_server.start(
        [releases[0]], log=tmp_path / "triton.log", model_control="explicit", load=("*",), swap=tmp_path / "serving",
        response_cache_bytes=settings_of([releases[1]]).bytes,
    ) as running:  # fmt: skip
        old = [answer(running, feed) for feed in feeds for _ in range(2)][::2]
        (folder,) = running.repositories
        there = promote(running, folder, examined(releases[1]), drain_s=0.2)
        assert there.checked == 0, "a build without gates"
        for feed, new in zip(feeds * 2, expected * 2, strict=True):
            np.testing.assert_array_equal(answer(running, feed), new)
        assert {name for name in running.probe() if not belongs(name, "three_senses")} == {"three_senses"}
        back = promote(running, folder, examined(releases[0]), drain_s=0.2)
        assert "three_senses.skin" in map(plain_name, back.reused), "what both have in common is loaded once"
        for feed, before in zip(feeds * 2, old * 2, strict=True):
            np.testing.assert_array_equal(answer(running, feed), before)
