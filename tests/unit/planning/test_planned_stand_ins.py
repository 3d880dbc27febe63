"""Stand-ins in a plan: who is fed with them, and what a change to them runs again."""

from pathlib import Path

from mmdeploy.planning.fingerprints import take_fingerprints
from mmdeploy.planning.planner import make_plan
from mmdeploy.planning.steps import ORIGINAL, STAND_INS, Plan
from mmdeploy.recipe.loader import load_recipe

TINY = Path(__file__).parents[2] / "tiny_recipe/recipe.yaml"
MISSING = Path(__file__).parents[2] / "missing_recipe/recipe.yaml"


def plan_of(path: Path, *overrides: str) -> Plan:
    recipe = load_recipe(path, overrides)
    return make_plan(recipe, take_fingerprints(recipe), contents=lambda key, first: "recorded")


def changed_by(*overrides: str) -> set[str]:
    """Return the steps whose keys an override changes; what a set is made of stands aside, its content does not."""
    before, after = plan_of(MISSING), plan_of(MISSING, *overrides)
    changed = {step.id for step in before.steps if step.key != after.step(step.id).key}
    return {step_id for step_id in changed if not step_id.startswith("data/")}


def test_a_recipe_without_optional_inputs_has_no_such_step():
    plan = plan_of(TINY)
    assert STAND_INS not in {step.id for step in plan.steps}
    assert not any("missing" in label or label == "subsets" for step in plan.steps for label in step.identity)


def test_what_reads_embeddings_and_the_original_are_fed_with_stand_ins():
    plan = plan_of(MISSING)
    fed = {step.id for step in plan.steps if STAND_INS in step.needs}
    assert fed == {"head/quantize", ORIGINAL}
    assert plan.step(STAND_INS).needs == ("data/calibration",)


def test_another_strategy_runs_what_it_changes_and_no_encoder_again():
    changed = changed_by("inputs.seen.missing.strategy=zeros")
    assert changed == {STAND_INS, "head/quantize", "head/engine", ORIGINAL}


def test_other_subsets_calibrate_the_head_again():
    changed = changed_by("subsets=[{without: [seen]}, {without: [heard, felt]}]")
    assert changed == {"head/quantize", "head/engine", ORIGINAL}


def test_stand_ins_are_made_where_nothing_is_judged_too():
    plan = plan_of(MISSING, "gates=[]")
    assert STAND_INS in {step.id for step in plan.steps}
    assert ORIGINAL not in {step.id for step in plan.steps}
