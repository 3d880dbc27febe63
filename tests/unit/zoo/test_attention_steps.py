"""Merged tokens, rotated patches, reused keys, learned queries and gates, against loops, transformers and torch."""

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel
from transformers.models.idefics.perceiver import IdeficsPerceiverAttention

from mmdeploy.export.torchlib import read_once
from mmdeploy.zoo.attention.gated import GatedDecoder
from mmdeploy.zoo.attention.heads import DecoderLayer, attend, causal
from mmdeploy.zoo.attention.merging import TokenMerging, merge
from mmdeploy.zoo.attention.resampling import PerceiverResampler, QFormer
from mmdeploy.zoo.attention.reuse import FixedReuse, GrowingReuse
from mmdeploy.zoo.attention.rotary import RotaryAttention, axial_angles

DIM, HEADS = 8, 2


@pytest.fixture(autouse=True)
def _same_weights():
    torch.manual_seed(0)


def merged_in_a_loop(tokens, sizes, likeness, going):
    """What the paper says, a token at a time: a set of tokens each, whose weighed mean is taken at the end."""
    unit = likeness / np.linalg.norm(likeness, axis=1, keepdims=True)
    evens, odds = range(0, len(tokens), 2), range(1, len(tokens), 2)
    edges = {even: max((float(unit[even] @ unit[odd]), odd) for odd in odds) for even in evens} if going else {}
    order = sorted(edges, key=lambda even: -edges[even][0])
    groups = {odd: [odd] for odd in odds}
    for even in order[:going]:
        groups[edges[even][1]].append(even)
    staying = [(even,) for even in order[going:]] if going else [(even,) for even in evens]
    means, counts = [], []
    for group in (*staying, *groups.values()):
        weights = sizes[list(group)]
        means.append((tokens[list(group)] * weights[:, None]).sum(0) / weights.sum())
        counts.append(weights.sum())
    return np.stack(means), np.array(counts)


