"""A component becomes an ONNX graph that answers like PyTorch; what cannot be exported is told with its line."""

import textwrap
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from pydantic import ValidationError

from mmdeploy.core.artifact import Artifact, TensorSpec
from mmdeploy.core.contracts import Encoding, StepContext
from mmdeploy.core.errors import ExportError, ModelError
from mmdeploy.core.facts import as_metadata
from mmdeploy.core.target import Target
from mmdeploy.export import onnx_dynamo
from mmdeploy.model.torch_component import ComponentFacts

HEAD = "import torch\nfrom torch import nn\n\n"

TOWER = HEAD + textwrap.dedent("""
class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.key = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        return torch.softmax(self.query(x) @ self.key(x).transpose(1, 2), dim=-1) @ x

class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Attention(), Attention()])
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        for block in self.blocks:
            x = x + block(x)
        return self.head(self.norm(x).mean(dim=1))

class Fusion(nn.Module):
    def forward(self, left, right):
        return {"total": left + right, "scaled": 2 * left, "hidden": right}

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.fusion = Encoder(), Fusion()

def build():
    torch.manual_seed(1)
    return Model()
""")


def export(tmp_path: Path, source: str, feeds, *, module="encoder", outputs=("y",), specs=(), **options):
    recipe, work = tmp_path / "recipe", tmp_path / "work"
    for folder in (recipe, work):
        folder.mkdir(exist_ok=True)
    (recipe / "model.py").write_text(source)
    names = list(feeds(1))
    artifact = Artifact(
        "torch", recipe / "model.py", "", tuple(specs), (), "recipe",
        as_metadata(ComponentFacts("model.py:build", recipe, None, module, tuple(names), tuple(outputs))),
    )  # fmt: skip
    context = StepContext(
        component=module or "model", workdir=work, target=Target.CPU, encoding=Encoding.UINT8_ASYMMETRIC,
        max_batch_size=8, seed=0, threads=1, examples=feeds,
    )  # fmt: skip
    return onnx_dynamo.run(artifact, onnx_dynamo.Options(**options), context)


def normal(**shapes):
    def feeds(batch: int):
        random = np.random.default_rng(batch)
        return {name: random.standard_normal((batch, *shape)).astype(np.float32) for name, shape in shapes.items()}

    return feeds


@pytest.fixture(scope="module")
def tower(tmp_path_factory) -> Artifact:
    return export(tmp_path_factory.mktemp("tower"), TOWER, normal(x=(5, 8)))


def test_artifact_describes_the_graph(tower):
    assert tower.format == "onnx"
    assert tower.inputs == (TensorSpec("x", "FP32", (5, 8)),)
    assert tower.outputs == (TensorSpec("y", "FP32", (3,)),)
    assert tower.metadata["opset"] == 20
    assert tower.metadata["parameters"] >= 4 * (64 + 8) + 16 + 27
    assert tower.metadata["bytes"] == tower.path.stat().st_size == tower.size_bytes
    assert tower.metadata["nodes_by_op_type"]["Softmax"] == 2


def test_costs_are_those_of_one_sample(tower):
    projections, products = 2 * (2 * 5 * 8 * 8), 2 * (2 * 5 * 5 * 8)  # of an attention block
    assert tower.metadata["costs"] == {
        "parameters": 4 * (64 + 8) + 16 + 27,
        "nonzero_parameters": 4 * (64 + 8) + 8 + 27,  # the norm's shift is zero
        "flops": 2 * (projections + products) + 2 * 8 * 3,
        "bytes": 4 * (4 * (64 + 8) + 16 + 27),
        "uncounted": [],
    }


