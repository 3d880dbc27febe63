"""The model around a component, made from a recipe, against the model run as a whole."""

import numpy as np
import pytest
import torch
from recorded_sets import training_setup
from training_recipes import recipe_that_trains

from mmdeploy.core.artifact import Artifact
from mmdeploy.core.errors import DataError, TrainingError
from mmdeploy.core.facts import as_metadata
from mmdeploy.model.torch_component import ComponentFacts, load_component, save_component
from mmdeploy.model.torch_model import load_model
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.training.processes import labels_on
from mmdeploy.worker.training_answers import Kept


def original(recipe, component: str) -> Artifact:
    """The artifact from which a component's chain starts."""
    one = recipe.components[component]
    facts = ComponentFacts(recipe.model.factory, recipe.root, None, one.module, tuple(one.inputs), tuple(one.outputs))
    return Artifact("torch", recipe.root / "model.py", "", (), (), "recipe", as_metadata(facts))


def doubled(recipe, component: str, folder) -> Artifact:
    """A component whose weights a pass has doubled."""
    before = original(recipe, component)
    module = load_component(before)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(2)
    folder.mkdir()
    return save_component(module, before=before, folder=folder, produced_by="doubling")


@pytest.fixture
def feeds():
    random = torch.Generator().manual_seed(0)
    return {name: torch.randn(5, 8, generator=random) for name in ("a", "b")}


def whole(recipe, feeds, left=None):
    model = load_model(recipe.model.factory, root=recipe.root, weights=None)
    with torch.no_grad():
        one, two = (left or model.left)(feeds["a"]), model.right(feeds["b"])
        return {"left_embedding": one, "right_embedding": two, "logits": model.fusion(one, two)}


def test_network_and_teacher_are_the_model_run_as_a_whole(tiny_recipe, feeds):
    recipe = recipe_that_trains(tiny_recipe)
    setup = training_setup(recipe, "left")
    assert setup.component_outputs == ("left_embedding",) and setup.ensemble_outputs == ("logits",)
    module = load_component(original(recipe, "left"))
    with torch.no_grad():
        module.project.weight.mul_(1.5)
    network = setup.network(module)
    for expected, found in (
        (whole(recipe, feeds, module), network(feeds)),
        (whole(recipe, feeds), setup.teacher(feeds)),
    ):
        assert expected.keys() == found.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor)


def test_the_teacher_runs_only_what_the_network_did_not_know(tiny_recipe, feeds):
    recipe = recipe_that_trains(tiny_recipe)
    setup = training_setup(recipe, "left")
    network = setup.network(load_component(original(recipe, "left")))
    ran = []
    for name, module in setup._originals.items():
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
    dict(network(feeds))
    dict(setup.teacher(feeds))
    assert sorted(ran) == ["fusion", "fusion", "left", "right"]
    dict(setup.teacher({**feeds}))  # another batch, as far as it knows
    assert sorted(ran[4:]) == ["fusion", "left", "right"]


def test_what_nobody_reads_is_not_computed_and_what_is_judged_by_is_computed_once(tiny_recipe, feeds):
    recipe = recipe_that_trains(tiny_recipe)
    setup = training_setup(recipe, "left")
    module = load_component(original(recipe, "left"))
    network, ran = setup.network(module), []
    for name, part in (*setup._originals.items(), ("trained", module)):
        part.register_forward_hook(lambda *_, name=name: ran.append(name))
    outputs, wanted = network(feeds), setup.teacher(feeds)
    assert outputs.keys() == wanted.keys() == {"left_embedding", "right_embedding", "logits"} and not ran
    assert outputs["left_embedding"].requires_grad and not wanted["left_embedding"].requires_grad
    assert ran == ["trained", "left"]
    ran.clear()
    found = []
    for epoch in range(2):
        with torch.no_grad():
            module.project.weight.mul_(1 + epoch)
            given = {name: tensor.clone() for name, tensor in feeds.items()}
            found.append((network(given)["logits"], setup.teacher(given)["logits"]))
    assert sorted(ran) == ["fusion"] * 3 + ["left", "right"] + ["trained"] * 2
    torch.testing.assert_close(found[1][0], whole(recipe, feeds, module)["logits"])
    torch.testing.assert_close(found[1][1], whole(recipe, feeds)["logits"])
    with torch.no_grad():
        other = {name: 2 * tensor for name, tensor in feeds.items()}
        torch.testing.assert_close(setup.teacher(other)["logits"], whole(recipe, other)["logits"])


