"""The training loop on a module of 280 parameters."""

import math
import random

import numpy as np
import pytest
import tiny_setup
import torch
from torch import nn

from mmdeploy.core.contracts import MetricScore
from mmdeploy.core.errors import DataError, TrainingError
from mmdeploy.training.loop import fit
from mmdeploy.training.options import TrainingOptions
from mmdeploy.training.record import TrainingRecord

QUICK = {"epochs": 4, "batch_size": 16, "learning_rate": 1e-2}


def train(folder, module=None, setup=None, *, sparse=(), after_step=None, changes=None, **fields):
    module = module if module is not None else tiny_setup.module()
    setup = setup or tiny_setup.TinySetup()
    context = tiny_setup.context(setup, folder, **(changes or {}))
    return module, fit(module, TrainingOptions(**QUICK | fields), context, sparse=sparse, after_step=after_step)


def state(module):
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def test_training_improves_the_metric_and_keeps_the_best_epoch(tmp_path):
    module, record = train(tmp_path)
    assert record.best.metric > record.epochs[0].metric + 0.2
    setup = tiny_setup.TinySetup()
    feeds, labels = setup.validation()
    with torch.no_grad():
        logits = setup.network(module)({"values": torch.from_numpy(feeds["values"])})["logits"]
    assert setup.score({"logits": logits.numpy()}, labels).score == record.best.metric
    assert not module.training
    assert all(parameter.grad is None for parameter in module.parameters())
    assert TrainingRecord.from_metadata(record.to_metadata()) == record


def by_hand(optimizer_of, epochs, clip):
    """The same training as a plain loop over torch's own optimizer and scheduler."""
    module, setup = tiny_setup.module(), tiny_setup.TinySetup()
    optimizer = optimizer_of(module.parameters())
    steps = epochs * math.ceil(70 / 16)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for epoch in range(1, epochs + 1):
        for feeds, labels in setup.training(epoch, 16):
            outputs = setup.network(module)({"values": torch.from_numpy(feeds["values"])})
            optimizer.zero_grad()
            nn.functional.cross_entropy(outputs["logits"], torch.from_numpy(labels)).backward()
            nn.utils.clip_grad_norm_(module.parameters(), clip)
            optimizer.step()
            cosine.step()
    return module


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_it_takes_the_steps_of_a_plain_pytorch_loop(tmp_path, kind):
    optimizers = {
        "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.0),
        "sgd": lambda parameters: torch.optim.SGD(parameters, lr=1e-2, momentum=0.9),
    }
    fields = {"optimizer": kind, "weight_decay": 0.0, "loss": "task", "warmup": 0.0, "gradient_clip": 0.5, "epochs": 2}
    module, record = train(tmp_path, **fields)
    assert record.best.epoch == 2  # so the weights are those of the last step
    for name, tensor in by_hand(optimizers[kind], 2, 0.5).state_dict().items():
        torch.testing.assert_close(module.state_dict()[name], tensor, rtol=1e-5, atol=1e-6)


def test_only_the_component_is_trained_and_only_it_is_in_training_mode(tmp_path):
    setup = tiny_setup.TinySetup()
    seen = []
    module = tiny_setup.module(dropout=0.5)
    module.register_forward_hook(lambda part, _inputs, _output: seen.append((part.training, setup.head.training)))
    before = state(setup.head), state(setup.original)
    train(tmp_path, module, setup)
    assert (True, False) in seen and (False, False) in seen and all(not head for _, head in seen)
    for part, old in zip((setup.head, setup.original), before, strict=True):
        assert all(torch.equal(tensor, old[name]) for name, tensor in part.state_dict().items())


@pytest.mark.parametrize("fields", [{"optimizer": "adamw", "weight_decay": 0.5}, {"optimizer": "sgd"}])
def test_zeros_of_sparse_parameters_stay_zero(tmp_path, fields):
    module = tiny_setup.module()
    with torch.no_grad():
        for name in ("0.weight", "4.weight"):
            weight = module.get_parameter(name)
            weight[torch.rand(weight.shape, generator=torch.Generator().manual_seed(4)) < 0.5] = 0
    before = state(module)
    train(tmp_path, module, sparse=("0.weight",), **fields)
    kept = before["0.weight"] == 0
    assert kept.any() and (module.get_parameter("0.weight")[kept] == 0).all()
    assert not torch.equal(module.get_parameter("0.weight"), before["0.weight"])
    dense = before["4.weight"] == 0  # not named, so its zeros are free
    assert (module.get_parameter("4.weight")[dense] != 0).any()


def test_a_sparse_parameter_that_is_not_there_is_named_with_the_nearest(tmp_path):
    with pytest.raises(TrainingError, match=r"no parameter '0.wieght'") as caught:
        train(tmp_path, sparse=("0.wieght",))
    assert "did you mean '0.weight'?" in caught.value.hint


def test_training_that_only_harms_changes_nothing_and_says_so(tmp_path):
    module = tiny_setup.module(seed=1)  # the teacher itself: every answer is right
    before = state(module)
    _, record = train(tmp_path, module, optimizer="sgd", learning_rate=5.0, gradient_clip=None, loss="task")
    assert record.epochs[0].metric == 1.0 and record.epochs[-1].metric < 1.0
    assert record.best.epoch == 0 and "weights unchanged" in record.note
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_patience_ends_training_and_its_absence_does_not(tmp_path):
    teacher = tiny_setup.module(seed=1)
    _, record = train(tmp_path, teacher, patience=2, epochs=8)
    assert record.stopped_early and record.epochs[-1].epoch == 2
    _, record = train(tmp_path, tiny_setup.module(seed=1), patience=None, epochs=4)
    assert not record.stopped_early and record.epochs[-1].epoch == 4