def test_costs_that_cannot_be_counted_fail_no_export(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise RuntimeError("no formula for this operator")

    monkeypatch.setattr(onnx_dynamo.costs, "measure", refuse)
    assert "costs" not in export(tmp_path, TOWER, normal(x=(5, 8))).metadata
    assert "no formula for this operator" in caplog.text


def test_parity_is_recorded_at_several_batch_sizes(tower):
    assert set(tower.metadata["parity"]) == {"1", "2", "5"}
    for figures in tower.metadata["parity"].values():
        assert figures["max_abs_error"] < 1e-5
        assert figures["cosine"] > 0.999999


def test_batch_is_dynamic_and_named(tower):
    graph = onnx.load(tower.path).graph
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert graph.output[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    session = ort.InferenceSession(str(tower.path))
    assert session.run(None, normal(x=(5, 8))(13))[0].shape == (13, 3)


def test_nodes_are_named_after_modules(tower):
    names = [node.name for node in onnx.load(tower.path).graph.node]
    assert len(names) == len(set(names))
    assert {"blocks.0.query/MatMul", "blocks.1.key/MatMul", "blocks.0/MatMul", "blocks.0/MatMul_1"} <= set(names)
    assert any(name.startswith("head/") for name in names)


def test_graph_tells_nothing_of_where_it_was_made(tower, tmp_path):
    assert str(tower.path.parent.parent).encode() not in tower.path.read_bytes()
    again = export(tmp_path, TOWER, normal(x=(5, 8)))
    assert again.sha256 == tower.sha256


def test_mapping_outputs_are_taken_by_name(tmp_path):
    artifact = export(tmp_path, TOWER, normal(left=(4,), right=(4,)), module="fusion", outputs=("scaled", "total"))
    feed = normal(left=(4,), right=(4,))(3)
    answers = ort.InferenceSession(str(artifact.path)).run(["total", "scaled"], feed)
    np.testing.assert_allclose(answers[0], feed["left"] + feed["right"], rtol=1e-6)
    np.testing.assert_allclose(answers[1], 2 * feed["left"], rtol=1e-6)
    assert [spec.name for spec in artifact.outputs] == ["scaled", "total"]


def test_declared_variable_axis_stays_dynamic(tmp_path):
    artifact = export(
        tmp_path, TOWER, normal(x=(5, 8)), specs=[TensorSpec("x", "FP32", (-1, 8))], parity_batch_sizes=(1, 3)
    )
    assert artifact.inputs == (TensorSpec("x", "FP32", (-1, 8)),)
    answer = ort.InferenceSession(str(artifact.path)).run(None, normal(x=(9, 8))(2))[0]
    assert answer.shape == (2, 3)


@pytest.mark.parametrize("opset", [18, 23])
def test_recipe_sets_the_opset(tmp_path, opset):
    artifact = export(tmp_path, TOWER, normal(x=(5, 8)), opset=opset)
    assert {entry.domain: entry.version for entry in onnx.load(artifact.path).opset_import}[""] == opset


def test_options_are_validated():
    for bad in ({"opset": 17}, {"opset": 99}, {"parity_batch_sizes": ()}, {"atol": 0}, {"opsett": 20}):
        with pytest.raises(ValidationError):
            onnx_dynamo.Options(**bad)


def one(body: str, *, extra: str = "") -> str:
    """A model whose forward has ``body`` on lines 9 and on."""
    return (
        HEAD
        + "class Part(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        + "        self.linear = nn.Linear(4, 4)\n    def forward(self, x):\n"
        + textwrap.indent(textwrap.dedent(body), "        ")
        + "\n\ndef build():\n    return Part().eval()\n"
        + extra
    )


DOUBLES = one("return ((self.linear(x).double() - self.centre) @ self.basis).float()").replace(
    "        self.linear = nn.Linear(4, 4)\n",
    "        self.linear = nn.Linear(4, 4)\n"
    "        self.register_buffer('centre', torch.full((4,), CENTRE, dtype=torch.float64))\n"
    "        self.register_buffer('basis', torch.eye(4, dtype=torch.float64))\n",
)


@pytest.mark.parametrize(("centre", "kept"), [("0.25", False), ("1e9 + 0.25", True)])
def test_what_was_fitted_in_doubles_is_computed_in_fp32_where_the_numbers_bear_it(tmp_path, centre, kept):
    source = DOUBLES.replace("CENTRE", centre).replace(".float()", ".float()" if not kept else ".add(1e9).float()")
    artifact = export(tmp_path, source, normal(x=(4,)), module="")
    graph = onnx.load(artifact.path).graph
    doubles = [weight.name for weight in graph.initializer if weight.data_type == onnx.TensorProto.DOUBLE]
    assert bool(doubles) == kept
    casts = [node.output[0] for node in graph.node if node.op_type == "Cast"]
    assert kept or casts == ["y"], "those that change nothing are dropped, but for the one that names the output"
    assert all(figures["max_abs_error"] < 1e-4 for figures in artifact.metadata["parity"].values())


UNEXPORTABLE = {
    "data-dependent control flow": (
        one("h = self.linear(x)\nif h.sum() > 0:\n    return h\nreturn -h"),
        ExportError,
        ["depends on the values of a tensor", "model.py:10 (forward)", "if h.sum() > 0:"],
    ),
    "data-dependent size": (
        one("h = self.linear(x)\nreturn h[:, : int(h.abs().max().item())]"),
        ExportError,
        ["depends on the values of a tensor", "model.py:10 (forward)"],
    ),
    "operator without an ONNX form": (
        one("h = self.linear(x)\nreturn torch.linalg.eigvals(h[:, None] * h[..., None]).real"),
        ExportError,
        ["torch.onnx has no ONNX form of the operator aten.linalg_eig", "model.py:10"],
    ),
    "batch written into the code": (
        one("h = self.linear(x)\nreturn h.reshape(2, -1)"),
        ExportError,
        ["works only at the sizes it was traced with", "because of model.py:10"],
    ),
    "loop over the batch": (
        one("h = self.linear(x)\nreturn torch.stack([h[i] * i for i in range(h.shape[0])])"),
        ExportError,
        ["works only at the sizes it was traced with"],
    ),
    "NumPy in forward": (
        one("h = self.linear(x)\nreturn torch.from_numpy(h.numpy() * 2)"),
        ExportError,
        ["torch.export failed in the module: RuntimeError at model.py:10 (forward)"],
    ),
    "random answers": (
        one("return self.linear(x) + torch.rand_like(x)"),
        ExportError,
        ["output 'y' differs when the module is asked the same again"],
    ),
    "an operator that can be written in other forms only": (
        one("h = self.linear(x)[:, None]\nreturn torch.nn.functional.scaled_dot_product_attention(h, h, h)"),
        ExportError,
        ["aten.scaled_dot_product_attention.default, used at model.py:10: only 4D query, key, and value are supported"],
    ),
    "an argument that its ONNX form needs": (
        one("h = self.linear(x)\nreturn h - h.amax()"),
        ExportError,
        ["aten.amax.default, used at model.py:10: Required parameter 'dim' is not provided"],
    ),
    "an answer that depends on the batch": (
        one("h = self.linear(x)\nreturn h - h.mean(0)"),
        ExportError,
        ["output 'y' of a sample depends on the other samples of its batch"],
    ),
    "state of the first call": (
        one("if not hasattr(self, 'kept'):\n    self.kept = self.linear(x[:1])\nreturn x * self.kept"),
        ExportError,
        ["the module keeps state: its first call left 'kept' behind"],
    ),
    "module that fails": (
        one("return self.linear(x[:, :3])"),
        ModelError,
        [
            "component model: the module failed on inputs x [3, 4]: linear (Linear) takes 4 in the last axis, "
            "and was given float32 [3, 3] (made of 'x'): RuntimeError at",
            "model.py:9 (forward)",
        ],
    ),
    "NaN": (
        one("return self.linear(x) / 0 * 0"),
        ExportError,
        ["PyTorch itself answers NaN or Inf"],
    ),
}


@pytest.mark.parametrize("case", UNEXPORTABLE, ids=str)
def test_unexportable_model_is_told_with_its_line(case, tmp_path, capfd):
    source, kind, fragments = UNEXPORTABLE[case]
    with pytest.raises(kind) as refused:
        export(tmp_path, source, normal(x=(4,)), module="")
    for fragment in fragments:
        assert fragment in str(refused.value)
    printed = capfd.readouterr()
    assert printed.out == "" and printed.err == "", "the exporter's chatter reached the terminal"


def test_undeclared_output(tmp_path):
    with pytest.raises(ModelError, match="returns 1 value, the recipe declares 2 outputs"):
        export(tmp_path, one("return self.linear(x)"), normal(x=(4,)), module="", outputs=("a", "b"))


def test_misnamed_input(tmp_path):
    with pytest.raises(ModelError, match="unexpected keyword argument 'pixels'"):
        export(tmp_path, one("return self.linear(x)"), normal(pixels=(4,)), module="")
