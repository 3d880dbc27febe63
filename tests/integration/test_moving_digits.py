"""recipes/moving_digits, built with few samples and served: what a digit does, and which it is, heard or not."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from whole_recipe import built, served

from mmdeploy.building.builder import Outcome
from mmdeploy.core.contracts import Verdict
from mmdeploy.core.errors import DataError, InferenceError
from mmdeploy.model.sources import resolve_callable
from mmdeploy.triton.client import GrpcRunner, HttpRunner
from mmdeploy.triton.server import Server

pytestmark = [pytest.mark.triton, pytest.mark.slow]

FOLDER = Path(__file__).parents[2] / "recipes" / "moving_digits"
NAME = "moving_digits_small"
BOTH = ("video", "audio")


@pytest.fixture(scope="module")
def samples() -> list[tuple[dict[str, Any], dict[str, int]]]:
    """The scenes of the small build."""
    return list(resolve_callable("data.py:evaluation_small", FOLDER, error=DataError)())


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose store both builds use: the sound's encoder and the fusion are exported once."""
    return tmp_path_factory.mktemp("moving")


@pytest.fixture(scope="module")
def outcome(shared: Path) -> Outcome:
    return built(FOLDER / "variants" / "small.yaml", shared)


@pytest.fixture(scope="module")
def server(outcome: Outcome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(outcome, tmp_path_factory.mktemp("log")) as running:
        yield running


@pytest.fixture(scope="module")
def runner(server: Server) -> Iterator[GrpcRunner]:
    with server.runner(NAME) as opened:
        yield opened


def request(feeds: list[dict[str, Any]], names: tuple[str, ...] = BOTH) -> dict[str, np.ndarray]:
    made = {
        "video": np.array([[feed["video"]] for feed in feeds], dtype=object),
        "audio": np.stack([feed["audio"] for feed in feeds]),
    }
    return {name: made[name] for name in names}


def test_both_answers_are_judged_and_it_is_published(outcome):
    assert outcome.report.verdict is Verdict.PASS, outcome.report.gates
    judged = {check.name for gate in outcome.report.gates if gate.gate == "accuracy" for check in gate.checks}
    assert {"top1 of action", "top1 of digit"} <= judged


@pytest.mark.parametrize(("names", "least"), [(BOTH, 0.85), (("video",), 0.65)])
def test_digits_are_told_with_a_sound_and_less_well_without(runner, samples, names, least):
    found = [runner.infer(request([feed for feed, _ in samples[at : at + 16]], names)) for at in range(0, 96, 16)]
    for label, at_least in (("action", 0.9), ("digit", least)):
        classes = np.concatenate([one[label] for one in found]).argmax(axis=1)
        assert np.mean(classes == [labels[label] for _, labels in samples]) >= at_least


def test_silence_counts_as_missing_and_http_answers_what_grpc_does(server, runner, samples):
    feed = samples[0][0]
    without = runner.infer(request([feed], ("video",)))
    silent = runner.infer(request([{**feed, "audio": np.zeros_like(feed["audio"])}]))
    with HttpRunner(server.http_url, NAME) as by_http:
        again = by_http.infer(request([feed], ("video",)))
    for name, answer in without.items():
        np.testing.assert_allclose(silent[name], answer, atol=1e-5)
        np.testing.assert_allclose(again[name], answer, atol=1e-5)


def test_what_is_no_clip_is_refused(runner):
    with pytest.raises(InferenceError, match="is no clip that is taken"):
        runner.infer({"video": np.array([[b"no clip"]], dtype=object)})


def test_committed_files_are_small():
    assert max(path.stat().st_size for path in FOLDER.iterdir()) < 600_000


def test_frames_in_chunks_and_the_word_with_the_last_of_them(shared, tmp_path):
    loose = [
        {"method": "parity", "min_cosine": 0.999, "outputs": ["action", "digit"]},
        {"method": "accuracy", "metric": "top1", "outputs": ["action"], "min": 0.8},
    ]
    quick = [f"components.{name}.quantize=null" for name in ("frame_encoder", "audio_encoder", "fusion")]
    quick += ["data={evaluation: ../data.py:evaluation_stream_small}", f"gates={json.dumps(loose)}"]
    outcome = built(FOLDER / "variants" / "stream.yaml", shared, quick)
    assert outcome.report.verdict is Verdict.PASS, outcome.report.gates
    right = []
    with served(outcome, tmp_path) as running, running.runner("moving_digits_stream") as asked:
        for feed, labels in list(resolve_callable("data.py:evaluation_stream_small", FOLDER, error=DataError)()):
            frames = feed["frames"][None]
            with asked.chunks() as sequence:
                for start in range(0, frames.shape[1] - 3, 3):
                    seen = sequence.infer({"frames": frames[:, start : start + 3]})
                last = {"frames": frames[:, start + 3 :], "audio": feed["audio"][None]}
                heard = sequence.infer(last, end=True)
            right.append([seen["digit"].argmax() == labels["digit"], *(heard[k].argmax() == labels[k] for k in labels)])
    without, action, digit = np.mean(right, axis=0)
    assert action >= 0.9
    assert digit >= 0.85
    assert 0.5 <= without <= digit
