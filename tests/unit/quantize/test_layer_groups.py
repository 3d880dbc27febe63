"""Layer groups: by module path, few enough to judge, and nameable in a recipe without catching others."""

from fnmatch import fnmatchcase
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdeploy.core.errors import QuantizeError
from mmdeploy.quantize.layer_groups import Grouping, LayerGroup, find

VIT = [
    "patch_embedding/MatMul",
    *(
        f"blocks.{block}.{part}"
        for block in range(12)
        for part in (
            "attention.query/MatMul", "attention.key/MatMul", "attention/MatMul", "attention.output/MatMul",
            "mlp.0/MatMul", "mlp.2/MatMul",
        )
    ),
    "head/Gemm",
]  # fmt: skip


def empty_graph() -> SimpleNamespace:
    return SimpleNamespace(graph=SimpleNamespace(node=[], initializer=[]))


def grouped(nodes: list[str], **options: object) -> tuple[LayerGroup, ...]:
    return find(empty_graph(), nodes, Grouping.model_validate(options))


def names(groups: tuple[LayerGroup, ...]) -> list[str]:
    return [group.name for group in groups]


def test_the_deepest_modules_that_are_few_enough_are_taken():
    assert names(grouped(VIT)) == ["patch_embedding", *(f"blocks.{block}" for block in range(12)), "head"]
    small = [node for node in VIT if node.startswith("blocks.0.")]
    assert names(grouped(small)) == [
        "blocks.0.attention.query", "blocks.0.attention.key", "blocks.0.attention", "blocks.0.attention.output",
        "blocks.0.mlp.0", "blocks.0.mlp.2",
    ]  # fmt: skip


def test_depth_and_globs_are_the_users():
    assert names(grouped(VIT, group_depth=1)) == ["patch_embedding", "blocks", "head"]
    assert names(grouped(VIT, group_depth=1, groups=["*.mlp.*"])) == [
        "patch_embedding", "blocks", "*.mlp.*", "head",
    ]  # fmt: skip


def test_a_group_above_others_leaves_them_alone():
    """``blocks.0.attention`` has products of its own beside those of the layers in it."""
    groups = grouped([node for node in VIT if node.startswith("blocks.0.")])
    above = next(group for group in groups if group.name == "blocks.0.attention")
    assert above.nodes == ("blocks.0.attention/MatMul",)
    assert above.globs == ("blocks.0.attention/*",)


def test_nodes_outside_any_module_are_groups_of_their_own():
    assert names(grouped(["MatMul", "MatMul_1", "head/Gemm"])) == ["MatMul", "MatMul_1", "head"]


def test_a_glob_that_matches_nothing_shows_the_nearest():
    with pytest.raises(QuantizeError, match=r"groups: 'bloks\.0\.\*' matches no node") as caught:
        grouped(VIT, groups=["bloks.0.*"])
    assert "blocks." in str(caught.value.hint)


PART = st.text(st.sampled_from("ab01[]*?-_"), min_size=1, max_size=3)
NODE = st.builds(
    lambda path, op: f"{'.'.join(path)}/{op}" if path else op,
    st.lists(PART, max_size=3),
    st.sampled_from(["MatMul", "MatMul_1", "Gemm"]),
)


@given(st.lists(NODE, min_size=1, max_size=12, unique=True), st.none() | st.integers(1, 3))
def test_every_node_is_in_one_group_and_its_globs_match_exactly_its_nodes(nodes, depth):
    groups = grouped(nodes, group_depth=depth)
    assert sorted(node for group in groups for node in group.nodes) == sorted(nodes)
    for group in groups:
        matched = {node for node in nodes if any(fnmatchcase(node, pattern) for pattern in group.globs)}
        assert matched == set(group.nodes)
        assert all(any(fnmatchcase(node, pattern) for node in nodes) for pattern in group.globs)
