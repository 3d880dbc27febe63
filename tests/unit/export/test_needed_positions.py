"""What is read of one position is computed for that position alone, with PyTorch's numbers."""

import textwrap

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from test_onnx_dynamo import HEAD, export, normal

from mmdeploy.export import needed_positions

ENCODERS = HEAD + textwrap.dedent("""
class Encoder(nn.Module):
    def __init__(self, norm_first=True):
        super().__init__()
        self.norm_first = norm_first
        self.query, self.key, self.value, self.out = (nn.Linear(16, 16) for _ in range(4))
        self.before, self.after = nn.LayerNorm(16), nn.LayerNorm(16)
        self.wide, self.narrow = nn.Linear(16, 32), nn.Linear(32, 16)

    def attend(self, x, mask):
        q, k, v = (one(x).unflatten(-1, (4, 4)).transpose(1, 2) for one in (self.query, self.key, self.value))
        found = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(found.transpose(1, 2).flatten(2))

    def feed(self, x):
        return self.narrow(nn.functional.gelu(self.wide(x)))

    def forward(self, x, mask=None):
        if self.norm_first:
            x = x + self.attend(self.before(x), mask)
            return x + self.feed(self.after(x))
        x = self.before(x + self.attend(x, mask))
        return self.after(x + self.feed(x))

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.ends, self.pairs, self.both = Encoder(), Encoder(), Encoder(norm_first=False), Encoder()
        self.torchs = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        self.register_buffer("causal", torch.ones(7, 7, dtype=torch.bool).tril())

    def forward(self, x, end, allowed, pairs):
        rows = torch.arange(x.shape[0])
        both = self.both(x)
        return (
            self.first(x, allowed[:, None, None, :])[:, -1], self.ends(x, self.causal)[rows, end],
            self.pairs(x, pairs[:, None])[rows, end], self.torchs(x)[:, 0], both[:, 0], both,
        )

def build():
    torch.manual_seed(0)
    return nn.ModuleDict({"model": Model()})
""")
WHOLE, ONE = [7], [1]


def feeds(batch: int):
    random = np.random.default_rng(batch)
    pairs = random.random((batch, 7, 7)) > 0.4
    allowed = random.random((batch, 7)) > 0.3
    pairs[:, :, 0] = allowed[:, 0] = True
    return normal(x=(7, 16))(batch) | {"end": random.integers(0, 7, batch), "allowed": allowed, "pairs": pairs}


def positions_of(path) -> dict[str, list[int]]:
    """Return how many positions each linear layer computes, by its name."""
    model = onnx.load(path)
    nodes = [node for node in model.graph.node if node.op_type == "MatMul" and node.name.count(".")]
    for node in nodes:
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(node.output[0]))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    answers = session.run([node.output[0] for node in nodes], feeds(2))
    shapes = {node.name.removesuffix("/MatMul"): answer.shape for node, answer in zip(nodes, answers, strict=True)}
    return {name: list(shape[1:-1]) for name, shape in shapes.items()}


def test_what_is_read_of_one_position_is_computed_for_it_alone(tmp_path):
    """The pass itself compares with PyTorch at several batch sizes."""
    outputs = tuple(f"y{index}" for index in range(6))
    result = export(tmp_path, ENCODERS, feeds, module="model", outputs=outputs)
    assert result.metadata["parity"]["5"]["cosine"] > 0.9999999
    positions = positions_of(result.path)
    for style in ("first", "ends", "pairs"):
        assert {name: positions[f"{style}.{name}"] for name in ("query", "out", "wide", "narrow")} == dict.fromkeys(
            ("query", "out", "wide", "narrow"), ONE
        ), style
        assert positions[f"{style}.key"] == positions[f"{style}.value"] == WHOLE, style
    assert positions["torchs.linear1"] == positions["torchs.linear2"] == ONE  # its attention mixes batch and positions
    assert positions["both.query"] == positions["both.narrow"] == WHOLE  # all of it is an output


def parsed(body: str, head: str = "float[batch,7,4] x", answer: str = "float[batch,4] y"):
    model = onnx.parser.parse_model(f"""<ir_version: 10, opset_import: ["": 20]>
        g ({head}) => ({answer}) <float[4,4] w, int64 at = {{2}}> {{ {body} }}""")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.eye(4, dtype=np.float32), "w"))
    return onnx.shape_inference.infer_shapes(model)


READ = "y = Gather<axis=1>(h, at)"


@pytest.mark.parametrize(
    "body",
    [
        f"h = Relu(x) {READ}",  # no product is spared
        f"m = MatMul(x, w) h = Softmax<axis=1>(m) {READ}",  # along the positions
        "h = MatMul(x, w) y = Gather<axis=0>(h, at)",  # a sample, not a position
        f"m = MatMul(x, w) h = LayerNormalization<axis=1>(m, m) {READ}",
    ],
)
def test_graphs_that_gain_nothing_keep_every_byte(body):
    model = parsed(body) if "axis=0" not in body else parsed(body, answer="float[7,4] y")
    before = model.SerializeToString()
    needed_positions.pick_early(model)
    assert model.SerializeToString() == before


def test_a_tensor_that_another_reads_is_computed_whole():
    model = parsed(f"a = MatMul(x, w) b = MatMul(a, w) h = Add(b, a) z = ReduceSum(a) {READ}")
    model.graph.output.append(onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, [1, 1, 1]))
    x = np.random.default_rng(0).standard_normal((3, 7, 4)).astype(np.float32)
    run = [onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})]
    needed_positions.pick_early(model)
    onnx.checker.check_model(model, full_check=True)
    run.append(onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x}))
    for one, other in zip(*run, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    by_output = {node.output[0]: node for node in model.graph.node}
    assert by_output["a"].input[0] == "x" and by_output[by_output["b"].input[0]].op_type == "Gather"


def test_all_positions_stay_where_the_recipe_says_so(tmp_path):
    source = ENCODERS.replace('{"model": Model()}', '{"model": First()}') + textwrap.dedent("""
    class First(Encoder):
        def forward(self, x):
            return super().forward(x)[:, 0]
    """)
    result = export(tmp_path, source, normal(x=(7, 16)), module="model", positions="all")
    assert not [node for node in onnx.load(result.path).graph.node if node.op_type == "Squeeze"]
