import itertools
import json
import threading
import time

import numpy as np
import pytest
from slow_server import in_turn, plain_server, slow_server

from mmdeploy.core.errors import InferenceError, ServerError, UsageError
from mmdeploy.performance.bench import run
from mmdeploy.performance.generator import Load, Loop
from mmdeploy.performance.measure import Limits, measure
from mmdeploy.performance.prepared import InChunks, Prepared, Turns
from mmdeploy.performance.samples import find
from mmdeploy.performance.target import open_target

#: Three windows in each of which something was answered.
SHORT = Limits(window_s=0.1, max_seconds=60.0, stability=100.0)


def few_threads(most):
    """Wait until no more threads are left: a server's own end with their connections."""
    deadline = time.monotonic() + 60
    while threading.active_count() > most and time.monotonic() < deadline:
        time.sleep(0.01)
    return threading.active_count() <= most


def prepared(target, batch=1):
    return [target.prepared(feed) for feed in find(target, batch=batch).feeds]


def test_a_closed_loop_keeps_as_many_in_flight_as_there_are_clients():
    together, most, lock = 0, 0, threading.Lock()

    def answer(number: int) -> int:
        nonlocal together, most
        with lock:
            together += 1
            most = max(most, together)
        time.sleep(0.01)
        with lock:
            together -= 1
        return 200

    with slow_server(answer) as served:
        target = open_target(served.url)
        point = measure(target, prepared(target), Loop(concurrency=3), SHORT)
    assert most == 3
    assert point.failed == 0
    assert point.percentile_ms(50) >= 10
    # Little's law: what is in flight is the throughput times the latency, less what the clients take in between, and
    # more by what the first answers had waited before it was measured.
    in_flight = point.throughput_per_s * point.mean_ms / 1e3
    assert 1 < in_flight <= 3 * (1 + max(point.latencies_ms) / 1e3 / point.seconds)


def test_an_open_loop_charges_a_stall_for_all_who_would_have_come_meanwhile():
    stall = {20: 0.5}
    with slow_server(in_turn(0.0005, stall)) as served:
        target = open_target(served.url)
        limits = Limits(window_s=0.3, max_seconds=0.9, stability=100.0)
        opened = measure(target, prepared(target), Loop(rate_per_s=100), limits)
    with slow_server(in_turn(0.0005, stall)) as served:
        closed = measure(open_target(served.url), prepared(open_target(served.url)), Loop(concurrency=1), limits)
    assert np.sum(closed.latencies_ms > 250) <= 3  # the one that met the stall, and two of the machine's
    assert np.sum(opened.latencies_ms > 250) >= 8  # half of the 50 or so that were due while it stalled


def test_times_of_an_open_loop_are_those_of_a_poisson_process():
    times = Loop(rate_per_s=50, seed=3).times(10.0)
    gaps = np.diff([10.0, *(next(times) for _ in range(20_000))])
    assert gaps.mean() == pytest.approx(0.02, rel=0.03)
    assert gaps.std() == pytest.approx(0.02, rel=0.05)
    assert [next(Loop(rate_per_s=50, seed=1).times(0.0)) for _ in range(2)] == [
        next(Loop(rate_per_s=50, seed=1).times(0.0))
    ] * 2
    assert next(Loop(rate_per_s=50, seed=1).times(0.0)) != next(Loop(rate_per_s=50, seed=2).times(0.0))


def test_failures_are_counted_with_their_reasons_and_are_no_answers():
    with slow_server(lambda number: 200 if number % 2 else 503) as served:
        target = open_target(served.url)
        point = measure(target, prepared(target), Loop(rate_per_s=200), SHORT)
    assert 0 < point.failed < point.requests
    assert len(point.latencies_ms) == point.requests - point.failed
    assert any("too much" in reason for reason in point.reasons)
    assert any(f"{point.failed} of {point.requests} requests failed" in note for note in point.notes())


def test_a_rate_that_the_server_does_not_keep_is_said():
    with slow_server(in_turn(0.01)) as served:
        target = open_target(served.url)
        point = measure(target, prepared(target), Loop(rate_per_s=300), Limits(window_s=0.2, max_seconds=1.2))
    assert not point.stable
    assert any("does not keep up" in note for note in point.notes())
    assert any("unstable" in note for note in point.notes())
    assert point.percentile_ms(50) > 200


def test_a_rate_far_above_what_the_server_bears_still_tells_what_was_answered():
    with slow_server(in_turn(0.01)) as served:
        target = open_target(served.url)
        point = measure(target, prepared(target), Loop(rate_per_s=3000), Limits(window_s=0.2, max_seconds=1.2))
    assert not point.stable
    # What was due in the last windows was not even sent: what was answered in them counts, from when it was due.
    assert 1 <= point.requests <= 100
    assert point.requests == len(point.latencies_ms)
    assert point.requests == pytest.approx(point.throughput_per_s * point.seconds)
    assert point.percentile_ms(50) > 200
    notes = " ".join(point.notes())
    assert "does not keep up" in notes
    assert "waits grow as long as this load lasts" in notes
    assert "give it more time" not in notes


def test_a_load_that_nobody_answers_any_more_is_said():
    stall = dict.fromkeys(range(2, 60), 1.0)
    with slow_server(in_turn(0.0, stall)) as served:
        target = open_target(served.url)
        limits = Limits(window_s=0.1, max_seconds=0.6, stability=1e-9)
        point = measure(target, prepared(target), Loop(concurrency=2), limits)
    assert point.requests == 0
    assert any("nothing was answered in the last 0.3 s" in note for note in point.notes())


