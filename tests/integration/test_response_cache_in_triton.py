"""What Triton's response cache really does: what mmdeploy relies on, and what it keeps clients from."""

import re
import shutil
import urllib.request
from pathlib import Path

import living_processes
import numpy as np
import onnx
import pytest
import tiny_triton_repository as tiny
from settled_counts import settled

from mmdeploy.core.artifact import Artifact, TensorSpec
from mmdeploy.core.errors import ServerError
from mmdeploy.triton import server
from mmdeploy.triton.config import ServedComponent, ServedEnsemble
from mmdeploy.triton.http import ask_json
from mmdeploy.triton.lint import lint
from mmdeploy.triton.options import ResponseCache, Serving
from mmdeploy.triton.repository import stage
from mmdeploy.triton.response_cache import RESERVED_BYTES, cached, entry_bytes, settings_of

pytestmark = pytest.mark.triton

X, Y = TensorSpec("x", "FP32", (4,)), TensorSpec("y", "FP32", (4,))


def statistics(running, model: str) -> dict[str, int]:
    """Return how often a model answered from the cache, missed, and was executed, over all its versions.

    Not from the metrics: there the hits of an ensemble can stay 0.
    """
    found = settled(lambda: ask_json(f"{running.http_url}/v2/models/{model}/stats")["model_stats"])
    counts = {"executed": sum(int(one["execution_count"]) for one in found)}
    for what in ("cache_hit", "cache_miss"):
        counts[what] = sum(int(one["inference_stats"][what].get("count", 0)) for one in found)
    return counts


def hits(running, model: str) -> int:
    return statistics(running, model)["cache_hit"]


def release(folder: Path, graph: str, *, encoder_cached: bool = True, whole: bool = True) -> Path:
    """Stage an ensemble of one encoder, which is one of the tiny graphs."""
    path = folder / "parts" / "model.onnx"
    path.parent.mkdir(parents=True)
    onnx.save(tiny.model(graph), path)
    part = ServedComponent(
        name="pair.encoder",
        backend="onnxruntime",
        filename="model.onnx",
        artifact=Artifact("onnxruntime", path, "", (X,), (Y,), "test"),
        inputs={"x": "x"},
        outputs={"y": "y"},
        serving=Serving(max_batch_size=4, response_cache=encoder_cached),
        parameters={"intra_op_thread_count": "1"},
        sample={"x": tiny.rows(3)[0]},
    )
    ensemble = cached(ServedEnsemble("pair", (X,), (Y,), (part,)), ResponseCache(size_mib=1, ensemble=whole))
    stage(folder / "staged", ensemble)
    assert lint(folder / "staged") == ()
    return folder / "staged"


def test_a_new_release_in_a_running_server_never_answers_from_the_old_ones_cache(tmp_path):
    old, new = release(tmp_path / "old", "positive"), release(tmp_path / "new", "negated")
    serving = shutil.copytree(old, tmp_path / "serving")

    def swap(running, staged: Path) -> None:
        shutil.rmtree(serving)
        shutil.copytree(staged, serving)
        for model in ("pair.encoder", "pair"):
            running.load(model)

    with server.start(
        [serving], log=tmp_path / "triton.log", model_control="explicit", load=("*",),
        response_cache_bytes=settings_of([serving]).bytes,
    ) as running:  # fmt: skip
        asked = {"x": tiny.rows(7)}

        def answers(model: str) -> list[float]:
            with running.runner(model) as runner:
                return [float(runner.infer(asked)["y"][0, 0]) for _ in range(2)]

        assert answers("pair") == [7, 7]
        assert answers("pair.encoder") == [7, 7]
        assert hits(running, "pair") == 1
        with urllib.request.urlopen(running.metrics_url, timeout=60) as told:
            metrics = told.read().decode()
        assert re.findall(r'nv_cache_num_hits_per_model\{model="pair",version="\d+"\} (\d+)', metrics) == ["0"]
        assert 'nv_inference_request_success{model="pair",version="1"}' in metrics  # whatever its version is
        swap(running, new)
        assert answers("pair") == [-7, -7]
        assert answers("pair.encoder") == [-7, -7]
        swap(running, old)  # what it kept is right for it again
        assert answers("pair") == [7, 7]


def test_without_a_cache_nothing_is_kept_however_small_and_whatever_the_config_says(tmp_path):
    staged = release(tmp_path, "positive")
    with server.start([staged], log=tmp_path / "triton.log") as running:  # as the gates start theirs
        with running.runner("pair") as runner:
            for _ in range(4):
                runner.infer({"x": tiny.rows(7)})
        assert hits(running, "pair") == hits(running, "pair.encoder") == 0
        assert statistics(running, "pair.encoder")["executed"] >= 4
    with server.start([staged], log=tmp_path / "small.log", response_cache_bytes=256) as running:
        with running.runner("pair.encoder") as runner:
            for _ in range(3):
                runner.infer({"x": tiny.rows(7)})
        assert hits(running, "pair.encoder") == 2  # the smallest cache that there is would have fooled a gate


def test_entries_take_the_room_that_is_reckoned_and_the_oldest_goes(tmp_path):
    staged = release(tmp_path, "positive", whole=False)
    entry = entry_bytes([("y", "FP32", (1, 4))])
    room = RESERVED_BYTES + 5 * entry + 16
    with server.start([staged], log=tmp_path / "triton.log", response_cache_bytes=room) as running:
        runner = running.runner("pair.encoder")

        def ask(*values: int) -> int:
            before = hits(running, "pair.encoder")
            for value in values:
                runner.infer({"x": tiny.rows(value)})
            return hits(running, "pair.encoder") - before

        assert ask(11, 12, 13, 14, 15) == 0
        assert ask(11, 12, 13, 14, 15) == 5
        assert ask(16) == 0
        assert ask(12, 13, 14, 15, 16) == 5
        assert ask(11) == 0
        runner.close()


def test_answers_are_mixed_up_by_shape_which_is_why_recipes_may_not(tmp_path):
    sized = tiny.config("sized")
    sized.response_cache.enable = True
    repository = tiny.write(tmp_path / "repository", sized)
    with server.start([repository], log=tmp_path / "triton.log", response_cache_bytes=1 << 16) as running:
        runner = running.runner("sized")
        two = runner.infer({"x": np.arange(8, dtype=np.float32).reshape(2, 4)})["total"]
        one = runner.infer({"x": np.arange(8, dtype=np.float32).reshape(1, 8)})["total"]
        runner.close()
    assert two.shape == one.shape == (2, 1)


def test_a_dead_stub_is_noticed_although_the_cache_would_answer(tmp_path):
    staged = release(tmp_path, "positive", whole=False)
    with server.start([staged], log=tmp_path / "triton.log", response_cache_bytes=1 << 20) as running:
        assert running.probe() == ("pair.encoder", "pair")
        with running.runner("pair") as runner:
            runner.infer({"x": tiny.rows(3)})
            stubs = living_processes.stubs(running.pid)
            assert stubs
            living_processes.kill(stubs)
            living_processes.assert_ended(stubs)
            runner.infer({"x": tiny.rows(3)})  # kept: answered although nobody is there
        with pytest.raises(ServerError, match=r"pair\.encoder"):
            running.probe(timeout_s=5)
