"""What a build measured, live answers at a gateway and a real Prometheus: another confidence is told of."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
import watched_triton as watched
from served_gateway import MODEL, Served, gateway

import mmdeploy
from mmdeploy.building.settings import Settings
from mmdeploy.packaging.monitoring.measured import measured
from mmdeploy.packaging.monitoring.options import MonitoringOptions
from mmdeploy.packaging.monitoring.rules import groups_of

pytestmark = [pytest.mark.triton, pytest.mark.slow, pytest.mark.xdist_group("alerts")]

RECIPE = Path(__file__).parents[1] / "tiny_recipe" / "recipe.yaml"
_ROWS = 8


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory, shared_workdir: Path) -> Path:
    root = tmp_path_factory.mktemp("published")
    mmdeploy.build(mmdeploy.load_recipe(RECIPE), Settings(workdir=shared_workdir, destination=root))
    return root / MODEL


@pytest.fixture(scope="module")
def served(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with gateway(release, folder=tmp_path_factory.mktemp("gateway")) as running:
        yield running


@contextmanager
def asking(served: Served, signal: float) -> Iterator[None]:
    """Send samples like those of the build, times a factor, from before the block until after it.

    Of nothing the model knows nothing.
    """
    end, answered, random, statuses = threading.Event(), threading.Event(), np.random.default_rng(0), set[int]()

    def ask() -> None:
        with served.client() as client:
            while not end.is_set():
                samples = signal * random.standard_normal((_ROWS, 2, 8))
                rows = [{"a": a, "b": b} for a, b in samples.tolist()]
                statuses.add(client.post("/batch", json={"rows": rows}).status_code)
                answered.set()
                end.wait(0.02)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        assert answered.wait(60)
        yield
    finally:
        end.set()
        thread.join()
    assert statuses == {200}


def test_what_the_rules_ask_of_the_gateway_is_in_its_metrics(served: Served, release: Path) -> None:
    with asking(served, 1.0):
        pass
    with served.client() as client:
        assert client.post("/infer", json={"inputs": {"a": "nothing"}}).status_code == 400
        exported = set(re.findall(r"^(mmdeploy_gateway_\w+)\{", client.get("/metrics").text, re.MULTILINE))
    rules = [rule.expr for group in groups_of(measured(release), MonitoringOptions()) for rule in group.rules]
    asked = {name for expr in rules for name in re.findall(r"\bmmdeploy_gateway_\w+", expr)}
    assert len(asked) > 5 and asked <= exported


def test_answers_to_sensors_that_send_nothing_are_told_of(served: Served, release: Path, tmp_path: Path) -> None:
    options = MonitoringOptions(
        scale=1 / 200, scrape_interval_s=0.25, least_requests=10, drift_samples=400,
        triton_targets=(), gateway_targets=(httpx.URL(served.url).netloc.decode(),),
    )  # fmt: skip
    besides = watched.OF_A_BUSY_MACHINE | {"MmdeployTritonUnwatched"}  # only the gateway is read here
    with watched.prometheus(tmp_path / "prometheus", measured(release), options) as prometheus:
        began = time.time()
        with asking(served, 1.0):
            assert prometheus.wait_until(lambda: any(prometheus.query("mmdeploy:confidence_samples:1h > 800")), 60)
            time.sleep(1)
        assert prometheus.fired(began) <= besides
        assert max(prometheus.query("mmdeploy:confidence_psi:1h").values()) < 0.2
        drifted = time.time()
        with asking(served, 0.0):
            assert prometheus.wait_until(lambda: "MmdeployConfidenceDrift" in prometheus.firing(), 60)
        assert prometheus.fired(drifted) - besides <= {"MmdeployConfidenceDrift", "MmdeployConfidenceShift"}
