"""What a graph answers as it is written is asked once: engines take it from beside the graph, if it is the answer."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest

from mmdeploy.core.artifact import file_sha256
from mmdeploy.core.errors import EngineError
from mmdeploy.core.sessions import AS_WRITTEN, SessionRunner, open_session
from mmdeploy.engines import onnxruntime as ort_engine
from mmdeploy.engines import own_answers, own_graph

GRAPH = "g (float[N, 4] x) => (float[N, 4] y, int64[N, 4] z) { y = Tanh (x) b = Ceil (x) z = Cast <to = 7> (b) }"


@pytest.fixture
def source(make_onnx):
    return make_onnx(GRAPH)


def kept_beside(source, context, change=lambda name, array: array, *, quantized=False):
    """Keep what the graph answers to what its engines are asked, changed or not."""
    feeds = own_answers.asked_of(context).feeds
    answers = own_answers.answers_of(source.path, feeds, threads=1)
    own_answers.keep(
        source.path, feeds, [{n: change(n, array) for n, array in one.items()} for one in answers], quantized=quantized
    )
    return feeds, answers


def test_what_is_kept_is_what_the_graph_answers_as_it_is_written(source, make_context):
    feeds, answers = kept_beside(source, make_context(source))
    assert own_answers.kept(source.path, feeds).quantized is False
    assert [len(feed["x"]) for feed in feeds] == [4, 1]
    written = SessionRunner(open_session(source.path, {}, graph_level=AS_WRITTEN))
    for feed, kept, found in zip(feeds, own_answers.kept(source.path, feeds).answers, answers, strict=True):
        for name, wanted in written.infer(feed).items():
            assert kept[name].dtype == wanted.dtype
            np.testing.assert_array_equal(kept[name], wanted)
            np.testing.assert_array_equal(found[name], wanted)


@pytest.mark.parametrize(
    "other",
    [
        lambda feeds: feeds[:1],
        lambda feeds: [*reversed(feeds)],
        lambda feeds: [{"x": np.nextafter(feeds[0]["x"], 9)}, *feeds[1:]],
        lambda feeds: [{"x": feeds[0]["x"].astype(np.float64)}, *feeds[1:]],
        lambda feeds: [{"x": feeds[0]["x"].reshape(2, 8)}, *feeds[1:]],
        lambda feeds: [{"w": feed["x"]} for feed in feeds],
    ],
)
def test_answers_to_another_question_are_not_used(source, make_context, other):
    feeds, _ = kept_beside(source, make_context(source))
    assert own_answers.kept(source.path, other(feeds)) is None


def test_answers_of_another_onnx_runtime_are_not_used(source, make_context, monkeypatch):
    feeds, _ = kept_beside(source, make_context(source))
    monkeypatch.setattr(onnxruntime, "__version__", "0.9")
    assert own_answers.kept(source.path, feeds) is None


def test_many_bytes_are_not_kept_and_what_was_kept_before_goes(source, make_context, monkeypatch):
    kept_beside(source, make_context(source))
    assert source.path.with_name(own_answers.FILENAME).exists()
    monkeypatch.setattr(own_answers, "_MOST_BYTES", 100)
    feeds, _ = kept_beside(source, make_context(source))
    assert not source.path.with_name(own_answers.FILENAME).exists()
    assert own_answers.kept(source.path, feeds) is None


def test_an_engine_is_held_against_what_is_kept(source, make_context):
    """Wrong answers beside the graph make a right engine fail: so they are what it is compared with."""
    context = make_context(source)
    kept_beside(source, context)
    assert ort_engine.run(source, ort_engine.Options(), context).metadata["compared"]
    kept_beside(source, context, lambda name, array: array + 1 if name == "y" else array)
    with pytest.raises(EngineError, match="answers something else than its own graph"):
        ort_engine.run(source, ort_engine.Options(), context)


def test_a_graph_that_is_not_the_one_they_are_beside_is_asked(source, make_context, tmp_path):
    """Such as an engine's that wrote its graph in another form."""
    context = make_context(source)
    kept_beside(source, context, lambda name, array: array + 1 if name == "y" else array)
    folder = tmp_path / "other"
    folder.mkdir()
    model = onnx.load(source.path)
    model.doc_string = "another file with the same answers"
    onnx.save(model, folder / "model.onnx")
    built = ort_engine.run(source, ort_engine.Options(), replace(context, workdir=folder, settles=False))
    onnx.save(model, built.path)
    built = replace(built, sha256=file_sha256(built.path))
    judged = own_graph.judge(built, source, context, lambda: ort_engine.load(built, ort_engine.Options()))
    assert "its graph as written" in str(judged.metadata["compared"])


def test_of_a_graph_that_is_known_it_is_known_whether_it_is_in_int8(source, make_context, monkeypatch):
    context = make_context(source)
    for quantized in (True, False):
        kept_beside(source, context, quantized=quantized)
        monkeypatch.setattr(own_graph, "load_graph", None)
        asked, _ = own_graph.question(source, source.path, context, is_same=True)
        assert asked.quantized == quantized
