"""A recipe with sizes that vary is built and served: every length answers as PyTorch does, others are refused."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import mmdeploy
from mmdeploy.building.settings import Settings
from mmdeploy.core.errors import InferenceError
from mmdeploy.core.sessions import open_session
from mmdeploy.triton import server as triton_server
from mmdeploy.triton.client import GrpcRunner
from mmdeploy.triton.repository import resolve
from mmdeploy.triton.server import Server

pytestmark = [pytest.mark.triton, pytest.mark.slow]
RECIPE = Path(__file__).parents[1] / "varying_recipe" / "recipe.yaml"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    folder = tmp_path_factory.mktemp("varying")
    recipe = mmdeploy.load_recipe(RECIPE, ["components.text.serving.guard=graph"])
    outcome = mmdeploy.build(recipe, Settings(workdir=folder / "work", destination=folder / "root"))
    assert outcome.report.verdict == "pass"
    with triton_server.start(resolve(folder / "root"), log=folder / "triton.log") as server:
        yield server, folder / "root" / "vary"


def request(tokens: int, samples: int, *, mask: int | None = None, rows: int = 1) -> dict[str, np.ndarray]:
    random = np.random.default_rng(tokens + samples)
    return {
        "ids": random.integers(0, 30, (rows, tokens)),
        "mask": np.ones((rows, tokens if mask is None else mask), np.int64),
        "wave": random.standard_normal((rows, samples)).astype(np.float32),
    }


def pytorch(feed: dict[str, np.ndarray]) -> np.ndarray:
    spec = importlib.util.spec_from_file_location("varying_model", RECIPE.with_name("model.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model, given = module.build().eval(), {name: torch.from_numpy(array) for name, array in feed.items()}
    with torch.no_grad():
        return np.asarray(model.head(model.text(given["ids"], given["mask"]), model.sound(given["wave"])))


def test_every_length_is_answered_as_by_pytorch(served: tuple[Server, Path]) -> None:
    with GrpcRunner(served[0].grpc_url, "vary") as runner:
        for tokens, samples, rows in ((1, 32, 1), (12, 64, 4), (1, 64, 2), (12, 32, 1), (7, 44, 3)):
            feed = request(tokens, samples, rows=rows)
            np.testing.assert_allclose(runner.infer(feed)["scores"], pytorch(feed), atol=0.02)


@pytest.mark.parametrize(
    ("feed", "told"),
    [
        (request(13, 32), "input 'ids': a length of 13, accepted for 'tokens': 1 to 12"),
        (request(12, 68), "input 'wave': a length of 68, accepted for 'samples': 32 to 64 in steps of 4"),
        (request(12, 28), "input 'wave': a length of 28, accepted for 'samples'"),
        (request(12, 33), "input 'wave': a length of 33, accepted for 'samples'"),
        (request(5, 32, mask=4), "input 'mask' is 4 long where input 'ids' is 5: both are 'tokens'"),
    ],
)
def test_other_lengths_are_refused_in_the_clients_words(served: tuple[Server, Path], feed, told: str) -> None:
    with GrpcRunner(served[0].grpc_url, "vary") as runner, pytest.raises(InferenceError, match=told):
        runner.infer(feed)


def test_a_guarded_graph_refuses_them_by_itself(served: tuple[Server, Path]) -> None:
    """As it does in a server whose native backend knows no rules."""
    model = served[1].resolve() / "vary.text" / "1" / "model.onnx"
    session = open_session(model, {})
    for feed, told in ((request(13, 32), "'tokens'"), (request(5, 32, mask=4), "differ in length")):
        with pytest.raises(Exception, match=told):
            session.run(None, {name: feed[name] for name in ("ids", "mask")})
