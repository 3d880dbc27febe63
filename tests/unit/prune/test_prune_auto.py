"""The search for a pruning ratio, on a tower of which half the units give nothing: up to 0.5 costs no accuracy."""

import numpy as np
import prune_auto_setup
import pytest
import torch
from recorded_sets import training_setup

from mmdeploy.core.contracts import LatencyEstimate
from mmdeploy.core.errors import BudgetError, PruneError
from mmdeploy.model.torch_component import load_component
from mmdeploy.prune import auto, structured
from mmdeploy.prune.module_scorer import ModuleScorer


@pytest.fixture(scope="module")
def recipe():
    return prune_auto_setup.recipe()


@pytest.fixture
def context_of(recipe, tmp_path):
    def make(**changes):
        return prune_auto_setup.context(recipe, tmp_path / str(len(list(tmp_path.iterdir()))), **changes)

    return make


def searched(recipe, context, **fields):
    return auto.run(prune_auto_setup.source(recipe), prune_auto_setup.options(**fields), context)


def pretended(milliseconds):
    """Return a stopwatch that times modules by their hidden width, without noise; asserts that they are modules."""

    def timed(modules):
        taken = {label: milliseconds(load_component(one).up.out_features) for label, one in modules.items()}
        first = next(iter(taken.values()))
        return {
            name: LatencyEstimate(ms, ms / first, (ms / first - 0.01, ms / first + 0.01)) for name, ms in taken.items()
        }

    return timed


def accuracy_by_hand(recipe, module, part):
    """Run the model around a tower in plain PyTorch."""
    from mmdeploy.model.torch_model import load_model

    model = load_model(recipe.model.factory, root=recipe.root, weights=None)
    feeds, labels = training_setup(recipe, "tower").validation()
    with torch.inference_mode():
        answers = model.head(module(torch.from_numpy(np.ascontiguousarray(feeds["values"][part]))))
    return float((answers.argmax(dim=1).numpy() == labels[part]).mean())


def test_the_largest_ratio_that_costs_nothing_is_found(recipe, context_of):
    found = searched(recipe, context_of())
    tower = load_component(found)
    assert tower.up.out_features == 32
    assert found.metadata["plain"]["ratio"] == 0.5
    assert found.metadata["held_back"]["drop"] == 0
    assert accuracy_by_hand(recipe, tower, slice(None)) == 1
    why = [decision["why"] for decision in found.metadata["decisions"]]
    assert why[:4] == ["keeps the budget"] * 2 + ["breaks the budget"] * 2
    assert "latency was not measured" in why[4]


def test_drops_are_those_of_the_model_run_by_hand(recipe, context_of):
    found = searched(recipe, context_of())
    row = next(row for row in found.metadata["ladder"] if row["ratio"] == 0.75)
    options = structured.Options.model_validate(found.metadata["plain"] | {"ratio": 0.75})
    pruned = load_component(structured.run(prune_auto_setup.source(recipe), options, context_of()))
    assert 1 - row["searched"]["drop"] == pytest.approx(accuracy_by_hand(recipe, pruned, slice(0, None, 2)))
    assert 1 - row["held_back"]["drop"] == pytest.approx(accuracy_by_hand(recipe, pruned, slice(1, None, 2)))
    assert row["flops_ratio"] == 0.25


def test_the_plain_section_gives_the_same_bytes(recipe, context_of):
    context = context_of()
    found = searched(recipe, context)
    plain = structured.Options.model_validate(found.metadata["plain"])
    again = structured.run(prune_auto_setup.source(recipe), plain, context_of(training=None))
    assert again.path.read_bytes() == found.path.read_bytes()
    assert all(file.parent == context.workdir for file in context.workdir.rglob("*") if file.is_file())


def test_the_fastest_that_keeps_the_budget_wins_and_not_the_smallest(recipe, context_of):
    """48 units run faster than 32 on this engine."""
    found = searched(recipe, context_of(timed=pretended({64: 4.0, 48: 2.0, 32: 3.0}.get)))
    assert found.metadata["plain"]["ratio"] == 0.25
    assert "latency" in found.metadata["decisions"][-1]["gain"]


def test_of_two_as_fast_the_smaller_wins(recipe, context_of):
    found = searched(recipe, context_of(timed=pretended({64: 4.0, 48: 2.0, 32: 2.01}.get)))
    assert found.metadata["plain"]["ratio"] == 0.5


def test_without_must_pay_nothing_is_timed(recipe, context_of):
    found = searched(recipe, context_of(timed=lambda modules: pytest.fail("timed")), must_pay=False)
    assert found.metadata["plain"]["ratio"] == 0.5


def test_recovery_makes_larger_ratios_possible(recipe, context_of):
    """Trained for a while, three quarters of the units suffice for a generous budget that pruning alone breaks."""
    generous = {"max_drop": 0.15, "ratios": [0.5, 0.75]}
    untrained = searched(recipe, context_of(), **generous)
    recovery = {"epochs": 20, "learning_rate": 0.01, "loss": "both", "patience": None}
    trained = searched(recipe, context_of(), **generous, recovery=recovery)
    assert untrained.metadata["plain"]["ratio"] == 0.5
    assert trained.metadata["plain"]["ratio"] == 0.75
    module = load_component(trained)
    assert accuracy_by_hand(recipe, module, slice(None)) < 0.85  # what ships is not trained: `recover` does that


def test_a_killed_search_trains_no_ratio_again(recipe, context_of, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    trained = []
    fit = auto.fit

    def counted(module, options, context, **others):
        if len(trained) == 2:
            trained.append("killed")
            raise KeyboardInterrupt
        trained.append(context.scratch.name)
        return fit(module, options, context, **others)

    monkeypatch.setattr(auto, "fit", counted)
    recovery = {"epochs": 1}
    with pytest.raises(KeyboardInterrupt):
        searched(recipe, context_of(scratch=scratch), recovery=recovery)
    found = searched(recipe, context_of(scratch=scratch), recovery=recovery)
    assert trained[:2] == ["ratio-0.25", "ratio-0.5"]
    assert not {"ratio-0.25", "ratio-0.5"} & set(trained[3:])
    assert found.metadata["evaluations"] >= 8


def test_a_budget_that_no_ratio_keeps_shows_the_best_found(recipe, context_of):
    with pytest.raises(BudgetError, match=r"no pruning ratio of the ladder keeps max_drop 0\.02 of top1") as caught:
        searched(recipe, context_of(), ratios=[0.75, 0.875])
    assert caught.value.exit_code == 1
    assert caught.value.best["ratio"] == 0.75


def test_a_ratio_that_rounds_to_nothing_is_passed_over(recipe, context_of):
    found = searched(recipe, context_of(), ratios=[0.01, 0.5])
    assert "cannot be pruned" in found.metadata["decisions"][0]["what"]
    assert found.metadata["plain"]["ratio"] == 0.5
    with pytest.raises(PruneError):
        searched(recipe, context_of(), ratios=[0.01])


def test_data_is_asked_for_by_name(recipe, context_of):
    with pytest.raises(PruneError, match="judges each ratio") as caught:
        searched(recipe, context_of(training=None))
    assert "data.training" in str(caught.value.hint) and "data.validation" in str(caught.value.hint)


def test_a_module_that_answers_nan_is_as_bad_as_can_be(recipe):
    scorer = ModuleScorer(training_setup(recipe, "tower"))
    module = load_component(prune_auto_setup.source(recipe))
    with torch.no_grad():
        module.up.weight.fill_(float("nan"))
    assert scorer.score(module).metric == 0
    assert scorer.original().metric == 1
