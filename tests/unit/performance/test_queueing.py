"""The simulator against what theory has in closed form, and what holds of any queue."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdeploy.performance.queueing import Network, Stage, simulate


def fixed(seconds):
    return lambda rows, random: seconds


def exponential(mean):
    return lambda rows, random: float(random.exponential(mean))


def erlang_c(load: float, servers: int) -> float:
    """Probability that a request of M/M/c waits."""
    last = load**servers / math.factorial(servers) * servers / (servers - load)
    return last / (sum(load**number / math.factorial(number) for number in range(servers)) + last)


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_m_m_1(load):
    found = simulate(Network((Stage("a", exponential(0.01)),)), rate_per_s=load / 0.01, requests=30_000)
    mean = 0.01 / (1 - load)  # the time in the system is exponential
    assert found.latencies_s.mean() == pytest.approx(mean, rel=0.06)
    assert found.percentile_s(99) == pytest.approx(mean * math.log(100), rel=0.12)
    assert found.stages["a"].utilization == pytest.approx(load, rel=0.04)


def test_m_d_1():
    found = simulate(Network((Stage("a", fixed(0.01)),)), rate_per_s=70, requests=30_000)
    assert found.stages["a"].queue_s == pytest.approx(0.7 * 0.01 / (2 * 0.3), rel=0.06)  # Pollaczek and Khinchine


def test_m_m_c():
    found = simulate(Network((Stage("a", exponential(0.01), instances=3),)), rate_per_s=240, requests=30_000)
    waiting = erlang_c(2.4, 3) * 0.01 / (3 - 2.4)
    assert found.stages["a"].queue_s == pytest.approx(waiting, rel=0.1)


@pytest.mark.parametrize("service", [fixed, exponential])
def test_shared_cores_are_insensitive_to_the_distribution(service):
    """M/G/1 with processor sharing: the mean time in the system is that of M/M/1, whatever the service."""
    network = Network((Stage("a", service(0.01), instances=10_000),), cores=1)
    found = simulate(network, rate_per_s=60, requests=15_000)
    assert found.latencies_s.mean() == pytest.approx(0.01 / 0.4, rel=0.08)
    assert found.cores_busy == pytest.approx(0.6, rel=0.04)


def test_queues_in_a_row_are_independent():
    """Burke: what leaves M/M/1 is again Poisson."""
    network = Network((Stage("a", exponential(0.01)), Stage("b", exponential(0.005), after=("a",))))
    found = simulate(network, rate_per_s=50, requests=30_000)
    assert found.latencies_s.mean() == pytest.approx(0.01 / 0.5 + 0.005 / 0.75, rel=0.06)


def test_branches_run_side_by_side_and_a_join_waits_for_the_slower():
    network = Network((Stage("a", fixed(0.01)), Stage("b", fixed(0.03)), Stage("c", fixed(0.005), after=("a", "b"))))
    found = simulate(network, clients=1, requests=100)
    assert found.latencies_s == pytest.approx(np.full(90, 0.035))


def test_a_closed_loop_of_one_client_never_waits_but_for_the_delay():
    network = Network((Stage("a", fixed(0.01), max_batch=8, delay_s=0.002),))
    found = simulate(network, clients=1, requests=50)
    assert found.latencies_s == pytest.approx(np.full(45, 0.012))
    assert found.stages["a"].queue_s == pytest.approx(0.002)


def test_clients_share_a_full_batch_without_waiting_for_the_delay():
    network = Network((Stage("a", fixed(0.01), max_batch=4, delay_s=1.0),))
    found = simulate(network, clients=4, requests=400)
    assert found.stages["a"].batch == 4
    assert found.throughput_per_s == pytest.approx(400)


def test_a_preferred_size_is_taken_as_soon_as_it_is_there():
    network = Network((Stage("a", fixed(0.01), max_batch=8, delay_s=1.0, preferred=(2,)),))
    found = simulate(network, clients=2, requests=100)
    assert found.stages["a"].batch == 2
    assert found.latencies_s == pytest.approx(np.full(90, 0.01))


def test_without_delay_a_batch_is_what_came_while_the_last_one_ran():
    network = Network((Stage("a", fixed(0.01), max_batch=100, delay_s=0.0),))
    found = simulate(network, rate_per_s=500, requests=5_000)
    assert found.stages["a"].batch == pytest.approx(5, rel=0.1)
    assert 0.010 < found.latencies_s.mean() < 0.020


def test_two_cores_do_the_work_of_two():
    network = Network((Stage("a", fixed(0.01), instances=4),), cores=2)
    assert simulate(network, clients=4, requests=200).throughput_per_s == pytest.approx(200, rel=0.02)
    threads = Network((Stage("a", fixed(0.01), instances=4, threads=2),), cores=2)
    assert simulate(threads, clients=4, requests=200).throughput_per_s == pytest.approx(100, rel=0.02)


def test_what_is_around_the_models_is_worked_and_waited():
    network = Network((Stage("a", fixed(0.01)),), cores=1, around=lambda random: (0.002, 0.003))
    assert simulate(network, clients=1, requests=20).latencies_s == pytest.approx(np.full(18, 0.015))


def test_the_same_seed_gives_the_same_run():
    network = Network((Stage("a", exponential(0.01)),))
    one, other, third = (simulate(network, rate_per_s=50, requests=200, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(one.latencies_s, other.latencies_s)
    assert not np.array_equal(one.latencies_s, third.latencies_s)


def test_where_far_more_comes_than_is_answered_those_who_were_answered_count():
    found = simulate(Network((Stage("a", fixed(0.1)),), cores=1), rate_per_s=500, requests=20)
    assert len(found.latencies_s) == 20
    assert found.throughput_per_s == pytest.approx(10, rel=0.1)


STAGES = st.builds(
    dict,
    seconds=st.floats(0.001, 0.02),
    instances=st.integers(1, 3),
    max_batch=st.integers(1, 6),
    delay_s=st.one_of(st.none(), st.sampled_from([0.0, 0.001, 0.01])),
    preferred=st.sampled_from([(), (1,), (2, 4)]),
    threads=st.integers(1, 2),
)


@settings(deadline=None, max_examples=40)
@given(
    parts=st.lists(STAGES, min_size=1, max_size=4),
    links=st.integers(0, 2**6 - 1),
    rate=st.one_of(st.none(), st.floats(5, 200)),
    cores=st.sampled_from([1, 2, math.inf]),
    rows=st.integers(1, 2),
    seed=st.integers(0, 99),
)
def test_nothing_is_lost_made_or_faster_than_its_work(parts, links, rate, cores, rows, seed):
    pairs = [(early, late) for late in range(len(parts)) for early in range(late)]
    edges = {pair for number, pair in enumerate(pairs) if links >> number & 1}
    stages = tuple(
        Stage(
            f"s{number}",
            fixed(part["seconds"]),
            after=tuple(f"s{early}" for early, late in sorted(edges) if late == number),
            **{key: value for key, value in part.items() if key != "seconds"},
        )
        for number, part in enumerate(parts)
    )
    load = {"clients": 3} if rate is None else {"rate_per_s": rate}
    found = simulate(Network(stages, cores=cores, rows=rows), requests=120, seed=seed, **load)
    assert len(found.latencies_s) > 0
    for stage, part in zip(stages, parts, strict=True):
        one = found.stages[stage.name]
        assert one.requests >= 120  # each request meets each stage once
        assert one.batch <= max(stage.max_batch, rows) if stage.delay_s is not None else one.batch == rows
        assert 0 <= one.utilization <= 1 + 1e-9
        assert found.latencies_s.min() >= part["seconds"] - 1e-9
    assert found.cores_busy <= 1 + 1e-9
    longest = {}
    for stage, part in zip(stages, parts, strict=True):
        longest[stage.name] = part["seconds"] + max((longest[name] for name in stage.after), default=0.0)
    assert found.latencies_s.min() >= max(longest.values()) - 1e-9


@settings(deadline=None, max_examples=15)
@given(rate=st.floats(10, 60), instances=st.integers(1, 3), delay=st.one_of(st.none(), st.just(0.005)))
def test_littles_law(rate, instances, delay):
    """What is in the system is the rate times the time in it."""
    stage = Stage("a", exponential(0.01), instances=instances, max_batch=4, delay_s=delay)
    found = simulate(Network((stage,)), rate_per_s=rate, requests=3_000)
    assert found.in_system == pytest.approx(found.throughput_per_s * found.latencies_s.mean(), rel=0.12)
