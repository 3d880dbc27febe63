"""What `stage` and `publish` write is loaded and served by a real Triton, every serving option included."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bare_triton import BareTriton, bare_triton

from mmdeploy.core.artifact import Artifact, TensorSpec
from mmdeploy.triton.config import ServedComponent, ServedEnsemble
from mmdeploy.triton.lint import lint
from mmdeploy.triton.options import DynamicBatching, InstanceGroup, LatestVersions, Serving, Warmup
from mmdeploy.triton.repository import publish, resolve, stage

#: Gives the sum of each sample's values, as a scalar a sample.
SUMS = """
import numpy as np
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            x = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
            assert x.all(), "warmed up with zeros, which no sample is"
            total = x.reshape(len(x), -1).sum(axis=1, dtype=np.float32)
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("total", total)]))
        return answers
"""
#: Doubles scalars.
DOUBLES = """
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            x = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
            assert x.ndim == 1, x.shape
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("y", 2 * x)]))
        return answers
"""
PIXELS = TensorSpec("image", "FP32", (2, -1))
ANSWER = TensorSpec("answer", "FP32", ())
EVERYTHING = Serving(
    max_batch_size=4,
    dynamic_batching=DynamicBatching(
        preferred_batch_size=(2,),
        max_queue_delay_us=100,
        timeout_us=10**7,
        timeout_action="delay",
    ),
    instance_group=InstanceGroup(count=2),
    warmup=Warmup(variable_size=2, count=2),
    response_cache=True,
    version_policy=LatestVersions(latest=1),
)


def ensemble(name: str, folder: Path, sums: Serving, doubles: Serving) -> ServedEnsemble:
    """Wire an image to its doubled sum; names carry ``name`` so that all fit one server."""
    for file, code in (("sums.py", SUMS), ("doubles.py", DOUBLES)):
        (folder / file).write_text(code)
    (folder / "labels.txt").write_text("only\n")
    image, scalar = TensorSpec("x", "FP32", (2, -1)), TensorSpec("x", "FP32", ())
    total, doubled = TensorSpec("total", "FP32", ()), TensorSpec("y", "FP32", ())
    components = (
        ServedComponent(
            name=f"{name}_doubles",
            backend="python",
            filename="model.py",
            artifact=Artifact("python", folder / "doubles.py", "", (scalar,), (doubled,), "test"),
            inputs={"x": "total"},
            outputs={"y": "answer"},
            serving=doubles,
            sample={"x": np.float32(21).reshape(())},
            labels={"y": folder / "labels.txt"},
            version=7,
        ),
        ServedComponent(
            name=f"{name}_sums",
            backend="python",
            filename="model.py",
            artifact=Artifact("python", folder / "sums.py", "", (image,), (total,), "test"),
            inputs={"x": "image"},
            outputs={"total": "total"},
            serving=sums,
            sample={"x": np.arange(1, 7, dtype=np.float32).reshape(2, 3)},
        ),
    )
    return ServedEnsemble(name, (PIXELS,), (ANSWER,), components)


ENSEMBLES = {
    "plain": (Serving(), Serving()),
    "everything": (EVERYTHING, EVERYTHING),
    "unbatched": (Serving(max_batch_size=0, warmup=True), Serving(max_batch_size=0, warmup=True)),
    "mixed": (Serving(max_batch_size=0), Serving(max_batch_size=4)),
}


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BareTriton]:
    root = tmp_path_factory.mktemp("root")
    for name, (sums, doubles) in ENSEMBLES.items():
        folder = tmp_path_factory.mktemp(name)
        staged = stage(folder / "staged", ensemble(name, folder, sums, doubles))
        publish(staged.path, root, name, release_id="r1", extra_files={})
    # a size that varies beside a batch: answers of other shapes could be taken from the cache
    assert [finding.rule for finding in lint(root)] == ["cache-mixed"]
    with bare_triton(resolve(root), tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.mark.triton
@pytest.mark.parametrize("name", ENSEMBLES)
def test_every_published_model_is_served(name: str, triton: BareTriton):
    assert {name, f"{name}_sums", f"{name}_doubles"} <= triton.ready, triton.log[-3000:]


@pytest.mark.triton
@pytest.mark.parametrize("name", ENSEMBLES)
def test_a_published_ensemble_answers(name: str, triton: BareTriton):
    answer = triton.infer(name, image=("FP32", [2, 2, 2], [1, 2, 3, 4, 10, 20, 30, 40]))
    assert answer["answer"] == ([2, 1], [20, 200])
