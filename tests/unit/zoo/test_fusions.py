"""Fusions against PyTorch's own modules and loops written from the papers' formulas."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from mmdeploy.zoo.fusion import (
    AdaptiveFusion,
    AttentionFusion,
    AttentionPooling,
    BilinearFusion,
    EarlyFusion,
    GatedFusion,
    HierarchicalPooling,
    IntermediateFusion,
    LateFusion,
    LowRankFusion,
    Named,
    SequenceFusion,
    TensorFusion,
    UnifiedSizes,
    UnifiedTransformer,
)

WIDTHS = (5, 3, 4)
SIZES = UnifiedSizes(50, 8, (2, 3), 12, 10, 8, width=16, depth=1, heads=2, classes=5)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def features(*widths: int, batch: int = 4) -> list[Tensor]:
    return [torch.randn(batch, width) for width in widths]


def spread(module: nn.Module) -> nn.Module:
    """Give every parameter values of its own, those that begin as zeros or equal ones too."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
    return module.eval()


@torch.no_grad()
def test_early_is_an_mlp_of_what_is_side_by_side() -> None:
    fusion, given = spread(EarlyFusion(WIDTHS, 6, 2)), features(*WIDTHS)
    first, _, last = fusion.mlp
    start, hidden = 0, first.bias.clone().expand(4, -1)
    for width, one in zip(WIDTHS, given, strict=True):
        hidden = hidden + one @ first.weight[:, start : start + width].T
        start += width
    assert_close(fusion(*given), last(nn.functional.gelu(hidden)))


@torch.no_grad()
def test_late_is_a_mean_of_what_each_says_weighed_by_class() -> None:
    fusion, given = spread(LateFusion(WIDTHS, 2, weight_per_class=True)), features(*WIDTHS)
    for row, kind in itertools.product(range(4), range(2)):
        weights = torch.exp(fusion.logits[:, kind])
        scores = torch.stack([head(one[row])[kind] for head, one in zip(fusion.heads, given, strict=True)])
        assert_close(fusion(*given)[row, kind], (weights * scores).sum() / weights.sum())


@torch.no_grad()
def test_intermediate_listens_at_the_chosen_depths_only() -> None:
    fusion, given = spread(IntermediateFusion(WIDTHS, 6, at=(1, 3), classes=2)), features(*WIDTHS)
    hidden: list[list[Tensor]] = []
    for tower, one in zip(fusion.towers, given, strict=True):
        hidden.append([])
        for layer in tower:
            one = layer(one).clamp(min=0)
            hidden[-1].append(one)
    first = sum(fusion.shares[0, place] * hidden[place][0] for place in range(3))
    central = fusion.central[0](first).clamp(min=0)
    second = sum(fusion.shares[1, place] * hidden[place][2] for place in range(3)) + fusion.shares[1, 3] * central
    assert_close(fusion(*given), fusion.head(fusion.central[1](second).clamp(min=0)))


@torch.no_grad()
def test_attention_weighs_each_modality_by_its_score() -> None:
    fusion, given = spread(AttentionFusion(WIDTHS, 6, 3)), features(*WIDTHS)
    fused, weights = fusion(*given)
    for row in range(4):
        parts = [project(one[row]) for project, one in zip(fusion.projections, given, strict=True)]
        scores = torch.stack([fusion.score.weight[0] @ torch.tanh(fusion.attend(part)) for part in parts])
        wanted = torch.exp(scores) / torch.exp(scores).sum()
        assert_close(weights[row], wanted)
        assert_close(fused[row], sum(weight * part for weight, part in zip(wanted, parts, strict=True)))


@torch.no_grad()
@pytest.mark.parametrize("widths", [WIDTHS[:2], WIDTHS])
def test_gated_units_are_those_of_the_paper(widths: tuple[int, ...]) -> None:
    fusion, given = spread(GatedFusion(widths, 6)), features(*widths)
    together = torch.cat(given, dim=1)
    parts = [torch.tanh(one @ project.weight.T) for one, project in zip(given, fusion.projections, strict=True)]
    gates = [1 / (1 + torch.exp(-together @ gate.weight.T)) for gate in fusion.gates]
    if len(widths) == 2:
        wanted = gates[0] * parts[0] + (1 - gates[0]) * parts[1]
    else:
        wanted = sum(gate * part for gate, part in zip(gates, parts, strict=True))
    assert_close(fusion(*given), wanted)


@torch.no_grad()
def test_adaptive_shares_importance_out_among_what_is_there() -> None:
    fusion, given = spread(AdaptiveFusion(WIDTHS, 6)), features(*WIDTHS, batch=8)
    presence = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)))
    fused, weights = fusion(*given, presence)
    for row in range(8):
        there = [place for place in range(3) if presence[row, place]]
        docked = {place: fusion.docking[place](given[place][row]).clamp(min=0) for place in there}
        raw = {place: torch.exp(fusion.importance[place](docked[place]))[0] for place in there}
        wanted = fusion.absent if not there else sum(raw[place] / sum(raw.values()) * docked[place] for place in there)
        assert_close(fused[row], wanted)
        assert_close(weights[row].sum(), torch.tensor(1.0 if there else 0.0))
    garbage = [one * 1e6 for one in given]
    mixed = [torch.where(presence[:, [place]] > 0, given[place], garbage[place]) for place in range(3)]
    assert_close(fusion(*mixed, presence)[0], fused)


