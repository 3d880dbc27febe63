"""The select step on engines that are really built, loaded, asked and scored; how fast each is, the test says."""

import dataclasses
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from choice_samples import bench, candidate, context, examples

from mmdeploy import engines
from mmdeploy.choice import choose
from mmdeploy.choice.engine_process import EngineProcess
from mmdeploy.choice.options import AutoEngine, MustPay
from mmdeploy.choice.requests import requests_of
from mmdeploy.core.artifact import Artifact, file_sha256
from mmdeploy.core.contracts import FusedScore
from mmdeploy.core.errors import DataError, EngineError
from mmdeploy.engines import onnxruntime, openvino

PAYS = MustPay(min_rounds=8)
#: The more layers the less a request costs here: what the processor says does not matter.
COSTS_MS = {"fp32": 6.0, "small": 2.0, "smaller": 1.0}


class Fused:
    """Scores an engine by how near its answers are to those of the first one; counts what it was asked."""

    metric, larger_is_better, samples = "top1", True, 8

    def __init__(self, drops: dict[str, float]) -> None:
        self.drops, self.asked = drops, list[str]()

    def original(self, part=None):
        return FusedScore(0.9, np.array([1.0] * 9 + [0.0]), 100.0, 1.0, 10)

    def unchanged(self):
        self.asked.append("the original, in process")
        return self.original()

    def score(self, graph, part=None):
        assert graph.infer(examples(2))["y"].shape == (2, 192)  # really answers, from its own process
        self.asked.append(graph.label)
        return FusedScore(0.9 - self.drops[graph.label], None, 30.0, 0.99, 10)


@pytest.fixture
def three(tmp_path: Path):
    return [
        candidate(tmp_path, "fp32", onnxruntime.Options(), layers=2),
        candidate(tmp_path, "small", onnxruntime.Options(), layers=4, compressed=True, simplicity=1),
        candidate(tmp_path, "smaller", openvino.Options(), layers=8, compressed=True, simplicity=2),
    ]


def chosen_of(candidates, options, given, **others):
    """Choose on a bench where requests cost what `COSTS_MS` says."""
    return choose.run(candidates, options, given, bench=bench(COSTS_MS), **others)


def measurements(artifact: Artifact):
    return {one["label"]: one for one in artifact.metadata["measurements"]}


def test_the_fastest_ships_as_a_whole_artifact(three, tmp_path: Path):
    chosen = chosen_of(three, PAYS, context(tmp_path / "out", calibrated=True), left_out={"cuda": "no GPU"})
    assert chosen.metadata["left_out"] == {"cuda": "no GPU"}
    assert chosen.metadata["chosen"] == "smaller"
    assert chosen.metadata["engine"] == openvino.Options().model_dump(mode="json")
    assert chosen.metadata["reference"] == "fp32"
    assert chosen.metadata["feeds"] == "calibration samples"
    assert chosen.path.parent == tmp_path / "out"
    assert chosen.sha256 == file_sha256(chosen.path)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model.xml", "model.bin", "model.onnx"}
    assert all(path.stat().st_nlink == 1 for path in (tmp_path / "out").iterdir())
    runner = engines.METHODS["openvino"].load(chosen, openvino.Options())
    assert runner.infer(examples(1))["y"].shape == (1, 192)
    found = measurements(chosen)
    assert found["smaller"]["out_because"] is None
    assert found["fp32"]["out_because"] == "slower than smaller"
    assert [found[label]["ratio"] for label in COSTS_MS] == pytest.approx([1.0, 2 / 6, 1 / 6])
    assert chosen.metadata["decisions"][0].startswith("smaller ships: ")
    assert "the gates judge it" in chosen.metadata["decisions"][-1]
    Artifact.from_json(chosen.to_json(), chosen.path.parent)


def test_compression_that_does_not_pay_is_not_shipped(tmp_path: Path):
    slow = candidate(tmp_path, "slow", onnxruntime.Options(), layers=1, compressed=True, simplicity=1)
    fast = candidate(tmp_path, "fp32", onnxruntime.Options(), layers=4)
    chosen = choose.run([slow, fast], PAYS, context(tmp_path / "out"), bench=bench({"slow": 5.0, "fp32": 1.0}))
    assert chosen.metadata["chosen"] == "fp32"
    assert chosen.metadata["feeds"] == "examples made from the declared inputs"
    told = " ".join(chosen.metadata["decisions"])
    assert "compression does not pay" in told
    assert "slower than fp32" in told


