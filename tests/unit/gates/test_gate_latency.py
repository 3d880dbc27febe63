import numpy as np
import pytest
from gate_evidence import SteppedClock, TimedDeployment, deployment, evidence, fusion
from pydantic import ValidationError

from mmdeploy.core.contracts import Check, Verdict
from mmdeploy.core.errors import InferenceError
from mmdeploy.gates import latency
from mmdeploy.scoring import load, looks


def options(**given):
    return latency.Options(method="latency", **({"per_component": False, "percentile": "p95"} | given))


def noisy(seed, mean_ms, *, spread=0.05):
    rng = np.random.default_rng(seed)
    return lambda: mean_ms * 1e-3 * rng.lognormal(0.0, spread)


def judge(candidate, reference, *, clock=None, seed=0, given=None, **limits):
    clock = clock or SteppedClock()
    sides = {
        "candidate": TimedDeployment(deployment(), clock, candidate),
        "reference": TimedDeployment(deployment(), clock, reference),
    }
    return latency.check(options(**limits), evidence(**sides, seed=seed, **(given or {})), clock=clock)


@pytest.mark.parametrize(("factor", "verdict"), [(0.7, Verdict.PASS), (1.0, Verdict.PASS), (1.5, Verdict.FAIL)])
@pytest.mark.parametrize("percentile", ["p50", "p90", "p95", "p99"])
def test_the_ratio_of_a_percentile_decides(factor, verdict, percentile):
    reference = noisy(2, 20, spread=0.02)
    result = judge(noisy(1, 20 * factor, spread=0.02), reference, max_ratio_to_reference=1.15, percentile=percentile)
    assert result.verdict is verdict
    (check,) = result.checks
    assert check.measured == pytest.approx(factor, rel=0.06)
    assert check.interval[0] < check.measured < check.interval[1]
    assert check.limit == "<= 1.15"
    assert check.samples == result.details["requests"]


class Wandering:
    """What a request costs on a server that is faster or slower for a while: sd 5 %, time constant 20 s."""

    def __init__(self, clock, seed, factor, *, wander=0.05):
        self.clock, self.random, self.factor, self.wander = clock, np.random.default_rng(seed), factor, wander
        self.level, self.seen_at = self.random.normal(), 0.0

    def __call__(self):
        kept = np.exp(-(self.clock.now - self.seen_at) / 20.0)
        self.level = kept * self.level + np.sqrt(1 - kept**2) * self.random.normal()
        self.seen_at = self.clock.now
        return 0.05 * self.factor * np.exp(self.wander * self.level) * self.random.lognormal(0, 0.03)


def judged_while_wandering(factor, limit, trials, *, wander=0.05):
    found = []
    for seed in range(trials):
        clock = SteppedClock()
        candidate = Wandering(clock, [seed, 0], factor, wander=wander)
        reference = Wandering(clock, [seed, 1], 1.0, wander=0.0)
        given = {"max_ratio_to_reference": limit, "percentile": "p50", "requests": 120}
        found.append(judge(candidate, reference, clock=clock, seed=seed, **given).verdict)
    return found


@pytest.mark.parametrize(
    ("factor", "limit", "false"),
    [(1.0, 1.0, {Verdict.PASS, Verdict.FAIL}), (1.1, 1.0, {Verdict.PASS}), (1.1, 1.05, {Verdict.PASS})],
)
def test_a_server_that_wanders_slowly_does_not_decide(factor, limit, false):
    """The error rates are measured by benchmarks/verdict_errors.py; these twelve judgements are the same each time."""
    assert not false.intersection(judged_while_wandering(factor, limit, 12))


def test_what_is_clear_is_decided_though_a_server_wanders():
    assert judged_while_wandering(0.5, 0.8, 5) == [Verdict.PASS] * 5
    assert judged_while_wandering(1.5, 1.0, 5) == [Verdict.FAIL] * 5
    assert judged_while_wandering(1.0, 1.1, 5, wander=0.0) == [Verdict.PASS] * 5
    assert judged_while_wandering(1.2, 1.1, 5, wander=0.0) == [Verdict.FAIL] * 5


def test_a_limit_that_is_just_reached_is_measured_longer_and_then_inconclusive():
    result = judge(noisy(1, 22), noisy(2, 20), max_ratio_to_reference=1.1, max_seconds=40)
    (check,) = result.checks
    assert check.verdict is Verdict.INCONCLUSIVE
    assert "the limit lies inside the interval" in check.note
    assert result.details["looks"] > 1
    assert result.details["requests"] > 700


def test_undecided_at_first_and_decided_with_more_time():
    result = judge(noisy(3, 20), noisy(4, 20), max_ratio_to_reference=1.15, percentile="p50", requests=60)
    assert result.verdict is Verdict.PASS
    assert result.details["looks"] > 1


def test_measuring_stops_when_the_time_is_up():
    clock = SteppedClock()
    judge(
        noisy(1, 110, spread=0.5),
        noisy(2, 100, spread=0.5),
        clock=clock,
        max_ratio_to_reference=1.1,
        max_seconds=30,
    )
    assert clock.now < 30 + 2 * 2 * 2 * 0.1 * 5  # the last round may overrun


