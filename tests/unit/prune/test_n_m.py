"""Every group of every pruned weight is looked at, in PyTorch and in the exported graph."""

import itertools

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prune_cases import component, exported, normal, plain, pruned_by, step
from pydantic import ValidationError

from mmdeploy.core.errors import PruneError
from mmdeploy.model.torch_component import load_component
from mmdeploy.prune import n_m

CNN = (
    "nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.ReLU(), nn.Flatten(),"
    " nn.Linear(32, 10), nn.ReLU(), nn.Linear(10, 3))"
)
FEEDS = normal(input=(4, 6, 6))


def run(tmp_path, source=None, feeds=FEEDS, name="input", **options):
    artifact = component(tmp_path, source or plain(CNN), name)
    return (*pruned_by(n_m, artifact, step(tmp_path, feeds), **options), load_component(artifact))


def groups_of(weight, m, axis):
    """Return [groups, m] by plain indexing, without the code under test."""
    others = [range(size) for index, size in enumerate(weight.shape) if index != axis]
    lines = [weight[(*where[:axis], slice(None), *where[axis:])] for where in itertools.product(*others)]
    return np.concatenate([line.reshape(-1, m) for line in lines])


def test_every_group_keeps_its_two_largest(tmp_path):
    after, module, original = run(tmp_path)
    state, before = module.state_dict(), original.state_dict()
    assert after.metadata["sparse_parameters"] == ["0.weight", "2.weight", "5.weight"]
    for name in after.metadata["sparse_parameters"]:
        now, old = (groups_of(values[name].numpy(), 4, 1) for values in (state, before))
        assert ((now != 0).sum(axis=1) == 2).all()
        assert (np.sort(np.abs(now), axis=1)[:, 2:] == np.sort(np.abs(old), axis=1)[:, 2:]).all()
    assert torch.equal(state["7.weight"], before["7.weight"])
    assert after.metadata["pruning"]["not_pruned"] == {"7.weight": "10 input channels are no multiple of 4"}
    assert after.metadata["pruning"]["pattern"] == "2:4"


def test_agrees_with_modelopt_s_mask():
    modelopt = pytest.importorskip("modelopt.torch.sparsity.weight_sparsity.magnitude")
    torch.manual_seed(0)
    for shape in ((8, 12), (6, 8, 3), (5, 16, 3, 2)):
        weight = torch.nn.Parameter(torch.randn(shape))
        assert torch.equal(n_m.mask(weight, 2, 4), modelopt.create_asp_mask(weight, "2:4 sparsity"))


def sparse_along(graph, node):
    """Return an initializer and the axis of it that a node sums over."""
    values = {weight.name: onnx.numpy_helper.to_array(weight) for weight in graph.initializer}
    weight = values[node.input[1]]
    if node.op_type == "MatMul":
        return weight, 0
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return weight, 1 if node.op_type == "Conv" or transposed else 0


def test_the_exported_graph_is_2_4_along_the_axis_that_is_summed_over(tmp_path):
    source = plain("nn.TransformerEncoderLayer(16, 2, 24, batch_first=True)")
    feeds = normal(src=(5, 16))
    after, _, _ = run(tmp_path, source, feeds, "src")
    assert len(after.metadata["sparse_parameters"]) == 4
    graph = onnx.load(exported(after, step(tmp_path, feeds)).path).graph
    constants = {weight.name for weight in graph.initializer}
    products = [node for node in graph.node if node.op_type in ("MatMul", "Gemm") and node.input[1] in constants]
    assert len(products) >= 4
    for node in products:
        weight, axis = sparse_along(graph, node)
        assert ((groups_of(weight, 4, axis) != 0).sum(axis=1) <= 2).all(), node.name


def test_exported_convolutions(tmp_path):
    after, _, _ = run(tmp_path)
    graph = onnx.load(exported(after, step(tmp_path, FEEDS)).path).graph
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 2
    for node in convolutions:
        weight, axis = sparse_along(graph, node)
        assert ((groups_of(weight, 4, axis) != 0).sum(axis=1) == 2).all()


def test_costs_count_the_zeros(tmp_path):
    after, _, _ = run(tmp_path)
    before, now = after.metadata["costs"]["before"], after.metadata["costs"]["after"]
    assert before["nonzero_parameters"] - now["nonzero_parameters"] == (4 * 8 * 9 + 8 * 4 * 9 + 320) // 2
    assert before["flops"] == now["flops"]


def test_transposed_convolutions_stay_dense(tmp_path):
    source = plain("nn.Sequential(nn.ConvTranspose2d(4, 4, 2), nn.Conv2d(4, 4, 1))")
    after, _, _ = run(tmp_path, source)
    assert "transposed" in after.metadata["pruning"]["not_pruned"]["0.weight"]


def test_nothing_prunable_is_an_error(tmp_path):
    with pytest.raises(PruneError, match=r"no layer can be made 2:4 sparse: weight: 6 input channels"):
        run(tmp_path, plain("nn.Linear(6, 8)"), normal(input=(6,)))


@pytest.mark.parametrize(("n", "m"), [(4, 4), (5, 4), (0, 4), (1, 1)])
def test_patterns_that_make_no_sense(n, m):
    with pytest.raises(ValidationError):
        n_m.Options(n=n, m=m)


@settings(max_examples=60, deadline=None)
@given(
    m=st.integers(2, 8), data=st.data(), out=st.integers(1, 5), groups=st.integers(1, 4),
    kernel=st.lists(st.integers(1, 3), max_size=3), ties=st.booleans(),
)  # fmt: skip
def test_masks_of_any_shape(m, data, out, groups, kernel, ties):
    n = data.draw(st.integers(1, m - 1))
    weight = torch.randn(out, groups * m, *kernel, generator=torch.Generator().manual_seed(out))
    weight = weight.sign() if ties else weight
    kept = n_m.mask(weight, n, m)
    assert (groups_of(kept.numpy(), m, 1).sum(axis=1) == n).all()
    magnitudes, flags = groups_of(weight.abs().numpy(), m, 1), groups_of(kept.numpy(), m, 1)
    smallest_kept = np.where(flags, magnitudes, np.inf).min(axis=1)
    assert (smallest_kept >= np.where(flags, -np.inf, magnitudes).max(axis=1)).all()
