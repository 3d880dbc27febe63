"""A plan for an ensemble that takes text and answers in text, with steps in Python."""

import textwrap
from pathlib import Path

import numpy as np
import pytest

from mmdeploy.caching.contents import Contents, samples_for
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
    contents = Contents([TensorSpec("photo", "BYTES", (1,))], trace=tmp_path / "requests.jsonl")
    with pytest.raises(UsageError, match="nothing can be made up for the hash 'a'"):
        contents.feeds(Request(0.0, {"photo": (Content("hash", "a"),)}))
    found = contents.feeds(Request(0.0, {"photo": (Content("file", "cat.jpg"),)}))
    np.testing.assert_array_equal(found["photo"], np.array([[b"JPEG"]], dtype=object))


def test_what_cannot_be_asked_is_told_by_the_line_of_the_trace(tmp_path):
    trace = tmp_path / "requests.jsonl"
    for name, size in (("right", 4), ("large", 6)):
        np.save(tmp_path / f"{name}.npy", np.zeros(size, np.float32))
    (tmp_path / "broken.npy").write_bytes(b"no array")
    (tmp_path / "folder.npy").mkdir()
    samples = [{"x": np.zeros(4, np.float32), "y": np.zeros(4, np.float32)}, {"y": np.zeros(4, np.float32)}]
    contents = Contents([TensorSpec("x", "FP32", (4,)), TensorSpec("y", "FP32", (-1,))], trace=trace, samples=samples)
    for kind, value, told in [
        ("sample", "2", "x: sample 2 cannot be had: the data has 2"),
        ("sample", "1", "x: sample 1 leaves this input out"),
        ("file", "gone.npy", "x: there is no file"),
        ("file", "large.npy", "x: large.npy: "),
        ("file", "broken.npy", "x: broken.npy cannot be read as a NumPy array"),
        ("file", "folder.npy", "x: there is no file"),
        ("file", "n" * 300 + ".npy", "x: .*File name too long"),
    ]:
        for ask in (contents.feeds, lambda request: contents.known_by_bytes([request])):
            with pytest.raises(UsageError, match=rf"requests\.jsonl:7: {told}"):
                ask(Request(0.0, {"x": (Content(kind, value),)}, line=7))
    uneven = Request(0.0, {"y": (Content("file", "right.npy"), Content("file", "large.npy"))}, line=9)
    with pytest.raises(UsageError, match=r"requests\.jsonl:9: y: the rows of one request have the shapes"):
        contents.feeds(uneven)


def test_contents_are_known_by_their_bytes_as_triton_knows_them(tmp_path):
    for name in ("one", "copy"):
        np.save(tmp_path / f"{name}.npy", np.ones(4, np.float32))
    contents = Contents(
        [TensorSpec("x", "FP32", (4,)), TensorSpec("b", "BOOL", (1,))],
        trace=tmp_path / "requests.jsonl",
        samples=[{"x": np.ones(4, np.float32)}, {"x": np.zeros(4, np.float32)}],
    )
    names = [("file", "one.npy"), ("file", "copy.npy"), ("sample", "0"), ("sample", "1"), ("hash", "one.npy")]
    known = contents.known_by_bytes(Request(0.0, {"x": (Content(*name),)}) for name in names)
    assert [known.index(one) for one in known] == [0, 0, 0, 3, 4]
    bits = contents.known_by_bytes(Request(0.0, {"b": (Content("hash", str(n)),)}) for n in range(20))
    assert len({one.inputs["b"] for one in bits}) == 2, "twenty names, and only two values to be had"


def test_samples_of_the_recipe_may_leave_optional_inputs_out(tmp_path):
    recipe = load_recipe(Path(__file__).parents[2] / "media_recipe/optional.yaml")
    asked = [Request(0.0, {"photo": (Content("sample", "1"),)}, line=3)]
    samples = samples_for(recipe, asked)
    assert [sorted(sample) for sample in samples] == [["caption", "clip", "photo"], ["caption", "clip"]]
    with pytest.raises(UsageError, match=r"requests\.jsonl:3: photo: sample 1 leaves this input out"):
        Contents(recipe.input_specs, trace=tmp_path / "requests.jsonl", samples=samples).feeds(asked[0])