def test_too_slow_for_a_verdict_is_inconclusive_with_the_reason():
    result = judge(noisy(1, 4000), noisy(2, 1000), max_ratio_to_reference=1.1, max_seconds=60)
    assert result.verdict is Verdict.INCONCLUSIVE
    assert "rounds of the 8 that a verdict needs" in result.checks[0].note
    result = judge(noisy(1, 400), noisy(2, 400), max_ratio_to_reference=1.1, max_seconds=60, percentile="p99")
    assert result.verdict is Verdict.INCONCLUSIVE
    assert "requests of the 459 that a verdict needs" in result.checks[0].note
    result = judge(noisy(1, 5000), noisy(2, 1000), max_ratio_to_reference=1.1, max_seconds=1)
    assert result.verdict is Verdict.INCONCLUSIVE
    assert "max_seconds: 1" in result.checks[0].note


def test_a_machine_that_slows_down_does_it_to_both_sides():
    clock = SteppedClock()

    def drifting(seed, factor):
        rng = np.random.default_rng(seed)
        return lambda: 1e-2 * factor * (1 + clock.now / 10) * rng.lognormal(0, 0.02)

    for factor, verdict in ((1.0, Verdict.PASS), (1.5, Verdict.FAIL)):
        clock.now = 0.0
        result = judge(drifting(1, factor), drifting(2, 1.0), clock=clock, max_ratio_to_reference=1.2, percentile="p50")
        assert clock.now > 10  # slower by more than two at the end
        assert result.verdict is verdict
        assert result.checks[0].measured == pytest.approx(factor, rel=0.03)


def test_a_passing_disturbance_of_one_server_is_not_a_failure():
    clock = SteppedClock()
    rng = np.random.default_rng(0)

    def disturbed_at_first():
        return 2e-2 * rng.lognormal(0, 0.02) * (1.5 if clock.now < 3 else 1.0)

    result = judge(disturbed_at_first, noisy(2, 20), clock=clock, max_ratio_to_reference=1.2, percentile="p50")
    assert result.verdict is Verdict.PASS


@pytest.mark.parametrize(("before", "after"), [(1.0, 2.0), (2.0, 1.0), (0.5, 1.2), (1.2, 0.5)])
def test_what_holds_for_half_of_the_time_is_no_verdict(before, after):
    clock = SteppedClock()
    rng = np.random.default_rng(0)

    def changing():
        return 2e-2 * rng.lognormal(0, 0.02) * (after if clock.now > 10 else before)

    result = judge(changing, noisy(2, 20), clock=clock, max_ratio_to_reference=1.1, percentile="p50", max_seconds=20)
    (check,) = result.checks
    assert check.verdict is Verdict.INCONCLUSIVE


def test_a_verdict_must_be_that_of_each_half_by_its_figure():
    """Far below the limit at first, a little above it later: the whole is below, and a half says no."""
    measured = load.Measurement(block_requests=1)
    for at in range(40):
        seconds = 0.5 if at < 20 else 1.2
        measured.candidate.append(load.Block(np.array([seconds]), seconds, float(at)))
        measured.reference.append(load.Block(np.array([1.0]), 1.0, float(at)))

    def decided(seen, confidence):
        slower = np.mean([one.seconds for one in seen.candidate])
        return [Check("ratio", slower, "<= 1", Verdict.PASS if slower <= 1 else Verdict.FAIL)]

    (told,) = looks._confirmed(decided(measured, 0.99), measured, decided)
    assert told.verdict is Verdict.INCONCLUSIVE
    assert "not by the figures of the earlier and of the later half" in told.note


def test_first_requests_are_not_counted():
    calls = {"candidate": 0}

    def cold_start():
        calls["candidate"] += 1
        return 0.1 if calls["candidate"] <= 20 else 0.001

    result = judge(cold_start, lambda: 0.001, max_ratio_to_reference=1.1, max_seconds=20)
    assert result.details["candidate_ms"]["p99"] == pytest.approx(1.0)


def test_blocks_alternate_in_mirrored_pairs():
    order = []
    judge(
        lambda: order.append("candidate") or 0.001, lambda: order.append("reference") or 0.001,
        max_ratio_to_reference=1.1,
    )  # fmt: skip
    # A, then B warm up; every two rounds are ABBA or BAAB, so runs of equal sides are one or two blocks long
    per_block = 500 // 30 + 1
    warm_up = order.index("reference") * 2
    sides = [order[start] for start in range(warm_up, len(order), per_block)]
    assert len(order) == warm_up + len(sides) * per_block
    for start in range(0, len(sides) - 3, 4):
        first, second, third, fourth = sides[start : start + 4]
        assert first == fourth != second == third
    assert {"".join(side[0] for side in sides[start : start + 2]) for start in range(0, len(sides), 4)} == {
        "cr", "rc",
    }  # fmt: skip


