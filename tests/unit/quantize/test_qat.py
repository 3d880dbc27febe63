"""Quantization-aware training: what was trained is what is written, and it pays; bad input is refused."""

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import qat_samples
import torch
from onnx import numpy_helper
from torch import nn

from mmdeploy.core.artifact import Artifact
from mmdeploy.core.contracts import Encoding
from mmdeploy.core.errors import DataError, QuantizeError
from mmdeploy.model.torch_component import load_component, save_component
from mmdeploy.quantize import qat, static

each_style = pytest.mark.parametrize("style", [style.__name__ for style in qat_samples.STYLES])


class Built:
    """A component trained and exported once, with the module that modelopt trained."""

    def __init__(
        self, style: str, folder: Path, source: Artifact | None = None,
        encoding: Encoding = Encoding.INT8_SYMMETRIC, **options: Any,
    ) -> None:  # fmt: skip
        self.folder, self.options, self.encoding = folder, qat.Options(**options), encoding
        kept: list[nn.Module] = []
        fit = qat.fit

        def spy(module, *given, **named):
            kept.append(module)
            return fit(module, *given, **named)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(qat, "fit", spy)
            self.trained = qat_samples.trained(style, folder, source=source, encoding=encoding, **options)
        self.module = kept[0].eval()
        self.graph = qat_samples.exported(self.trained, folder)

    def write(self, encoding: Encoding | None = None, **changes: Any) -> Artifact:
        encoding = encoding or self.encoding
        context = qat_samples.context(self.folder / f"write-{encoding}", None, encoding=encoding, **changes)
        return qat.write(self.graph, self.trained, self.options, context)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Any:
    made: dict[str, Built] = {}

    def build(style: str, **options: Any) -> Built:
        key = json.dumps([style, options])
        if key not in made:
            made[key] = Built(style, tmp_path_factory.mktemp(style), **options)
        return made[key]

    return build


