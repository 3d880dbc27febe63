"""Front ends, against transformers, SciPy and Pillow, in PyTorch and in the graph that is exported."""

import io

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.fft import dct
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from mmdeploy.zoo import LogMel, Mfcc, NormalisePixels, ResizePixels


def sound(seconds: float, rate: int) -> np.ndarray:
    time = np.arange(int(seconds * rate)) / rate
    noise = 0.01 * np.random.default_rng(0).standard_normal(len(time))
    return (0.5 * np.sin(2 * np.pi * 440 * time * (1 + time)) + noise).astype(np.float32)


def expected(
    samples: np.ndarray, *, rate=16000, window=400, hop=160, bands=80, scale="slaney", log="log10", center=True
):
    filters = mel_filter_bank(
        window // 2 + 1, bands, 0.0, rate / 2, rate, norm="slaney" if scale == "slaney" else None, mel_scale=scale
    )
    return spectrogram(
        samples.astype(np.float64), window_function(window, "hann"), window, hop, power=2.0, center=center,
        mel_filters=filters, mel_floor=1e-10, log_mel={"ln": "log", "db": "dB"}.get(log, log),
    ).T  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scale": "htk", "log": "ln", "center": False},
        {"rate": 8000, "window": 256, "hop": 80, "bands": 32, "log": "db"},
    ],
)
def test_log_mel_is_that_of_transformers(options):
    rate = options.get("rate", 16000)
    samples = sound(0.7, rate)
    made = LogMel(rate, **{key: value for key, value in options.items() if key != "rate"})
    found = made(torch.from_numpy(samples)[None])[0].numpy()
    wanted = expected(samples, **options)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, atol=2e-3 * (10 if options.get("log") == "db" else 1))


def test_mfcc_is_the_cosine_transform_of_it():
    samples = torch.from_numpy(np.stack([sound(0.3, 16000), np.zeros(4800, np.float32)]))
    bands = LogMel(16000, bands=40, log="db")
    found = Mfcc(bands, 13)(samples).numpy()
    np.testing.assert_allclose(found, dct(bands(samples).numpy(), norm="ortho")[..., :13], rtol=1e-4, atol=1e-3)


def exported(module: torch.nn.Module, example: torch.Tensor, dims: dict[int, torch.export.Dim]) -> bytes:
    program = torch.onnx.export(module.eval(), (example,), dynamo=True, dynamic_shapes=(dims,), verbose=False)
    file = io.BytesIO()
    program.save(file)
    return file.getvalue()


def run(graph: bytes, array: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: array})[0]


@pytest.mark.parametrize("module", [LogMel(16000), Mfcc(LogMel(16000, center=False))], ids=["log_mel", "mfcc"])
def test_graphs_take_sounds_of_any_length(module):
    dims = {0: torch.export.Dim("n", min=1, max=64), 1: torch.export.Dim("t", min=800, max=160000)}
    graph = exported(module, torch.from_numpy(np.stack([sound(0.2, 16000)] * 2)), dims)
    assert not {node.op_type for node in onnx.load_from_string(graph).graph.node} & {"DFT", "STFT"}
    for count, seconds in ((1, 0.05), (3, 0.73)):
        samples = np.stack([sound(seconds, 16000)] * count)
        np.testing.assert_allclose(run(graph, samples), module(torch.from_numpy(samples)).numpy(), atol=1e-2)


@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from(["bilinear", "bicubic"]),
)
def test_resizing_is_pillows(height, width, to_height, to_width, filter):
    pixels = np.random.default_rng(height * width).uniform(0, 255, (height, width)).astype(np.float32)
    method = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[filter]
    wanted = np.asarray(Image.fromarray(pixels).resize((to_width, to_height), method))
    made = ResizePixels((height, width), (to_height, to_width), filter)
    np.testing.assert_allclose(made(torch.from_numpy(pixels)[None, None])[0, 0].numpy(), wanted, atol=2e-3)


def test_pixels_as_decoders_give_them_to_what_encoders_take():
    mean, std = [0.48, 0.46, 0.41], [0.27, 0.26, 0.28]
    pixels = np.random.default_rng(0).integers(0, 256, (2, 6, 5, 3), np.uint8)
    module = torch.nn.Sequential(NormalisePixels(mean, std), ResizePixels((6, 5), (4, 4), "bilinear"))
    normalised = ((pixels / 255 - mean) / std).transpose(0, 3, 1, 2)
    found = module[0](torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(found, normalised, atol=1e-5)
    graph = exported(module, torch.from_numpy(pixels), {0: torch.export.Dim("n", min=1, max=64)})
    three = np.concatenate([pixels, pixels[:1]])
    np.testing.assert_allclose(run(graph, three), module(torch.from_numpy(three)).numpy(), atol=1e-5)


SOUNDS = ((1, 800), (2, 3200), (4, 160000))
PICTURES = tuple((rows, 8, 6, 3) for rows in (1, 2, 4))
FRONT_ENDS = {
    "log_mel": (LogMel(16000), SOUNDS),
    "mfcc": (Mfcc(LogMel(16000, center=False)), SOUNDS),
    "pixels": (torch.nn.Sequential(NormalisePixels([0.5] * 3, [0.2] * 3), ResizePixels((8, 6), (4, 4))), PICTURES),
}


@pytest.mark.parametrize("name", FRONT_ENDS)
def test_every_engine_takes_them(name: str) -> None:
    openvino, tensorrt = pytest.importorskip("openvino"), pytest.importorskip("tensorrt_rtx")
    module, shapes = FRONT_ENDS[name]
    random = np.random.default_rng(0)
    samples = random.integers(0, 256, shapes[1], np.uint8) if name == "pixels" else random.normal(0, 0.1, shapes[1])
    example = torch.from_numpy(samples if name == "pixels" else samples.astype(np.float32))
    axes = {0: torch.export.Dim("n", min=1, max=64)}
    if name != "pixels":
        axes[1] = torch.export.Dim("t", min=800, max=160000)
    graph = exported(module, example, axes)
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(graph), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    np.testing.assert_allclose(compiled(example.numpy())[0], module(example).numpy(), atol=1e-3)

    logger = tensorrt.Logger(tensorrt.Logger.ERROR)
    builder = tensorrt.Builder(logger)
    network = builder.create_network(0)
    parser = tensorrt.OnnxParser(network, logger)
    assert parser.parse(graph), [str(parser.get_error(index)) for index in range(parser.num_errors)]
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    profile.set_shape(network.get_input(0).name, *shapes)
    config.add_optimization_profile(profile)
    assert builder.build_serialized_network(network, config) is not None


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: LogMel(8000, high_hz=5000), "at 8000 Hz they lie within 0 and 4000"),
        (lambda: LogMel(16000, window=128, bands=128), "holds no bin of a window of 128 samples"),
        (lambda: Mfcc(LogMel(16000, bands=10), 13), "13 coefficients of 10 bands"),
        (lambda: NormalisePixels([0.5], [0.5, 0.5]), "mean has 1 values and std 2"),
        (lambda: ResizePixels((0, 4), (2, 2)), "1 or more"),
        (lambda: ResizePixels((4, 4), (2, 2))(torch.zeros(1, 3, 4, 5)), r"images of \[4, 5\], made for \[4, 4\]"),
    ],
)
def test_what_cannot_be_is_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()