def test_no_more_is_kept_than_there_is_room_for(feeds):
    kept = Kept(most_bytes=100)
    first = kept.of(feeds)
    first["logits"] = torch.zeros(30)
    assert kept.of({name: tensor.clone() for name, tensor in feeds.items()}) is first
    other = {name: tensor + 1 for name, tensor in feeds.items()}
    kept.of(other)["logits"] = torch.zeros(30)
    assert kept.of(other) == {}


def test_what_works_in_place_changes_nothing_that_is_kept(tiny_recipe, feeds):
    """A head that begins with ``x += positions`` is given the same in every epoch."""

    class InPlace(torch.nn.Module):
        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, left, right):
            left += 1.0
            right += 1.0
            return self.inner(left, right)

    recipe = recipe_that_trains(tiny_recipe)
    setup = training_setup(recipe, "fusion")
    run = setup.network(InPlace(load_component(original(recipe, "fusion"))))
    with torch.no_grad():
        first, again = run(feeds)["logits"], run({name: tensor.clone() for name, tensor in feeds.items()})["logits"]
        torch.testing.assert_close(first, again, rtol=0, atol=0)
        torch.testing.assert_close(setup.teacher(feeds)["logits"], whole(recipe, feeds)["logits"])


def test_gradients_reach_the_module_and_nothing_else(tiny_recipe, feeds):
    recipe = recipe_that_trains(tiny_recipe)
    setup = training_setup(recipe, "left")
    module = load_component(original(recipe, "left"))
    setup.network(module.train())(feeds)["logits"].square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in module.parameters())
    for part in setup._originals.values():
        assert not part.training and all(parameter.grad is None for parameter in part.parameters())


def test_upstream_is_as_its_passes_left_it_and_the_teacher_is_not(tiny_recipe, feeds, tmp_path):
    recipe = recipe_that_trains(tiny_recipe)
    artifact = doubled(recipe, "left", tmp_path / "doubled")
    setup = training_setup(recipe, "fusion", {"left": artifact})
    outputs = setup.network(load_component(original(recipe, "fusion")))(feeds)
    expected = whole(recipe, feeds, load_component(artifact))
    torch.testing.assert_close(outputs["logits"], expected["logits"])
    assert not outputs["left_embedding"].requires_grad
    torch.testing.assert_close(setup.teacher(feeds)["logits"], whole(recipe, feeds)["logits"])


def test_the_splits_are_read_with_their_labels(tiny_recipe):
    setup = training_setup(recipe_that_trains(tiny_recipe), "left")
    feeds, labels = setup.validation()
    assert feeds["a"].shape == (100, 8) and labels.shape == (100,)
    batches = list(setup.training(1, 32))
    assert [len(labels) for _, labels in batches] == [32] * 6
    logits = setup.teacher({name: torch.from_numpy(array) for name, array in feeds.items()})["logits"]
    assert setup.score({"logits": logits.numpy()}, labels).score == 1.0


@pytest.mark.parametrize(
    ("references", "message"),
    [
        ({"training": "data.py:leaking"}, "data.py:leaking: sample 2 is also sample 0 of data.py:evaluation"),
        ({"validation": "data.py:leaking"}, "data.py:leaking: sample 2 is also sample 0 of data.py:evaluation"),
        (
            {"training": "data.py:leaking_validation"},
            "data.py:leaking_validation: sample 0 is also sample 0 of data.py:validation",
        ),
        ({"validation": "data.py:unlabelled"}, "data.py:unlabelled: sample 0 has no label"),
    ],
)
def test_splits_that_leak_or_lack_labels_are_refused(tiny_recipe, references, message):
    with pytest.raises(DataError) as caught:
        setup = training_setup(recipe_that_trains(tiny_recipe, **references), "left")
        setup.validation()
        list(setup.training(0, 8))
    assert caught.value.message == message


def test_a_recipe_without_training_data_is_refused(tiny_recipe):
    with pytest.raises(DataError, match=r"no data\.training"):
        training_setup(recipe_that_trains(tiny_recipe, training=""), "left")


def test_the_task_loss_is_cross_entropy_for_class_ids(tiny_recipe):
    setup = training_setup(recipe_that_trains(tiny_recipe), "left")
    logits, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    found = setup.task_loss({"logits": logits}, labels)
    by_hand = -(logits - logits.exp().sum(dim=1, keepdim=True).log())[range(6), labels].mean()
    torch.testing.assert_close(found, by_hand)
    torch.testing.assert_close(setup.task_loss({"logits": logits}, labels.to(torch.uint8)), by_hand)


