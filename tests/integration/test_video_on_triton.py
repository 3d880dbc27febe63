"""Clips into an ensemble that was trained, searched and judged behind ``sample_frames``, and answers made of scores."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import whole_recipe

import mmdeploy
from mmdeploy.core.contracts import Runner
from mmdeploy.core.errors import EnvironmentUnfitError, InferenceError
from mmdeploy.core.strings import as_strings
from mmdeploy.preprocess import Pipeline
from mmdeploy.recipe.media import in_order
from mmdeploy.triton import server as triton_server
from mmdeploy.triton.client import GrpcRunner, HttpRunner
from mmdeploy.triton.repository import resolve
from mmdeploy.triton.served_step import require_packages
from mmdeploy.triton.server import Server

pytestmark = [pytest.mark.slow, pytest.mark.triton]

RECIPE = Path(__file__).parents[1] / "video_recipe"
KINDS = ("gif", "mp4", "webm")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("video")
    shutil.copytree(RECIPE, folder / "recipe", ignore=shutil.ignore_patterns("__pycache__"))
    whole_recipe.built(folder / "recipe" / "recipe.yaml", folder)
    return folder


@pytest.fixture(scope="module")
def served(built: Path) -> Iterator[Server]:
    with triton_server.start([resolve(built / "published")[0]], log=built / "triton.log") as server:
        yield server


@pytest.fixture(scope="module", params=["grpc", "http"])
def runner(request: pytest.FixtureRequest, served: Server) -> Iterator[Runner]:
    made = GrpcRunner(served.grpc_url, "video") if request.param == "grpc" else HttpRunner(served.http_url, "video")
    with made as opened:
        yield opened


def data_of_recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("video_data", RECIPE / "data.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


DATA = data_of_recipe()


def clip(kind: str, count: int = 9, size: tuple[int, int] = (24, 32), colour: int = 0) -> bytes:
    found: bytes = DATA.clip(DATA.picture(np.random.default_rng(colour), colour, count, size), kind)
    return found


def strings(*values: bytes) -> np.ndarray:
    found = [as_strings(value) for value in values]
    return np.stack([array for array in found if array is not None])


SENT = strings(*(clip(kind, colour=index) for index, kind in enumerate(KINDS)))


def in_process(built: Path, sent: np.ndarray) -> dict[str, np.ndarray]:
    """Compute what the ensemble answers from the same bytes, with the release's engines but without a server."""
    import onnxruntime

    release = resolve(built / "published")[0]
    recipe = mmdeploy.load_recipe(built / "recipe" / "recipe.yaml")
    before, after = (
        Pipeline.from_json([steps[name].described() for name in in_order(steps)], recipe.root)
        for steps in (recipe.preprocess, recipe.postprocess)
    )
    tensors = before.batch({"film": sent})
    for name, component in recipe.components.items():
        session = onnxruntime.InferenceSession(release / f"video.{name}" / "1" / "model.onnx")
        found = session.run(
            list(component.outputs), {own: tensors[wire.tensor] for own, wire in component.inputs.items()}
        )
        tensors |= dict(zip((wire.tensor for wire in component.outputs.values()), found, strict=True))
    return after.batch(tensors)


def test_served_answers_are_those_of_python_from_the_same_bytes(built: Path, runner: Runner) -> None:
    wanted, found = in_process(built, SENT), runner.infer({"film": SENT})
    assert found["labels"][:, 0].tolist() == [b"red", b"green", b"blue"]
    assert [name.split()[0] for name in found["known"][:, 0].tolist()] == [b"red", b"green", b"blue"]
    for name, answer in found.items():
        assert answer.dtype == wanted[name].dtype and answer.shape == wanted[name].shape
        if answer.dtype == np.float32:
            np.testing.assert_allclose(answer, wanted[name], rtol=1e-5, atol=1e-6, err_msg=name)
        else:
            assert answer.tolist() == wanted[name].tolist(), name
    assert found["sure"].dtype == np.bool_ and found["sure"].tolist() == (found["logits"] >= 1.5).tolist()
    np.testing.assert_allclose(np.linalg.norm(found["unit"], axis=1), 1, rtol=1e-6)
    for row in range(len(SENT)):
        alone: Mapping[str, np.ndarray] = runner.infer({"film": SENT[row : row + 1]})
        assert {name: alone[name].tolist() for name in ("ids", "places", "known", "sure")} == {
            name: found[name][row : row + 1].tolist() for name in ("ids", "places", "known", "sure")
        }


BAD = {
    "damaged": (clip("mp4")[:120], "cannot be read as a clip"),
    "cut short": (clip("webm")[:60], "cannot be read as a clip"),
    "too long": (clip("gif", count=21), "has more than the 20 frames that are taken"),
    "over-sized": (clip("mp4", count=2, size=(120, 128)), "has frames of 128 x 120 pixels, at most 10000"),
    "large": (b"GIF89a" + bytes(200_000), "has 200006 bytes, at most 200000"),
    "a list of files": (b"#EXTM3U\n/etc/passwd\n", "is no clip that is taken (GIF, MP4, WebM)"),
    "nothing": (b"", "is empty"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_clip_that_is_bad_is_refused_for_that_request_alone(kind: str, runner: Runner) -> None:
    content, why = BAD[kind]
    with pytest.raises(InferenceError) as caught:
        runner.infer({"film": strings(SENT[0, 0], content)})
    assert "'film', row 1" in caught.value.message and why in caught.value.message
    assert runner.infer({"film": SENT[:1]})["labels"][0, 0] == b"red"


def test_a_release_names_the_packages_that_its_steps_were_judged_with(built: Path) -> None:
    release = resolve(built / "published")[0]
    lines = (release / "requirements.txt").read_text().splitlines()
    assert f"numpy=={np.__version__}" in lines and {line.partition("==")[0] for line in lines} >= {"av", "numpy"}
    assert any(line.startswith("faiss") for line in lines) == (importlib.util.find_spec("faiss") is not None)
    require_packages(release)
    other = built / "other"
    other.mkdir()
    (other / "requirements.txt").write_text("numpy==1.0\nfaiss-cpu==0.1\n")
    with pytest.raises(EnvironmentUnfitError, match=r"numpy is .*, and this was judged with 1\.0; faiss-cpu"):
        require_packages(other)


def test_another_gallery_is_judged_again_and_nothing_else(built: Path) -> None:
    gallery = built / "recipe" / "gallery.npz"
    content = gallery.read_bytes()
    with np.load(gallery) as arrays:
        np.savez(gallery, embeddings=arrays["embeddings"] * 2, labels=arrays["labels"])
    recipe = mmdeploy.load_recipe(built / "recipe" / "recipe.yaml")
    again = {one.step.id: one.why for one in mmdeploy.plan(recipe, workdir=built / "work") if not one.reuse}
    assert set(again) == {"original/outputs"}, again
    gallery.write_bytes(content)
    changed = mmdeploy.load_recipe(built / "recipe" / "recipe.yaml", ["preprocess.watch.sampling=uniform"])
    assert "see/recover" in {one.step.id for one in mmdeploy.plan(changed, workdir=built / "work") if not one.reuse}