@given(count=st.integers(1, 3), length=st.integers(2, 15), share=st.floats(0, 1), seed=st.integers(0, 2**16))
@settings(max_examples=40, deadline=None)
def test_merging_is_the_papers_loop(count, length, share, seed):
    generator = torch.Generator().manual_seed(seed)
    going = max(1, int(share * (length // 2)))
    tokens, likeness = torch.randn(2, count, length, 5, generator=generator)
    sizes = torch.randint(1, 4, (count, length), generator=generator).float()
    for add in ("scatter", "product"):
        found, counts = merge(tokens, sizes, likeness, going, add)
        for index in range(count):
            given_ = (part[index].numpy() for part in (tokens, sizes, likeness))
            wanted, wanted_counts = merged_in_a_loop(*given_, going)
            np.testing.assert_allclose(found[index].numpy(), wanted, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(counts[index].numpy(), wanted_counts, rtol=1e-6)


def test_a_merged_token_is_attended_to_like_all_that_it_stands_for():
    made = TokenMerging(DIM, HEADS, 0)
    tokens = torch.randn(2, 5, DIM)
    sizes = torch.tensor([[1.0, 3, 1, 2, 1]] * 2)
    found, counts = made(tokens, sizes)
    each = [1, 3, 1, 2, 1]
    whole = tokens.repeat_interleave(torch.tensor(each), dim=1)
    wanted = (whole + made.attention(made.norm(whole)))[:, [0, 1, 4, 5, 7]]
    order = torch.tensor([1, 3])
    torch.testing.assert_close(found[:, -2:], wanted[:, order])
    assert counts.sum(dim=1).tolist() == [8, 8]


def test_torch_onnx_overwrites_where_scatter_reduce_takes_the_mean():
    """Why merging adds and divides: when this fails, the exporter has learned it."""

    class Mean(nn.Module):
        def forward(self, given, places):
            return torch.zeros_like(given[:, :2]).scatter_reduce(1, places, given, "mean", include_self=False)

    feed = (torch.tensor([[1.0, 2, 3, 4]]), torch.tensor([[0, 0, 1, 1]]))
    read_once()
    graph = torch.onnx.export(Mean().eval(), feed, dynamo=True, verbose=False).model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    answer = session.run(None, {"given": feed[0].numpy(), "places": feed[1].numpy()})[0]
    assert Mean()(*feed).tolist() == [[1.5, 3.5]]
    assert answer.tolist() == [[2.0, 4.0]]


def test_rotations_in_real_numbers_are_those_in_complex_ones():
    real = RotaryAttention(DIM, HEADS, (4, 5))
    other = RotaryAttention(DIM, HEADS, (4, 5), "complex")
    other.load_state_dict(real.state_dict())
    for shape in ((1, 4, 5), (3, 2, 3), (2, 1, 1)):
        patches = torch.randn(*shape, DIM)
        torch.testing.assert_close(real(patches), other(patches))


def test_rotated_scores_are_those_of_the_paper_and_depend_on_distance_alone():
    """Pair i of an axis turns by place * base ** (-i / pairs); moving both patches changes no score."""
    angles = axial_angles((5, 6), 8, 100.0)
    for row, column in ((0, 0), (3, 1), (4, 5)):
        wanted = [row * 1.0, row * 0.1, column * 1.0, column * 0.1]
        torch.testing.assert_close(angles[row, column], torch.tensor(wanted, dtype=torch.float64))
    query, key = torch.randn(2, 4, dtype=torch.complex128)
    turned = torch.polar(torch.ones_like(angles), angles)

    def score(one, other):
        return float((query * turned[one] * (key * turned[other]).conj()).sum().real)

    assert score((1, 2), (3, 1)) == pytest.approx(score((2, 5), (4, 4)))
    assert score((1, 2), (3, 1)) != pytest.approx(score((1, 2), (3, 2)))


def whole(attention, tokens):
    """The same weights over the whole sequence at once."""
    split = attention.split
    parts = (split(layer(tokens)) for layer in (attention.query, attention.key, attention.value))
    return attention.join(attend(*parts, causal(tokens)))


@pytest.mark.parametrize("pieces", [(5,), (1, 1, 1, 1, 1), (2, 3), (4, 1)])
def test_reused_keys_give_what_the_whole_sequence_gives(pieces):
    attention = GrowingReuse(DIM, HEADS)
    tokens = torch.randn(3, sum(pieces), DIM)
    keys = values = torch.full((3, 2, DIM), 7.0)  # padding, which changes nothing
    mask, found = torch.zeros(3, 2, dtype=torch.bool), []
    for piece in tokens.split(pieces, dim=1):
        answer, keys, values = attention(piece, keys, values, mask)
        mask = torch.cat([mask, torch.ones(piece.shape[:2], dtype=torch.bool)], dim=1)
        found.append(answer)
    torch.testing.assert_close(torch.cat(found, dim=1), whole(attention, tokens))


def test_sequences_in_one_batch_may_be_at_different_tokens():
    attention = FixedReuse(DIM, HEADS, 6)
    tokens = torch.randn(2, 6, DIM)
    wanted = whole(attention, tokens)
    keys = values = torch.full((2, 6, DIM), 7.0)
    late = torch.tensor([0, 2])
    for place in range(2):  # the second has a head start of two tokens
        _, ahead_keys, ahead_values = attention(tokens[:, place], keys, values, torch.tensor([place, place]))
        keys, values = (torch.cat([old[:1], new[1:]]) for old, new in ((keys, ahead_keys), (values, ahead_values)))
    for step in range(4):
        position = late + step
        answer, keys, values = attention(tokens[torch.arange(2), position], keys, values, position)
        torch.testing.assert_close(answer, wanted[torch.arange(2), position])


def test_resamplers_ask_as_those_of_idefics_do():
    made = PerceiverResampler(DIM, HEADS, 6, tokens=3, depth=2)
    for count, length in ((1, 4), (3, 9)):
        context = torch.randn(count, length, 6)
        found = made.tokens.expand(count, -1, -1)
        for layer in made.layers:
            wanted = IdeficsPerceiverAttention(DIM, HEADS, DIM // HEADS, qk_layer_norms=False).eval()
            attention = layer.attention
            pairs = {"q_proj": attention.query, "k_proj": attention.key, "v_proj": attention.value}
            pairs |= {"output_proj": attention.out, "context_layer_norm": layer.context_norm}
            for name, part in (pairs | {"latents_layer_norm": layer.norm}).items():
                setattr(wanted, name, part)
            found = found + wanted(made.entry(context), found)
            found = found + layer.mlp(found)
        real = torch.ones(count, length, dtype=torch.bool)
        torch.testing.assert_close(made(context, real), made.norm(found), rtol=1e-4, atol=1e-5)
        padded = torch.cat([context, torch.full((count, 2, 6), 30.0)], dim=1)
        mask = torch.cat([real, torch.zeros(count, 2, dtype=torch.bool)], dim=1)
        torch.testing.assert_close(made(padded, mask), made(context, real))


def names_of_blip(depth):
    """Where the parts of a Q-Former's layers are in the one of transformers."""
    for index in range(depth):
        ours, theirs = f"layers.{index}", f"encoder.layer.{index}"
        sides = [("attention", "norm", "attention")] + [("asking", "asking_norm", "crossattention")] * (index % 2 == 0)
        for own, norm, other in sides:
            for part in ("query", "key", "value"):
                yield f"{ours}.{own}.{part}", f"{theirs}.{other}.attention.{part}"
            yield f"{ours}.{own}.out", f"{theirs}.{other}.output.dense"
            yield f"{ours}.{norm}", f"{theirs}.{other}.output.LayerNorm"
        yield f"{ours}.mlp.0", f"{theirs}.intermediate_query.dense"
        yield f"{ours}.mlp.2", f"{theirs}.output_query.dense"
        yield f"{ours}.mlp_norm", f"{theirs}.output_query.LayerNorm"


def test_q_formers_are_those_of_blip_2():
    made = QFormer(DIM, HEADS, 6, queries=3, depth=3, expansion=2)
    config = Blip2QFormerConfig(
        hidden_size=DIM, num_attention_heads=HEADS, num_hidden_layers=3, intermediate_size=2 * DIM,
        encoder_hidden_size=6, cross_attention_frequency=2, attn_implementation="eager",
    )  # fmt: skip
    wanted = Blip2QFormerModel(config).eval()
    wanted.layernorm = made.norm
    for ours, theirs in names_of_blip(3):
        owner, _, leaf = theirs.rpartition(".")
        assert type(wanted.get_submodule(theirs)) is type(made.get_submodule(ours))
        setattr(wanted.get_submodule(owner), leaf, made.get_submodule(ours))
    for count, length in ((1, 5), (3, 2)):
        context, mask = torch.randn(count, length, 6), torch.ones(count, length)
        mask[:, 1:] = torch.tensor([float(index % 2) for index in range(length - 1)])
        answer = wanted(
            made.queries.expand(count, -1, -1), encoder_hidden_states=context, encoder_attention_mask=mask
        ).last_hidden_state
        torch.testing.assert_close(made(context, mask), answer, rtol=1e-4, atol=1e-5)


def decoder(dim=DIM):
    return GatedDecoder([DecoderLayer(dim, HEADS), DecoderLayer(dim, HEADS)], dim, HEADS, 6)


def test_a_decoder_with_shut_gates_answers_as_before_and_learns_by_its_gates_alone():
    made = decoder()
    tokens, context, mask = torch.randn(2, 4, DIM), torch.randn(2, 3, 6), torch.ones(2, 3)
    before = made.frozen[1](made.frozen[0](tokens))
    assert torch.equal(made(tokens, context, mask), before)
    made.train()
    assert not made.frozen.training
    assert made.gated.training
    made(tokens, context, mask).square().sum().backward()
    assert all(parameter.grad is None for parameter in made.frozen.parameters())
    assert all(float(layer.gate.grad.abs()) > 0 for layer in made.gated)


def test_open_gates_ask_as_flamingo_does():
    made = decoder()
    gated = made.gated[0]
    with torch.no_grad():
        gated.gate.fill_(0.5)
        gated.mlp_gate.fill_(-2.0)
    attention = gated.attention
    for count, length, size in ((1, 4, 3), (3, 1, 5)):
        tokens, context = torch.randn(count, length, DIM), torch.randn(count, size, 6)
        mask = torch.ones(count, size)
        mask[:, 1] = 0
        reference = nn.MultiheadAttention(DIM, HEADS, kdim=6, vdim=6, batch_first=True)
        projections = (attention.query, attention.key, attention.value)
        reference.load_state_dict(
            {f"{name}_proj_weight": part.weight for name, part in zip("qkv", projections, strict=True)}
            | {"in_proj_bias": torch.cat([part.bias for part in projections])}
            | {"out_proj.weight": attention.out.weight, "out_proj.bias": attention.out.bias}
        )
        asked = reference(gated.norm(tokens), context, context, key_padding_mask=mask == 0)[0]
        wanted = tokens + np.tanh(0.5) * asked
        wanted = wanted + np.tanh(-2.0) * gated.mlp(wanted)
        torch.testing.assert_close(gated(tokens, context, mask), wanted)


def test_a_text_without_an_image_minds_no_context():
    made = decoder()
    with torch.no_grad():
        for gated in made.gated:
            gated.gate.fill_(1.0)
    tokens, nothing = torch.randn(2, 4, DIM), torch.zeros(2, 3)
    assert torch.equal(made(tokens, torch.randn(2, 3, 6), nothing), made(tokens, torch.randn(2, 3, 6), nothing))


ONES = torch.ones(1, 4)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: TokenMerging(8, 2, 1, "mean"), "by 'scatter' or 'product'"),
        (lambda: TokenMerging(8, 2, 3)(torch.zeros(1, 4, 8), ONES), "4 tokens, of which 3 go: made for 6 or more"),
        (lambda: RotaryAttention(12, 2, (2, 2)), "heads of a width of 6: a multiple of 4"),
        (lambda: RotaryAttention(8, 2, (2, 3))(torch.zeros(1, 3, 2, 8)), "a grid of 3 x 2: made for at most 2 x 3"),
        (lambda: RotaryAttention(8, 2, (2, 3))(torch.zeros(1, 3, 8)), "patches of [1, 3, 8]"),
        (
            lambda: GrowingReuse(8, 2)(*[torch.zeros(1, 2, 8)] * 2, torch.zeros(1, 2, 7), ONES),
            "past_values of [1, 2, 7]",
        ),
        (lambda: FixedReuse(8, 2, 0), "room for 0 tokens"),
        (
            lambda: FixedReuse(8, 2, 4)(torch.zeros(1, 8), *[torch.zeros(1, 3, 8)] * 2, torch.zeros(1).long()),
            "past_keys of 3 tokens: made for 4",
        ),
        (lambda: PerceiverResampler(8, 2, 6, 0, 1), "0 learned tokens and 1 layers"),
        (lambda: PerceiverResampler(8, 2, 6, 1, 1)(torch.zeros(1, 4, 8), ONES), "context of [1, 4, 8]"),
        (lambda: QFormer(8, 2, 6, 2, 0), "2 learned tokens and 0 layers"),
        (lambda: GatedDecoder([], 8, 2, 6), "a decoder of 0 layers"),
        (lambda: decoder()(torch.zeros(1, 4, 7), torch.zeros(1, 4, 6), ONES), "tokens of [1, 4, 7]"),
    ],
)
def test_use_outside_its_shapes_is_one_sentence(make, says):
    with pytest.raises(ValueError) as caught:
        make()
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