def answers(path: Path, feed: dict[str, np.ndarray], outputs: list[str] | None = None) -> list[np.ndarray]:
    """Run a graph as it is written, with no optimization."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"]).run(outputs, feed)


def constants(graph: Any) -> dict[str, np.ndarray]:
    return {weight.name: numpy_helper.to_array(weight) for weight in graph.initializer}


def quantizers(module: nn.Module) -> dict[str, Any]:
    return {name: part for name, part in module.named_modules() if hasattr(part, "weight_quantizer")}


@each_style
@pytest.mark.parametrize("changes", [{}, {"learn_scales": True}, {"per_channel": False, "calibrator": "max"}])
def test_the_written_graph_computes_what_modelopt_trained(built, style, changes):
    part = built(style, **changes)
    feed = next(qat_samples.feeds(1, seed=21))
    with torch.no_grad(), qat._no_fused_attention():
        wanted = part.module(torch.from_numpy(feed["values"])).numpy()
    (found,) = answers(part.write().path, feed)
    np.testing.assert_allclose(found, wanted, atol=2e-5 * np.abs(wanted).max())
    (plain,) = answers(part.graph.path, feed)
    assert np.abs(plain - wanted).max() > 20 * np.abs(found - wanted).max()  # the rounding is really in both


@pytest.mark.parametrize("changes", [{}, {"learn_scales": True}, {"calibrator": "mse"}])
@pytest.mark.parametrize("style", ["Encoder", "Convolutions"])
def test_asymmetric_ranges_are_trained_where_the_engine_takes_them(built, style, changes):
    part = built(style, encoding=Encoding.UINT8_ASYMMETRIC, **changes)
    written = part.write()
    assert written.metadata["encoding"] == "uint8_asymmetric"
    feed = next(qat_samples.feeds(1, seed=21))
    with torch.no_grad(), qat._no_fused_attention():
        wanted = part.module(torch.from_numpy(feed["values"])).numpy()
    (found,) = answers(written.path, feed)
    assert np.median(np.abs(found - wanted)) <= 2e-5 * np.abs(wanted).max()
    # A bias is INT32 in this encoding, which may move a value that lies between two codes to the other.
    np.testing.assert_allclose(found, wanted, atol=1e-2 * np.abs(wanted).max())
    rectified = {"Encoder": "encoder.layers.0.linear2", "Convolutions": "second"}[style]
    layer = next(layer for layer in part.trained.metadata["scales"]["layers"] if layer["name"] == rectified)
    assert layer["input_low"] == 0 < layer["input_amax"]  # no code below zero behind a ReLU


def test_training_starts_from_what_static_quantization_gives(built):
    part = built("Convolutions", encoding=Encoding.UINT8_ASYMMETRIC, learning_rate=1e-30)
    assert len(part.trained.metadata["training"]["epochs"]) == 2
    context = qat_samples.context(part.folder / "static", None, encoding=Encoding.UINT8_ASYMMETRIC)
    wanted = static.run(part.graph, static.Options(), context)
    found = part.write()
    assert found.metadata["ranges"].keys() == wanted.metadata["ranges"].keys()
    for name, limits in wanted.metadata["ranges"].items():
        step = (max(limits[1], 0) - min(limits[0], 0)) / 255
        np.testing.assert_allclose(found.metadata["ranges"][name], limits, atol=step)
    feed = next(qat_samples.feeds(1, seed=21))
    np.testing.assert_allclose(answers(found.path, feed)[0], answers(wanted.path, feed)[0], atol=0.05)


@pytest.mark.parametrize("encoding", [Encoding.INT8_SYMMETRIC, Encoding.UINT8_ASYMMETRIC])
def test_normalized_weights_are_trained_and_given_back(built, encoding):
    part = built("NormalizedWeights", encoding=encoding, learning_rate=1e-2, epochs=2)
    assert sorted(quantizers(part.module)) == ["first", "head", "second", "third"]
    written = part.write()
    assert not written.metadata["untrained_nodes"] and not part.trained.metadata["scales"]["left_float"]
    feed = next(qat_samples.feeds(1, seed=21))
    with torch.no_grad():
        wanted = part.module(torch.from_numpy(feed["values"])).numpy()
    (found,) = answers(written.path, feed)
    np.testing.assert_allclose(found, wanted, atol=2e-5 * np.abs(wanted).max())


def test_a_weight_that_cannot_be_given_back_is_trained_in_floating_point(built):
    part = built("Subclasses")
    assert "take back any weight" in part.trained.metadata["scales"]["left_float"]["spectral"]
    assert any("spectral" in node for node in part.write().metadata["untrained_nodes"])


@each_style
def test_every_product_with_a_weight_was_trained(built, style):
    part = built(style)
    facts = part.write().metadata
    assert not facts["untrained_nodes"]
    assert not facts["widened"]
    assert set(facts["trained_nodes"]) == set(facts["quantized_nodes"])
    layers = [layer for node in facts["trained_nodes"].values() for layer in node]
    assert sorted(layers) == sorted(quantizers(part.module))
    assert set(facts["excluded_nodes"].values()) <= {"a product of two activations"}
    assert not part.trained.metadata["scales"]["left_float"]


def test_scales_in_the_graph_are_those_of_modelopt(built):
    part = built("PlainAttention")
    model = onnx.load(part.write().path)
    values = constants(model.graph)
    made = {name: node for node in model.graph.node for name in node.output}
    for name, layer in quantizers(part.module).items():
        node = next(node for node in model.graph.node if node.name in (f"{name}/MatMul", f"{name}/Gemm"))
        given, weight = made[node.input[0]], made[node.input[1]]
        assert values[given.input[1]] == np.float32(float(layer.input_quantizer.amax) / 127)
        assert values[given.input[2]] == 0
        amax = layer.weight_quantizer.amax.numpy().reshape(-1)
        np.testing.assert_array_equal(values[weight.input[1]], amax / np.float32(127))
        wanted = layer.weight_quantizer(layer.weight).detach().numpy()
        codes = values[weight.input[0]].astype(np.float32)
        codes = codes if node.op_type == "Gemm" else codes.T
        np.testing.assert_allclose(codes * amax[:, None] / 127, wanted, atol=1e-7)


def test_both_symmetric_encodings_are_the_same_numbers(built):
    part = built("WithoutBias")
    signed, unsigned = part.write(), part.write(Encoding.UINT8_SYMMETRIC)
    asked = part.write(Encoding.UINT8_ASYMMETRIC)  # training was symmetric: written with zero point 128 too
    assert asked.metadata["encoding"] == "uint8_symmetric"
    assert asked.path.read_bytes() == unsigned.path.read_bytes()
    model = onnx.load(unsigned.path)
    values = constants(model.graph)
    zeros = {int(values[node.input[2]]) for node in model.graph.node if node.op_type == "QuantizeLinear"}
    assert zeros == {128}
    feed = next(qat_samples.feeds(1, seed=22))
    np.testing.assert_array_equal(answers(signed.path, feed)[0], answers(unsigned.path, feed)[0])


def test_rounded_activations_are_bit_equal_in_both_encodings(built):
    part = built("Convolutions")
    dequantized = []
    for encoding in (Encoding.INT8_SYMMETRIC, Encoding.UINT8_SYMMETRIC):
        model = onnx.load(part.write(encoding).path)
        made = {name: node for node in model.graph.node for name in node.output}
        first = next(node for node in model.graph.node if node.name == "first_norm/Conv")
        del model.graph.output[:]
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(first.input[0]))
        assert made[first.input[0]].op_type == "DequantizeLinear"
        path = part.folder / f"{encoding}.onnx"
        onnx.save(model, path)
        dequantized.append(answers(path, next(qat_samples.feeds(1, seed=23)))[0])
    np.testing.assert_array_equal(*dequantized)


def test_a_trained_result_is_kept_where_rounding_harms(tmp_path):
    """One scale for a weight whose rows differ a hundredfold: static quantization ruins it, training repairs it."""
    options = {"per_channel": False, "calibrator": "max"}
    part = Built(
        "UnevenRows", tmp_path, epochs=24, learning_rate=1e-3, loss="distill", patience=None, schedule="constant",
        **options,
    )  # fmt: skip
    epochs = part.trained.metadata["training"]["epochs"]
    best = epochs[part.trained.metadata["training"]["best_epoch"]]
    assert best["validation_loss"] < 0.5 * epochs[0]["validation_loss"]

    source = qat_samples.component("UnevenRows", tmp_path / "untrained")
    plain = qat_samples.exported(source, tmp_path / "untrained")
    how = static.Options(per_channel=False, calibrator="minmax")
    with pytest.raises(QuantizeError, match="INT8 leaves too little of output 'logits'"):
        static.run(plain, how, qat_samples.context(tmp_path / "static", None))
    feed = next(qat_samples.feeds(1, seed=24, batch=256))
    (wanted,), (repaired,) = (answers(path, feed) for path in (plain.path, part.write().path))
    assert float((repaired.argmax(1) == wanted.argmax(1)).mean()) > 0.6


def test_learned_scales_repair_bad_ranges(tmp_path):
    """Ranges that clip half of the values: fixed scales must live with them."""
    how = {
        "percentile": 60.0, "epochs": 24, "learning_rate": 3e-3, "loss": "distill", "patience": None,
        "schedule": "constant",
    }  # fmt: skip
    losses, amax = [], []
    for learn in (False, True):
        facts = qat_samples.trained("PlainAttention", tmp_path / str(learn), learn_scales=learn, **how).metadata
        losses.append(min(epoch["validation_loss"] for epoch in facts["training"]["epochs"]))
        amax.append({layer["name"]: layer["input_amax"] for layer in facts["scales"]["layers"]})
    assert losses[1] < 0.75 * losses[0]
    assert amax[1]["mlp.0"] > 1.1 * amax[0]["mlp.0"]
    assert amax[1]["query"] == amax[1]["key"] == amax[1]["value"] != amax[0]["query"]  # one tensor, one scale


@pytest.mark.parametrize("calibrator", ["max", "percentile", "mse"])
def test_ranges_are_those_of_the_definition(built, calibrator):
    part = built("PlainAttention", calibrator=calibrator, percentile=99.0, learning_rate=1e-9)
    values = np.abs(np.concatenate([feed["values"] for feed in qat_samples.feeds()])).ravel()
    found = next(layer for layer in part.trained.metadata["scales"]["layers"] if layer["name"] == "query")["input_amax"]
    if calibrator == "max":
        assert found == values.max()
    elif calibrator == "percentile":
        assert found == pytest.approx(np.percentile(values, 99.0), rel=2e-3)
    else:
        assert squared_error(values, found) <= 1.001 * min(
            squared_error(values, amax) for amax in np.linspace(0.2, 1.0, 41) * values.max()
        )
    assert part.trained.metadata["scales"]["samples"] == 64


def squared_error(values: np.ndarray, amax: float) -> float:
    scale = amax / 127
    return float(np.square(np.clip(np.rint(values / scale), -128, 127) * scale - values).mean())


def test_only_the_first_samples_calibrate(built):
    part = built("PlainAttention", samples=20, calibrator="max")
    values = np.concatenate([feed["values"] for feed in qat_samples.feeds()])[:20]
    found = {layer["name"]: layer["input_amax"] for layer in part.trained.metadata["scales"]["layers"]}
    assert found["query"] == np.abs(values).max()
    assert part.trained.metadata["scales"]["samples"] == 20


@pytest.mark.parametrize("style", ["OneAttention", "Convolutions"])
def test_pruned_zeros_are_zero_in_int8(tmp_path, style):
    source = qat_samples.component(style, tmp_path / "source")
    module = load_component(source)
    names = {"OneAttention": ["attention.in_proj_weight", "head.weight"], "Convolutions": ["second.weight"]}[style]
    zeros = {}
    with torch.no_grad():
        for name in names:
            weight = module.get_parameter(name)
            lines = weight.view(-1, 4)
            lines.scatter_(1, lines.abs().argsort(dim=1)[:, :2], 0.0)
            zeros[name] = (weight == 0).numpy()
    pruned = save_component(module, before=source, folder=tmp_path / "source", produced_by="n_m", zeroed=names)
    part = Built(style, tmp_path, source=pruned, epochs=2, learning_rate=1e-2)
    assert part.trained.metadata["training"]["improved"] or part.trained.metadata["training"]["best_epoch"] == 0
    model = onnx.load(part.write().path)
    codes = [value for name, value in constants(model.graph).items() if value.dtype == np.int8 and value.ndim > 1]
    for name, mask in zeros.items():
        assert 0.5 <= mask.mean() < 0.6
        fitting = [code for code in codes if code.shape in (mask.shape, mask.T.shape)]
        assert any(
            not (code if code.shape == mask.shape else code.T)[mask].any()
            and (code if code.shape == mask.shape else code.T)[~mask].any()
            for code in fitting
        ), name


@each_style
def test_tensorrt_builds_an_engine_of_the_graph(built, style, tmp_path):
    trt = pytest.importorskip("tensorrt_rtx", reason="needs tensorrt_rtx (it builds on a CPU)")
    log = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    assert parser.parse(built(style).write().path.read_bytes()), parser.get_error(0).desc()
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    profile = builder.create_optimization_profile()
    sizes = [(batch, qat_samples.TOKENS, qat_samples.WIDTH) for batch in (1, 4, 8)]
    profile.set_shape("values", *sizes)
    config.add_optimization_profile(profile)
    assert builder.build_serialized_network(network, config).nbytes > 0


def test_what_is_called_as_a_function_gets_static_ranges(built):
    part = built("Functional")
    facts = part.write().metadata
    assert facts["untrained_nodes"] == ["MatMul"]
    assert "MatMul" in facts["quantized_nodes"]
    low, high = facts["ranges"]["values"]
    assert low < 0 < high
    uncalibrated = part.write(calibration=None).metadata
    assert "MatMul" not in uncalibrated["quantized_nodes"]
    assert uncalibrated["quantized_nodes"] == ["head/Gemm"]


def test_layers_of_other_classes_are_trained_where_they_work_alike(built):
    part = built("Subclasses")
    assert sorted(quantizers(part.module)) == ["head", "normed", "renamed"]
    facts = part.write().metadata
    assert facts["untrained_nodes"] == ["own/MatMul", "spectral/MatMul"]
    assert set(facts["trained_nodes"]) == {"renamed/MatMul", "normed/MatMul", "head/Gemm"}


def test_excluded_layers_stay_float(built):
    part = built("Encoder", exclude=("encoder.layers.0.*", "head/*"))
    facts = part.write().metadata
    assert all(node.startswith("encoder.layers.1.") for node in facts["quantized_nodes"])
    assert len(facts["quantized_nodes"]) == 4
    assert all(name.startswith("encoder.layers.1.") for name in quantizers(part.module))


def test_attention_products_are_quantized_when_asked(built):
    part = built("PlainAttention", quantize_attention=True)
    facts = part.write().metadata
    assert facts["untrained_nodes"] == ["MatMul", "MatMul_1"]
    assert set(facts["untrained_nodes"]) < set(facts["quantized_nodes"])


def test_the_same_training_gives_the_same_bits(built, tmp_path):
    first, again = built("Encoder"), Built("Encoder", tmp_path)
    assert first.trained.sha256 == again.trained.sha256
    assert first.trained.metadata["scales"] == again.trained.metadata["scales"]
    names = [artifact.path.with_name(artifact.beside[0]) for artifact in (first.trained, again.trained)]
    assert names[0].read_bytes() == names[1].read_bytes()


def test_a_killed_training_goes_on(tmp_path):
    options = qat.Options(epochs=3, batch_size=16, learning_rate=1e-3, learn_scales=True)
    setup = qat_samples.Network(qat_samples.build("PlainAttention"))
    source = qat_samples.component("PlainAttention", tmp_path / "source")
    whole = qat.run(source, options, qat_samples.context(tmp_path / "whole", setup))

    def kill(done: int, total: int | None, what: str) -> None:
        if (done, total) == (10, 12):  # the second step of the third epoch
            raise KeyboardInterrupt

    scratch = tmp_path / "scratch"
    scratch.mkdir()
    context = qat_samples.context(tmp_path / "killed", setup, scratch=scratch)
    with pytest.raises(KeyboardInterrupt):
        qat.run(source, options, replace(context, progress=kill))
    steps: list[int] = []

    def note(done: int, total: int | None, what: str) -> None:
        if total == 12:
            steps.append(done)

    resumed = qat.run(source, options, replace(context, progress=note))
    assert steps == [9, 10, 11, 12]
    assert resumed.sha256 == whole.sha256


def test_it_survives_the_store(built, tmp_path):
    trained = built("OneAttention").trained
    moved = Artifact.from_json(trained.to_json(), trained.path.parent)
    context = qat_samples.context(tmp_path / "write", None)
    written = qat.write(built("OneAttention").graph, moved, qat.Options(), context)
    assert written.metadata["trained_nodes"] == built("OneAttention").write().metadata["trained_nodes"]
    assert all(file.exists() for file in moved.files)


def test_a_dead_channel_is_written_as_zeros(tmp_path):
    source = qat_samples.component("PlainAttention", tmp_path / "source")
    module = load_component(source)
    with torch.no_grad():
        module.query.weight[3] = 0.0
    dead = save_component(module, before=source, folder=tmp_path / "source", produced_by="test")
    part = Built("PlainAttention", tmp_path, source=dead, learning_rate=1e-2)
    assert not load_component(part.trained).query.weight[3].any()
    part.write()


def test_nothing_is_said_and_nothing_left_behind(tmp_path, capfd):
    assert torch.backends.mha.get_fastpath_enabled()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        qat_samples.trained("Encoder", tmp_path)
    assert torch.backends.mha.get_fastpath_enabled()
    said = capfd.readouterr()
    assert not said.out
    assert not said.err
    assert not [str(one.message) for one in seen if "modelopt" in str(one.filename)]


def test_without_training_data_it_says_what_is_missing(tmp_path):
    source = qat_samples.component("PlainAttention", tmp_path / "source")
    with pytest.raises(DataError, match=r"data\.training or data\.validation"):
        qat.run(source, qat.Options(), qat_samples.context(tmp_path / "qat", None))


def test_without_calibration_data_the_training_split_calibrates(tmp_path):
    source = qat_samples.component("PlainAttention", tmp_path / "source")
    setup = qat_samples.Network(qat_samples.build("PlainAttention"))
    options = qat.Options(epochs=1, calibrator="max")
    trained = qat.run(source, options, qat_samples.context(tmp_path / "qat", setup, calibration=None))
    assert trained.metadata["scales"]["samples"] == 64
    found = {layer["name"]: layer["input_amax"] for layer in trained.metadata["scales"]["layers"]}
    assert found["query"] == np.abs(setup.samples[0]["values"]).max()


def test_nothing_to_quantize_is_refused_before_training(tmp_path):
    with pytest.raises(QuantizeError, match="nothing to quantize"):
        qat_samples.trained("NothingToQuantize", tmp_path)


def test_overflow_in_calibration_is_refused(tmp_path):
    source = qat_samples.component("PlainAttention", tmp_path / "source")
    setup = qat_samples.Network(qat_samples.build("PlainAttention"))

    def bad():
        for feed in qat_samples.feeds():
            yield {"values": feed["values"] * np.float32(1e38)}

    with pytest.raises(QuantizeError, match="NaN or Inf on the calibration data") as caught:
        qat.run(source, qat.Options(), qat_samples.context(tmp_path / "qat", setup, calibration=bad))
    assert "overflows" in str(caught.value.hint)


def test_another_graph_is_refused(built, tmp_path):
    other = built("Convolutions").graph
    with pytest.raises(QuantizeError, match="none of the trained layers"):
        qat.write(other, built("PlainAttention").trained, qat.Options(), qat_samples.context(tmp_path / "w", None))