@torch.no_grad()
def test_adaptive_gives_the_weight_to_what_is_there_however_unimportant_it_was() -> None:
    fusion = spread(AdaptiveFusion((2, 2), 4))
    fusion.importance[0].bias.fill_(60.0)
    fusion.importance[1].bias.fill_(-60.0)
    assert_close(fusion(*features(2, 2, batch=1), torch.tensor([[0.0, 1.0]]))[1], torch.tensor([[0.0, 1.0]]))


@torch.no_grad()
def test_bilinear_is_that_of_torch() -> None:
    fusion, theirs = spread(BilinearFusion((5, 3), 6)), nn.Bilinear(5, 3, 6)
    theirs.weight.copy_(fusion.form.weight.reshape(6, 3, 5).transpose(1, 2))
    theirs.bias.copy_(fusion.bias)
    given = features(5, 3)
    assert_close(fusion(*given), theirs(*given))


def outer(given: list[Tensor], row: int) -> dict[tuple[int, ...], Tensor]:
    """The outer product by its definition: an entry for each choice of one value (0 is the 1) of each modality."""
    product = {}
    for choice in itertools.product(*(range(one.shape[1] + 1) for one in given)):
        value = torch.tensor(1.0)
        for index, one in zip(choice, given, strict=True):
            value = value * (one[row, index - 1] if index else 1.0)
        product[choice] = value
    return product


@torch.no_grad()
def test_tensor_fusion_is_the_outer_product() -> None:
    fusion, given = spread(TensorFusion((2, 3, 2), 4)), features(2, 3, 2)
    for row in range(4):
        flat = torch.stack([*outer(given, row).values()])
        assert_close(fusion(*given)[row], fusion.output.weight @ flat + fusion.output.bias)


@torch.no_grad()
def test_low_rank_fusion_is_the_outer_product_through_the_tensor_that_its_factors_make() -> None:
    fusion, given = spread(LowRankFusion((2, 3, 2), 4, rank=3)), features(2, 3, 2)
    for row, value in itertools.product(range(4), range(4)):
        found = fusion.bias[value].clone()
        for choice, product in outer(given, row).items():
            for rank in range(3):
                entry, line = fusion.shares[rank, 0], rank * 4 + value
                for index, factor in zip(choice, fusion.factors, strict=True):
                    entry = entry * (factor.weight[line, index - 1] if index else factor.bias[line])
                found = found + entry * product
        assert_close(fusion(*given)[row, value], found)


@torch.no_grad()
def test_pooling_weighs_what_is_no_padding() -> None:
    pool, tokens = spread(AttentionPooling(6, 3)), torch.randn(2, 5, 6)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]).bool()
    for row, length in ((0, 5), (1, 2)):
        raw = torch.exp(torch.tanh(pool.attend(tokens[row, :length])) @ pool.score.weight[0])
        assert_close(pool(tokens, mask)[row], (raw[:, None] * tokens[row, :length]).sum(0) / raw.sum())
    assert torch.isfinite(pool(tokens, torch.zeros(2, 5, dtype=torch.bool))).all()


@torch.no_grad()
def test_hierarchical_pools_tokens_then_modalities() -> None:
    fusion = spread(HierarchicalPooling((5, 3), 6, 4))
    tokens = [torch.randn(2, 4, 5), torch.randn(2, 3, 3)]
    masks = [torch.ones(2, 4).bool(), torch.tensor([[1, 1, 1], [1, 0, 0]]).bool()]
    found = fusion(*tokens, *masks)
    for row in range(2):
        vectors = [
            pool(torch.tanh(project(one[row, mask[row]]))[None])[0]
            for project, pool, one, mask in zip(fusion.projections, fusion.within, tokens, masks, strict=True)
        ]
        assert_close(found[row], fusion.across(torch.stack(vectors)[None])[0])


def theirs_of(layer: nn.Module, width: int, heads: int) -> nn.TransformerEncoderLayer:
    """torch's own layer with the weights of ours."""
    theirs = nn.TransformerEncoderLayer(
        width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    ).eval()
    pairs = (
        (theirs.norm1, layer.before_attention), (theirs.norm2, layer.before_mlp),
        (theirs.self_attn.out_proj, layer.attention.output),
        (theirs.linear1, layer.mlp[0]), (theirs.linear2, layer.mlp[2]),
    )  # fmt: skip
    for one, own in pairs:
        one.load_state_dict(own.state_dict())
    theirs.self_attn.in_proj_weight.copy_(layer.attention.qkv.weight)
    theirs.self_attn.in_proj_bias.copy_(layer.attention.qkv.bias)
    return theirs


