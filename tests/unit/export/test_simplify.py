"""Attention comes out in the form that engines fuse, and with PyTorch's numbers; names of ends are the recipe's."""

import textwrap
from collections import Counter

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper
from test_onnx_dynamo import HEAD, export, normal

from mmdeploy.export import simplify

ATTENTION = HEAD + textwrap.dedent("""
class Masked(nn.Module):
    def __init__(self, mask):
        super().__init__()
        self.register_buffer("mask", mask)
        self.three = nn.Linear(16, 48)

    def forward(self, x, allowed=None):
        q, k, v = self.three(x).unflatten(-1, (3, 4, 4)).permute(2, 0, 3, 1, 4)
        mask = self.mask if allowed is None else allowed[:, None, None, :]
        return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)

def encoder(norm_first):
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=norm_first)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

class Encoder(nn.Module):
    def __init__(self, norm_first):
        super().__init__()
        self.encoder = encoder(norm_first)

    def forward(self, x):
        return self.encoder(x)

class Multihead(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]

def build():
    torch.manual_seed(0)
    causal = torch.ones(7, 7, dtype=torch.bool).tril()
    blind = causal.clone()
    blind[2] = False
    return nn.ModuleDict({
        "plain": Masked(None), "causal": Masked(causal), "blind": Masked(blind),
        "added": Masked(torch.zeros(7, 7).masked_fill(~causal, -torch.inf)),
        "multihead": Multihead(), "pre": Encoder(True), "post": Encoder(False),
    })
""")
DETOUR = ("Shape", "Concat", "IsNaN")


def operators(path) -> Counter:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


@pytest.mark.parametrize("style", ["plain", "causal", "added", "multihead", "pre", "post"])
def test_no_detour_is_left_and_answers_are_pytorchs(tmp_path, style):
    """The pass itself compares with PyTorch at several batch sizes."""
    result = export(tmp_path, ATTENTION, normal(x=(7, 16)), module=style)
    assert not [op for op in DETOUR if operators(result.path)[op]]
    assert result.metadata["parity"]["5"]["cosine"] > 0.9999999


def test_mask_that_is_an_input_needs_no_guard_either(tmp_path):
    """The exporter writes the smallest float where PyTorch has -inf, and no row of finite scores is NaN."""

    def feeds(batch: int):
        allowed = np.random.default_rng(batch).random((batch, 7)) > 0.3
        allowed[:, 0] = True
        return normal(x=(7, 16))(batch) | {"allowed": allowed}

    assert not operators(export(tmp_path, ATTENTION, feeds, module="plain").path)["IsNaN"]


MASKED = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[n, 3, 3] s, bool[n, 3, 3] c) => (float[n, 3, 3] y)
<float zero = {0.0}, float none = {-inf}, float[3, 3] sum = {MASK}, bool[3, 3] known = {KNOWN}>
{
  m = Where (CONDITION, zero, none)
  a = Add (s, ADDED)
  p = Softmax (a)
  b = IsNaN (p)
  y = Where (b, zero, p)
}
"""


@pytest.mark.parametrize(
    ("condition", "added", "rows", "guarded"),
    [
        ("known", "m", (1, 0, 0), False),
        ("known", "m", (0, 0, 0), True),
        ("c", "m", (1, 0, 0), True),
        ("c", "sum", (1, 0, 0), False),
        ("c", "sum", (0, 0, 0), True),
    ],
)
def test_guard_stays_where_a_row_may_be_minus_infinity(condition, added, rows, guarded):
    """In a graph with real -inf; the last row alone decides."""
    known = [1, 1, 1, 1, 1, 0, *rows]
    text = MASKED.replace("CONDITION", condition).replace("ADDED", added).replace("{-inf}", "{0.0}")
    text = text.replace("MASK", ", ".join("0.0" for _ in known)).replace("KNOWN", ", ".join(map(str, known)))
    model = onnx.parser.parse_model(text)
    for weight in model.graph.initializer:
        mask = np.where(np.reshape(known, (3, 3)), 0, -np.inf).astype(np.float32)
        replaced = {"none": np.array(-np.inf, np.float32), "sum": mask}.get(weight.name)
        if replaced is not None:
            weight.CopyFrom(numpy_helper.from_array(replaced, weight.name))
    simplify.simplify(model)
    onnx.checker.check_model(model, full_check=True)
    assert (Counter(node.op_type for node in model.graph.node)["IsNaN"] == 1) is guarded


NAMES = HEAD + textwrap.dedent("""
class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.linear = nn.Embedding(10, 8), nn.Linear(8, 8)

    def forward(self, linear, mul):
        hidden = self.linear(self.table(linear)) * mul[:, None]
        return {"embedding": hidden.sum(1), "add": hidden.mean(1) + 1}

def build():
    return nn.ModuleDict({"words": Words()})
""")


def test_ends_may_have_names_that_the_exporter_gives_to_tensors_inside(tmp_path):
    def feeds(batch: int):
        random = np.random.default_rng(batch)
        return {
            "linear": random.integers(0, 10, (batch, 5)),
            "mul": random.standard_normal((batch, 8)).astype(np.float32),
        }

    result = export(tmp_path, NAMES, feeds, module="words", outputs=("embedding", "add"))
    assert [spec.name for spec in result.inputs] == ["linear", "mul"]
    assert [spec.name for spec in result.outputs] == ["embedding", "add"]
    assert result.metadata["parity"]["5"]["max_abs_error"] < 1e-5