def test_the_task_loss_is_the_squared_error_for_numbers(tiny_recipe):
    setup = training_setup(recipe_that_trains(tiny_recipe), "left")
    answers, wanted = torch.randn(6, 4), torch.randn(6, 4, dtype=torch.float64)
    found = setup.task_loss({"logits": answers}, wanted)
    torch.testing.assert_close(found, (answers - wanted.float()).square().mean())


def test_the_recipes_own_loss_is_called(tiny_recipe):
    setup = training_setup(recipe_that_trains(tiny_recipe, loss="data.py:loss"), "left")
    logits = torch.randn(6, 4, requires_grad=True)
    value = setup.task_loss({"logits": logits}, torch.zeros(6))
    torch.testing.assert_close(value, logits.mean())
    value.backward()
    assert logits.grad is not None


@pytest.mark.parametrize(
    ("loss", "labels", "error", "message"),
    [
        ("data.py:broken_loss", torch.zeros(6), TrainingError, r"data\.py:broken_loss failed: .*logit"),
        (
            "data.py:loss_of_each",
            torch.zeros(6),
            TrainingError,
            r"returned a tensor of shape \[6\], expected one",
        ),
        ("", torch.tensor([0, 1, 2, 3, 4, 0]), DataError, r"0 to 4, do not fit class scores of shape \[6, 4\]"),
        ("", torch.zeros(6, dtype=torch.float32), DataError, r"labels are \[6\], the model answers \[6, 4\]"),
    ],
)
def test_a_loss_that_cannot_be_had_says_why(tiny_recipe, loss, labels, error, message):
    setup = training_setup(recipe_that_trains(tiny_recipe, loss=loss), "left")
    with pytest.raises(error, match=message):
        setup.task_loss({"logits": torch.randn(6, 4)}, labels)


def test_the_metric_is_that_of_the_accuracy_gate(tiny_recipe):
    setup = training_setup(recipe_that_trains(tiny_recipe), "left")
    assert (setup.metric, setup.larger_is_better) == ("top1", True)
    text = tiny_recipe.read_text().replace("metric: top1, min: 0.8, max_drop: 0.2", "metric: mse, max: 1.0")
    tiny_recipe.write_text(text)
    setup = training_setup(recipe_that_trains(tiny_recipe, validation="data.py:regression"), "left")
    assert (setup.metric, setup.larger_is_better) == ("mse", False)
    answers = np.full((5, 4), 0.5, np.float32)
    assert setup.score({"logits": answers}, setup.validation()[1]).score == pytest.approx(0.25)


def test_labels_of_every_kind_reach_the_recipes_loss(tiny_recipe):
    recipe_that_trains(tiny_recipe)
    data = tiny_recipe.with_name("data.py")
    data.write_text(
        data.read_text()
        + "\n\ndef captioned():\n"
        + "    for index, (feed, label) in enumerate(validation()):\n"
        + "        yield feed, {'class': label, 'text': f'sample {index}', 'ids': np.arange(index % 3)}\n"
    )
    model = tiny_recipe.with_name("model.py")
    model.write_text(
        model.read_text()
        + "\n\ndef own_loss(outputs, labels):\n"
        + "    assert labels['text'][1] == 'sample 1' and [len(one) for one in labels['ids'][:3]] == [0, 1, 2]\n"
        + "    return torch.nn.functional.cross_entropy(outputs['logits'], labels['class'])\n"
    )
    overrides = ["data.training=data.py:training", "data.validation=data.py:captioned"]
    recipe = load_recipe(tiny_recipe, [*overrides, "data.loss=model.py:own_loss"])
    setup = training_setup(recipe, "left")
    feeds, labels = setup.validation()
    logits = setup.teacher({name: torch.from_numpy(array) for name, array in feeds.items()})["logits"]
    given = labels_on(labels, torch.device("cpu"))
    value = setup.task_loss({"logits": logits}, given)
    assert value == torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels.columns["class"]))
    without = training_setup(load_recipe(tiny_recipe, overrides), "left")
    with pytest.raises(DataError, match="labels that are a dict have no loss of their own") as caught:
        without.task_loss({"logits": logits}, given)
    assert "data.loss" in caught.value.hint
