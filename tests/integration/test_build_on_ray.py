"""Builds whose steps run on Ray, by its client or from a node: clusters on loopback, a real S3 server between nodes."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mmdeploy import api
from mmdeploy.building.builder import Outcome
from mmdeploy.building.settings import Settings
from mmdeploy.core.shared_store import SharedStore
from mmdeploy.recipe.loader import load_recipe
from tests.integration.ray_nodes import TwoNodes, two_nodes
from tests.integration.s3_server import s3_server

ENGINE = "fusion/engine"
URL = "s3://team/cluster"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoNodes]:
    from s3fs import S3FileSystem

    with s3_server("team") as (environment, _), two_nodes(tmp_path_factory.mktemp("nodes"), environment) as running:
        S3FileSystem.clear_instance_cache()
        yield running
        S3FileSystem.clear_instance_cache()


def built(recipe: Path, workdir: Path, **how: Any) -> Outcome:
    return api.build(load_recipe(recipe), Settings(workdir=workdir, **how), only=ENGINE)


def bytes_of(outcome: Outcome) -> dict[str, dict[str, bytes]]:
    return {
        step: {path.name: path.read_bytes() for path in artifact.path.parent.iterdir()}
        for step, artifact in outcome.artifacts.items()
    }


def within(seconds: float, holds: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.05)
    return holds()


HANGS = """
import os, pathlib, time
pathlib.Path({mark!r}).write_text(str(os.getpid()))
time.sleep(600)
"""


def test_ctrl_c_leaves_no_task(nodes: TwoNodes, tiny_recipe: Path, tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    model = tiny_recipe.parent / "model.py"
    model.write_text(model.read_text() + HANGS.format(mark=str(mark)))
    build = subprocess.Popen(
        [sys.executable, "-c", "from mmdeploy.cli import main; main()", "build", str(tiny_recipe),
         "--only", "fusion/export", "--workdir", str(tmp_path / "work"), "--store", URL, "--on", nodes.client_address],
        env=os.environ | nodes.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        assert within(240, mark.exists), "the step did not start"
        build.send_signal(signal.SIGINT)
        told, _ = build.communicate(timeout=120)
    finally:
        build.kill()
    assert build.returncode == 130, told
    assert within(120, lambda: not Path(f"/proc/{mark.read_text()}").exists()), "the step still runs"
    report = json.loads(next((tmp_path / "work" / "runs").rglob("report.json")).read_text())
    assert "interrupted" in report["failure"]["message"]


def test_the_same_bytes_as_a_local_build_though_a_node_dies(nodes: TwoNodes, tiny_recipe: Path, tmp_path: Path) -> None:
    at_home = built(tiny_recipe, tmp_path / "at_home")
    other = tmp_path / "other"
    (other / "onnx-0.1.dist-info").mkdir(parents=True)
    (other / "onnx-0.1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: onnx\nVersion: 0.1\n")
    nodes.add(pythonpath=str(other))
    killed, over = threading.Event(), threading.Event()

    def kill_the_second_node() -> None:
        store = nodes.cache(1) / "store"
        before = {*store.glob("entries/*")}
        while not over.is_set():
            if any(store.glob("staging/*")) or {*store.glob("entries/*")} - before:  # a step runs there, or ran
                nodes.cluster.remove_node(nodes.second, allow_graceful=False)
                return killed.set()
            time.sleep(0.02)
        return None

    for attempt in range(3):  # Ray may give all steps of so small a build to one node
        over.clear()
        killer = threading.Thread(target=kill_the_second_node, daemon=True)
        killer.start()
        try:
            shared = SharedStore(f"{URL}{attempt}")
            away = built(tiny_recipe, tmp_path / f"away{attempt}", shared=shared, on=nodes.cluster.address)
        finally:
            over.set()
            killer.join()
        if killed.is_set():
            break
    assert killed.is_set(), "no step ran on the second node"
    assert {step.status for step in away.report.steps} == {"ran"}
    assert [note for note in away.report.notes if "took no steps: onnx is 0.1 there and 1." in note]
    assert bytes_of(away) == bytes_of(at_home)
