"""Attention separated into linear layers answers as PyTorch's own, and its weights find the way back."""

import copy

import pytest
import torch
from torch import nn

from mmdeploy.quantize import qat_attention

SEQUENCES = {"batch_first": {"batch_first": True}, "time_first": {}}
KINDS = {
    "packed": {},
    "no bias": {"bias": False},
    "own widths": {"kdim": 10, "vdim": 6},
}


def attention(**changes) -> nn.MultiheadAttention:
    torch.manual_seed(4)
    made = nn.MultiheadAttention(8, 2, **changes).eval()
    for parameter in made.parameters():
        nn.init.uniform_(parameter, -0.5, 0.5)
    return made


def tokens(original: nn.MultiheadAttention, batch: int = 3) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(5)
    shape = (batch, 5) if original.batch_first else (5, batch)
    other = (batch, 4) if original.batch_first else (4, batch)
    return torch.randn(*shape, 8), torch.randn(*other, original.kdim), torch.randn(*other, original.vdim)


def assert_same(found, wanted) -> None:
    torch.testing.assert_close(found[0], wanted[0], atol=1e-6, rtol=1e-5)
    assert (found[1] is None) == (wanted[1] is None)
    if wanted[1] is not None:
        torch.testing.assert_close(found[1], wanted[1], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", SEQUENCES)
@pytest.mark.parametrize("weights", [{}, {"need_weights": False}, {"average_attn_weights": False}])
def test_it_answers_as_the_original(kind, order, weights):
    original = attention(**KINDS[kind], **SEQUENCES[order])
    given = tokens(original)
    assert_same(qat_attention.separate(original)(*given, **weights), original(*given, **weights))


@pytest.mark.parametrize("order", SEQUENCES)
@pytest.mark.parametrize("form", ["one for all", "one a head"])
@pytest.mark.parametrize("boolean", [True, False])
def test_masks_hide_what_they_hide_in_the_original(order, form, boolean):
    original = attention(**SEQUENCES[order])
    hidden = torch.rand((5, 4) if form == "one for all" else (3 * 2, 5, 4)) < 0.3
    hidden[..., 0] = False
    padding = torch.tensor([[False, False, True, False], [False] * 4, [False, True, True, True]])
    if boolean:
        masks = {"attn_mask": hidden, "key_padding_mask": padding}
    else:
        masks = {
            "attn_mask": torch.randn(hidden.shape),
            "key_padding_mask": torch.zeros(padding.shape).masked_fill(padding, float("-inf")),
        }
    given = tokens(original)
    assert_same(qat_attention.separate(original)(*given, **masks), original(*given, **masks))


def test_a_causal_mask_and_a_sequence_without_batch():
    original = attention()
    alone = torch.randn(5, 8)
    mask = nn.Transformer.generate_square_subsequent_mask(5)
    given = {"attn_mask": mask, "is_causal": True}
    assert_same(qat_attention.separate(original)(alone, alone, alone, **given), original(alone, alone, alone, **given))


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_packed_where_they_came_from(kind):
    original = attention(**KINDS[kind])
    separated = qat_attention.separate(original)
    with torch.no_grad():
        for number, parameter in enumerate(separated.parameters()):
            parameter.add_(torch.randn_like(parameter) + number)
    filled = copy.deepcopy(original)
    qat_attention.pack(separated, filled)
    given = tokens(original)
    assert_same(filled(*given), separated(*given))
    for projection in (*qat_attention.PROJECTIONS, qat_attention.OUTPUT):
        parameter, rows = qat_attention.place(separated, projection)
        weight = filled.get_parameter(parameter)
        part = weight if rows is None else weight[slice(*rows)]
        assert torch.equal(part, getattr(separated, projection).weight)


def test_dropout_is_at_work_in_training_only():
    original = attention(dropout=0.5)
    separated, given = qat_attention.separate(original), tokens(original)
    assert torch.equal(separated(*given)[0], separated(*given)[0])
    separated.train()
    assert not torch.equal(separated(*given)[0], separated(*given)[0])


def test_what_cannot_be_separated_is_said():
    class Own(nn.MultiheadAttention):
        def forward(self, *given, **named):
            return super().forward(*given, **named)

    assert "forward" in str(qat_attention.unsupported(Own(8, 2)))
    assert "add_bias_kv" in str(qat_attention.unsupported(nn.MultiheadAttention(8, 2, add_bias_kv=True)))
    assert "add_zero_attn" in str(qat_attention.unsupported(nn.MultiheadAttention(8, 2, add_zero_attn=True)))
    assert qat_attention.unsupported(nn.MultiheadAttention(8, 2)) is None
