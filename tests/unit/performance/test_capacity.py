import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from mmdeploy.cli.capacity import command
from mmdeploy.core.errors import BudgetError, UsageError
from mmdeploy.performance.capacity import Wanted, make_plan, most_per_s
from mmdeploy.performance.queueing import simulate
from mmdeploy.performance.service_measure import fitted
from mmdeploy.performance.service_times import ServiceTimes, StageTimes

HARDWARE = {"cpu": "a CPU", "cores": 2, "isa": [], "memory_bytes": 2**34, "gpus": []}


def stage(name="encoder", **changed):
    fields = {
        "after": (), "instances": 1, "max_batch": 1, "delay_s": None, "preferred": (), "threads": 1,
        "seconds": {1: 0.01},
    }  # fmt: skip
    return StageTimes(name, **(fields | changed))


def wanted(rate, p99_ms, **changed):
    """Ask for as much, by simulations that are short."""
    return Wanted(rate, p99_ms, **({"requests": 1_000} | changed))


def times(*stages, **changed):
    fields = {"cores": 2, "around_s": (0.001,), "work_s": 0.0, "hardware": HARDWARE}
    return ServiceTimes("digits", 1, stages or (stage(),), **(fields | changed))


def test_the_p99_is_kept_as_told_and_broken_with_one_replica_less():
    plan = make_plan(times(), wanted(1000, 40, more_instances=False, requests=4_000))
    assert 1e3 * plan.at_rate.percentile_s(99) <= 40
    fewer = simulate(times().network(), rate_per_s=1000 / (0.8 * plan.replicas), requests=10_000, seed=3)
    assert 1e3 * fewer.percentile_s(99) > 40
    assert plan.breaks_at_per_s >= 1000
    assert plan.headroom >= 0


def test_the_rate_is_the_one_that_theory_has():
    """M/D/1 of 10 ms: a p99 of 41 ms, 1 of them around it, is kept up to a load of 0.71 or so."""
    rate = most_per_s(times(), {"encoder": 1}, wanted(1, 41, requests=5_000), 2)
    found = simulate(times().network(), rate_per_s=rate, requests=20_000, seed=9)
    assert 1e3 * found.percentile_s(99) == pytest.approx(41, rel=0.12)


def test_more_instances_are_taken_where_they_help_and_cores_are_there():
    plan = make_plan(times(), wanted(1000, 40))
    assert plan.instances == {"encoder": 2}
    assert plan.replicas < make_plan(times(), wanted(1000, 40, more_instances=False)).replicas
    assert make_plan(times(cores=1), wanted(1000, 40)).instances == {"encoder": 1}


def test_the_busiest_is_named():
    slow = (stage("fast", seconds={1: 0.001}), stage("slow", seconds={1: 0.02}, after=("fast",)))
    plan = make_plan(times(*slow, cores=8), wanted(40, 200, more_instances=False))
    assert plan.bottleneck == "the instances of slow"
    crowded = make_plan(times(stage(instances=8), cores=1), wanted(80, 200, more_instances=False))
    assert crowded.bottleneck == "the cores"


