"""Files and text into a served ensemble: answers as in process, to the bit, and bad ones refused each for itself."""

from __future__ import annotations

import importlib.util
import io
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import whole_recipe

import mmdeploy
from mmdeploy.core.errors import InferenceError
from mmdeploy.core.strings import as_strings
from mmdeploy.preprocess import Pipeline
from mmdeploy.recipe.media import in_order
from mmdeploy.triton import server as triton_server
from mmdeploy.triton.client import GrpcRunner, HttpRunner
from mmdeploy.triton.lint import lint
from mmdeploy.triton.repository import resolve
from mmdeploy.triton.server import Server

pytestmark = [pytest.mark.slow, pytest.mark.triton]

RECIPE = Path(__file__).parents[1] / "media_recipe"
ROWS = 3


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    shutil.copytree(RECIPE, folder / "recipe", ignore=shutil.ignore_patterns("__pycache__"))
    whole_recipe.built(folder / "recipe" / "recipe.yaml", folder)
    return folder


@pytest.fixture(scope="module")
def served(built: Path) -> Iterator[Server]:
    root = built / "published"
    assert lint(root) == ()
    copy = built / "served"
    shutil.copytree(resolve(root)[0], copy)
    (copy / "manifest.json").unlink()
    for model in copy.glob("*/1/model.py"):  # no step may need mmdeploy itself
        head, line, rest = model.read_text().partition("import sys\n")
        model.write_text(f'{head}{line}sys.modules["mmdeploy"] = None\n{rest}')
    with triton_server.start([copy], log=built / "triton.log") as server:
        yield server


@pytest.fixture(scope="module")
def sent() -> dict[str, np.ndarray]:
    """Some rows of what clients send."""
    sys.path.insert(0, str(RECIPE))
    try:
        spec = importlib.util.spec_from_file_location("media_data", RECIPE / "data.py")
        assert spec is not None and spec.loader is not None
        data = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(data)
        rows = list(data.samples(9, ROWS))
    finally:
        sys.path.remove(str(RECIPE))
    return {name: np.stack([strings(row[name]) for row in rows]) for name in rows[0]}


def strings(value: Any) -> np.ndarray:
    found = as_strings(value)
    assert found is not None
    return found


def test_each_step_answers_as_its_code_does_in_process_to_the_bit(
    built: Path, served: Server, sent: dict[str, np.ndarray]
) -> None:
    recipe = mmdeploy.load_recipe(built / "recipe" / "recipe.yaml")
    for section in (recipe.preprocess, recipe.postprocess):
        pipeline = Pipeline.from_json([section[name].described() for name in in_order(section)], recipe.root)
        tensors: dict[str, np.ndarray] = dict(sent)
        if section is recipe.postprocess:
            random = np.random.default_rng(3)
            tensors = {"logits": random.normal(size=(ROWS, 3)).astype(np.float32)}
            tensors["embedding"] = random.normal(size=(ROWS, 8)).astype(np.float32)
        expected = pipeline.batch(tensors)
        for name, step in section.items():
            with GrpcRunner(served.grpc_url, f"media.{name}") as runner:
                answers = runner.infer({own: expected[tensor] for own, tensor in step.inputs.items()})
            for own, tensor in step.tensors.items():
                assert answers[own].dtype == expected[tensor].dtype
                assert answers[own].tolist() == expected[tensor].tolist(), (name, own)


def test_rows_of_a_batch_are_answered_as_each_alone(served: Server, sent: dict[str, np.ndarray]) -> None:
    with GrpcRunner(served.grpc_url, "media") as grpc, HttpRunner(served.http_url, "media") as http:
        together = grpc.infer(sent)
        assert together["labels"].shape == (ROWS, 2) and {*together["labels"].ravel()} <= {b"owl", b"cat", b"dog"}
        for row in range(ROWS):
            alone = http.infer({name: array[row : row + 1] for name, array in sent.items()})
            assert alone["labels"].tolist() == together["labels"][row : row + 1].tolist()
            np.testing.assert_allclose(alone["probabilities"], together["probabilities"][row : row + 1], rtol=1e-5)


def picture(size: tuple[int, int], kind: str = "PNG", **options: Any) -> bytes:
    from PIL import Image

    with io.BytesIO() as stream:
        Image.new("1", size).save(stream, kind, **options)
        return stream.getvalue()


def animation() -> bytes:
    from PIL import Image

    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    with io.BytesIO() as stream:
        frames[0].save(stream, "WEBP", save_all=True, append_images=frames[1:])
        return stream.getvalue()


def wav(samples: np.ndarray, rate: int = 8000) -> bytes:
    import soundfile

    with io.BytesIO() as stream:
        soundfile.write(stream, samples, rate, format="WAV", subtype="FLOAT")
        return stream.getvalue()


BAD = {
    "a bomb": ("photo", picture((50_000, 50_000)), "2500000000 pixels, at most"),
    "truncated": ("photo", picture((64, 64), "JPEG", quality=95)[:-300], "cannot be read as an image"),
    "another format": ("photo", picture((8, 8), "GIF"), "cannot be read as an image"),
    "an animation": ("photo", animation(), "is an animation of 2 frames"),
    "a zip file": ("photo", b"PK\x03\x04" + bytes(100), "cannot be read as an image"),
    "no sound": ("clip", wav(np.zeros(1), 8000)[:4] + b"junk", "is no sound that is taken"),
    "too long": ("clip", wav(np.zeros(80_000, np.float32)), "10 seconds long, at most 5"),
    "NaN": ("clip", wav(np.full(100, np.nan, np.float32)), "samples that are no numbers"),
    "many channels": ("clip", wav(np.zeros((10, 32), np.float32)), "32 channels, at most 8"),
    "no UTF-8": ("caption", b"caf\xe9", "is no UTF-8"),
    "a long text": ("caption", b"a" * 70_000, "bytes, at most 65536"),
    "too many words": ("caption", b"a " * 101, "has 101 words"),
    "nothing": ("photo", b"", "is empty"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_bad_is_refused_for_that_request_alone(kind: str, served: Server, sent: dict[str, np.ndarray]) -> None:
    name, content, why = BAD[kind]
    bad = {tensor: array.copy() for tensor, array in sent.items()}
    bad[name][1, 0] = content
    with GrpcRunner(served.grpc_url, "media") as runner:
        with pytest.raises(InferenceError) as caught:
            runner.infer(bad)
        assert f"{name!r}, row 1" in caught.value.message and why in caught.value.message
        runner.infer(sent)


def test_a_change_of_postprocess_makes_no_engine_anew(built: Path) -> None:
    recipe = mmdeploy.load_recipe(built / "recipe" / "recipe.yaml", ["postprocess.best.k=1"])
    assert {one.step.id for one in mmdeploy.plan(recipe, workdir=built / "work") if not one.reuse} == {
        "original/outputs"
    }
    recipe = mmdeploy.load_recipe(built / "recipe" / "recipe.yaml", ["preprocess.read_photo.interpolation=box"])
    changed = {one.step.id for one in mmdeploy.plan(recipe, workdir=built / "work") if not one.reuse}
    assert {"data/calibration", "data/evaluation", "see/export"} <= changed
