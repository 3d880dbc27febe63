"""Scores at the ensemble's output, against the PyTorch model run by itself."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from fused_samples import RECIPE, exported, noisy_labels, original_answers, samples_of
from onnx import numpy_helper

from mmdeploy.core.errors import DataError, EngineError
from mmdeploy.core.samples import Samples
from mmdeploy.core.sessions import SessionRunner, open_session
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.worker import graph_chain
from mmdeploy.worker.fused_output import FusedEnsemble, Graphs, Validation
from mmdeploy.worker.graph_chain import GraphChain
from mmdeploy.worker.modalities import Modalities

WRONG = 7


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fused")
    recipe = load_recipe(RECIPE)
    graphs = {name: exported(recipe, name, folder / name).path for name in recipe.components}
    feeds = samples_of()
    answers = original_answers(recipe, feeds)
    return SimpleNamespace(
        recipe=recipe, graphs=graphs, feeds=feeds, answers=answers, labels=noisy_labels(answers["logits"], WRONG)
    )


def judged(ensemble, component, *, shipped=None, labels=None, known=None):
    graphs = Graphs(shipped=ensemble.graphs | (shipped or {}), exported=ensemble.graphs)
    labels = ensemble.labels if labels is None else labels
    return FusedEnsemble(ensemble.recipe, component, graphs, Validation(ensemble.feeds, labels), known=known)


def changed(graph: Path, target: Path, change) -> Path:
    """Copy a graph with every weight changed by a function."""
    model = onnx.load(graph)
    for weight in model.graph.initializer:
        array = numpy_helper.to_array(weight)
        if array.dtype == np.float32:
            weight.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(change(array), np.float32), weight.name))
    onnx.save(model, target)
    return target


@pytest.mark.parametrize("component", ["left", "right", "fusion"])
def test_the_float_graph_scores_as_the_original(ensemble, component):
    judge = judged(ensemble, component)
    score, original = judge.score(ensemble.graphs[component]), judge.original()
    assert score.metric == original.metric == 1 - WRONG / judge.samples
    assert (judge.metric, judge.larger_is_better, judge.samples) == ("top1", True, 96)
    assert score.sqnr_db == np.inf and score.cosine == pytest.approx(1)
    assert score.per_sample.tolist() == [0.0] * WRONG + [1.0] * (96 - WRONG)


def test_a_slice_scores_its_own_samples(ensemble):
    judge = judged(ensemble, "left")
    first, rest = (
        judge.score(ensemble.graphs["left"], slice(0, 14)),
        judge.score(ensemble.graphs["left"], slice(14, 96)),
    )
    assert (first.metric, first.samples) == (0.5, 14)
    assert (rest.metric, rest.samples) == (1.0, 82)
    assert judge.original(slice(0, 14)).metric == 0.5


def test_a_worse_graph_scores_what_pytorch_says(ensemble, tmp_path):
    """Round one tower's weights; the same rounding in PyTorch, run through the fusion, is the truth."""
    import torch

    from mmdeploy.model.torch_model import load_model

    def rounded(array):
        return np.round(array * 2) / 2

    graph = changed(ensemble.graphs["left"], tmp_path / "left.onnx", rounded)
    model = load_model("model.py:build", root=RECIPE.parent, weights=None)
    originals = ensemble.answers["logits"].astype(np.float64)
    with torch.inference_mode():
        for parameter in model.left.parameters():
            parameter.copy_(torch.from_numpy(rounded(parameter.numpy())))
        left, right = (
            model.left(torch.from_numpy(ensemble.feeds["a"])),
            model.right(torch.from_numpy(ensemble.feeds["b"])),
        )
        logits = model.fusion(left, right).numpy().astype(np.float64)
    ratio = (originals**2).sum(axis=1) / ((logits - originals) ** 2).sum(axis=1)
    score = judged(ensemble, "left").score(graph)
    assert score.metric == (logits.argmax(axis=1) == ensemble.labels).mean() < 1 - WRONG / 96
    assert score.sqnr_db == pytest.approx(float((10 * np.log10(ratio)).mean()), abs=0.01)


def test_what_lies_upstream_is_what_ships_and_beside_it_is_the_original(ensemble, tmp_path):
    silent = changed(ensemble.graphs["left"], tmp_path / "left.onnx", np.zeros_like)
    shipped = {"left": silent}
    assert judged(ensemble, "fusion", shipped=shipped).score(ensemble.graphs["fusion"]).sqnr_db < 20
    assert judged(ensemble, "fusion", shipped=shipped).original().metric == 1 - WRONG / 96
    assert judged(ensemble, "right", shipped=shipped).score(ensemble.graphs["right"]).sqnr_db == np.inf


