"""Zeros where numpy says, no others; what cannot be pruned is told."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prune_cases import HEAD, answers, component, normal, plain, pruned_by, step
from pydantic import ValidationError

from mmdeploy.core.errors import PruneError
from mmdeploy.model.torch_component import load_component
from mmdeploy.prune import magnitude, weights

MLP = "nn.Sequential(nn.Linear(6, 10), nn.GELU(), nn.LayerNorm(10), nn.Linear(10, 4))"
FEEDS = normal(input=(6,))


def run(tmp_path, source, feeds=FEEDS, **options):
    artifact = component(tmp_path, source, "input")
    after, module = pruned_by(magnitude, artifact, step(tmp_path, feeds), **options)
    return after, module, load_component(artifact)


def by_name(module):
    return {name: value.detach().numpy() for name, value in module.named_parameters()}


def test_local_takes_the_smallest_of_each_layer(tmp_path):
    after, module, original = run(tmp_path, plain(MLP), sparsity=0.35)
    before, now = by_name(original), by_name(module)
    for name in ("0.weight", "3.weight"):
        order = np.argsort(np.abs(before[name]).ravel())
        expected = before[name].copy().ravel()
        expected[order[: round(0.35 * expected.size)]] = 0.0
        np.testing.assert_array_equal(now[name].ravel(), expected)
    for name in ("0.bias", "3.bias", "2.weight", "2.bias"):
        np.testing.assert_array_equal(now[name], before[name])
    assert after.metadata["sparse_parameters"] == ["0.weight", "3.weight"]


def test_global_is_one_threshold_over_the_component(tmp_path):
    _, module, original = run(tmp_path, plain(MLP), sparsity=0.5, scope="global")
    before, now = by_name(original), by_name(module)
    threshold = np.quantile(np.abs(np.concatenate([before[name].ravel() for name in ("0.weight", "3.weight")])), 0.5)
    for name in ("0.weight", "3.weight"):
        np.testing.assert_array_equal(now[name], np.where(np.abs(before[name]) > threshold, before[name], 0))


def test_costs_and_the_note_say_that_nothing_gets_cheaper(tmp_path):
    after, module, _ = run(tmp_path, plain(MLP), sparsity=0.5)
    before, now = after.metadata["costs"]["before"], after.metadata["costs"]["after"]
    assert now["flops"] == before["flops"] and now["bytes"] == before["bytes"]
    assert before["nonzero_parameters"] - now["nonzero_parameters"] == (60 + 40) // 2
    assert now["nonzero_parameters"] == sum(int((value != 0).sum()) for value in by_name(module).values())
    assert "no cost on a dense engine" in after.metadata["pruning"]["note"]
    assert {cut["weight"]: cut["share"] for cut in after.metadata["pruning"]["pruned"]} == {
        "0.weight": 0.5,
        "3.weight": 0.5,
    }


def test_excluded_and_included_layers(tmp_path):
    after, module, original = run(tmp_path, plain(MLP), sparsity=0.5, exclude=("3",))
    assert torch.equal(module[3].weight, original[3].weight)
    assert after.metadata["pruning"]["not_pruned"] == {"3.weight": "excluded by '3'"}
    after, module, original = run(tmp_path, plain(MLP), sparsity=0.5, include=("3",))
    assert torch.equal(module[0].weight, original[0].weight)
    assert int((module[3].weight == 0).sum()) == 20


def test_a_glob_may_name_what_a_layer_is_in(tmp_path):
    source = plain(f"nn.ModuleDict({{'tower': {MLP}, 'head': {MLP}}})").replace("nn.ModuleDict(", "Both(")
    source = source.replace(
        "class Model", "class Both(nn.ModuleDict):\n    def forward(self, input):\n"
        "        return self['tower'](input) + self['head'](input)\n\nclass Model"
    )  # fmt: skip
    after, _, _ = run(tmp_path, source, sparsity=0.5, exclude=("head",))
    assert after.metadata["sparse_parameters"] == ["tower.0.weight", "tower.3.weight"]


def test_attention_s_packed_weight_is_a_linear_layer_too_and_norms_never(tmp_path):
    source = plain("nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)")
    artifact = component(tmp_path, source, "src")
    after, module = pruned_by(magnitude, artifact, step(tmp_path, normal(src=(3, 8))), sparsity=0.25)
    assert after.metadata["sparse_parameters"] == [
        "linear1.weight", "linear2.weight", "self_attn.in_proj_weight", "self_attn.out_proj.weight",
    ]  # fmt: skip
    assert int((module.self_attn.in_proj_weight == 0).sum()) == 3 * 8 * 8 // 4


def test_a_weight_tied_to_an_embedding_stays(tmp_path):
    source = HEAD + (
        "class Tied(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.table, self.hidden, self.out = nn.Embedding(9, 6), nn.Linear(6, 6), nn.Linear(6, 9)\n"
        "        self.out.weight = self.table.weight\n"
        "    def forward(self, input):\n        return self.out(self.hidden(self.table(input.long().abs() % 9)))\n\n"
    ) + plain("Tied()").removeprefix(HEAD)  # fmt: skip
    after, module, _ = run(tmp_path, source, sparsity=0.5)
    assert after.metadata["sparse_parameters"] == ["hidden.weight"]
    assert "shared with table.weight" in after.metadata["pruning"]["not_pruned"]["table.weight"]
    assert module.out.weight is module.table.weight


def test_zeros_of_an_earlier_pass_are_remembered(tmp_path):
    artifact = component(tmp_path, plain(MLP), "input")
    first, _ = pruned_by(magnitude, artifact, step(tmp_path, FEEDS), sparsity=0.5, exclude=("3",))
    second, module = pruned_by(magnitude, first, step(tmp_path, FEEDS), sparsity=0.5, exclude=("0",))
    assert second.metadata["sparse_parameters"] == ["0.weight", "3.weight"]
    assert int((module[0].weight == 0).sum()) == 30 and answers(module, FEEDS(2))


def test_a_glob_that_matches_nothing_names_the_nearest(tmp_path):
    source = plain("nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)")
    artifact = component(tmp_path, source, "src")
    with pytest.raises(PruneError, match=r"exclude: 'linar1\*' matches no module") as caught:
        pruned_by(magnitude, artifact, step(tmp_path, normal(src=(3, 8))), sparsity=0.5, exclude=("linar1*",))
    assert "linear1" in caught.value.hint


def test_nothing_left_says_why(tmp_path):
    with pytest.raises(PruneError, match="nothing to prune: it has no linear layers"):
        run(tmp_path, plain("nn.LayerNorm(6)"), sparsity=0.5)
    with pytest.raises(PruneError, match=r"nothing to prune: excluded by '\*'"):
        run(tmp_path, plain(MLP), sparsity=0.5, exclude=("*",))


@pytest.mark.parametrize("sparsity", [0, 1, -0.2, 1.5, float("nan")])
def test_sparsity_outside_its_range(sparsity):
    with pytest.raises(ValidationError):
        magnitude.Options(sparsity=sparsity)


@pytest.mark.parametrize("scope", ["local", "global"])
def test_too_much_names_the_layer_and_what_is_possible(tmp_path, scope):
    source = plain("nn.Sequential(nn.Linear(6, 10), nn.Linear(10, 1))").replace(
        "    return Model()", "    model = Model()\n    model.part[1].weight.data *= 0.1\n    return model"
    )
    with pytest.raises(PruneError, match=r"leaves 1\.weight without a single weight") as caught:
        run(tmp_path, source, sparsity=0.96, scope=scope)
    largest = float(caught.value.hint.split()[2])
    run(tmp_path, source, sparsity=largest - 1e-4, scope=scope)


def test_too_little_is_told(tmp_path):
    with pytest.raises(PruneError, match="less than one weight"):
        run(tmp_path, plain("nn.Linear(6, 2)"), sparsity=0.01)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=4),
    sparsity=st.floats(0.01, 0.99),
    scope=st.sampled_from(["local", "global"]),
    seed=st.integers(0, 100),
)
def test_masks_of_any_shape_keep_the_largest(sizes, sparsity, scope, seed):
    torch.manual_seed(seed)
    module = torch.nn.ModuleList([torch.nn.Linear(*size) for size in sizes])
    chosen = weights.choose(module, ("*",), ()).weights
    options = magnitude.Options(sparsity=sparsity, scope=scope)
    masks = magnitude._masks(chosen, options)
    pairs = list(zip(chosen, masks, strict=True))
    for group in [[pair] for pair in pairs] if scope == "local" else [pairs]:
        values = torch.cat([weight.tensor.detach().abs().flatten() for weight, _ in group])
        kept = torch.cat([mask.flatten() for _, mask in group]).bool()
        assert int((~kept).sum()) == round(sparsity * values.numel())
        if kept.any() and not kept.all():
            assert values[kept].min() >= values[~kept].max()
