"""Inputs of any length that may be left out: padded where they are there, text to one length and sound to buckets."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from whole_recipe import built, executions, served

from mmdeploy.core.contracts import Verdict
from mmdeploy.core.errors import InferenceError
from mmdeploy.triton.client import GrpcRunner
from mmdeploy.triton.lint import lint
from mmdeploy.triton.repository import resolve
from mmdeploy.triton.server import Server

pytestmark = [pytest.mark.triton, pytest.mark.slow]
FOLDER = Path(__file__).parents[1] / "padded_recipe"
Feed = dict[str, np.ndarray]
Asked = tuple[Server, dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    """A server, and the stand-ins of the release that it serves."""
    folder = tmp_path_factory.mktemp("padded-optional")
    outcome = built(FOLDER / "optional.yaml", folder)
    assert outcome.report.verdict is Verdict.PASS and outcome.report.published is not None
    checks = {check.name for gate in outcome.report.gates for check in gate.checks}
    assert {"end to end: worst cosine (without ids)", "end to end: worst cosine (without frames)"} <= checks
    assert [one for one in lint(outcome.report.published) if one.severity == "error"] == []
    (release,) = resolve(outcome.report.published)
    with np.load(release / "padded_optional_modalities/1/stand_ins.npz") as stored:
        stand_ins = {name: torch.from_numpy(stored[name]) for name in stored.files}
    with served(outcome, folder) as server:
        yield server, stand_ins


def request(tokens: int, frames: int, rows: int = 2) -> Feed:
    random = np.random.default_rng(tokens + frames)
    sound = random.standard_normal((rows, frames, 3)).astype(np.float32)
    return {"ids": random.integers(0, 50, (rows, tokens)), "frames": sound}


def pytorch(feed: Feed, stand_ins: dict[str, torch.Tensor], there: dict[str, list[bool]]) -> np.ndarray:
    """Return what the model says, of tokens that are padded by hand and of frames as they are."""
    spec = importlib.util.spec_from_file_location("padded_model", FOLDER / "model.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model, tokens, frames = module.build(), feed["ids"].shape[1], torch.from_numpy(feed["frames"])
    ids = torch.zeros((len(frames), 77), dtype=torch.int64)
    ids[:, :tokens] = torch.from_numpy(feed["ids"])
    with torch.no_grad():
        text = model.text(ids, (torch.arange(77) < tokens).float().expand(ids.shape))
        sound = model.sound(frames, torch.ones(frames.shape[:2]))
        text = torch.where(torch.tensor(there["ids"])[:, None], text, stand_ins["text_embedding"])
        sound = torch.where(torch.tensor(there["frames"])[:, None], sound, stand_ins["sound_embedding"])
        return np.asarray(model.head(text, sound))


@pytest.mark.parametrize(("tokens", "frames"), [(1, 2), (16, 9), (75, 32)])
def test_every_length_is_answered_as_by_pytorch_with_and_without_each_input(
    asked: Asked, tokens: int, frames: int
) -> None:
    server, stand_ins = asked
    feed, both = request(tokens, frames), [True, True]
    silent = {**feed, "frames": feed["frames"] * np.float32([[[0]], [[1]]])}
    cases = [
        (feed, {"ids": both, "frames": both}),
        ({"ids": feed["ids"]}, {"ids": both, "frames": [False, False]}),
        ({"frames": feed["frames"]}, {"ids": [False, False], "frames": both}),
        ({**feed, "ids_present": np.array([[True], [False]])}, {"ids": [True, False], "frames": both}),
        (silent, {"ids": both, "frames": [False, True]}),
    ]
    with GrpcRunner(server.grpc_url, "padded_optional") as runner:
        for sent, there in cases:
            np.testing.assert_allclose(runner.infer(sent)["scores"], pytorch(feed, stand_ins, there), atol=1e-5)


def test_what_is_missing_is_not_padded_either(asked: Asked) -> None:
    names = ("pad-tokens", "text", "mask-frames", "pad-frames", "sound")
    with GrpcRunner(asked[0].grpc_url, "padded_optional") as runner:
        before = executions(asked[0], "padded_optional", names)
        runner.infer({"ids": request(7, 7)["ids"]})
        after = executions(asked[0], "padded_optional", names)
    assert [after[name] - before[name] for name in names] == [1, 1, 0, 0, 0]


@pytest.mark.parametrize(
    ("feed", "told"),
    [
        (request(76, 8), r"'ids' of a length of 76.*accepted for 'tokens': 1 to 75|a length of 76"),
        (request(75, 33), "a length of 33.*accepted for 'frames': 2 to 32"),
    ],
)
def test_what_cannot_be_padded_is_refused(asked: Asked, feed: Feed, told: str) -> None:
    with GrpcRunner(asked[0].grpc_url, "padded_optional") as runner, pytest.raises(InferenceError, match=told):
        runner.infer(feed)