@pytest.mark.parametrize("shipped", [{}, {"left": np.zeros_like}, {"right": lambda array: np.round(array * 2) / 2}])
@pytest.mark.parametrize("component", ["left", "fusion"])
def test_the_unchanged_component_scores_as_its_export_behind_what_ships(ensemble, tmp_path, component, shipped):
    upstream = {name: changed(ensemble.graphs[name], tmp_path / f"{name}.onnx", how) for name, how in shipped.items()}
    judge = judged(ensemble, component, shipped=upstream)
    unchanged, scored = judge.unchanged(), judge.score(ensemble.graphs[component])
    assert unchanged.per_sample.tolist() == scored.per_sample.tolist()
    assert (unchanged.metric, unchanged.sqnr_db) == (scored.metric, pytest.approx(scored.sqnr_db))
    assert (unchanged.sqnr_db == np.inf) == (component == "left" or not shipped)


@pytest.mark.parametrize("shipped", [{}, {"left": np.zeros_like}])
@pytest.mark.parametrize("component", ["left", "right", "fusion"])
def test_what_the_exports_write_is_not_computed_again(ensemble, tmp_path, monkeypatch, component, shipped):
    upstream = {name: changed(ensemble.graphs[name], tmp_path / f"{name}.onnx", how) for name, how in shipped.items()}
    worse = changed(ensemble.graphs[component], tmp_path / "worse.onnx", lambda array: np.round(array * 2) / 2)
    chain = GraphChain(ensemble.recipe, Modalities(ensemble.recipe, {}), threads=1)
    runners = {name: chain.opened(path) for name, path in ensemble.graphs.items()}
    written = [wire.tensor for part in ensemble.recipe.components.values() for wire in part.outputs.values()]
    known = chain.through(runners, Samples.of(ensemble.feeds), keep=written)
    plain = judged(ensemble, component, shipped=upstream)
    opened, opens = [], GraphChain.opened
    monkeypatch.setattr(GraphChain, "opened", lambda self, path: opened.append(path) or opens(self, path))
    judge = judged(ensemble, component, shipped=upstream, known=known)
    found = [judge.original(), judge.score(worse)]
    for one, other in zip(found, [plain.original(), plain.score(worse)], strict=True):
        assert one.per_sample.tolist() == other.per_sample.tolist()
        assert (one.metric, one.sqnr_db) == (other.metric, other.sqnr_db)
    opened = opened[: opened.index(worse)]  # what the plain one opens comes behind
    if component != "fusion" or not shipped:
        assert opened == []
    else:
        assert opened == [upstream["left"], ensemble.graphs["right"]]  # what ships differs, so the exports do not do


def test_samples_that_are_not_finite_are_wrong_ones(ensemble, tmp_path):
    graph = changed(ensemble.graphs["left"], tmp_path / "left.onnx", lambda array: np.full_like(array, np.nan))
    score = judged(ensemble, "left").score(graph)
    assert (score.metric, score.sqnr_db, score.cosine) == (0.0, -np.inf, 0.0)


def test_large_tensors_are_kept_in_files(ensemble, monkeypatch):
    monkeypatch.setattr(graph_chain, "IN_MEMORY_BYTES", 0)
    judge = judged(ensemble, "fusion")
    assert judge.score(ensemble.graphs["fusion"]).metric == 1 - WRONG / 96
    assert all(isinstance(array, np.memmap) for array in judge._fixed().values())


def test_an_engine_in_process_is_scored_like_its_graph(ensemble):
    runner = SessionRunner(open_session(ensemble.graphs["left"], {}))
    assert judged(ensemble, "left").score(runner).metric == 1 - WRONG / 96
    runner.infer({"values": ensemble.feeds["a"]})  # it is the caller's, and still open


def test_a_graph_that_does_not_fit_is_told_by_its_component(ensemble, tmp_path):
    with pytest.raises(EngineError, match="fusion, run on validation samples: unknown input"):
        judged(ensemble, "fusion").score(ensemble.graphs["left"])
    broken = tmp_path / "broken.onnx"
    shutil.copy(RECIPE, broken)
    with pytest.raises(EngineError, match="cannot load"):
        judged(ensemble, "fusion").score(broken)


