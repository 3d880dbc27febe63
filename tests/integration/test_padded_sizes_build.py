"""Requests padded to the one length of a module, and to buckets, with masks that the ensemble makes."""

import importlib.util
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

import mmdeploy
from mmdeploy.building.settings import Settings
from mmdeploy.core.errors import InferenceError
from mmdeploy.triton import server as triton_server
from mmdeploy.triton.client import GrpcRunner
from mmdeploy.triton.repository import resolve
from mmdeploy.triton.server import Server

pytestmark = [pytest.mark.triton, pytest.mark.slow]
RECIPE = Path(__file__).parents[1] / "padded_recipe" / "recipe.yaml"
LENGTHS = ((1, 2), (3, 8), (16, 9), (70, 32), (75, 5), (8, 31))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("padded")
    outcome = mmdeploy.build(
        mmdeploy.load_recipe(RECIPE), Settings(workdir=folder / "work", destination=folder / "root")
    )
    assert outcome.report.verdict == "pass", outcome.report.gates
    (gate,) = outcome.report.gates
    (lengths,) = gate.tables
    assert [row[-1] for row in lengths.rows] == ["1, 75", "2, 32"]  # asked at the bounds, which no sample has
    assert any(note.startswith("Buckets (frames [8, 32]): ") for note in outcome.report.notes)  # measured, both ways
    assert not (outcome.folder / "buckets").exists()
    with triton_server.start(resolve(folder / "root"), log=folder / "triton.log") as server:
        yield server


def request(tokens: int, frames: int, rows: int = 1) -> dict[str, np.ndarray]:
    random = np.random.default_rng(tokens + frames)
    sound = random.standard_normal((rows, frames, 3)).astype(np.float32)
    return {"ids": random.integers(0, 50, (rows, tokens)), "frames": sound}


def pytorch(feed: dict[str, np.ndarray]) -> np.ndarray:
    """Return what the model says of tokens that are padded by hand, and of frames as they are."""
    spec = importlib.util.spec_from_file_location("padded_model", RECIPE.with_name("model.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model, tokens = module.build(), feed["ids"].shape[1]
    ids = torch.zeros((len(feed["ids"]), 77), dtype=torch.int64)
    ids[:, :tokens] = torch.from_numpy(feed["ids"])
    mask = (torch.arange(77) < tokens).float().expand(ids.shape)
    frames = torch.from_numpy(feed["frames"])
    with torch.no_grad():
        return np.asarray(model.head(model.text(ids, mask), model.sound(frames, torch.ones(frames.shape[:2]))))


def test_every_length_is_answered_as_by_pytorch(served: Server) -> None:
    with GrpcRunner(served.grpc_url, "padded") as runner:
        for rows, (tokens, frames) in enumerate(LENGTHS):
            feed = request(tokens, frames, rows % 4 + 1)
            np.testing.assert_allclose(runner.infer(feed)["scores"], pytorch(feed), atol=1e-5)


def test_answers_do_not_depend_on_what_a_request_is_batched_with(served: Server) -> None:
    def ask(lengths: tuple[int, int]) -> np.ndarray:
        with GrpcRunner(served.grpc_url, "padded") as runner:
            return np.array(runner.infer(request(*lengths))["scores"])

    alone = [ask(lengths) for lengths in LENGTHS]
    with ThreadPoolExecutor(len(LENGTHS)) as pool:
        among = list(pool.map(ask, LENGTHS * 3))
    for index, answer in enumerate(among):
        np.testing.assert_allclose(answer, alone[index % len(LENGTHS)], atol=1e-6)


@pytest.mark.parametrize(
    ("feed", "told"),
    [
        (request(76, 8), "input 'ids': a length of 76, accepted for 'tokens': 1 to 75"),
        (request(75, 33), "'frames': a length of 33, accepted for 'frames': 2 to 32"),
        (request(5, 8) | {"ids": np.full((1, 5), 50)}, r"input 'ids': values must be within \[0.0, 49.0\]"),
    ],
)
def test_what_cannot_be_padded_is_refused_in_the_clients_words(served: Server, feed, told: str) -> None:
    with GrpcRunner(served.grpc_url, "padded") as runner, pytest.raises(InferenceError, match=told):
        runner.infer(feed)
