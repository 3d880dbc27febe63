"""Mixtures of experts against a loop over tokens, in every form, and the loss that is not served."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdeploy.zoo.experts.mixture import DenseExperts, GatheredExperts, SelectedExperts
from mmdeploy.zoo.experts.routing import Router, balance_loss, gates

DIM, MODALITIES = 6, 3


@pytest.fixture(autouse=True)
def _same_weights():
    torch.manual_seed(0)


def mixture(experts, chosen, hidden=None, kind=DenseExperts):
    torch.manual_seed(0)
    return kind(DIM, 10, experts, Router(DIM, experts, chosen, MODALITIES, hidden)).eval()


def drawn(count, length, seed):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(count, length, DIM, generator=generator)
    return tokens, torch.randint(MODALITIES, (count, length), generator=generator)


def looped(made, tokens, modality):
    """One token, one expert at a time, as the papers have it."""
    answers = torch.empty_like(tokens)
    for index in range(tokens.shape[0]):
        for place in range(tokens.shape[1]):
            token = tokens[index, place]
            scores = made.router.score(token) + made.router.modality.weight[modality[index, place]]
            probabilities = [math.exp(float(score)) for score in scores]
            order = sorted(range(len(probabilities)), key=lambda expert: -probabilities[expert])[: made.router.chosen]
            whole = sum(probabilities[expert] for expert in order)
            answers[index, place] = sum(made.experts[e](token) * (probabilities[e] / whole) for e in order)
    return answers


@given(
    count=st.integers(1, 3), length=st.integers(1, 5), experts=st.integers(1, 5), part=st.floats(0, 1),
    hidden=st.sampled_from([None, 4]), seed=st.integers(0, 2**16),
)  # fmt: skip
@settings(max_examples=30, deadline=None)
def test_all_forms_are_the_loop(count, length, experts, part, hidden, seed):
    made = mixture(experts, 1 + int(part * (experts - 1)), hidden)
    tokens, modality = drawn(count, length, seed)
    wanted = looped(made, tokens, modality)
    torch.testing.assert_close(made(tokens, modality), wanted)
    torch.testing.assert_close(GatheredExperts(made)(tokens, modality), wanted)
    selected = mixture(experts, made.router.chosen, hidden, SelectedExperts)
    torch.testing.assert_close(selected(tokens, modality), wanted)


def test_a_modality_alone_can_decide():
    made = mixture(3, 1)
    with torch.no_grad():
        made.router.modality.weight.copy_(100 * torch.eye(3))
    tokens, modality = drawn(2, 7, 0)
    for number, expert in enumerate(made.experts):
        own = modality == number
        torch.testing.assert_close(made(tokens, modality)[own], expert(tokens[own]))


def test_the_loss_of_balance_stays_out_of_what_is_served():
    made = mixture(4, 2)
    tokens, modality = drawn(2, 5, 0)
    served = made(tokens, modality)
    assert isinstance(served, torch.Tensor)
    answer, loss = made.balanced(tokens, modality)
    assert torch.equal(answer, served)
    probabilities = made.router.probabilities(tokens, modality)
    _, number = made.router(tokens, modality)
    used = torch.bincount(number.flatten(), minlength=4) / number.numel()
    likely = probabilities.flatten(0, 1).mean(dim=0)
    torch.testing.assert_close(loss, 4 * sum(share * p for share, p in zip(used, likely, strict=True)))
    loss.backward()
    assert float(made.router.score.weight.grad.abs().sum()) > 0


def test_the_loss_is_1_when_all_experts_work_alike_and_their_number_when_one_does_all():
    number = torch.arange(4).reshape(1, 4, 1)
    torch.testing.assert_close(balance_loss(torch.full((1, 4, 4), 0.25), number), torch.tensor(1.0))
    one = torch.tensor([[[1.0, 0, 0, 0]] * 4])
    torch.testing.assert_close(balance_loss(one, torch.zeros_like(number)), torch.tensor(4.0))
    mask = torch.tensor([[1, 1, 1, 0]])
    uneven = torch.cat([one[:, :3], torch.full((1, 1, 4), 0.25)], dim=1)
    numbers = torch.tensor([[[0], [0], [0], [3]]])
    torch.testing.assert_close(balance_loss(uneven, numbers, mask), torch.tensor(4.0))


def test_the_loss_spreads_tokens_over_experts():
    made = mixture(4, 1)
    with torch.no_grad():
        made.router.score.bias.copy_(torch.tensor([2.0, 0, 0, 0]))
    tokens, modality = drawn(4, 32, 0)

    def used():
        return torch.bincount(made.router(tokens, modality)[1].flatten(), minlength=4)

    before = int(used().max())
    optimizer = torch.optim.Adam(made.router.parameters(), 0.02)
    for _ in range(100):
        optimizer.zero_grad()
        made.balanced(tokens, modality)[1].backward()
        optimizer.step()
    assert before > 90
    assert int(used().max()) < 60


def test_gates_are_shares_at_their_experts():
    share, number = torch.tensor([[[0.7, 0.3]]]), torch.tensor([[[2, 0]]])
    torch.testing.assert_close(gates(share, number, 4), torch.tensor([[[0.3, 0, 0.7, 0]]]))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Router(DIM, 3, 4, 2), "4 of 3 experts chosen: from 1 to 3"),
        (lambda: DenseExperts(DIM, 8, 4, Router(DIM, 3, 1, 2)), "4 experts and a router for 3"),
        (lambda: mixture(3, 1)(torch.zeros(2, DIM), torch.zeros(2).long()), "tokens of [2, 6]"),
        (
            lambda: GatheredExperts(mixture(3, 1))(torch.zeros(1, 2, DIM), torch.zeros(1, 3).long()),
            "tokens of [1, 2, 6], modalities of [1, 3]",
        ),
    ],
)
def test_use_outside_its_shapes_is_one_sentence(make, says):
    with pytest.raises(ValueError) as caught:
        make()
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
