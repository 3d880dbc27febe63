"""A candidate beside a live release: who answers, what is counted, what is compared."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdeploy.core.artifact import TensorSpec
from mmdeploy.core.contracts import FeedDict
from mmdeploy.gateway.catalogue import Model, Output
from mmdeploy.gateway.problems import Code, Refused
from mmdeploy.gateway.rollout import Rollout, compared

LOGITS = Output(TensorSpec("logits", "FP32", (3,)), "logits")
MODEL = Model("live", {}, {"logits": LOGITS}, 8)
ANSWERS = {"live": [0.1, 0.7, 0.2], "next": [0.2, 0.6, 0.2], "other": [0.7, 0.2, 0.1]}


def ask_with(failing: dict[str, Code]):
    asked: list[str] = []

    async def ask(model: str, feed_dict: FeedDict) -> dict[str, np.ndarray]:
        asked.append(model)
        if model in failing:
            raise Refused(failing[model], "no")
        return {"logits": np.array([ANSWERS[model]], np.float32)}

    return ask, asked


def requests(rollout: Rollout, ask, count: int = 1, sticky: str | None = None) -> list[str]:
    async def run() -> list[str]:
        served = []
        for _ in range(count):
            served.append((await rollout.answer(ask, {}, sticky))[1])
            await asyncio.sleep(0)
        await asyncio.gather(*rollout._shadows)
        return served

    return asyncio.run(run())


def counts(rollout: Rollout) -> dict[str, tuple[int, int]]:
    return {name: (arm["requests"], arm["failed"]) for name, arm in rollout.told()["arms"].items()}


def test_a_share_is_answered_by_the_candidate() -> None:
    rollout = Rollout(MODEL, "next", 0.3, shadow=False)
    served = requests(rollout, ask_with({})[0], 1000)
    assert 200 < served.count("next") < 400
    assert counts(rollout) == {"live": (served.count("live"), 0), "candidate": (served.count("next"), 0)}
    assert len(rollout.told()["arms"]["candidate"]["latencies_ms"]) == served.count("next")


@given(st.text(max_size=20), st.floats(0, 1))
def test_requests_of_one_key_are_answered_by_one_release(key: str, share: float) -> None:
    rollout = Rollout(MODEL, "next", share, shadow=False)
    assert len(set(requests(rollout, ask_with({})[0], 3, key))) == 1


@pytest.mark.parametrize("code", ["server_failed", "server_timeout", "not_found", "bad_request", "busy"])
def test_where_the_candidate_fails_the_live_release_answers(code: Code) -> None:
    rollout = Rollout(MODEL, "next", 1.0, shadow=False)
    ask, asked = ask_with({"next": code})
    assert requests(rollout, ask) == ["live"]
    assert asked == ["next", "live"]
    assert counts(rollout) == {"live": (1, 0), "candidate": (1, 1)}


def test_a_wrong_request_counts_for_nobody() -> None:
    rollout = Rollout(MODEL, "next", 1.0, shadow=False)
    with pytest.raises(Refused):
        requests(rollout, ask_with({"next": "bad_request", "live": "bad_request"})[0])
    assert counts(rollout) == {"live": (0, 0), "candidate": (0, 0)}


def test_a_shadow_is_asked_afterwards_and_compared() -> None:
    ask, asked = ask_with({})
    rollout = Rollout(MODEL, "next", 1.0, shadow=True)
    assert requests(rollout, ask, 5) == ["live"] * 5
    assert sorted(asked) == ["live"] * 5 + ["next"] * 5
    told = rollout.told()["compared"]
    assert (told["pairs"], told["agree"]) == (5, 5)
    assert told["worst_difference"] == pytest.approx(0.1)
    other = Rollout(MODEL, "other", 1.0, shadow=True)
    requests(other, ask, 5)
    assert other.told()["compared"]["agree"] == 0


def test_a_shadow_that_hangs_delays_nobody_and_does_not_pile_up() -> None:
    async def ask(model: str, feed_dict: FeedDict) -> dict[str, np.ndarray]:
        if model == "next":
            await asyncio.sleep(1000)
        return {"logits": np.array([ANSWERS["live"]], np.float32)}

    async def run() -> int:
        rollout = Rollout(MODEL, "next", 1.0, shadow=True)
        for _ in range(50):
            await rollout.answer(ask, {}, None)
        waiting = len(rollout._shadows)
        await rollout.close()
        assert not rollout._shadows
        return waiting

    assert asyncio.run(run()) == 8


def test_a_shadow_that_fails_is_counted() -> None:
    rollout = Rollout(MODEL, "next", 1.0, shadow=True)
    assert requests(rollout, ask_with({"next": "server_failed"})[0], 3) == ["live"] * 3
    assert counts(rollout) == {"live": (3, 0), "candidate": (3, 3)}
    assert rollout.told()["compared"]["pairs"] == 0


def test_what_agrees() -> None:
    values = {"unit": Output(TensorSpec("unit", "FP32", (2,)), "values")}
    assert compared(values, {"unit": np.array([[1.0, 0.0]])}, {"unit": np.array([[2.0, 0.02]])})[0]
    assert not compared(values, {"unit": np.array([[1.0, 0.0]])}, {"unit": np.array([[1.0, 0.3]])})[0]
    assert not compared(values, {"unit": np.array([[1.0, 0.0], [1, 0]])}, {"unit": np.array([[1.0, 0], [0, 1]])})[0]
    assert compared({}, {"n": np.array([b"a"], object)}, {"n": np.array([b"a"], object)}) == (True, 0.0)
    assert compared({}, {"n": np.array([1])}, {"n": np.array([2])}) == (False, 0.0)
    assert compared({}, {"n": np.array([1])}, {}) == (False, 0.0)
    assert compared({}, {"n": np.zeros((1, 2))}, {"n": np.zeros((1, 3))}) == (False, 0.0)
    assert compared({}, {"n": np.array([np.nan])}, {"n": np.array([np.nan])}) == (True, 0.0)
    assert compared({}, {"n": np.array([np.nan])}, {"n": np.array([1.0])}) == (False, 0.0)
    assert compared({}, {"n": np.zeros((2, 2))}, {"n": np.zeros((2, 2))}) == (True, 0.0)