def test_a_load_ends_with_its_requests():
    with slow_server(in_turn(0.0)) as served:
        target = open_target(served.url)
        limits = Limits(window_s=0.1, max_seconds=60, max_requests=25)
        point = measure(target, prepared(target), Loop(concurrency=2), limits)
    assert len(served.bodies) == 25
    assert point.requests == 25


def test_ctrl_c_gives_what_was_measured():
    before = threading.active_count()
    with slow_server(in_turn(0.001)) as served:
        target = open_target(served.url)
        asked = find(target)

        def interrupt(loop, windows):
            if windows >= 2 and len(served.bodies) > 20:
                raise KeyboardInterrupt

        loops = [Loop(concurrency=1), Loop(concurrency=2)]
        limits = Limits(window_s=0.1, max_seconds=60, stability=1e-9)
        bench = run(target, asked, loops, limits, progress=interrupt)
    assert bench.interrupted
    assert bench.left == 1
    (point,) = bench.points
    assert point.requests > 0
    assert not point.stable
    assert [*bench.notes()][-1] == "interrupted: 1 of 2 loads were not put"
    assert few_threads(before)


def test_no_thread_stays_behind():
    with slow_server(in_turn(0.001)) as served:
        before = threading.active_count()
        target = open_target(served.url)
        with Load(target, prepared(target), Loop(rate_per_s=30)) as load:
            deadline = time.monotonic() + 60
            while not load.records() and time.monotonic() < deadline:
                time.sleep(0.01)
            assert threading.active_count() > before + 10
        assert load.records()
        assert few_threads(before)


def test_a_sample_that_is_refused_is_named_before_any_load():
    with slow_server(lambda number: 400) as served:
        target = open_target(served.url)
        with pytest.raises(InferenceError, match=r"refuses request 1 of 1 from made-up values.*too much"):
            run(target, find(target), [Loop(concurrency=1)], SHORT)
    assert len(served.bodies) == 1


def test_different_samples_are_asked_in_turns(tmp_path):
    np.savez(tmp_path / "some.npz", x=np.arange(6, dtype=np.float32).reshape(3, 2))
    with slow_server(in_turn(0.0)) as served:
        target = open_target(served.url)
        asked = find(target, data=tmp_path / "some.npz")
        assert asked.samples == 3
        run(target, asked, [Loop(concurrency=1)], Limits(window_s=0.1, max_seconds=60, max_requests=12))
        assert len(set(served.bodies)) == 3
        assert served.bodies[:3] == served.bodies[3:6]


def test_a_client_sends_all_chunks_of_a_sample_before_the_next():
    def chunk(name):
        return lambda number: Prepared(f"{name} {number}".encode())

    samples, numbers = [InChunks((chunk("a1"), chunk("a2"))), InChunks((chunk("b1"), chunk("b2")))], itertools.count()
    clients = [Turns(samples, numbers) for _ in range(2)]
    sent = [client.next(0).body.decode().split() for _ in range(2) for client in clients]
    assert [name for name, _ in sent] == ["a1", "b1", "a2", "b2"]
    assert sent[0][1] == sent[2][1] != sent[1][1] == sent[3][1]
    assert clients[0].give_up() is None, "both samples were sent whole"
    for client in clients:
        client.next(0)
    last = clients[1].give_up()
    assert last is not None and last.body.startswith(b"b2"), "which ends the sequence"
    assert clients[1].next(0).body.startswith(b"a1")


def test_the_json_is_what_others_read():
    with slow_server(in_turn(0.001)) as served:
        target = open_target(served.url)
        loops = [Loop(concurrency=2), Loop(rate_per_s=100)]
        told = json.loads(json.dumps(run(target, find(target), loops, SHORT).to_json()))
    (closed,), (opened,) = told["closed"], told["open"]
    assert closed["concurrency"] == 2
    assert opened["rate"] == 100
    for point in (closed, opened):
        assert point["stable"] in (True, False)  # a busy machine decides
        assert point["p50_ms"] <= point["p90_ms"] <= point["p95_ms"] <= point["p99_ms"] <= point["max_ms"]
        assert point["requests"] > 0
        assert point["failed"] == 0
        assert set(point["components"]["slow"]) >= {"queue_ms", "compute_ms", "count", "batch"}
    assert told["samples"] == {"different": 1, "from": "made-up values"}


@pytest.mark.parametrize("url", ["nowhere", "ftp://a:1", "http://a", ":8001", "a:b"])
def test_what_is_no_address_is_refused(url):
    with pytest.raises(UsageError, match="is not the address of a server"):
        open_target(url)


def test_a_server_that_is_not_there_is_one_clear_error():
    for url in ("127.0.0.1:9", "http://127.0.0.1:9"):
        with pytest.raises(ServerError, match="does not answer") as caught:
            open_target(url, timeout_s=60)
        assert "mmdeploy serve" in caught.value.hint


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}"])
def test_a_server_that_speaks_http_and_no_kserve_is_one_clear_error(body):
    with plain_server(200, body) as url, pytest.raises(ServerError, match="no KServe") as caught:
        open_target(url, timeout_s=60)
    assert "HTTP address" in caught.value.hint


def test_what_a_gateway_refuses_is_said_in_its_words():
    body = b'{"error": {"code": "not_found", "message": "there is nothing here"}}'
    with (
        plain_server(404, body) as url,
        pytest.raises(InferenceError, match=r"stats: there is nothing here \(HTTP 404\)"),
    ):
        open_target(url, timeout_s=60)


def test_a_model_that_is_not_served_is_refused_with_those_that_are():
    with slow_server(in_turn(0.0)) as served, pytest.raises(UsageError, match="did you mean 'slow'"):
        open_target(served.url, "slwo")
