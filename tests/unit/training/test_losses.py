"""Losses against what their formulas give by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmdeploy.core.errors import DataError, TrainingError
from mmdeploy.training.losses import divergence, loss, relative_error
from mmdeploy.training.options import TrainingOptions

RANDOM = np.random.default_rng(3)


def softmax(scores):
    raised = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_divergence_and_its_gradient_are_those_of_hinton_2015(temperature):
    student, teacher = RANDOM.standard_normal((2, 5, 7))
    scores = torch.tensor(student, dtype=torch.float32, requires_grad=True)
    value = divergence(scores, torch.tensor(teacher, dtype=torch.float32), temperature)
    value.backward()
    given_, wanted = softmax(student / temperature), softmax(teacher / temperature)
    by_hand = temperature**2 * (wanted * (np.log(wanted) - np.log(given_))).sum(axis=1).mean()
    assert value.item() == pytest.approx(by_hand, rel=1e-5)
    np.testing.assert_allclose(scores.grad.numpy(), temperature * (given_ - wanted) / 5, atol=1e-6)


def test_divergence_of_scores_a_token_is_the_mean_over_tokens():
    student, teacher = torch.tensor(RANDOM.standard_normal((2, 3, 4, 6)), dtype=torch.float32)
    whole = divergence(student, teacher, 2.0)
    tokens = [divergence(student[:, index], teacher[:, index], 2.0) for index in range(4)]
    assert whole.item() == pytest.approx(torch.stack(tokens).mean().item(), rel=1e-5)


def test_relative_error_and_its_gradient_are_the_formula():
    student, teacher = RANDOM.standard_normal((2, 4, 3, 5))
    values = torch.tensor(student, dtype=torch.float32, requires_grad=True)
    error = relative_error(values, torch.tensor(teacher, dtype=torch.float32))
    error.backward()
    power = (teacher**2).sum(axis=(1, 2), keepdims=True)
    assert error.item() == pytest.approx((((student - teacher) ** 2) / power).sum() / 4, rel=1e-5)
    np.testing.assert_allclose(values.grad.numpy(), 2 * (student - teacher) / power / 4, rtol=1e-4, atol=1e-6)


def test_an_all_zero_embedding_gives_a_finite_error():
    assert torch.isfinite(relative_error(torch.zeros(2, 3), torch.zeros(2, 3)))


@given(st.integers(1, 9))
def test_the_loss_of_a_batch_is_the_weighted_mean_of_its_parts(cut):
    student, teacher = torch.tensor(np.random.default_rng(cut).standard_normal((2, 10, 4)), dtype=torch.float32)
    for function in (lambda one, other: divergence(one, other, 3.0), relative_error):
        whole = function(student, teacher)
        parts = function(student[:cut], teacher[:cut]) * cut + function(student[cut:], teacher[cut:]) * (10 - cut)
        assert whole.item() == pytest.approx(parts.item() / 10, rel=1e-4)


def setup(teacher, *, compares_scores=True):
    return SimpleNamespace(
        scored_outputs=("logits",),
        component_outputs=("embedding",),
        compares_scores=compares_scores,
        teacher=lambda feeds: teacher,
        task_loss=lambda outputs, labels: torch.tensor(10.0),
    )


def tensors(seed):
    random = torch.Generator().manual_seed(seed)
    return {"logits": torch.randn(6, 3, generator=random), "embedding": torch.randn(6, 8, generator=random)}


@pytest.mark.parametrize(("kind", "terms"), [("task", "t"), ("distill", "de"), ("both", "tde")])
def test_the_terms_that_the_recipe_asks_for_are_added(kind, terms):
    student, teacher = tensors(1), tensors(2)
    options = TrainingOptions(loss=kind, temperature=2.0, logits_weight=0.5, embedding_weight=3.0)
    value = loss(student, {}, torch.zeros(6), setup=setup(teacher), options=options)
    parts = {
        "t": 10.0,
        "d": 0.5 * divergence(student["logits"], teacher["logits"], 2.0).item(),
        "e": 3.0 * relative_error(student["embedding"], teacher["embedding"]).item(),
    }
    assert value.item() == pytest.approx(sum(parts[term] for term in terms), rel=1e-5)


def test_regression_outputs_are_compared_by_their_relative_error():
    student, teacher = tensors(1), tensors(2)
    options = TrainingOptions(loss="distill", embedding_weight=0)
    value = loss(student, {}, None, setup=setup(teacher, compares_scores=False), options=options)
    assert value.item() == pytest.approx(relative_error(student["logits"], teacher["logits"]).item())


def test_a_head_that_writes_the_scored_output_is_compared_once():
    student, teacher = tensors(1), tensors(2)
    around = setup(teacher)
    around.component_outputs = ("logits",)
    value = loss(student, {}, None, setup=around, options=TrainingOptions(loss="distill", temperature=2.0))
    assert value.item() == pytest.approx(divergence(student["logits"], teacher["logits"], 2.0).item())


def test_shapes_that_differ_from_the_original_are_named():
    student = tensors(1) | {"embedding": torch.zeros(6, 4)}
    with pytest.raises(TrainingError, match=r"'embedding' is \[6, 4\], but \[6, 8\]"):
        loss(student, {}, torch.zeros(6), setup=setup(tensors(2)), options=TrainingOptions(loss="distill"))


def test_the_task_loss_asks_for_labels():
    with pytest.raises(DataError, match="needs labels"):
        loss(tensors(1), {}, None, setup=setup(tensors(2)), options=TrainingOptions(loss="task"))
