"""What static quantization leaves open is settled by trying: equalization where a transformer has outliers."""

import numpy as np
import onnx
import pytest
from float_graphs import GRAPHS, MLP, VIT, batches_of, built, context_of, quantized, samples
from test_equalize import outlying

from mmdeploy.core.facts import find
from mmdeploy.quantize import graphs, held_out, static
from mmdeploy.quantize.settle import Trials
from mmdeploy.scoring.findings import PlainSection

AUTO = {"equalize": "auto", "calibrator": "auto"}


def trials_of(artifact):
    found = find(Trials, artifact.metadata)
    return [] if found is None else [(one.equalize, one.calibrator) for one in found.trials]


def test_outliers_behind_a_normalization_are_equalized(tmp_path):
    artifact = built(VIT, tmp_path / "float.onnx")
    outlying(artifact.path)
    feed = {"x": samples((9, 16))}
    made = quantized(artifact, tmp_path / "q", feed, **AUTO)
    assert trials_of(made)[:2] == [(None, "percentile"), (0.5, "percentile")]
    assert len(trials_of(made)) == 3 and made.metadata["equalized"]
    plain = quantized(artifact, tmp_path / "plain", feed)
    assert made.metadata["sqnr_db"]["y"] > plain.metadata["sqnr_db"]["y"] + 3
    section = find(PlainSection, made.metadata)
    assert section is not None and section.plain["equalize"] == 0.5
    again = static.run(artifact, static.Options.model_validate(section.plain), context_of(tmp_path / "again", feed))
    assert again.path.read_bytes() == made.path.read_bytes() and not trials_of(again)


@pytest.mark.parametrize("name", ["mlp", "conv"])
def test_nothing_is_tried_without_a_normalization(name, tmp_path):
    text, shape = GRAPHS[name]
    made = quantized(built(text, tmp_path / "float.onnx"), tmp_path / "q", {"x": samples(shape)}, **AUTO)
    assert trials_of(made) == [] and made.metadata["calibrator"] == "percentile"
    assert find(PlainSection, made.metadata) is None


def test_too_few_samples_are_not_split(tmp_path):
    artifact = built(VIT, tmp_path / "float.onnx")
    assert trials_of(quantized(artifact, tmp_path / "q", {"x": samples((9, 16), 7)}, **AUTO)) == []


def test_what_is_asked_for_is_not_tried(tmp_path):
    artifact = built(VIT, tmp_path / "float.onnx")
    outlying(artifact.path, 400.0)
    made = quantized(artifact, tmp_path / "q", {"x": samples((9, 16))}, equalize=0.1, calibrator="auto")
    assert trials_of(made) == [(0.1, "percentile"), (0.1, "mse")]


def test_nothing_more_is_tried_where_the_noise_is_small_already(tmp_path):
    artifact = built(VIT, tmp_path / "float.onnx")
    made = quantized(artifact, tmp_path / "q", {"x": samples((9, 16))}, **AUTO)
    assert made.metadata["sqnr_db"]["y"] > 35 and trials_of(made) == [(None, "percentile")]


@pytest.mark.parametrize("batch", [1, 3, 8, 50])
def test_samples_are_split_turn_and_turn_about(batch):
    values = np.arange(41)
    fitted, judged = held_out.split(batches_of({"x": values}, batch), 30)
    assert np.concatenate([part["x"] for part in fitted]).tolist() == list(range(0, 30, 2))
    assert np.concatenate([part["x"] for part in judged]).tolist() == list(range(1, 30, 2))


def test_a_graph_is_judged_by_its_noise(tmp_path):
    artifact = built(MLP, tmp_path / "float.onnx")
    bench = held_out.HeldOut(artifact.path, [{"x": samples((16,))}], threads=1)
    model = graphs.load(artifact.path)
    assert bench.sqnr_db(model) == 120.0
    weight = next(one for one in model.graph.initializer if one.name == "b2")
    values = onnx.numpy_helper.to_array(weight)
    weight.CopyFrom(onnx.numpy_helper.from_array(values + 0.01, "b2"))
    assert 20 < bench.sqnr_db(model) < 60
    weight.CopyFrom(onnx.numpy_helper.from_array(values * np.nan, "b2"))
    assert bench.sqnr_db(model) == -120.0