def test_a_limit_in_milliseconds_binds_on_the_named_hardware_only():
    for hardware in ("*h100*", "acme turbo 9000 cpu"):
        result = judge(noisy(1, 2), noisy(2, 2), max_ms=1.5, hardware=hardware, percentile="p50")
        (check,) = result.checks
        assert (check.verdict, check.unit) == (Verdict.FAIL, "ms")
        assert check.measured == pytest.approx(2.0, rel=0.05)
    both = judge(noisy(1, 2), noisy(2, 2), max_ms=0.1, max_ratio_to_reference=1.2, hardware="*A100*")
    assert both.verdict is Verdict.PASS
    assert "0.1 holds on '*A100*' and was not judged here (Acme Turbo 9000 CPU" in both.details["not_binding"]
    alone = judge(noisy(1, 2), noisy(2, 2), max_ms=100, hardware="*A100*")
    assert alone.verdict is Verdict.INCONCLUSIVE
    assert "was not judged here" in alone.checks[0].note
    assert alone.details["looks"] == 1


def test_a_stand_in_is_not_measured():
    clock = SteppedClock()
    result = judge(
        noisy(1, 2), noisy(2, 2), clock=clock, max_ratio_to_reference=1.1,
        given={"substitute": "TensorRT cannot run here"},
    )  # fmt: skip
    (check,) = result.checks
    assert (check.verdict, check.measured, check.note) == (
        Verdict.INCONCLUSIVE, None, "TensorRT cannot run here",
    )  # fmt: skip
    assert clock.now == 0.0


@pytest.mark.parametrize(("largest", "words"), [(4, "takes up to 4"), (0, "takes up to 1")])
def test_a_batch_that_the_ensemble_does_not_take_fails(largest, words):
    result = judge(noisy(1, 2), noisy(2, 2), max_ratio_to_reference=1.1, batch=8, given={"max_batch_size": largest})
    assert result.verdict is Verdict.FAIL
    assert words in result.checks[0].note


def test_an_ensemble_that_does_not_batch_is_measured():
    result = judge(noisy(1, 2), noisy(2, 2), max_ratio_to_reference=1.2, given={"max_batch_size": 0})
    assert result.verdict is Verdict.PASS


@pytest.mark.parametrize(("side", "verdict"), [("candidate", Verdict.FAIL), ("reference", Verdict.INCONCLUSIVE)])
@pytest.mark.parametrize("after", [0, 500])
@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_refused_request_ends_the_measurement_with_the_reason(side, verdict, after, concurrency):
    calls = []

    def refusing(image, audio):
        calls.append(1)
        if len(calls) > after:
            raise InferenceError("out of memory")
        return fusion(image, audio)

    clock = SteppedClock()
    sides = {
        name: TimedDeployment(deployment({"fusion": refusing} if name == side else {}), clock, lambda: 0.001)
        for name in ("candidate", "reference")
    }
    result = latency.check(
        options(max_ratio_to_reference=1.1, concurrency=concurrency, requests=2000),
        evidence(**sides),
        clock=clock,
    )
    (check,) = result.checks
    assert check.verdict is verdict
    assert f"the {side} did not answer: out of memory" in check.note
    for name in sides:
        assert sides[name].opened == sides[name].closed > 0


def test_components_are_timed_alone_for_the_report():
    result = judge(noisy(1, 1), noisy(2, 2), max_ratio_to_reference=0.8, per_component=True)
    components = result.details["components"]
    assert list(components) == ["image_encoder", "audio_encoder", "fusion"]
    for figures in components.values():
        assert figures["candidate_ms"]["p50"] == pytest.approx(1, rel=0.05)
        assert figures["reference_ms"]["p50"] == pytest.approx(2, rel=0.05)
        assert figures["requests"] >= 100


def test_samples_of_a_round_are_the_same_for_both_and_all_come_up():
    seen = {"candidate": [], "reference": []}

    def recording(side):
        def record(image, audio):
            seen[side].append(float(image[0, 0]))
            return fusion(image, audio)

        return record

    clock = SteppedClock()
    sides = {name: TimedDeployment(deployment({"fusion": recording(name)}), clock, lambda: 0.001) for name in seen}
    latency.check(options(max_ratio_to_reference=1.1), evidence(**sides), clock=clock)
    assert seen["candidate"] == seen["reference"]
    assert len(set(seen["candidate"])) == 96


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "at least one limit: max_ratio_to_reference or max_ms"),
        ({"max_ms": 5}, "name its CPU or GPU in hardware"),
        (
            {"max_ratio_to_reference": 1, "percentile": "p99", "requests": 200},
            "p99 needs requests: 459 or more",
        ),
        ({"max_ratio_to_reference": 1, "percentile": "p97"}, "'p50', 'p90', 'p95' or 'p99'"),
        ({"max_ratio_to_reference": 0}, "greater than 0"),
    ],
)
def test_options_that_make_no_sense(given, message):
    with pytest.raises(ValidationError, match=message):
        options(**given)
