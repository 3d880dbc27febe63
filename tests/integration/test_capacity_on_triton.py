"""The simulation beside a real Triton whose steps sleep: what no noise of the machine can turn round.

How close the p99 is, is measured by a benchmark on a quiet machine.
"""

import dataclasses
import sys
from pathlib import Path

import pytest

from mmdeploy.performance import service_measure
from mmdeploy.performance.capacity import Wanted, make_plan
from mmdeploy.performance.generator import Loop
from mmdeploy.performance.measure import Limits, measure
from mmdeploy.performance.queueing import simulate
from mmdeploy.performance.samples import find
from mmdeploy.performance.service_measure import measure_service_times
from mmdeploy.performance.target import open_target
from mmdeploy.triton import server

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import sleeping_models

pytestmark = pytest.mark.triton

QUICK = Limits(window_s=0.2, max_seconds=1.0, stability=100.0)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sleeping")
    repository = sleeping_models.write(folder / "repository")
    with server.start([repository], log=folder / "triton.log") as running:
        target = open_target(running.grpc_url)
        with pytest.MonkeyPatch.context() as patched:  # three seconds at each rate, not 15 to 25
            patched.setattr(service_measure, "_BLOCKS", 3)
            patched.setattr(service_measure, "_BLOCK_S", (1.0, 1.0))
            times = measure_service_times(target, QUICK, cores=8)  # to steps that sleep there is always one
        rate = 0.4 * times.measured["full"]["throughput_per_s"]
        prepared = [target.prepared(feed) for feed in find(target).feeds]
        limits = Limits(window_s=1.0, max_seconds=3.0, stability=100.0)
        yield times, rate, measure(target, prepared, Loop(rate_per_s=rate), limits)


def test_the_ensemble_is_read_as_it_is_wired(measured):
    times, _, _ = measured
    stages = {stage.name: stage for stage in times.stages}
    assert stages["head"].after == ("left",)
    assert stages["left"].after == stages["right"].after == ()
    assert (stages["left"].delay_s, stages["right"].delay_s, stages["head"].delay_s) == (0.002, 0.0, None)
    assert set(stages["left"].seconds) == {1, 2, 4, 8}


def test_service_times_are_those_of_the_steps(measured):
    times, _, _ = measured
    for stage in times.stages:
        each_ms, row_ms, _ = sleeping_models.STEPS[stage.name]
        for rows, seconds in stage.seconds.items():
            assert seconds * 1e3 >= each_ms + row_ms * rows  # a sleep is never shorter
        assert stage.seconds[1] * 1e3 < 20 * (each_ms + row_ms)


def test_the_simulation_is_as_busy_and_as_slow_as_triton(measured):
    times, rate, real = measured
    reckoned = simulate(times.network(), rate_per_s=rate, requests=5_000)
    assert real.failed == 0
    assert 0.1 < 1e3 * reckoned.latencies_s.mean() / real.mean_ms < 10
    for name, one in real.components.items():
        if name in reckoned.stages:
            busy = one.executions * one.compute_ms / 1e3 / real.seconds
            assert reckoned.stages[name].utilization == pytest.approx(busy, abs=0.3)
            assert reckoned.stages[name].batch == pytest.approx(one.batch, abs=1.0)


def test_a_plan_is_made_of_what_was_measured(measured):
    times, rate, _ = measured
    plan = make_plan(
        dataclasses.replace(times, memory_bytes=2**30), Wanted(10 * rate, 500.0, more_instances=False, requests=1_000)
    )
    assert plan.replicas >= 4
    assert 1e3 * plan.at_rate.percentile_s(99) <= 500
