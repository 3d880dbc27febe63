"""Attentions that see a part of the tokens, against torch's own with the whole mask, at any length and padding."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mmdeploy.zoo.attention.blocks import BlockAttention, HierarchicalAttention
from mmdeploy.zoo.attention.crossing import ThreeWayAttention, TwoWayAttention
from mmdeploy.zoo.attention.heads import Attention, DecoderLayer
from mmdeploy.zoo.attention.low_rank import LowRankAttention
from mmdeploy.zoo.attention.random_pattern import RandomAttention
from mmdeploy.zoo.attention.windows import WindowAttention

DIM, HEADS, LONGEST = 8, 2, 13
shapes = st.tuples(st.integers(1, 3), st.integers(1, LONGEST), st.integers(0, 2**16))


def of_torch(attention: Attention) -> nn.MultiheadAttention:
    """Torch's own attention with the same weights."""
    query, key, value = attention.query, attention.key, attention.value
    made = nn.MultiheadAttention(
        query.in_features, attention.heads, kdim=key.in_features, vdim=value.in_features, batch_first=True
    ).eval()
    state = {"in_proj_bias": torch.cat([query.bias, key.bias, value.bias])}
    if key.in_features == query.in_features:
        state |= {"in_proj_weight": torch.cat([query.weight, key.weight, value.weight])}
    else:
        state |= {f"{letter}_proj_weight": part.weight for letter, part in zip("qkv", (query, key, value), strict=True)}
    made.load_state_dict(state | {"out_proj.weight": attention.out.weight, "out_proj.bias": attention.out.bias})
    return made


def masked(attention: Attention, tokens, mask, seen, context=None):
    """What torch's attention gives where what is seen [L, S] and real [N, S] is left; of rows that see something."""
    context = tokens if context is None else context
    hidden = ~(seen[None] & mask[:, None]).repeat_interleave(attention.heads, dim=0)
    return of_torch(attention)(tokens, context, context, attn_mask=hidden, need_weights=False)[0]


def drawn(shape, width=DIM):
    """Tokens and a mask that leaves the first of each at least; padding holds large numbers."""
    count, length, seed = shape
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(count, length, width, generator=generator)
    mask = torch.rand(count, length, generator=generator) < 0.7
    mask[:, 0] = True
    return torch.where(mask[..., None], tokens, 50.0), mask


def band(length, reach):
    place = torch.arange(length)
    return (place[:, None] - place).abs() <= reach


def squares(length, block):
    place = torch.arange(length) // block
    return place[:, None] == place


@pytest.fixture(autouse=True)
def _same_weights():
    torch.manual_seed(0)


@pytest.mark.parametrize("width", [DIM, 6])
def test_attention_is_torchs_own(width):
    attention = Attention(DIM, HEADS, width)
    for shape in ((1, 5, 0), (3, 9, 1)):
        tokens, _ = drawn(shape)
        context, mask = drawn((shape[0], 7, 2), width)
        wanted = masked(attention, tokens, mask, torch.ones(shape[1], 7, dtype=torch.bool), context)
        torch.testing.assert_close(attention(tokens, context, mask), wanted)
        torch.testing.assert_close(attention(tokens, context, mask.long()), wanted)
    torch.testing.assert_close(attention(tokens, context, mask & False), attention.out.bias.expand_as(tokens))


@pytest.mark.parametrize("asks", [False, True])
def test_decoder_layers_are_torchs_own(asks):
    made = DecoderLayer(DIM, HEADS, DIM if asks else None)
    kind = nn.TransformerDecoderLayer if asks else nn.TransformerEncoderLayer
    wanted = kind(DIM, HEADS, 4 * DIM, 0.0, "gelu", batch_first=True, norm_first=True).eval()
    pairs = {
        "norm1": made.norm,
        "linear1": made.mlp[1],
        "linear2": made.mlp[3],
        "norm3" if asks else "norm2": made.mlp[0],
    }
    pairs |= {"norm2": made.asking_norm} if asks else {}
    wanted.self_attn = of_torch(made.attention)
    if asks:
        wanted.multihead_attn = of_torch(made.asking)
    for name, part in pairs.items():
        setattr(wanted, name, part)
    for count, length in ((1, 1), (2, 6)):
        tokens, (context, mask) = torch.randn(count, length, DIM), drawn((count, 4, 1))
        later = torch.ones(length, length, dtype=torch.bool).triu(1)
        if asks:
            answer = wanted(tokens, context, tgt_mask=later, memory_key_padding_mask=~mask)
            torch.testing.assert_close(made(tokens, context, mask), answer)
        else:
            torch.testing.assert_close(made(tokens), wanted(tokens, src_mask=later))