def test_a_thousand_machines_are_planned():
    plan = make_plan(times(), wanted(1_000_000, 40, machine_cores=16))
    assert plan.machines > 500
    assert plan.replicas_a_machine == 8
    assert plan.machines == -(-plan.replicas // 8)


def test_memory_decides_how_many_replicas_a_machine_holds():
    known = times(memory_bytes=3 * 2**30)
    plan = make_plan(known, wanted(1000, 40, machine_cores=64, machine_memory_bytes=16 * 2**30, more_instances=False))
    assert plan.replicas_a_machine == 5
    with pytest.raises(BudgetError, match=r"one replica of digits takes 3\.00 GiB, and a machine has 2\.00"):
        make_plan(known, wanted(1000, 40, machine_memory_bytes=2 * 2**30, more_instances=False))


def test_memory_that_was_not_measured_is_said():
    plan = make_plan(times(), wanted(100, 40, machine_memory_bytes=2**34))
    assert any("memory was not measured" in note for note in plan.notes())
    reckoned = make_plan(times(memory_bytes=2**30), wanted(1000, 40, machine_memory_bytes=2**34))
    assert any("memory is reckoned" in note for note in reckoned.notes())


def test_what_no_number_of_replicas_keeps_is_refused_with_the_reason():
    with pytest.raises(BudgetError, match="a request that meets no other has 11"):
        make_plan(times(), wanted(1, 5))


def test_too_few_machines_are_refused_with_what_they_would_keep():
    with pytest.raises(BudgetError, match="there are 2") as caught:
        make_plan(times(), wanted(5000, 40, machines=2))
    assert "these keep the p99 up to" in caught.value.hint
    assert caught.value.best["machines"] > 2


def test_batches_beyond_what_was_measured_are_not_reckoned_with():
    batching = stage(max_batch=8, delay_s=0.0, seconds={1: 0.01, 2: 0.011, 4: 0.013})
    plan = make_plan(times(batching), wanted(300, 60, more_instances=False))
    assert plan.at_rate.stages["encoder"].batch <= 4
    assert any("batches beyond 4 rows were not measured" in note for note in plan.notes())


def test_batching_carries_more_than_one_at_a_time():
    alone, together = stage(), stage(max_batch=8, delay_s=0.0, seconds={1: 0.01, 8: 0.02})
    one, many = (most_per_s(times(each), {"encoder": 1}, wanted(1, 60), 2) for each in (alone, together))
    assert many > 2 * one


def test_times_between_measured_batches_lie_on_the_line():
    batching = stage(max_batch=8, delay_s=0.0, seconds={1: 0.010, 4: 0.016, 8: 0.02}, scale=2.0)
    assert batching.service_time(1) == pytest.approx(0.02)
    assert batching.service_time(2) == pytest.approx(0.024)
    assert batching.service_time(8) == pytest.approx(0.04)


def test_what_was_measured_is_kept_and_read_again(tmp_path):
    known = times(stage(delay_s=0.001, max_batch=4, preferred=(2,), seconds={1: 0.01, 4: 0.02}), memory_bytes=5)
    (tmp_path / "times.json").write_text(json.dumps(known.to_json()))
    assert ServiceTimes.read(tmp_path / "times.json") == known


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"schema": "mmdeploy-service-times-1"}', '{"closed": [], "open": []}', "\x00"]
)
def test_what_holds_no_times_is_one_clear_error(tmp_path, content):
    (tmp_path / "times.json").write_text(content)
    with pytest.raises(UsageError, match=r"times\.json"):
        ServiceTimes.read(tmp_path / "times.json")


def test_times_without_any_stage_are_none(tmp_path):
    with pytest.raises(UsageError, match="holds no times"):
        ServiceTimes.from_json({**times().to_json(), "stages": []}, "it")


def told(tmp_path, *options):
    (tmp_path / "times.json").write_text(json.dumps(times().to_json()))
    return CliRunner().invoke(command, [str(tmp_path / "times.json"), *options], standalone_mode=False)


def test_the_command_tells_the_plan(tmp_path):
    text = told(tmp_path, "--qps", "300", "--p99-ms", "40", "--keep-instances")
    assert text.return_value == 0, text.output
    for word in (
        "digits: ",
        "replicas on",
        "p99",
        "breaks at",
        "headroom",
        "busiest",
        "encoder",
        "a CPU, 2 cores",
        "other hardware than this",
    ):
        assert word in " ".join(text.output.split())
    assert max(map(len, text.output.splitlines())) <= 80
    as_json = json.loads(told(tmp_path, "--qps", "300", "--p99-ms", "40", "--keep-instances", "--json").output)
    assert as_json["p99_ms"] <= 40
    assert set(as_json) >= {"replicas", "machines", "instances", "breaks_at_per_s", "headroom", "bottleneck"}


def test_the_command_wants_one_source(tmp_path):
    both = told(tmp_path, "--url", "127.0.0.1:1", "--qps", "1", "--p99-ms", "1")
    assert isinstance(both.exception, UsageError)
    neither = CliRunner().invoke(command, ["--qps", "1", "--p99-ms", "1"], standalone_mode=False)
    assert isinstance(neither.exception, UsageError)


@pytest.mark.parametrize("number", ["nan", "inf", "0", "-1"])
def test_a_rate_that_is_none_is_refused(tmp_path, number):
    found = CliRunner().invoke(command, ["--url", "127.0.0.1:1", "--qps", number, "--p99-ms", "1"])
    assert found.exit_code == 2
    assert "--qps" in found.output


