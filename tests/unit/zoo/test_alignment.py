"""Contrastive heads, canonical correlation, zero-shot tables and captions, against transformers, scikit-learn and
loops."""

import numpy as np
import pytest
import torch
from sklearn.cross_decomposition import CCA
from torch import nn
from transformers.models.clip.modeling_clip import image_text_contrastive_loss

from mmdeploy.zoo.alignment.captions import CaptionDecoder, GreedyCaptions
from mmdeploy.zoo.alignment.contrastive import AlignHead, ClipHead
from mmdeploy.zoo.alignment.correlation import Cca, DeepCca, correlation_loss
from mmdeploy.zoo.alignment.zero_shot import ZeroShotTable


@pytest.fixture(autouse=True)
def _same_weights():
    torch.manual_seed(0)


def cosines(first, second):
    return np.array([[one @ other / np.linalg.norm(one) / np.linalg.norm(other) for other in second] for one in first])


@pytest.mark.parametrize("count", [1, 5])
def test_clip_heads_give_the_logits_of_pairs_and_the_loss_of_clip(count):
    made = ClipHead((6, 4), 8)
    first, second = torch.randn(count, 6), torch.randn(count, 4)
    one, other, logit = made(first, second)
    table = cosines(made.first(first).detach().numpy(), made.second(second).detach().numpy()) / 0.07
    np.testing.assert_allclose(logit.detach().numpy(), np.diag(table), rtol=1e-4, atol=1e-5)
    for unit in (one, other):
        torch.testing.assert_close(unit.norm(dim=1), torch.ones(count))
    wanted = image_text_contrastive_loss(torch.from_numpy(table).float())
    torch.testing.assert_close(made.loss(first, second), wanted, rtol=1e-4, atol=1e-5)


def test_the_scale_of_clip_is_learned_and_ends_at_100():
    made = ClipHead((6, 4), 8)
    made.loss(torch.randn(5, 6), torch.randn(5, 4)).backward()
    assert float(made.log_scale.grad.abs()) > 0
    with torch.no_grad():
        made.log_scale.fill_(9.0)
    assert float(made.scale().detach()) == pytest.approx(100.0)


def test_align_heads_divide_by_a_temperature_and_smooth_labels():
    made = AlignHead((6, 4), 8, temperature=0.5)
    first, second = torch.randn(5, 6), torch.randn(5, 4)
    table = (
        torch.from_numpy(cosines(made.first(first).detach().numpy(), made.second(second).detach().numpy())).float()
        / 0.5
    )
    torch.testing.assert_close(made(first, second)[2], table.diagonal(), rtol=1e-4, atol=1e-5)
    wanted = 0.0
    for side in (table, table.T):
        chances = side.log_softmax(dim=1)
        wanted += -(0.9 * chances.diagonal() + 0.1 * chances.mean(dim=1)).mean() / 2
    made.loss(first, second).backward()
    torch.testing.assert_close(made.loss(first, second), wanted, rtol=1e-4, atol=1e-5)
    assert float(made.temperature.grad.abs()) > 0


def test_zero_shot_tables_are_the_cosine_to_the_mean_of_prompts():
    prompts = [torch.randn(count, 6) for count in (1, 3, 2)]
    made = ZeroShotTable(prompts, 20.0)
    means = [np.mean([row / np.linalg.norm(row) for row in rows.numpy()], axis=0) for rows in prompts]
    for count in (1, 4):
        embedding = torch.randn(count, 6)
        np.testing.assert_allclose(
            made(embedding).detach(), 20 * cosines(embedding.numpy(), means), rtol=1e-4, atol=1e-4
        )


def two_views(samples=400, seed=0):
    """Two modalities that share two causes, one more strongly."""
    generator = np.random.default_rng(seed)
    cause = generator.standard_normal((samples, 2))
    first = np.hstack(
        [cause + [0.3, 0.8] * generator.standard_normal((samples, 2)), generator.standard_normal((samples, 3))]
    )
    second = np.hstack(
        [cause[:, ::-1] + 0.5 * generator.standard_normal((samples, 2)), generator.standard_normal((samples, 2))]
    )
    first, second = (view @ generator.standard_normal((view.shape[1],) * 2) + 3 for view in (first, second))
    return torch.from_numpy(first).float(), torch.from_numpy(second).float()


def test_cca_is_that_of_scikit_learn():
    first, second = two_views()
    made = Cca((5, 4), 3).fit(first, second)
    wanted = CCA(n_components=3, max_iter=5000, tol=1e-10).fit(first.numpy(), second.numpy())
    found = [side.detach().numpy() for side in made(first, second)]
    theirs = wanted.transform(first.numpy(), second.numpy())
    for component in range(3):
        correlation = np.corrcoef(theirs[0][:, component], theirs[1][:, component])[0, 1]
        assert float(made.correlations[component]) == pytest.approx(correlation, abs=2e-4)
        for own, other in zip(found, theirs, strict=True):
            assert abs(np.corrcoef(own[:, component], other[:, component])[0, 1]) > 0.9999
    for own in found:
        np.testing.assert_allclose(own.mean(axis=0), 0, atol=1e-4)
        np.testing.assert_allclose(np.cov(own.T), np.eye(3), atol=1e-4)
    np.testing.assert_allclose(np.corrcoef(found[0].T, found[1].T)[:3, 3:], np.diag(made.correlations), atol=1e-4)


