"""Files and functions that steps of ``preprocess`` and ``postprocess`` name: what is wrong with them is told."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mmdeploy.building.environment import require_environment
from mmdeploy.building.media_steps import served_steps
from mmdeploy.core.artifact import TensorSpec
from mmdeploy.core.errors import DataError, EnvironmentUnfitError, RecipeError, UsageError
from mmdeploy.model.distributions import requirement_of
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.worker.media import postprocessed

TESTS = Path(__file__).parents[2]
Change = tuple[str, str]
SCORES = ("{logits: logits}\n    quant", "{logits: {tensor: logits, shape: [3]}}\n    quant")
WIDTH = ("outputs: {embedding: embedding}", "outputs: {embedding: {tensor: embedding, shape: [7]}}")


def copied(name: str, place: Path, *changes: Change) -> Path:
    folder = place / name
    shutil.copytree(TESTS / name, folder, ignore=shutil.ignore_patterns("__pycache__"))
    path = folder / "recipe.yaml"
    text = path.read_text()
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new, 1)
    path.write_text(text)
    return path


def problem(path: Path) -> tuple[str, str]:
    """Return the one thing that is wrong."""
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    (found,) = caught.value.problems
    return found.where.partition(" ")[2], found.message


def without_labels(path: Path) -> None:
    with np.load(path) as arrays:
        np.savez(path, embeddings=arrays["embeddings"])


@pytest.mark.parametrize(
    ("changes", "spoil", "place", "message"),
    [
        ([SCORES, ("k: 2", "k: 4")], None, "best", "k is 4, and there are 3 scores: take 3 or fewer"),
        ([("k: 2", "k: 4")], None, "best.labels", "k is 4, and labels.txt holds 3 labels"),
        ([SCORES], ("labels.txt", b"red\ngreen\n"), "best.labels", "labels.txt holds 2 labels, and there are 3 scores"),
        ([SCORES], ("labels.txt", b"a\nb\nc\nd"), "best.labels", "labels.txt holds 4 labels, and there are 3 scores"),
        ([], ("labels.txt", b"a\n\nc\n"), "best.labels", "labels.txt:2 is blank"),
        ([(", labels: labels.txt}", "}")], None, "best", "gives no labels with these options"),
        ([WIDTH], None, "alike.index", "gallery.npz has rows of 8 values, and the embedding has 7"),
        ([("k: 3", "k: 13")], None, "alike.index", "k is 13, and gallery.npz has 12 rows"),
        ([], ("gallery.npz", b"x"), "alike.index", "gallery.npz is no gallery"),
        ([], ("gallery.npz", without_labels), "alike.index", "gallery.npz holds no labels, and that output is wired"),
        ([("{method: l2_normalise, inputs: {embedding", "{method: l2_normalise, inputs: {scores")], None,
         "unit.inputs.scores", "the method has no input 'scores'; accepted: embedding"),
    ],
)  # fmt: skip
def test_files_that_do_not_fit_are_told(
    tmp_path: Path,
    changes: list[Change],
    spoil: tuple[str, bytes | Callable[[Path], None]] | None,
    place: str,
    message: str,
) -> None:
    path = copied("video_recipe", tmp_path, *changes)
    if spoil is not None and isinstance(spoil[1], bytes):
        path.with_name(spoil[0]).write_bytes(spoil[1])
    elif spoil is not None and callable(spoil[1]):
        spoil[1](path.with_name(spoil[0]))
    where, said = problem(path)
    assert where == f"postprocess.{place}" and message in said


def test_what_only_a_build_knows_it_refuses(tmp_path: Path) -> None:
    recipe = load_recipe(copied("video_recipe", tmp_path))
    tensors = {"logits": np.ones((2, 4), np.float32), "embedding": np.ones((2, 8), np.float32)}
    with pytest.raises(DataError) as caught:
        postprocessed(recipe, tensors)
    assert "postprocess.best: 'logits' does not fit: labels.txt holds 3 labels, and there are 4 sc" in str(caught.value)
    tensors = {"logits": np.ones((2, 3), np.float32), "embedding": np.ones((2, 5), np.float32)}
    with pytest.raises(DataError) as caught:
        postprocessed(recipe, tensors)
    assert "gallery.npz has rows of 8 values, and the embedding has 5" in str(caught.value)
    computed = {name: TensorSpec(name, "FP32", (3,)) for name in ("logits", "embedding")}
    with pytest.raises(UsageError, match=r"step alike cannot be served .*rows of 8 values, and the embedding has 3"):
        served_steps(recipe, computed, {})


def test_packages_of_steps_are_named_with_their_versions(tmp_path: Path) -> None:
    recipe = load_recipe(copied("video_recipe", tmp_path))
    computed = {"logits": TensorSpec("logits", "FP32", (3,)), "embedding": TensorSpec("embedding", "FP32", (8,))}
    required = {step.name: step.requires for step in served_steps(recipe, computed, {})[0]}
    numpy, faiss = requirement_of("numpy"), requirement_of("faiss")
    assert numpy == f"numpy=={np.__version__}"
    assert required["video.watch"] == (numpy, requirement_of("av")) and required["video.sure"] == (numpy,)
    assert required["video.alike"] == ((numpy, faiss) if faiss else (numpy,))
    searches = {step.options["options"].get("search") for step in served_steps(recipe, computed, {})[0]}
    assert searches == {None, "faiss" if faiss else "numpy"}


def test_packages_that_are_missing_are_told_before_anything_runs(tmp_path: Path) -> None:
    change = ("arguments: {scale: 0.5}", "arguments: {scale: 0.5}\n    requires_packages: [no-such-package]")
    recipe = load_recipe(copied("media_recipe", tmp_path, change))
    with pytest.raises(EnvironmentUnfitError, match=r"no-such-package \(for preprocess\.count_words\)") as caught:
        require_environment(recipe, [])
    assert caught.value.hint == "pip install no-such-package"


OWN = "method: preprocess.py:count_words"
DECLARED = "outputs: {counts: {tensor: counts, dtype: FP32, shape: [2]}}"
SCALE = "arguments: {scale: 0.5}"


@pytest.mark.parametrize(
    ("change", "place", "message"),
    [
        ((OWN, "python: preprocess.py:count_words"), "python",
         "unknown key 'python'; a step of your own is method: preprocess.py:count_words"),
        ((OWN, "method: python:preprocess.py:count_words"), "method", "a step of your own is method: preprocess.py:"),
        ((OWN, "method: preprocess.py"), "method", "name the function in it: preprocess.py:callable"),
        ((OWN, "method: scipy.signal:resample"), "method",
         "import in such a file (from scipy.signal import resample): its version goes into"),
        ((OWN, "method: preprocess:count_words"), "method", "a file beside the recipe is preprocess.py:count_words"),
        ((f"    {OWN}\n", ""), "method", "missing; accepted: decode_image, decode_audio, sample_frames, tokenize, "
         "normalise, softmax, top_k, threshold, l2_normalise, nearest, path.py:callable"),
        ((OWN, "method: preproces.py:count_words"), "method", "did you mean 'preprocess.py'"),
        ((OWN, "method: preprocess.py:count_word"), "method", "did you mean 'count_words'"),
        ((f"    {DECLARED}\n", ""), "outputs", "missing; it must be given: By name in the dict that it returns"),
        ((DECLARED, "outputs: {counts: counts}"), "outputs.counts",
         "counts: {tensor: counts, dtype: FP32, shape: [2]}, with its type and the shape of one sample"),
        ((DECLARED, "outputs: {counts: {tensor: counts, dtype: float32, shape: [2]}}"), "outputs.counts.dtype",
         "'float32' is not accepted; accepted: BOOL, BYTES, FP16"),
        (("inputs: {text: caption}\n", "inputs: {words: caption}\n"), "inputs.words",
         "preprocess.py:count_words takes no 'words'; accepted: scale, text"),
        ((f"    {SCALE}\n", ""), "inputs", "preprocess.py:count_words takes 'scale': wire it under inputs"),
        ((SCALE, "arguments: {scale: 0.5, shift: 1}"), "arguments.shift", "takes no 'shift'; accepted: scale, text"),
        ((SCALE, "arguments: {scale: 0.5, text: a}"), "arguments.text", "'text' is wired under inputs too"),
        ((SCALE, f"{SCALE}\n    requires_packages: ['scipy==1.0']"), "requires_packages.0",
         "its version is the one that is installed"),
    ],
)  # fmt: skip
def test_functions_of_one_s_own_that_cannot_be_called_are_told_without_running_them(
    tmp_path: Path, change: Change, place: str, message: str
) -> None:
    path = copied("media_recipe", tmp_path, change)
    code = path.with_name("preprocess.py")
    code.write_text(f"{code.read_text()}\nraise SystemExit('it was run')\n")
    where, said = problem(path)
    assert where == f"preprocess.count_words.{place}" and message in said


def with_code(path: Path, head: str) -> Path:
    code = path.with_name("preprocess.py")
    code.write_text(f"{head}\n{code.read_text()}")
    return path


def test_code_that_a_release_cannot_hold_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where, said = problem(with_code(copied("media_recipe", tmp_path), "from mmdeploy.preprocess import Softmax"))
    assert where == "preprocess.count_words.method"
    assert "preprocess.py:count_words imports mmdeploy, which a release does not hold" in said
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "words_of_ours.py").write_text("")
    monkeypatch.syspath_prepend(elsewhere)
    shutil.rmtree(tmp_path / "media_recipe")
    where, said = problem(with_code(copied("media_recipe", tmp_path), "import words_of_ours"))
    assert f"needs {elsewhere.resolve() / 'words_of_ours.py'}, which is not beside the recipe" in said


def test_packages_that_own_code_imports_are_required(tmp_path: Path) -> None:
    path = with_code(copied("media_recipe", tmp_path), "import scipy.special")
    computed = {"logits": TensorSpec("logits", "FP32", (3,)), "embedding": TensorSpec("embedding", "FP32", (8,))}
    steps, _ = served_steps(load_recipe(path), computed, {})
    required = {step.name: step.requires for step in steps}
    assert required["media.count_words"] == (requirement_of("numpy"), requirement_of("scipy"))
