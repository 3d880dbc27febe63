"""A row of attention in which everything is masked is 0, as PyTorch has it, in the graph and in its INT8 form."""

import textwrap
from collections import Counter

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from test_onnx_dynamo import HEAD, export

from mmdeploy.core.contracts import Encoding, StepContext
from mmdeploy.core.target import Target
from mmdeploy.quantize import static

SOURCE = HEAD + textwrap.dedent("""
STYLES = ("boolean", "heads", "causal", "filled", "chosen", "least")

class Words(nn.Module):
    def __init__(self, styles):
        super().__init__()
        self.styles = styles
        self.table, self.three, self.last = nn.Embedding(30, 16), nn.Linear(16, 48), nn.Linear(16, 16)

    def mask(self, style, there):
        if style == "boolean":
            return there
        if style == "heads":
            return there.expand(-1, 4, 6, 6)
        if style == "causal":
            return there & torch.ones(6, 6, dtype=torch.bool).tril()
        if style == "filled":
            return torch.zeros(there.shape).masked_fill(~there, -torch.inf)
        if style == "chosen":
            return torch.where(there, 0.0, -torch.inf)
        return torch.where(there, 0.0, torch.finfo(torch.float32).min)

    def forward(self, ids):
        q, k, v = self.three(self.table(ids)).unflatten(-1, (3, 4, 4)).permute(2, 0, 3, 1, 4)
        found = []
        for style in self.styles:
            mask = self.mask(style, (ids != 0)[:, None, None, :])
            seen = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            if len(self.styles) == 1:
                seen = nn.functional.scaled_dot_product_attention(v, k, seen, mask)
            found.append(self.last(seen.transpose(1, 2).flatten(2)))
        return torch.stack(found, 1)

def build():
    torch.manual_seed(0)
    return nn.ModuleDict({"all": Words(STYLES), "boolean": Words(STYLES[:1]), "least": Words(STYLES[-1:])})
""")
STYLES = ("boolean", "heads", "causal", "filled", "chosen", "least")


def words(batch: int) -> dict[str, np.ndarray]:
    """Texts of various lengths; the first one is missing, and the third begins with padding."""
    ids = np.random.default_rng(batch).integers(1, 30, (batch, 6))
    ids[0] = 0
    ids[1::3, 4:] = 0
    ids[2::3, :2] = 0
    return {"ids": ids}


def by_torch(path, feed) -> np.ndarray:
    scope: dict = {}
    exec(compile((path / "recipe" / "model.py").read_text(), "model.py", "exec"), scope)
    with torch.inference_mode():
        return scope["build"]()["all"].eval()(torch.from_numpy(feed["ids"])).numpy()


def answered(path, feed) -> np.ndarray:
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, feed)[0]


def calibrated_on(batches, workdir) -> StepContext:
    workdir.mkdir()
    return StepContext(
        component="words", workdir=workdir, target=Target.CPU, encoding=Encoding.UINT8_ASYMMETRIC, max_batch_size=8,
        seed=0, threads=1, examples=words, calibration=lambda: iter(batches), calibration_batches=len(batches),
    )  # fmt: skip


def test_missing_text_answers_as_in_pytorch_and_in_int8(tmp_path):
    exported, feed = export(tmp_path, SOURCE, words, module="all"), words(8)
    expected = by_torch(tmp_path, feed)
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(answered(exported.path, feed), expected, atol=1e-5)
    quantized = static.run(exported, static.Options(), calibrated_on([words(16)], tmp_path / "int8"))
    answers = answered(quantized.path, feed)
    for index, style in enumerate(STYLES):
        found, wanted = answers[:, index], expected[:, index]
        assert np.abs(found[0] - wanted[0]).max() < 0.02 * np.abs(wanted[0]).max(), style
        assert np.linalg.norm(found - wanted) < 0.05 * np.linalg.norm(wanted), style


@pytest.mark.parametrize(("style", "rules"), [("boolean", 1), ("least", 0)])
def test_a_mask_is_looked_at_once_and_only_where_it_may_leave_nothing(tmp_path, style, rules):
    exported = export(tmp_path, SOURCE, words, module=style)
    operators = Counter(node.op_type for node in onnx.load(exported.path).graph.node)
    assert operators["Softmax"] == 2
    assert operators["ReduceMax"] == rules
    assert operators["Where"] == 1 + 2 * rules  # the mask itself, and each attention behind it


ONE_LAYER = HEAD + textwrap.dedent("""
class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.three, self.last = nn.Embedding(30, 16), nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, ids):
        q, k, v = self.three(self.table(ids)).unflatten(-1, (3, 4, 4)).permute(2, 0, 3, 1, 4)
        found = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=(ids != 0)[:, None, None, :])
        return self.last(found.transpose(1, 2).flatten(2))

def build():
    torch.manual_seed(0)
    return nn.ModuleDict({"words": Words()})
""")


def test_openvino_loads_one_layer_of_attention_with_a_mask(tmp_path):
    """As its engine does: where the zeros of mask and masked rows are one constant, the plugin cannot fuse them."""
    openvino = pytest.importorskip("openvino")
    from mmdeploy.engines.own_scalars import own_scalars

    exported, feed = export(tmp_path, ONE_LAYER, words, module="words"), words(3)
    core = openvino.Core()
    model = core.read_model(exported.path)
    own_scalars(model)
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    np.testing.assert_allclose(compiled(feed)[0], answered(exported.path, feed), atol=1e-4)