def test_the_loss_of_deep_cca_is_minus_the_sum_of_correlations():
    first, second = two_views()
    wanted = Cca((5, 4), 2).fit(first, second).correlations.sum()
    torch.testing.assert_close(correlation_loss(first, second, 2, ridge=0.0), -wanted)
    views = [view.double()[:50].requires_grad_() for view in (first, second)]
    assert torch.autograd.gradcheck(lambda one, other: correlation_loss(one, other, 2), views)


def test_deep_cca_finds_what_is_not_linear():
    """The second modality has the square of the first's cause: no line through it."""
    generator = torch.Generator().manual_seed(0)
    cause, noise = torch.randn(2, 600, 1, generator=generator)
    first = torch.cat([cause, noise], dim=1)
    second = torch.cat([cause**2, torch.randn(600, 1, generator=generator)], dim=1)
    networks = [nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2)) for _ in range(2)]
    made = DeepCca(*networks, (2, 2), 1)
    assert float(Cca((2, 2), 1).fit(first, second).correlations) < 0.2
    optimizer = torch.optim.Adam(made.parameters(), 0.02)
    for _ in range(120):
        optimizer.zero_grad()
        made.loss(first[:400], second[:400]).backward()
        optimizer.step()
    one, other = made.fit(first[:400], second[:400])(first[400:], second[400:])
    assert np.corrcoef(one[:, 0].detach(), other[:, 0].detach())[0, 1] > 0.8


def decoder(length=6, vocabulary=9):
    torch.manual_seed(0)
    made = CaptionDecoder(vocabulary, length, 8, 2, 5, depth=2).eval()
    with torch.no_grad():
        made.head.weight.mul_(4)  # so that captions differ and some of them end
        made.places.mul_(50)
    return made


def described(made, context, start, end):
    """The plain loop: the whole of what there is so far, decoded anew for one sample at a time until it ends."""
    tokens, scores = [start], []
    while len(scores) < len(made.places):
        chances = made(torch.tensor([tokens]), context[None], torch.ones(1, len(context)))[0, -1].log_softmax(dim=0)
        tokens.append(int(chances.argmax()))
        scores.append(float(chances.max()))
        if tokens[-1] == end:
            break
    lacking = len(made.places) - len(scores)
    return tokens[1:] + [end] * lacking, scores + [0.0] * lacking


def test_captions_are_those_of_a_loop_whose_sequence_grows():
    made = decoder()
    ended = set()
    for end in range(4):
        captions = GreedyCaptions(made, start=1, end=end)
        for count, length in ((1, 3), (8, 5)):
            context = torch.randn(count, length, 5)
            mask = torch.arange(length)[None] < torch.randint(1, length + 1, (count, 1))
            tokens, scores = captions(torch.where(mask[..., None], context, 40.0), mask)
            for index in range(count):
                wanted = described(made, context[index][mask[index]], 1, end)
                assert tokens[index].tolist() == wanted[0]
                np.testing.assert_allclose(scores[index].detach(), wanted[1], rtol=1e-4, atol=1e-4)
                ended.add(wanted[0].index(end) if end in wanted[0] else None)
    assert len(ended) > 2


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ClipHead((6, 4), 8)(torch.zeros(2, 6), torch.zeros(2, 5)), "second of [2, 5]: made for [N, 4]"),
        (lambda: ClipHead((6, 4), 8).loss(torch.zeros(2, 6), torch.zeros(3, 4)), "2 of the first and 3 of the second"),
        (lambda: AlignHead((6, 4), 8, 0.0), "a temperature of 0.0: above 0"),
        (lambda: ZeroShotTable([]), "one or more classes"),
        (lambda: ZeroShotTable([torch.ones(2, 3), torch.ones(2, 4)]), "one width"),
        (lambda: ZeroShotTable([torch.ones(2, 3)])(torch.ones(3)), "an embedding of [3]: made for [N, 3]"),
        (lambda: Cca((3, 2), 3), "3 components of widths (3, 2): from 1 to 2"),
        (lambda: Cca((3, 2), 1).fit(torch.randn(4, 3), torch.randn(5, 2)), "4 samples of the first, 5 of the second"),
        (lambda: Cca((3, 2), 1).fit(torch.ones(9, 3), torch.randn(9, 2)), "features of the first are constant"),
        (lambda: Cca((3, 2), 1)(torch.ones(9, 3), torch.randn(9, 3)), "second of [9, 3]: made for [N, 2]"),
        (lambda: CaptionDecoder(9, 0, 8, 2, 5, depth=1), "9 tokens, 0 long, 1 layers"),
        (
            lambda: decoder()(torch.zeros(1, 7).long(), torch.zeros(1, 2, 5), torch.ones(1, 2)),
            "7 tokens: made for at most 6",
        ),
        (lambda: GreedyCaptions(decoder(), 9, 0), "start 9 and end 0: tokens are 0 to 8"),
        (lambda: GreedyCaptions(decoder(), 1, 0)(torch.zeros(1, 2, 6), torch.ones(1, 2)), "context of [1, 2, 6]"),
    ],
)
def test_use_outside_its_shapes_is_one_sentence(make, says):
    with pytest.raises(ValueError) as caught:
        make()
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_ridge_lets_features_depend_on_each_other():
    first, second = two_views()
    doubled = torch.cat([first, first[:, :1]], dim=1)
    made = Cca((6, 4), 1).fit(doubled, second, ridge=1e-5)
    assert float(made.correlations) == pytest.approx(float(Cca((5, 4), 1).fit(first, second).correlations), abs=1e-3)
