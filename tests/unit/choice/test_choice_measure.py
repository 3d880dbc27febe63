"""Timing engines that are really loaded, each in a process of its own."""

import multiprocessing
import os
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from choice_samples import candidate, examples

from mmdeploy.choice.engine_process import EngineProcess
from mmdeploy.choice.engine_server import Server
from mmdeploy.choice.measure import FIRST_ROUNDS, MAX_LOOKS, Race, Timings
from mmdeploy.core.errors import EngineError, InferenceError
from mmdeploy.engines import METHODS, onnxruntime, openvino


class Scripted:
    """Answers like an `EngineProcess`, with latencies that a function of the round gives."""

    def __init__(self, latency, log):
        self.latency, self.log, self.closed = latency, log, False

    def time(self, first, count):
        self.log.append(self)
        value = self.latency(first // count)
        if value is None:
            raise EngineError("gone")
        return [value] * count

    def close(self):
        self.closed = True


def scripted(latencies, *, max_seconds=1e9, min_rounds=20, contenders=None, tick=0.0):
    """Race candidates with given latencies; the clock moves by ``tick`` a call."""
    log, now = [], iter(np.arange(0, 1e6, tick) if tick else np.zeros(10**6))
    processes = {label: Scripted(latency, log) for label, latency in latencies.items()}
    race = Race(
        dict(processes), max_seconds, min_rounds, Timings({label: {} for label in latencies}), clock=lambda: next(now)
    )
    race.run(contenders or (lambda timings: []))
    return race, processes, log


def test_the_ratio_survives_a_machine_that_slows_down_threefold():
    drift = lambda base: lambda at: base * (1 + at / 5)  # noqa: E731
    race, _, _ = scripted({"a": drift(1.0), "b": drift(0.5)})
    low, high = race.timings.interval("b", "a")
    assert low < 0.5 < high
    assert high - low < 0.1


class Interrupted(Scripted):
    """Takes its time, and ten times as long for the second request of each block that is not a mirror's."""

    def time(self, first, count):
        super().time(first, count)
        return [self.latency(0) * (10.0 if at == 1 and (first // count) % 2 == 0 else 1.0) for at in range(count)]


def test_requests_that_other_work_on_the_machine_interrupts_do_not_count_against_an_engine():
    names = {"quick": 45.0, "slow": 49.0}
    processes = {"quick": Interrupted(lambda at: 45.0, []), "slow": Scripted(lambda at: 49.0, [])}
    race = Race(dict(processes), 1e9, 20, Timings({name: {} for name in names}), clock=lambda: 0.0)
    race.run(lambda timings: [])
    assert race.timings.ratio("quick", "slow") == pytest.approx(45 / 49)
    assert race.timings.interval("quick", "slow")[1] < 1
    assert race.timings.p50_ms("quick") > race.timings.p50_ms("slow") == 49.0, "people are told what requests took"


def test_each_second_round_mirrors_the_one_before():
    _, processes, log = scripted({name: lambda at: 1.0 for name in "abc"})
    names = {process: name for name, process in processes.items()}
    order = [names[process] for process in log][-3 * 20 :]
    rounds = [order[at : at + 3] for at in range(0, len(order), 3)]
    for first, second in zip(rounds[::2], rounds[1::2], strict=True):
        assert first == second[::-1]
    assert len({tuple(one) for one in rounds[::2]}) > 1


def test_who_left_the_race_is_not_timed_but_its_figures_stay():
    race, _, _ = scripted(
        {"a": lambda at: 1.0, "b": lambda at: 1.0, "c": lambda at: 3.0}, contenders=lambda timings: ["a", "b"]
    )
    assert race.timings.rounds("c") == 20
    assert race.timings.rounds("a") == 20 * 2 ** (MAX_LOOKS - 1)
    assert race.timings.looks == MAX_LOOKS
    assert race.timings.ratio("c", "a") == 3.0


def test_who_is_far_behind_leaves_after_the_first_rounds():
    log, names = [], "abc"
    processes = {name: Scripted(lambda at: 1.0, log) for name in names}
    race = Race(dict(processes), 1e9, 20, Timings({name: {} for name in names}), clock=lambda: 0.0)
    race.run(lambda timings: [], lambda timings: ["c"] if timings.blocks["c"] else [])
    assert {name: race.timings.rounds(name) for name in names} == {"a": 20, "b": 20, "c": FIRST_ROUNDS}
    assert race.timings.looks == 1


def test_those_that_are_left_share_the_time_of_a_round():
    """Two requests of each fit into 0.1 s while all are there (50 ms), ten when the slow one has left (10 ms)."""
    sizes = []

    class Counting(Scripted):
        def time(self, first, count):
            sizes.append(count)
            return super().time(first, count)

    fast = {name: Counting(lambda at: 5.0, []) for name in "ab"}
    race = Race(
        fast | {"slow": Scripted(lambda at: 40.0, [])}, 1e9, 20, Timings({name: {} for name in ("a", "b", "slow")}),
        clock=lambda: 0.0,
    )  # fmt: skip
    race.run(lambda timings: ["a", "b"])
    assert sizes[2:42] == [2] * 40
    assert set(sizes[42:]) == {10}
    assert race.timings.rounds("slow") == 20


def test_time_is_kept():
    race, _, _ = scripted({"a": lambda at: 1.0, "b": lambda at: 1.0}, max_seconds=5, tick=1, contenders=lambda t: "ab")
    assert race.timings.rounds("a") == 5


def test_one_round_decides_nothing():
    race, _, _ = scripted({"a": lambda at: 1.0, "b": lambda at: 0.1}, max_seconds=1, tick=1)
    assert race.timings.rounds("a") == 1
    assert race.timings.interval("b", "a") == (0.0, float("inf"))


def test_who_fails_in_the_middle_leaves_and_the_others_go_on():
    race, processes, _ = scripted({"a": lambda at: 1.0, "b": lambda at: 2.0 if at < 7 else None, "c": lambda at: 3.0})
    assert race.failed == {"b": "gone"}
    assert processes["b"].closed
    assert (race.timings.rounds("b"), race.timings.rounds("c")) == (7, 20)
    assert race.timings.ratio("b", "a") == 2.0


def test_more_looks_and_more_candidates_ask_for_more_confidence():
    two, five = Timings({"a": {}, "b": {}}), Timings({name: {} for name in "abcde"})
    assert two.level == pytest.approx(0.975)
    assert five.level == pytest.approx(1 - 0.025 / 7)
    two.looks = 2
    assert two.level == pytest.approx(0.9875)


def test_both_engines_answer_from_their_processes_as_they_do_here(tmp_path: Path):
    feed = examples(3)
    for options in (onnxruntime.Options(), openvino.Options()):
        one = candidate(tmp_path, options.method, options, layers=2)
        here = METHODS[options.method].load(one.artifact, options)
        with EngineProcess(one.artifact, options, [examples(1)]) as process:
            assert process.loaded().inputs == here.inputs
            assert process.outputs == here.outputs
            assert process.pid != os.getpid()
            assert len(process.time(0, 5)) == 5
            np.testing.assert_array_equal(process.infer(feed)["y"], here.infer(feed)["y"])
        here.close()


def test_a_process_times_each_request_alone_and_none_for_warming_up():
    """Each request costs what it holds, on a clock that only requests move."""
    now, asked = [0.0], []

    class Costed:
        def infer(self, feed_dict):
            asked.append(feed_dict["ms"])
            now[0] += feed_dict["ms"] / 1e3

    server = Server(clock=lambda: now[0])
    with pytest.raises(EngineError, match="no engine is loaded"):
        server.time(0, 1)
    server._runner, server._requests = Costed(), tuple({"ms": ms} for ms in (3.0, 1.0, 2.0))
    assert server.time(4, 4) == pytest.approx([1.0, 2.0, 3.0, 1.0])
    assert asked == [1.0, 1.0, 2.0, 3.0, 1.0]


def test_really_loaded_engines_race_to_the_end(tmp_path: Path):
    """Which of them is faster is the processor's affair: benchmarks/engine_race.py."""
    parts = [
        candidate(tmp_path, "ort", onnxruntime.Options(), layers=6),
        candidate(tmp_path, "ov", openvino.Options(), layers=6),
    ]
    with ExitStack() as stack:
        starting = {part.label: EngineProcess(part.artifact, part.engine, [examples(1)]) for part in parts}
        race = Race(
            {label: stack.enter_context(process).loaded() for label, process in starting.items()},
            1.0, 8, Timings({label: {} for label in starting}), clock=lambda: 0.0,
        )  # fmt: skip
        race.run(lambda timings: [])
    assert race.failed == {}
    assert [race.timings.rounds(label) for label in starting] == [8, 8]
    low, high = race.timings.interval("ov", "ort")
    assert 0.0 < low < high < float("inf")


def test_what_an_engine_refuses_is_an_error_and_it_lives_on(tmp_path: Path):
    one = candidate(tmp_path, "ort", onnxruntime.Options(), layers=1)
    with EngineProcess(one.artifact, one.engine, [examples(1)]) as process:
        process.loaded()
        with pytest.raises(InferenceError, match="unknown input 'z'"):
            process.infer({"z": examples(1)["x"]})
        assert process.infer(examples(2))["y"].shape == (2, 192)


def test_a_killed_process_is_an_error_that_names_the_signal(tmp_path: Path):
    one = candidate(tmp_path, "ort", onnxruntime.Options(), layers=1)
    with EngineProcess(one.artifact, one.engine, [examples(1)]) as process:
        process.loaded()
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(EngineError, match="died: signal SIGKILL"):
            process.time(0, 1)
        with pytest.raises(EngineError):
            process.time(0, 1)


def test_an_engine_does_not_outlive_who_started_it(tmp_path: Path):
    one = candidate(tmp_path, "ort", onnxruntime.Options(), layers=1)
    starter = multiprocessing.get_context("fork").Process(target=start_and_wait, args=(one, tmp_path / "pid"))
    starter.start()
    pid = wait_for(lambda: (tmp_path / "pid").exists() and int((tmp_path / "pid").read_text()))
    assert b"engine_server" in command_line(pid)
    starter.kill()
    starter.join()
    wait_for(lambda: b"engine_server" not in command_line(pid))


def command_line(pid: int) -> bytes:
    """Return a process's command line; empty once it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def start_and_wait(one, pid_file: Path):
    with EngineProcess(one.artifact, one.engine, [examples(1)]) as process:
        process.loaded()
        pid_file.with_suffix(".part").write_text(str(process.pid))
        pid_file.with_suffix(".part").rename(pid_file)
        signal.pause()


def wait_for(condition):
    """Return what a condition gives once that is true; the test's own timeout ends a wait in vain."""
    while not (found := condition()):
        time.sleep(0.02)
    return found


def test_an_engine_that_cannot_be_loaded_says_why(tmp_path: Path):
    one = candidate(tmp_path, "ort", onnxruntime.Options(), layers=1)
    one.artifact.path.write_bytes(b"no graph")
    with (
        EngineProcess(one.artifact, one.engine, [examples(1)]) as process,
        pytest.raises(EngineError, match="cannot load"),
    ):
        process.loaded()
