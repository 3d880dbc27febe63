"""However attention is written, it comes through export and quantization, and runs in INT8."""

import textwrap

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from exported import context_for, export
from float_graphs import samples

from mmdeploy.core.contracts import Encoding
from mmdeploy.quantize import dynamic, fidelity, static

SOURCE = textwrap.dedent("""
import torch
from torch import nn

class Linears(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(32)
        self.query, self.key, self.value, self.out = (nn.Linear(32, 32) for _ in range(4))

    def forward(self, x):
        h = self.norm(x)
        q, k, v = (part(h).unflatten(-1, (4, 8)).transpose(1, 2) for part in (self.query, self.key, self.value))
        attended = torch.softmax(q @ k.transpose(-1, -2) / 8**0.5, -1) @ v
        return x + self.out(attended.transpose(1, 2).flatten(2))

class Multihead(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(32), nn.MultiheadAttention(32, 4, batch_first=True)

    def forward(self, x):
        h = self.norm(x)
        return x + self.attention(h, h, h, need_weights=False)[0]

class Layer(nn.Module):
    def __init__(self, layers, **options):
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, **options)
        self.layer = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False) if layers else layer

    def forward(self, x):
        return self.layer(x)

def build():
    torch.manual_seed(0)
    return nn.ModuleDict({
        "linears": Linears(), "multihead": Multihead(), "layer": Layer(0),
        "post_norm": Layer(2), "pre_norm": Layer(2, norm_first=True, activation="gelu"),
    })
""")
#: Products with a weight in each style: query, key and value apart or as one, the way out, and the MLP.
PRODUCTS = {"linears": 4, "multihead": 2, "layer": 4, "post_norm": 8, "pre_norm": 8}
#: Activations that are equalized: folded into normalizations or, through a ReLU, into linear layers; and those of
#: normalizations that a residual reads too.
EQUALIZED = {"linears": (1, 0), "multihead": (1, 0), "layer": (1, 1), "post_norm": (2, 3), "pre_norm": (4, 0)}


@pytest.fixture(params=PRODUCTS, scope="module")
def style(request, tmp_path_factory):
    feed = {"x": samples((9, 32), count=32)}
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, export(folder, SOURCE, request.param, feed), feed


def cosine(artifact, path, feed) -> float:
    fresh = {name: samples(array.shape[1:], count=16, seed=5) for name, array in feed.items()}
    answers = [ort.InferenceSession(str(file)).run(None, fresh)[0] for file in (artifact.path, path)]
    return fidelity.cosine(*answers)


@pytest.mark.parametrize("encoding", Encoding)
@pytest.mark.parametrize("equalize", [None, 0.5])
def test_static(style, tmp_path, encoding, equalize):
    name, artifact, feed = style
    context = context_for(tmp_path / "q", feed, encoding)
    result = static.run(artifact, static.Options(equalize=equalize), context)
    assert len(result.metadata["quantized_nodes"]) == PRODUCTS[name]
    assert set(result.metadata["excluded_nodes"].values()) == {"a product of two activations"}
    assert cosine(artifact, result.path, feed) > 0.999
    ways = [entry["how"] for entry in result.metadata["equalized"]]
    assert (ways.count("folded"), ways.count("multiplied")) == (EQUALIZED[name] if equalize else (0, 0))


def test_no_product_with_a_weight_is_left_in_float(style, tmp_path):
    name, artifact, feed = style
    result = static.run(artifact, static.Options(), context_for(tmp_path / "q", feed))
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(str(result.path), options)
    operators = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert operators.count("MatMulIntegerToFloat") + operators.count("QGemm") == PRODUCTS[name]


def test_dynamic(style, tmp_path):
    name, artifact, feed = style
    result = dynamic.run(artifact, dynamic.Options(), context_for(tmp_path / "q", feed))
    assert len(result.metadata["quantized_nodes"]) == PRODUCTS[name]
    assert cosine(artifact, result.path, feed) > 0.999


def test_openvino_gives_the_same_numbers(style, tmp_path):
    openvino = pytest.importorskip("openvino")
    _, artifact, feed = style
    result = static.run(artifact, static.Options(), context_for(tmp_path / "q", feed, Encoding.INT8_SYMMETRIC))
    compiled = openvino.Core().compile_model(result.path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    reference = ort.InferenceSession(str(artifact.path)).run(None, feed)[0]
    assert fidelity.cosine(reference, np.array(compiled(feed)[0])) > 0.999