@torch.no_grad()
def test_sequence_fusion_is_a_transformer_over_all_tokens_without_the_padding() -> None:
    fusion = spread(SequenceFusion((5, 3), 8, depth=1, heads=2, classes=2))
    tokens = [torch.randn(2, 4, 5), torch.randn(2, 3, 3)]
    masks = [torch.ones(2, 4).bool(), torch.tensor([[1, 1, 1], [1, 0, 0]]).bool()]
    theirs = theirs_of(fusion.transformer.layers[0], 8, 2)
    for row in range(2):
        parts = [fusion.first[0]]
        for place, (one, mask) in enumerate(zip(tokens, masks, strict=True)):
            parts.append(fusion.projections[place](one[row, mask[row]]) + fusion.modality[place])
        answered = fusion.transformer.norm(theirs(torch.cat(parts)[None]))
        assert_close(fusion(*tokens, *masks)[row], fusion.head(answered[0, 0]), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_unified_transformer_places_every_token_and_sees_no_padding() -> None:
    fusion = spread(UnifiedTransformer(SIZES))
    ids, patches, frames = torch.randint(0, 50, (2, 4)), torch.randn(2, 6, 12), torch.randn(2, 5, 8)
    text_mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).bool()
    frames_mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]).bool()
    scores, summary = fusion(ids, text_mask, patches, frames, frames_mask)
    theirs = theirs_of(fusion.transformer.layers[0], 16, 2)
    for row, (words, heard) in enumerate(((4, 3), (2, 5))):
        tokens = [fusion.first[0]]
        tokens += [fusion.words.weight[ids[row, i]] + fusion.sequence[i] + fusion.modality[0] for i in range(words)]
        for line, column in itertools.product(range(2), range(3)):
            patch = fusion.patches(patches[row, 3 * line + column])
            tokens.append(patch + fusion.rows[line] + fusion.columns[column] + fusion.modality[1])
        tokens += [fusion.frames(frames[row, i]) + fusion.time[i] + fusion.modality[2] for i in range(heard)]
        answered = fusion.transformer.norm(theirs(torch.stack(tokens)[None]))[0, 0]
        assert_close(summary[row], answered, atol=1e-5, rtol=1e-4)
        assert_close(scores[row], fusion.head(answered), atol=1e-5, rtol=1e-4)


def unified(**changes: Tensor) -> Tensor:
    given = {
        "ids": torch.zeros(1, 4).long(), "text_mask": torch.ones(1, 4).bool(), "patches": torch.zeros(1, 6, 12),
        "frames": torch.zeros(1, 3, 8), "frames_mask": torch.ones(1, 3).bool(),
    }  # fmt: skip
    return UnifiedTransformer(SIZES)(**(given | changes))


@pytest.mark.parametrize(
    ("use", "said"),
    [
        (lambda: EarlyFusion((4,), 4, 2), r"widths are \[4\]: 2 or more modalities"),
        (lambda: LateFusion((4, 0), 2), "each 1 or wider"),
        (lambda: GatedFusion((4, 3), 2)(torch.zeros(1, 4)), r"modalities of \[1, 4\], made for \[N, 4\], \[N, 3\]"),
        (lambda: GatedFusion((4, 3), 2)(*features(3, 4)), r"modalities of \[4, 3\], \[4, 4\], made for"),
        (lambda: IntermediateFusion((4, 3), 4, at=(2, 1), classes=2), r"fused at \[2, 1\]: depths of 1 or more"),
        (lambda: AdaptiveFusion((4, 3), 2)(*features(4, 3), torch.ones(4, 3)), r"\[4, 3\], made for \[N, 2\]"),
        (lambda: BilinearFusion((4, 3, 2), 2), "two modalities; `LowRankFusion` takes more"),
        (lambda: TensorFusion((99, 99, 999), 2), "make a product of 10000000 values: at most 1000000"),
        (lambda: LowRankFusion((4, 3), 2, rank=0), "the rank is 0: 1 or more"),
        (lambda: SequenceFusion((4, 3), 8, depth=1, heads=3, classes=2), "heads"),
        (
            lambda: HierarchicalPooling((4, 3), 8, 2)(
                torch.zeros(1, 2, 4), torch.zeros(1, 2, 3), torch.ones(1, 2).bool()
            ),
            r"masks of \[1, 2\] for 2 sequences",
        ),
        (lambda: Named(nn.Identity(), ("a", "a")), "each one once"),
        (lambda: Named(nn.Identity(), ("a",))(b=torch.zeros(1)), r"given \['b'\], made for \['a'\]"),
        (lambda: unified(ids=torch.zeros(1, 9).long()), "9 tokens: at most 8"),
        (lambda: unified(frames=torch.zeros(1, 3, 7)), r"frames of \[1, 3, 7\]: at most 10, of 8 values each"),
        (lambda: unified(patches=torch.zeros(1, 5, 12)), r"patches of \[1, 5, 12\]: 6 of 12 values each"),
    ],
)
def test_what_cannot_be_is_refused(use: Callable[[], object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        use()