def test_equal_metrics_are_told_apart_by_the_validation_loss(tmp_path):
    setup = tiny_setup.TinySetup()
    setup.score = lambda outputs, labels: MetricScore(0.5, None)
    _, record = train(tmp_path, setup=setup, patience=None)
    losses = [epoch.validation_loss for epoch in record.epochs]
    assert record.best.validation_loss == min(losses) and record.best.epoch > 0


def test_a_smaller_error_is_better_when_the_metric_is_an_error(tmp_path):
    setup = tiny_setup.TinySetup()
    setup.larger_is_better = False
    setup.metric = "mse"
    setup.score = lambda outputs, labels: MetricScore(float((outputs["logits"].argmax(axis=1) != labels).mean()), None)
    _, record = train(tmp_path, setup=setup)
    assert record.best.metric == min(epoch.metric for epoch in record.epochs) < record.epochs[0].metric


@pytest.mark.parametrize(("clip", "what"), [(None, "the loss is (nan|inf)"), (1.0, "the gradient's norm is nan")])
def test_a_loss_that_is_not_finite_stops_with_where_and_what_to_do(tmp_path, clip, what):
    setup = tiny_setup.TinySetup()
    steps = []

    def task_loss(outputs, labels):
        if not outputs["logits"].requires_grad:  # validation
            return outputs["logits"].sum() * 0
        steps.append(1)
        infinite = torch.tensor(math.inf) if len(steps) == 7 else torch.tensor(1.0)
        if clip is None:
            return outputs["logits"].square().mean() * infinite
        return (outputs["logits"] * 0).sum().mul(infinite).nan_to_num()

    setup.task_loss = task_loss
    with pytest.raises(TrainingError, match=rf"encoder: {what} in epoch 2, step 2 of 5, at learning rate") as caught:
        train(tmp_path, setup=setup, loss="task", gradient_clip=clip)
    assert "lower learning_rate (it is 0.01)" in caught.value.hint


def test_without_training_data_the_missing_keys_are_named(tmp_path):
    context = tiny_setup.context(None, tmp_path)
    with pytest.raises(DataError, match=r"data\.training or data\.validation"):
        fit(tiny_setup.module(), TrainingOptions(), context)


def test_unlabelled_training_data_does_for_distillation_only(tmp_path):
    with pytest.raises(DataError, match="needs labels"):
        train(tmp_path, setup=tiny_setup.TinySetup(labelled=False))
    _, record = train(tmp_path, setup=tiny_setup.TinySetup(labelled=False), loss="distill")
    assert record.improved


def test_an_empty_training_split_is_refused(tmp_path):
    setup = tiny_setup.TinySetup()
    setup.training = lambda epoch, batch_size: iter(())
    with pytest.raises(DataError, match="has no samples"):
        train(tmp_path, setup=setup)


def test_an_epoch_that_gives_fewer_batches_is_refused(tmp_path):
    setup = tiny_setup.TinySetup()
    whole = setup.training
    setup.training = lambda epoch, batch_size: list(whole(epoch, batch_size))[: 5 - epoch]
    with pytest.raises(DataError, match=r"gave 4 batches in epoch 1, but 5 before"):
        train(tmp_path, setup=setup)


def test_a_module_without_trainable_parameters_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="nothing can be trained"):
        train(tmp_path, tiny_setup.module().requires_grad_(False))


def test_what_the_factory_froze_stays_frozen(tmp_path):
    module = tiny_setup.module()
    module[0].requires_grad_(False)
    before = state(module)
    _, record = train(tmp_path, module)
    assert torch.equal(module[0].weight, before["0.weight"]) and not torch.equal(module[4].weight, before["4.weight"])
    assert record.parameters == sum(parameter.numel() for parameter in module[1:].parameters())


def test_progress_and_the_hook_after_each_step_are_called(tmp_path):
    reports, steps = [], []
    train(tmp_path, after_step=steps.append, changes={"progress": lambda *report: reports.append(report)}, epochs=2)
    assert steps == list(range(1, 11))
    assert [report[:2] for report in reports] == [(step, 10) for step in steps]
    assert "epoch 2 of 2" in reports[-1][2]


def test_random_generators_are_given_back_as_they_were(tmp_path):
    def drawn():
        return random.random(), np.random.random(), torch.rand(1).item()

    for generator in (random.seed, np.random.seed, torch.manual_seed):
        generator(8)
    without = drawn()
    module, setup = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5)), tiny_setup.TinySetup()
    for generator in (random.seed, np.random.seed, torch.manual_seed):
        generator(8)
    train(tmp_path, module, setup)
    assert drawn() == without


def test_the_same_seed_gives_the_same_weights_and_another_does_not(tmp_path):
    one, two, other = (
        train(tmp_path, tiny_setup.module(dropout=0.3), changes={"seed": seed})[0] for seed in (11, 11, 12)
    )
    assert all(torch.equal(tensor, two.state_dict()[name]) for name, tensor in one.state_dict().items())
    assert not torch.equal(one[0].weight, other[0].weight)
