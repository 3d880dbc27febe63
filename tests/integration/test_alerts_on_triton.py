"""A real Prometheus reads a real Triton while faults are injected: the right alert fires, and no other."""

import re
import time
import urllib.request
from pathlib import Path

import living_processes
import pytest
import watched_triton as watched

from mmdeploy.packaging.monitoring.options import MonitoringOptions
from mmdeploy.packaging.monitoring.rules import groups_of
from mmdeploy.triton import server as triton_server

pytestmark = [pytest.mark.triton, pytest.mark.xdist_group("alerts")]

#: What a slow model brings with it; on a busy machine a process that is stopped so often may answer nobody at all.
BEHIND_A_SLOW_MODEL = {"MmdeployModelDead", "MmdeployNothingAnswered"}
#: While a model is loaded again nobody is answered, which takes a busy machine longer than these alerts wait.
BEHIND_A_LOAD = {"MmdeployNoTraffic", "MmdeployNothingAnswered"}
#: Of a GPU, and of a response cache.
ELSEWHERE = re.compile("nv_gpu_|nv_cache_")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("watched")
    repository = watched.repository(folder / "repository")
    with triton_server.start([repository], log=folder / "log", model_control="explicit", load=("*",)) as running:
        yield running


def options_for(server: triton_server.Server) -> MonitoringOptions:
    assert server.metrics_url is not None
    target = server.metrics_url.removeprefix("http://").removesuffix("/metrics")
    return MonitoringOptions(
        scale=1 / 150,
        scrape_interval_s=0.25,
        least_requests=10,
        dead_failures=0.5,
        triton_targets=(target,),
        gateway_targets=(),
    )


def test_what_the_rules_ask_of_triton_is_in_its_metrics(server: triton_server.Server) -> None:
    assert server.metrics_url is not None
    with urllib.request.urlopen(server.metrics_url, timeout=60) as reply:
        exported = set(re.findall(r"^(nv_\w+)\{?", reply.read().decode(), re.MULTILINE))
    rules = [rule.expr for group in groups_of(watched.known(), MonitoringOptions()) for rule in group.rules]
    asked = {name for expr in rules for name in re.findall(r"\bnv_\w+", expr) if not ELSEWHERE.match(name)}
    assert len(asked) > 8 and asked <= exported


def told(alerts: set[str]) -> set[str]:
    """Return the alerts that are not a busy machine's."""
    return alerts - watched.OF_A_BUSY_MACHINE


def overloaded(fired: set[str]) -> bool:
    return "MmdeployQueueLong" in fired and bool(fired & {"MmdeployLatencyHigh", "MmdeployLatencyVeryHigh"})


def test_the_right_alert_fires_and_no_other(server: triton_server.Server, tmp_path: Path) -> None:
    with (
        watched.prometheus(tmp_path / "prometheus", watched.known(), options_for(server)) as prometheus,
        watched.asking(server) as clients,
    ):
        began = time.time()
        time.sleep(3)
        assert prometheus.wait_until(lambda: clients.answered > 100, 60)
        assert told(prometheus.fired(began)) == set() and clients.failed == 0

        with watched.asking(server, clients=6, v=10 * watched.BOUND) as refused:
            assert prometheus.wait_until(lambda: "MmdeployRequestsRefused" in prometheus.firing(), 60)
        assert told(prometheus.fired(began)) == {"MmdeployRequestsRefused"} and refused.answered == 0
        assert prometheus.wait_until(lambda: told(prometheus.firing()) == set(), 60)

        killed = time.time()
        living_processes.stub(server.pid, "pair.summed").kill()
        assert prometheus.wait_until(lambda: "MmdeployModelDead" in prometheus.firing(), 60)
        with urllib.request.urlopen(f"{server.http_url}/v2/models/pair.summed/ready", timeout=60) as reply:
            assert reply.status == 200  # what readiness says of a dead model
        assert told(prometheus.fired(killed)) == {"MmdeployModelDead"}
        assert server.heal() == ("pair.summed",)
        assert prometheus.wait_until(lambda: told(prometheus.firing()) == set(), 60)
        assert told(prometheus.fired(killed)) - BEHIND_A_LOAD == {"MmdeployModelDead"}

        slow = time.time()
        with watched.slowed(server, "pair.negated"):
            assert prometheus.wait_until(lambda: "MmdeployComponentSlow" in prometheus.firing(), 60)
        assert told(prometheus.fired(slow)) <= BEHIND_A_SLOW_MODEL
        assert prometheus.wait_until(lambda: told(prometheus.firing()) == set(), 60)

        flooded = time.time()
        with watched.flooded(server):
            assert prometheus.wait_until(lambda: overloaded(prometheus.firing()), 60), prometheus.firing()
        assert overloaded(prometheus.fired(flooded)) and told(prometheus.fired(flooded)) == set()
        # Triton's percentiles are of the last minute; the queue is seen at once.
        assert prometheus.wait_until(lambda: "MmdeployQueueLong" not in prometheus.firing(), 60)