@given(shape=shapes, window=st.sampled_from([1, 3, 7, 31]))
@settings(max_examples=40, deadline=None)
def test_windows_see_their_neighbours_only(shape, window):
    tokens, mask = drawn(shape)
    attention = WindowAttention(DIM, HEADS, window)
    found, wanted = attention(tokens, mask), masked(attention, tokens, mask, band(shape[1], window // 2))
    torch.testing.assert_close(found[mask], wanted[mask])


@given(count=st.integers(1, 3), blocks=st.integers(1, 4), block=st.integers(1, 6), seed=st.integers(0, 2**16))
@settings(max_examples=40, deadline=None)
def test_blocks_see_themselves_only(count, blocks, block, seed):
    tokens, mask = drawn((count, blocks * block, seed))
    made = BlockAttention(DIM, HEADS, block)
    wanted = masked(made, tokens, mask, squares(blocks * block, block))
    torch.testing.assert_close(made(tokens, mask)[mask], wanted[mask])


@given(shape=shapes, seen=st.integers(0, LONGEST - 1), seed=st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_random_patterns_are_kept_and_are_masks(shape, seen, seed):
    tokens, mask = drawn(shape)
    attention = RandomAttention(DIM, HEADS, LONGEST, seen, seed)
    assert torch.equal(attention.pattern, RandomAttention(DIM, HEADS, LONGEST, seen, seed).pattern)
    assert all(len(set(row)) == seen + 1 and row[0] == own for own, row in enumerate(attention.pattern.tolist()))
    whole = torch.zeros(LONGEST, LONGEST, dtype=torch.bool).scatter(1, attention.pattern, True)
    wanted = masked(attention, tokens, mask, whole[: shape[1], : shape[1]])
    torch.testing.assert_close(attention(tokens, mask)[mask], wanted[mask])


def test_other_seeds_draw_other_patterns():
    assert not torch.equal(RandomAttention(8, 2, 9, 3, 0).pattern, RandomAttention(8, 2, 9, 3, 1).pattern)


@given(shape=shapes, rank=st.integers(1, LONGEST))
@settings(max_examples=40, deadline=None)
def test_low_rank_is_the_formula_of_linformer(shape, rank):
    tokens, mask = drawn(shape)
    made = LowRankAttention(DIM, HEADS, LONGEST, rank)
    wanted = []
    for sample, real in zip(tokens, mask, strict=True):
        query = made.query(sample)
        key = made.mix_e.weight[:, : shape[1]][:, real] @ (sample[real] @ made.key.weight.T) + made.key.bias
        value = made.mix_f.weight[:, : shape[1]][:, real] @ (sample[real] @ made.value.weight.T)
        value = value + made.value.bias
        parts = zip(*(wide.chunk(HEADS, dim=1) for wide in (query, key, value)), strict=True)
        heads = [torch.softmax(q @ k.T / math.sqrt(DIM // HEADS), dim=1) @ v for q, k, v in parts]
        wanted.append(made.out(torch.cat(heads, dim=1)))
    torch.testing.assert_close(made(tokens, mask), torch.stack(wanted))


@given(count=st.integers(1, 3), blocks=st.integers(1, 4), block=st.integers(1, 6), seed=st.integers(0, 2**16))
@settings(max_examples=30, deadline=None)
def test_hierarchies_are_a_loop_over_blocks(count, blocks, block, seed):
    tokens, mask = drawn((count, blocks * block, seed))
    made = HierarchicalAttention(DIM, HEADS, block)
    within, across = of_torch(made.within), of_torch(made.across)
    for sample, real, found in zip(tokens, mask, made(tokens, mask), strict=True):
        parts, means = [], []
        for start in range(0, blocks * block, block):
            part, here = sample[start : start + block], real[start : start + block]
            if not here.any():
                continue
            normed = made.norm(part[here])[None]
            parts.append(part[here] + within(normed, normed, normed)[0][0])
            means.append(parts[-1].mean(dim=0))
        normed = made.across_norm(torch.stack(means))[None]
        answers = across(normed, normed, normed)[0][0]
        wanted = torch.cat([part + answer for part, answer in zip(parts, answers, strict=True)])
        torch.testing.assert_close(found[real], wanted)


def test_two_modalities_ask_each_other():
    made = TwoWayAttention((DIM, 6), HEADS)
    for count, first_length, second_length in ((1, 4, 7), (3, 6, 1)):
        first, first_mask = drawn((count, first_length, 0))
        second, second_mask = drawn((count, second_length, 1), 6)
        one, other = made.first_norm(first), made.second_norm(second)
        found = made(first, second, first_mask, second_mask)
        asked = of_torch(made.first_asks)(one, other, other, key_padding_mask=~second_mask)[0]
        torch.testing.assert_close(found[0], first + asked)
        asked = of_torch(made.second_asks)(other, one, one, key_padding_mask=~first_mask)[0]
        torch.testing.assert_close(found[1], second + asked)
        changed = made(torch.where(first_mask[..., None], first, 9.0), second, first_mask, second_mask)
        assert torch.equal(changed[1], found[1])


def test_each_of_three_modalities_asks_the_two_others():
    dims = (DIM, 6, 4)
    made = ThreeWayAttention(dims, HEADS)
    for count, lengths in ((1, (3, 5, 2)), (2, (4, 1, 6))):
        given_ = [drawn((count, length, index), dims[index]) for index, length in enumerate(lengths)]
        tokens, masks = zip(*given_, strict=True)
        names = ("first_mask", "second_mask", "third_mask")
        normed = [norm(one) for norm, one in zip(made.norms, tokens, strict=True)]
        for asking, found in enumerate(made(*tokens, **dict(zip(names, masks, strict=True)))):
            wanted = tokens[asking]
            for asked in {0, 1, 2} - {asking}:
                other = of_torch(made.asks[f"{asking}_{asked}"])
                wanted = wanted + other(normed[asking], normed[asked], normed[asked], key_padding_mask=~masks[asked])[0]
            torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Attention(8, 3), "3 heads of a width of 8"),
        (lambda: Attention(8, 2)(torch.zeros(1, 2, 7)), "tokens of [1, 2, 7]: made for [N, L, 8]"),
        (lambda: Attention(8, 2, 6)(torch.zeros(1, 2, 8), torch.zeros(1, 2, 8)), "context of [1, 2, 8]"),
        (lambda: DecoderLayer(8, 2)(torch.zeros(1, 2, 8), torch.zeros(1, 2, 8)), "made with context_dim"),
        (lambda: WindowAttention(8, 2, 4), "a window of 4: an odd number"),
        (lambda: WindowAttention(8, 2, 3)(torch.zeros(2, 8), torch.ones(2)), "tokens of [2, 8]"),
        (lambda: BlockAttention(8, 2, 0), "blocks of 0 tokens"),
        (lambda: BlockAttention(8, 2, 4)(torch.zeros(1, 6, 8), torch.ones(1, 6)), "6 tokens in blocks of 4: fill up"),
        (lambda: RandomAttention(8, 2, 4, 4), "4 others of 4 tokens: from 0 to 3"),
        (lambda: RandomAttention(8, 2, 4, 1)(torch.zeros(1, 5, 8), torch.ones(1, 5)), "5 tokens: made for at most 4"),
        (lambda: LowRankAttention(8, 2, 4, 5), "a rank of 5 for 4 tokens"),
        (lambda: LowRankAttention(8, 2, 4, 2)(torch.zeros(1, 5, 8), torch.ones(1, 5)), "5 tokens: made for at most 4"),
    ],
)
def test_use_outside_its_shapes_is_one_sentence(make, says):
    with pytest.raises(ValueError) as caught:
        make()
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
