"""A plan for an ensemble that takes text and answers in text, with steps in Python."""

import textwrap

import numpy as np
import pytest

from mmdeploy.caching.contents import Contents
from mmdeploy.caching.layout import asked_ensemble, known_of
from mmdeploy.caching.trace import Content, Request
from mmdeploy.caching.verify import linked_with_cache
from mmdeploy.core.artifact import TensorSpec
from mmdeploy.core.errors import UsageError
from mmdeploy.recipe.loader import load_recipe

RECIPE = """
schema_version: 1
name: pair
target: cpu
model: {factory: model.py:build}
data: {evaluation: data.py:evaluation}
inputs: {x: {dtype: FP32, shape: [8]}}
components:
  left: {module: left, inputs: {x: x}, outputs: {y: {tensor: y, dtype: FP32, shape: [4]}}}
postprocess:
  best: {method: top_k, inputs: {scores: y}, outputs: {labels: labels}, k: 2, labels: labels.txt}
outputs: {labels: {}}
gates: []
"""
CONFIG = """
name: "%s"
platform: "ensemble"
max_batch_size: 4
output [ { name: "labels" data_type: TYPE_STRING dims: [2] } ]
"""


def test_answers_in_text_have_no_size_and_are_no_bug(tmp_path):
    (tmp_path / "recipe.yaml").write_text(textwrap.dedent(RECIPE))
    for name in ("model.py", "data.py"):
        (tmp_path / name).write_text("def build(): ...\ndef evaluation(): ...\n")
    (tmp_path / "labels.txt").write_text("a\nb\nc\nd\n")
    (tmp_path / "release" / "pair").mkdir(parents=True)
    (tmp_path / "release" / "pair" / "config.pbtxt").write_text(CONFIG % "pair")
    recipe = load_recipe(tmp_path / "recipe.yaml")
    known = known_of(recipe, tmp_path / "release", None, {})
    assert known.outputs["pair"] == (TensorSpec("labels", "BYTES", (2,)),)
    ensemble = asked_ensemble(recipe, known)
    assert (ensemble.whole.row_bytes, ensemble.models["left"].row_bytes) == (0, 16)


def test_python_compiles_nothing_into_a_release_that_is_served_from_links(tmp_path):
    release, folder = tmp_path / "release", tmp_path / "served"
    for name, files in {"pair": [], "pair.step": ["model.py", "own/part.py"], "pair.left": ["model.onnx"]}.items():
        (release / name / "1" / "own").mkdir(parents=True)
        (release / name / "config.pbtxt").write_text(CONFIG % name)
        for file in files:
            (release / name / "1" / file).write_text("x = 1\n")
    folder.mkdir()
    linked_with_cache(release, folder, {"pair.left"})
    assert (folder / "pair.left" / "1").resolve() == (release / "pair.left" / "1").resolve()
    for file in ("model.py", "own/part.py"):
        copied = folder / "pair.step" / "1" / file
        assert copied.read_text() == "x = 1\n" and copied.resolve().is_relative_to(folder.resolve())


def test_no_text_is_made_up_for_a_hash(tmp_path):
    (tmp_path / "cat.jpg").write_bytes(b"JPEG")
    contents = Contents([TensorSpec("photo", "BYTES", (1,))], folder=tmp_path)
    with pytest.raises(UsageError, match="nothing can be made up for the hash 'a'"):
        contents.feeds(Request(0.0, {"photo": (Content("hash", "a"),)}))
    found = contents.feeds(Request(0.0, {"photo": (Content("file", "cat.jpg"),)}))
    np.testing.assert_array_equal(found["photo"], np.array([[b"JPEG"]], dtype=object))
