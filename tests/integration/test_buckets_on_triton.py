"""Requests of many lengths, padded to buckets by a real Triton: answers are those of the true length."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser
from settled_counts import settled

from mmdeploy.core.artifact import Artifact, TensorSpec, file_sha256
from mmdeploy.core.errors import InferenceError
from mmdeploy.core.sizes import Size
from mmdeploy.triton import server as triton_server
from mmdeploy.triton.buckets import bucketed
from mmdeploy.triton.client import GrpcRunner
from mmdeploy.triton.config import ServedComponent, ServedEnsemble
from mmdeploy.triton.http import ask_json
from mmdeploy.triton.lint import lint
from mmdeploy.triton.options import DynamicBatching, InstanceGroup, Serving
from mmdeploy.triton.repository import publish, resolve, stage
from mmdeploy.triton.server import Server

pytestmark = pytest.mark.triton

TABLE = np.array([10.0, 1.0, 2.0, 4.0, 8.0], np.float32)
#: Looks tokens up; gives the mean over those that are real, and each of them doubled.
GRAPH = """
<ir_version: 10, opset_import: ["" : 20]>
g (int64[N,T] ids, int64[N,T] mask) => (float[N,1] mean, float[N,T] each)
<float[5] table = {10.0, 1.0, 2.0, 4.0, 8.0}, int64[1] axis = {1}> {
  found = Gather(table, ids)
  real = Cast<to = 1>(mask)
  kept = Mul(found, real)
  total = ReduceSum(kept, axis)
  count = ReduceSum(real, axis)
  mean = Div(total, count)
  each = Add(found, found)
}
"""
TOKENS = Size("tokens", 1, 12)
LENGTHS = (1, 2, 3, 3, 4, 5, 7, 8, 9, 12, 4, 8)
SAMPLES = [np.random.default_rng(length).integers(0, 5, (1, length)) for length in LENGTHS]


def component(folder: Path) -> ServedComponent:
    path = folder / "model.onnx"
    onnx.save(parser.parse_model(GRAPH), str(path))
    ids, mask = (TensorSpec(name, "INT64", (-1,), (TOKENS,)) for name in ("ids", "mask"))
    each = TensorSpec("each", "FP32", (-1,), (TOKENS,))
    return ServedComponent(
        "texts.text", "onnxruntime", "model.onnx",
        Artifact("onnx", path, file_sha256(path), (ids, mask), (TensorSpec("mean", "FP32", (1,)), each), "test"),
        inputs={"ids": "tokens", "mask": "mask"}, outputs={"mean": "mean", "each": "each"},
        serving=Serving(
            max_batch_size=8, dynamic_batching=DynamicBatching(max_queue_delay_us=30_000),
            instance_group=InstanceGroup(count=1),
        ),
        parameters={"intra_op_thread_count": "1"}, input_rules={"ids": {"tensor": "tokens", "range": [0, 4]}},
        sample={"ids": np.array([1, 2]), "mask": np.array([1, 1])},
    )  # fmt: skip


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("buckets")
    part = component(folder)
    inputs = tuple(TensorSpec(name, "INT64", (-1,), (TOKENS,)) for name in ("tokens", "mask"))
    plain = ServedEnsemble("texts", inputs, part.artifact.outputs, (part,))
    assert bucketed(plain, {}) is plain
    staged = stage(folder / "staged", bucketed(plain, {"tokens": (4, 8, 12)}))
    publish(staged.path, folder / "root", "texts", release_id="r1", extra_files={})
    assert lint(folder / "root") == ()
    with triton_server.start(resolve(folder / "root"), log=folder / "triton.log") as server:
        yield server


def ask(server: Server, ids: np.ndarray) -> dict[str, np.ndarray]:
    with GrpcRunner(server.grpc_url, "texts") as runner:
        return {name: np.array(array) for name, array in runner.infer(feed(ids)).items()}


def feed(ids: np.ndarray) -> dict[str, np.ndarray]:
    return {"tokens": ids, "mask": np.ones_like(ids)}


def executions(server: Server) -> tuple[int, int]:
    """Return how many requests the component answered, and in how many batches."""

    def read() -> tuple[int, int]:
        stats = ask_json(f"{server.http_url}/v2/models/texts.text/stats", timeout_s=60)["model_stats"][0]
        return int(stats["inference_count"]), int(stats["execution_count"])

    return settled(read)


def test_every_part_answers_a_probe(served: Server) -> None:
    assert set(served.probe()) == {"texts.text", "texts.pad-tokens", "texts.cut", "texts"}


def test_answers_have_the_true_length_and_its_values(served: Server) -> None:
    for ids in [*SAMPLES, np.array([[1, 2, 3], [4, 0, 1]])]:
        found = ask(served, ids)
        np.testing.assert_allclose(found["mean"], TABLE[ids].mean(axis=1, keepdims=True), rtol=1e-6)
        np.testing.assert_array_equal(found["each"], 2 * TABLE[ids])


def test_answers_do_not_depend_on_what_a_request_is_batched_with(served: Server) -> None:
    alone = [ask(served, ids) for ids in SAMPLES]
    requests, batches = executions(served)
    with ThreadPoolExecutor(len(SAMPLES)) as pool:
        for _ in range(3):
            among = list(pool.map(lambda ids: ask(served, ids), SAMPLES))
            for before, after in zip(alone, among, strict=True):
                assert all((before[name] == after[name]).all() for name in before)
    after_requests, after_batches = executions(served)
    assert after_requests - requests == 3 * len(SAMPLES)
    assert after_batches - batches < 3 * len(SAMPLES)  # requests of other lengths were run as one


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.zeros((1, 13), np.int64), "a length of 13, accepted for 'tokens': 1 to 12"),
        (np.zeros((1, 0), np.int64), "length of 0|shape"),
        (np.full((1, 3), 9), r"input 'tokens': values must be within \[0, 4\]"),
    ],
)
def test_what_no_bucket_takes_is_refused_in_the_clients_words(served: Server, ids: np.ndarray, message: str) -> None:
    with pytest.raises(InferenceError, match=message):
        ask(served, ids)
    assert ask(served, SAMPLES[0])["mean"].shape == (1, 1)


def test_inputs_of_one_size_have_one_length(served: Server) -> None:
    with (
        GrpcRunner(served.grpc_url, "texts") as runner,
        pytest.raises(InferenceError, match="is 3 long where 'mask' is 2"),
    ):
        runner.infer({"tokens": np.zeros((1, 3), np.int64), "mask": np.ones((1, 2), np.int64)})