def test_over_budget_is_out_and_the_next_fastest_is_scored(three, tmp_path: Path):
    fused = Fused({"fp32": 0.0, "small": 0.005, "smaller": 0.05})
    options = AutoEngine(min_rounds=8, max_drop=0.01)
    chosen = chosen_of(three, options, context(tmp_path / "out", fused=fused))
    assert chosen.metadata["chosen"] == "small"
    assert fused.asked == ["smaller", "small", "fp32"]
    found = measurements(chosen)
    assert found["smaller"]["out_because"] == "loses 0.05, more than max_drop 0.01"
    assert found["small"]["drop"] == pytest.approx(0.005)
    assert "top1 0.895, 0.005 below the FP32 original" in chosen.metadata["decisions"][0]


def test_the_fp32_original_is_scored_with_the_ensemble_around(three, tmp_path: Path):
    original = dataclasses.replace(three[0], original=True)
    fused = Fused({"small": 0.0, "smaller": 0.0})
    chosen = chosen_of([original, *three[1:]], AutoEngine(min_rounds=8, max_drop=0.01), context(tmp_path, fused=fused))
    assert fused.asked == ["smaller", "the original, in process"]
    assert measurements(chosen)["fp32"]["drop"] == 0.0


def test_a_budget_spent_upstream_ships_fp32_and_says_so(three, tmp_path: Path):
    fused = Fused({"fp32": 0.02, "small": 0.03, "smaller": 0.05})
    options = AutoEngine(min_rounds=8, max_drop=0.01)
    chosen = chosen_of(three, options, context(tmp_path / "out", fused=fused))
    assert chosen.metadata["chosen"] == "fp32"
    assert "what ships upstream has spent it already" in " ".join(chosen.metadata["decisions"])


def test_a_slower_candidate_is_not_scored(three, tmp_path: Path):
    fused = Fused({"fp32": 0.0, "small": 0.0, "smaller": 0.0})
    chosen_of(three, AutoEngine(min_rounds=8, max_drop=0.01), context(tmp_path / "out", fused=fused))
    assert fused.asked == ["smaller", "fp32"]


def test_a_candidate_whose_process_is_killed_is_out_with_the_reason(three, tmp_path: Path, monkeypatch):
    timed = EngineProcess.time

    def kill_the_fastest(self, first, count):
        if self.label == "smaller" and first >= 3 * count:
            os.kill(self.pid, signal.SIGKILL)
        return timed(self, first, count)

    monkeypatch.setattr(EngineProcess, "time", kill_the_fastest)
    chosen = chosen_of(three, PAYS, context(tmp_path / "out"))
    assert chosen.metadata["chosen"] == "small"
    assert measurements(chosen)["smaller"]["out_because"] == "the engine's process died: signal SIGKILL"
    assert not (tmp_path / "out" / "model.xml").exists()


def test_a_candidate_that_dies_on_validation_data_is_out(three, tmp_path: Path):
    fused = Fused({"fp32": 0.0, "small": 0.0, "smaller": 0.0})
    score = fused.score

    def die(graph, part=None):
        if graph.label == "smaller":
            os.kill(graph.pid, signal.SIGSEGV)
        return score(graph, part)

    fused.score = die
    chosen = chosen_of(three, AutoEngine(min_rounds=8, max_drop=0.01), context(tmp_path / "out", fused=fused))
    assert chosen.metadata["chosen"] == "small"
    assert "SIGSEGV" in measurements(chosen)["smaller"]["out_because"]


def test_a_candidate_that_does_not_load_is_out(three, tmp_path: Path):
    three[2].artifact.path.write_text("<net/>")
    chosen = chosen_of(three, PAYS, context(tmp_path / "out"))
    assert chosen.metadata["chosen"] == "small"
    assert "cannot load" in measurements(chosen)["smaller"]["out_because"]
    assert measurements(chosen)["smaller"]["p50_ms"] is None


def test_when_nothing_runs_every_reason_is_told(three, tmp_path: Path):
    for one in three:
        one.artifact.path.write_text("broken")
    with pytest.raises(EngineError, match=r"no engine runs: fp32: .*; small: .*; smaller: "):
        chosen_of(three, PAYS, context(tmp_path / "out"))


def test_auto_without_validation_data_is_refused(three, tmp_path: Path):
    with pytest.raises(DataError, match="engine: auto needs validation data"):
        chosen_of(three, AutoEngine(), context(tmp_path / "out"))


def test_requests_are_cut_from_batches_or_repeat_samples(tmp_path: Path):
    one, _ = requests_of(context(tmp_path / "a", calibrated=True), 1)
    assert [len(request["x"]) for request in one] == [1] * 11
    np.testing.assert_array_equal(one[1]["x"], examples(8)["x"][1:2])
    four, _ = requests_of(context(tmp_path / "b", calibrated=True), 4)
    assert [len(request["x"]) for request in four] == [4, 4, 4]