def test_labels_are_needed_and_checked(ensemble):
    with pytest.raises(DataError, match=r"data\.validation gives no labels"):
        FusedEnsemble(ensemble.recipe, "left", Graphs({}, ensemble.graphs), Validation(ensemble.feeds, None))
    with pytest.raises(DataError, match="label 99"):
        judged(ensemble, "left", labels=np.full(96, 99)).original()


def test_a_component_that_the_scored_output_does_not_depend_on_is_refused(ensemble):
    recipe = ensemble.recipe.model_copy(update={"outputs": {"left_embedding": None}})
    with pytest.raises(DataError, match="fusion does not feed 'left_embedding'"):
        FusedEnsemble(recipe, "fusion", Graphs({}, ensemble.graphs), Validation(ensemble.feeds, ensemble.labels))


def two_outputs(tmp_path, gates, outputs="{left_embedding: {}, logits: {}}"):
    """The tiny recipe with an embedding among its outputs, and other gates."""
    folder = tmp_path / "recipe"
    shutil.copytree(RECIPE.parent, folder, ignore=shutil.ignore_patterns("__pycache__"))
    recipe = folder / "recipe.yaml"
    text = recipe.read_text().replace("outputs: {logits: {}}", f"outputs: {outputs}")
    recipe.write_text(text[: text.index("gates:")] + f"gates:\n{gates}")
    (folder / "metrics.py").write_text(
        "import numpy as np\n\n\ndef length(outputs, labels):\n"
        "    return np.linalg.norm(outputs['left_embedding'], axis=1)\n"
        "\n\nlength.larger_is_better = True\n"
    )
    return load_recipe(recipe)


def test_a_component_is_scored_at_the_output_that_it_feeds(tmp_path):
    recipe = two_outputs(
        tmp_path,
        "  - {method: accuracy, metric: metrics.py:length, outputs: [left_embedding], max_drop: 0.1}\n"
        "  - {method: accuracy, metric: top1, outputs: [logits], max_drop: 0.2}\n",
    )
    graphs = {name: exported(recipe, name, tmp_path / name).path for name in recipe.components}
    feeds = samples_of()
    answers = original_answers(recipe, feeds)
    given_ = Validation(feeds, noisy_labels(answers["logits"], 5))
    left, right = (FusedEnsemble(recipe, name, Graphs(graphs, graphs), given_) for name in ("left", "right"))
    assert (left.metric, right.metric) == ("length of left_embedding", "top1 of logits")
    assert right.original().metric == pytest.approx(91 / 96)
    lengths = np.linalg.norm(answers["left_embedding"], axis=1)
    found = left.score(graphs["left"], slice(0, 48))
    assert found.metric == pytest.approx(lengths[:48].mean(), rel=1e-5)
    np.testing.assert_allclose(found.per_sample, lengths[:48], rtol=1e-5)


def test_a_component_that_no_metric_sees_is_refused(tmp_path):
    gate = "  - {method: accuracy, metric: metrics.py:length, outputs: [left_embedding], max_drop: 1}\n"
    recipe = two_outputs(tmp_path, gate)
    feeds = samples_of()
    given_ = Validation(feeds, np.zeros(96, int))
    message = "right does not feed 'left_embedding', which is what length of left_embedding scores"
    with pytest.raises(DataError, match=message) as caught:
        FusedEnsemble(recipe, "right", Graphs({}, {}), given_)
    assert "add an accuracy gate" in caught.value.hint


def test_a_metric_of_a_pair_of_outputs_sees_the_one_that_no_candidate_changes(tmp_path):
    gate = "  - {method: accuracy, metric: recall_at_k, outputs: [left_embedding, right_embedding], max_drop: 0.1}\n"
    recipe = two_outputs(tmp_path, gate, "{left_embedding: {}, right_embedding: {}, logits: {}}")
    graphs = {name: exported(recipe, name, tmp_path / name).path for name in recipe.components}
    feeds = samples_of(24)
    answers = original_answers(recipe, feeds)
    left = FusedEnsemble(recipe, "left", Graphs(graphs, graphs), Validation(feeds, np.arange(24)))
    embeddings = (answers["left_embedding"], answers["right_embedding"])
    unit = [one / np.linalg.norm(one, axis=1, keepdims=True) for one in embeddings]
    wanted = (unit[0] @ unit[1].T).argmax(axis=1) == np.arange(24)
    assert left.score(graphs["left"]).metric == pytest.approx(wanted.mean())
