"""A component rewritten for fake quantization answers as before, and gets its weights back."""

import copy

import pytest
import qat_samples
import torch
from torch import Tensor, nn

from mmdeploy.core.errors import QuantizeError
from mmdeploy.quantize import qat, qat_layers, qat_selection


def forward(module: nn.Module) -> dict[str, Tensor]:
    with torch.no_grad():
        return {"logits": module(torch.from_numpy(next(qat_samples.feeds(1))["values"]))}


def prepared(name: str) -> qat_layers.Prepared:
    return qat_layers.prepare(lambda: qat_samples.build(name).eval(), forward)


@pytest.mark.parametrize("style", [style.__name__ for style in qat_samples.STYLES])
def test_rewriting_changes_no_answer_and_is_undone(style):
    before = forward(qat_samples.build(style).eval())["logits"]
    ready = prepared(style)
    torch.testing.assert_close(forward(ready.module)["logits"], before, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        for parameter in ready.module.parameters():
            parameter.mul_(1.25)
    plain = qat_layers.write_back(ready, qat_samples.build(style).eval())
    assert {name for name, _ in plain.named_modules()} == {name for name, _ in qat_samples.build(style).named_modules()}
    torch.testing.assert_close(forward(plain)["logits"], forward(ready.module)["logits"], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(forward(plain)["logits"], before, atol=1e-3)


def test_layers_of_an_attention_are_found_with_their_place():
    ready = prepared("OneAttention")
    found = {layer.name: (layer.parameter, layer.rows) for layer in ready.layers}
    width = qat_samples.WIDTH
    assert found == {
        "attention.q_proj": ("attention.in_proj_weight", (0, width)),
        "attention.k_proj": ("attention.in_proj_weight", (width, 2 * width)),
        "attention.v_proj": ("attention.in_proj_weight", (2 * width, 3 * width)),
        "attention.out_proj": ("attention.out_proj.weight", None),
        "head": ("head.weight", None),
    }
    assert ready.shared == ((0, 1, 2),)
    assert qat_layers.parameters_of(ready, "attention.in_proj_weight") == tuple(
        f"attention.{part}_proj.weight" for part in "qkv"
    )
    assert qat_layers.parameters_of(ready, "attention.out_proj.weight") == ("attention.out_proj.weight",)
    assert qat_layers.parameters_of(ready, "head.weight") == ("head.weight",)


def test_normalizations_are_folded_into_the_layer_before():
    ready = prepared("Convolutions")
    assert ready.folded == {"first_norm": "first", "second_norm": "second", "head_norm": "head"}
    assert not any(isinstance(part, nn.BatchNorm1d) for part in ready.module.modules())
    assert next(layer for layer in ready.layers if layer.name == "first").node_paths == ("first", "first_norm")


class TwoReaders(nn.Module):
    """What the convolution writes is read by the normalization and by a sum."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first = nn.Conv1d(qat_samples.TOKENS, 8, 3)
        self.norm = nn.BatchNorm1d(8)
        nn.init.uniform_(self.norm.running_mean, 1, 2)

    def forward(self, values: Tensor) -> Tensor:
        hidden = self.first(values)
        return hidden + self.norm(hidden)


def test_a_normalization_is_left_where_something_else_reads_the_layer(caplog):
    ready = qat_layers.prepare(lambda: TwoReaders().eval(), forward)
    assert not ready.folded
    assert "norm" in ready.notes
    assert isinstance(ready.module.norm, nn.BatchNorm1d)
    torch.testing.assert_close(forward(ready.module)["logits"], forward(TwoReaders().eval())["logits"])


class ReadsPackedWeights(nn.Module):
    """A forward that looks into the attention."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.attention = nn.MultiheadAttention(qat_samples.WIDTH, 2, batch_first=True)
        self.head = nn.Linear(qat_samples.WIDTH, 3)

    def forward(self, values: Tensor) -> Tensor:
        return self.head(values @ self.attention.in_proj_weight[: qat_samples.WIDTH].T)


def test_attention_is_left_where_the_model_looks_into_it():
    ready = qat_layers.prepare(lambda: ReadsPackedWeights().eval(), forward)
    assert not ready.attentions
    assert "in_proj_weight" in ready.notes["attention"]
    assert [layer.name for layer in ready.layers] == ["head"]


@pytest.mark.parametrize(
    ("exclude", "left"),
    [
        ((), ["query", "key", "value", "mlp.0", "mlp.2", "head"]),
        (("mlp.*",), ["query", "key", "value", "head"]),
        (("mlp.0/MatMul", "head/Gemm"), ["query", "key", "value", "mlp.2"]),
        (("*/MatMul",), ["head"]),
        (("query/*", "MatMul_1"), ["key", "value", "mlp.0", "mlp.2", "head"]),
    ],
)
def test_globs_on_nodes_leave_out_layers(exclude, left):
    chosen = qat_selection.choose(prepared("PlainAttention"), qat.Options(exclude=exclude), "part")
    assert [layer.name for layer in chosen.layers] == left
    shared = [[chosen.layers[index].name for index in group] for group in chosen.shared]
    assert shared == [[name for name in ("query", "key", "value") if name in left]] * (len(left) > 1 and "key" in left)


def test_globs_leave_out_a_layer_by_the_name_of_its_normalization():
    chosen = qat_selection.choose(prepared("Convolutions"), qat.Options(exclude=("first_norm/Conv",)), "part")
    assert [layer.name for layer in chosen.layers] == ["second", "head"]


def test_operators_leave_out_layers():
    ready = prepared("Convolutions")
    convolutions = qat_selection.choose(ready, qat.Options(op_types=("Conv",)), "part")
    assert [layer.name for layer in convolutions.layers] == ["first", "second"]
    linear = qat_selection.choose(ready, qat.Options(exclude_op_types=("Conv",)), "part")
    assert [layer.name for layer in linear.layers] == ["head"]
    assert linear.excluded["first"] == "operator Conv is excluded"


def test_a_glob_that_matches_nothing_is_refused_with_the_nearest():
    with pytest.raises(QuantizeError, match=r"exclude: 'mpl\.0/MatMul' matches no node") as caught:
        qat_selection.choose(prepared("PlainAttention"), qat.Options(exclude=("mpl.0/MatMul",)), "part")
    assert "mlp.0/MatMul" in str(caught.value.hint)


def test_nothing_to_quantize_is_refused():
    with pytest.raises(QuantizeError, match="nothing to quantize"):
        qat_selection.choose(prepared("NothingToQuantize"), qat.Options(), "part")
    with pytest.raises(QuantizeError, match=r"all 6 layers are out \(excluded by '\*'\)"):
        qat_selection.choose(prepared("PlainAttention"), qat.Options(exclude=("*",)), "part")


def test_a_component_may_be_one_layer_or_one_attention():
    given = torch.from_numpy(next(qat_samples.feeds(1))["values"])

    def ask(module: nn.Module) -> dict[str, Tensor]:
        with torch.no_grad():
            answer = module(given, given, given)[0] if "proj" in str(module) else module(given)
        return {"logits": answer}

    torch.manual_seed(3)
    attention, linear = qat_samples.Alone().eval(), nn.Linear(qat_samples.WIDTH, 3)
    for original in (attention, linear):
        ready = qat_layers.prepare(lambda original=original: copy.deepcopy(original), ask)
        assert {layer.name for layer in ready.layers} <= {"", "q_proj", "k_proj", "v_proj", "out_proj"}
        assert all(hasattr(original, layer.parameter.partition(".")[0]) for layer in ready.layers)
        with torch.no_grad():
            for parameter in ready.module.parameters():
                parameter.mul_(1.5)
        plain = qat_layers.write_back(ready, copy.deepcopy(original))
        torch.testing.assert_close(ask(plain)["logits"], ask(ready.module)["logits"], atol=1e-6, rtol=1e-5)