def test_a_folder_that_is_no_release_is_refused(tmp_path):
    arguments = [str(tmp_path), "--qps", "1", "--p99-ms", "1", "--workdir", str(tmp_path)]
    found = CliRunner().invoke(command, arguments, standalone_mode=False)
    assert isinstance(found.exception, UsageError)
    assert "no release" in found.exception.message


def test_a_report_without_its_release_is_refused(tmp_path):
    (tmp_path / "report.json").write_text('{"recipe": {}, "published": "gone"}')
    arguments = [str(tmp_path / "report.json"), "--qps", "1", "--p99-ms", "1"]
    found = CliRunner().invoke(command, arguments, standalone_mode=False)
    assert isinstance(found.exception, UsageError)
    assert "is not there" in found.exception.message


def test_what_was_measured_by_fits_of_noise_is_inconclusive(tmp_path):
    noisy = times(measured={"stable": False}).to_json()
    (tmp_path / "times.json").write_text(json.dumps(noisy))
    arguments = [str(tmp_path / "times.json"), "--qps", "100", "--p99-ms", "90", "--keep-instances"]
    found = CliRunner().invoke(command, arguments, standalone_mode=False)
    assert found.return_value == 5
    assert "measure again on a quiet machine" in " ".join(found.output.split())


@pytest.mark.parametrize("spread", [0.0, 0.6])
def test_what_is_fitted_answers_as_was_measured(spread):
    """The simulation of a known server, measured as Triton is, is found again, and answers so at another load."""
    known = replace(
        times(stage(seconds={1: 0.004}, instances=2), work_s=0.003, around_s=(0.005,)).scaled(1.2), spread=spread
    )
    full = simulate(known.network(warm=True), clients=8, requests=8_000)
    opened = [
        simulate(known.network(), rate_per_s=share * full.throughput_per_s, requests=8_000) for share in (0.3, 0.6)
    ]
    measured = {
        "full": {"clients": 8, "throughput_per_s": full.throughput_per_s},
        "open": [
            {
                "rate_per_s": share * full.throughput_per_s,
                "p50_ms": 1e3 * one.percentile_s(50),
                "p99_ms": 1e3 * one.percentile_s(99),
            }
            for share, one in zip((0.3, 0.6), opened, strict=True)
        ],
    }
    found = fitted(times(stage(seconds={1: 0.004}, instances=2), around_s=(0.005,), measured=measured))
    assert found.stages[0].scale == pytest.approx(1.2, rel=0.1)
    assert not spread or found.spread == pytest.approx(spread, abs=0.15)
    assert ServiceTimes.from_json(json.loads(json.dumps(found.to_json())), "there") == found
    for load in (0.3, 0.45):
        expected, again = (
            simulate(one.network(), rate_per_s=load * full.throughput_per_s, requests=8_000) for one in (known, found)
        )
        assert again.percentile_s(99) == pytest.approx(expected.percentile_s(99), rel=0.2)


@pytest.mark.parametrize("noise", [0.95, 1.0, 1.05])
def test_the_work_of_a_server_whose_instances_are_the_bottleneck_is_not_made_up(noise):
    """What it answers then does not tell the work, which is no more than what was seen outside of the models."""
    known = times(stage(seconds={1: 0.004}), work_s=0.0002, around_s=(0.001,), cores=8)
    full = simulate(known.network(warm=True), clients=32, requests=4_000).throughput_per_s
    rates = [share * full for share in (0.3, 0.6)]
    opened = [simulate(known.network(), rate_per_s=rate, requests=4_000) for rate in rates]
    measured = {
        "full": {"clients": 32, "throughput_per_s": noise * full},
        "open": [
            {"rate_per_s": rate, "p50_ms": 1e3 * one.percentile_s(50), "p99_ms": 1e3 * one.percentile_s(99)}
            for rate, one in zip(rates, opened, strict=True)
        ],
    }
    found = fitted(times(stage(seconds={1: 0.004}), around_s=(0.001,), cores=8, measured=measured))
    assert found.work_s <= 0.001
    assert found.stages[0].scale == pytest.approx(1.0, rel=0.1)
    assert found.most_per_s(found.instances(), 8) == pytest.approx(full, rel=0.1)
    assert found.spread == 0, "no core is fought for: nothing tells it"
