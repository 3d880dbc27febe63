"""The plan: pure, golden, and exact about what a change touches."""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mmdeploy import engines, export, prune, quantize, recover
from mmdeploy.core.errors import UsageError
from mmdeploy.core.store import Store
from mmdeploy.model.tensors import OTHERS
from mmdeploy.planning.kinds import STARTING_MODULES
from mmdeploy.planning.planner import make_plan
from mmdeploy.planning.recipe_inputs import DATA, UNREAD, Labels, RecipeInputs
from mmdeploy.planning.steps import Fingerprints, Plan, explain
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.recipe.schema import Recipe

TINY = Path(__file__).parents[2] / "tiny_recipe" / "recipe.yaml"
GOLDEN = Path(__file__).parents[2] / "golden" / "plan_two_towers.json"


def fixed_fingerprints(**changes: object) -> Fingerprints:
    registries = (prune, recover, export, quantize, engines)
    modules = [module for registry in registries for module in registry.METHODS.values()]
    names = {name for module in modules for name in module.REQUIRES}
    starting = {*STARTING_MODULES, *(module.__name__ for module in modules)}
    fingerprints = Fingerprints(
        inputs=fixed_inputs(),
        code={name: {f"{name}.py": f"code of {name}"} for name in starting},
        versions=dict.fromkeys({*names, "torch", "numpy", "mmdeploy"}, "1.0"),
        unrunnable={},
    )
    return dataclasses.replace(fingerprints, **changes)  # type: ignore[arg-type]


def fixed_inputs(**changes: str) -> RecipeInputs:
    """Inputs of the tiny recipe; of ``model``, a data callable or the weights of a component (``left``) another."""
    parts = dict.fromkeys((*DATA, "model", "left", "right", "fusion", OTHERS), "fixed") | changes
    labels: dict[str, Labels] = {
        key: {f"code of {key}": {f"{key}.py": parts[key]}, f"read by {key}": {f"{key}.npz": parts[key]}}
        for key in (*DATA, "model")
    }
    weights = {name: {f"{name}.weight": parts[name]} for name in ("left", "right", "fusion", OTHERS)}
    return RecipeInputs(
        labels["model"], {key: labels[key] for key in DATA}, weights=weights, weights_file="weights.safetensors"
    )


def plan_of(*overrides: str, **changes: object) -> Plan:
    return make_plan(load_recipe(TINY, overrides), fixed_fingerprints(**changes))


def changed(before: Plan, after: Plan) -> set[str]:
    keys = {step.id: step.key for step in before.steps}
    return {step.id for step in after.steps if keys.get(step.id) != step.key}


def test_the_plan_of_the_tiny_recipe_is_golden() -> None:
    """Rewrite with UPDATE_GOLDEN=1 after a change that is meant, and read the difference."""
    plan = json.dumps(plan_of().to_json(), indent=1, ensure_ascii=False) + "\n"
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(plan)
    assert json.loads(plan) == json.loads(GOLDEN.read_text())


def test_planning_twice_gives_the_same_plan() -> None:
    assert plan_of() == plan_of()


def test_each_step_follows_what_it_needs() -> None:
    seen: set[str] = set()
    for step in plan_of().steps:
        assert seen.issuperset(step.needs), step.id
        seen.add(step.id)


def test_without_gates_nothing_is_planned_for_judging() -> None:
    kinds = {step.kind for step in plan_of("gates=[]").steps}
    assert kinds == {"samples", "export", "quantize", "engine"}


def test_an_engine_that_cannot_run_here_gets_no_reference_engine() -> None:
    ids = {step.id for step in plan_of(unrunnable={"left": "no GPU"}).steps}
    assert "left/reference" not in ids
    assert "right/reference" in ids


def test_changing_one_encoder_leaves_the_other_alone() -> None:
    touched = changed(plan_of(), plan_of("components.left.quantize.samples=32"))
    assert touched == {"left/quantize", "left/engine"}


def test_a_quantized_head_is_calibrated_again_when_an_encoder_changes() -> None:
    head = ("components.fusion.quantize={method: static}", "components.fusion.keep=always")
    touched = changed(plan_of(*head), plan_of(*head, "components.left.quantize.samples=32"))
    assert touched == {"left/quantize", "left/engine", "fusion/quantize", "fusion/engine"}


@pytest.mark.parametrize(
    ("changes", "touched"),
    [
        ({OTHERS: "other"}, lambda step: not step.startswith("data/")),
        ({"model": "other"}, lambda step: not step.startswith("data/")),
        ({"left": "other"}, lambda step: not step.startswith(("right/", "data/"))),
        ({"fusion": "other"}, lambda step: step.startswith(("fusion/", "original/"))),
        ({"calibration": "other"}, lambda step: step not in ("data/evaluation", "original/outputs")),
        ({"evaluation": "other"}, lambda step: step in ("data/evaluation", "original/outputs")),
    ],
)
def test_a_changed_input_touches_what_depends_on_it(changes: dict[str, str], touched: Callable[[str], bool]) -> None:
    before, after = plan_of(), plan_of(inputs=fixed_inputs(**changes))
    assert changed(before, after) == {step.id for step in before.steps if touched(step.id)}


def test_a_library_version_touches_the_steps_that_use_it() -> None:
    versions = fixed_fingerprints().versions
    touched = changed(plan_of(), plan_of(versions={**versions, "torch": "2.0"}))
    assert {"left/export", "fusion/engine", "original/outputs"} <= touched


def test_a_pass_s_own_code_touches_its_steps_and_what_follows() -> None:
    code = fixed_fingerprints().code
    touched = changed(plan_of(), plan_of(code={**code, "mmdeploy.quantize.static": {"static.py": "edited"}}))
    assert touched == {"left/quantize", "left/engine", "right/quantize", "right/engine"}


def test_another_processor_touches_engines_of_machine_code_and_no_others() -> None:
    chosen = "components.fusion.engine={method: aot_inductor}"
    before, after = (plan_of(chosen, instruction_sets=sets) for sets in ("x86_64 avx2", "x86_64 avx2 avx512f"))
    assert changed(before, after) == {"fusion/engine", "fusion/reference"}
    assert before.step("fusion/engine").identity["processor"] == "x86_64 avx2"


def test_another_gpu_touches_the_plans_of_tensorrt_and_no_other_engine() -> None:
    """Machines of several kinds may share a store, and a plan runs on the GPU that it was built on."""
    chosen = ("target=tensorrt", "components.left.engine={method: tensorrt}")
    before, after = (plan_of(*chosen, gpus=name) for name in ("NVIDIA A100", "NVIDIA L4"))
    assert {"left/engine", "fusion/engine"} <= changed(before, after)
    assert all(step.endswith(("/engine", "/reference")) for step in changed(before, after))
    assert changed(plan_of(gpus="NVIDIA A100"), plan_of(gpus="NVIDIA L4")) == set()


def remember_all(plan: Plan, store: Store) -> None:
    for step in plan.steps:
        (store.root / "entries" / step.key).mkdir(exist_ok=True)
        store.remember(plan.recipe, step.id, step.identity, plan.parts_of(step))


def why(recipe_plan: Plan, store: Store) -> dict[str, str]:
    return {decision.step.id: decision.why for decision in explain(recipe_plan, store) if not decision.reuse}


def test_the_plan_says_why_a_step_must_run(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert set(why(plan_of(), store).values()) == {"never built"}
    remember_all(plan_of(), store)
    assert why(plan_of(), store) == {}
    assert why(plan_of("components.left.quantize.samples=32"), store) == {
        "left/quantize": "option samples: 64 → 32",
        "left/engine": "left/quantize changed",
    }
    assert why(plan_of(inputs=fixed_inputs(left="other")), store)["left/export"] == (
        "left.weight changed (weights.safetensors, tensors of left)"
    )
    assert why(plan_of(versions={**fixed_fingerprints().versions, "torch": "2.0"}), store)["left/export"] == (
        "library torch: 1.0 → 2.0"
    )


def test_another_method_is_told_in_one_word_and_many_changes_are_counted(tmp_path: Path) -> None:
    store = Store(tmp_path)
    remember_all(plan_of(), store)
    assert why(plan_of("components.left.quantize={method: dynamic}"), store)["left/quantize"] == (
        "method: static → dynamic"
    )
    versions = {**fixed_fingerprints().versions, "torch": "2.0", "onnx": "2.0", "onnxscript": "2.0", "onnxruntime": "2"}
    changed_all = plan_of("seed=1", versions=versions, inputs=fixed_inputs(model="other"))
    told = why(changed_all, store)["left/export"]
    assert told.endswith("; and 1 more")
    assert told.count(";") == 6


def unread(*keys: str) -> RecipeInputs:
    """Inputs of which it is not known yet what some callables read."""
    known = fixed_inputs()
    labels = {"model": known.model, **known.data}
    unknown = {key: {**labels[key], f"read by {key}": UNREAD} if key in keys else labels[key] for key in labels}
    return dataclasses.replace(known, model=unknown.pop("model"), data=unknown)


def test_the_files_that_changed_are_named(tmp_path: Path) -> None:
    store = Store(tmp_path)
    remember_all(plan_of(), store)
    told = why(plan_of(inputs=fixed_inputs(model="other", evaluation="other")), store)
    assert told["left/export"] == "model.py changed (code of model); model.npz changed (read by model)"
    assert told["data/evaluation"].endswith("evaluation.npz changed (read by evaluation)")
    assert told["left/quantize"] == "left/export changed"


def test_what_is_not_known_yet_is_told_where_nothing_else_is(tmp_path: Path) -> None:
    store = Store(tmp_path)
    remember_all(plan_of(), store)
    assert why(plan_of(inputs=unread("model")), store)["left/export"] == "what is read by model is not known yet"
    assert why(plan_of("seed=1", inputs=unread("model")), store)["left/export"] == "seed: 0 → 1"


def test_a_plan_of_one_step_holds_what_it_needs_and_names_no_other() -> None:
    assert [step.id for step in plan_of().upto("left/engine").steps] == [
        "data/calibration", "left/export", "left/quantize", "left/engine",
    ]  # fmt: skip
    with pytest.raises(UsageError, match=r"two_towers has no step 'left/quantise'") as refused:
        plan_of().upto("left/quantise")
    assert str(refused.value.hint).startswith("did you mean 'left/quantize'?")


def test_where_no_result_is_reused_each_step_says_so(tmp_path: Path) -> None:
    store = Store(tmp_path)
    remember_all(plan_of(), store)
    decisions = explain(plan_of(), store, fresh=True)
    assert {(decision.reuse, decision.why) for decision in decisions} == {(False, "asked for: no result is reused")}


def test_an_entry_that_is_gone_is_told(tmp_path: Path) -> None:
    store = Store(tmp_path)
    remember_all(plan_of(), store)
    (store.root / "entries" / plan_of().step("left/export").key).rmdir()
    assert why(plan_of(), store) == {"left/export": "its artifact is gone from the store"}


def test_a_recipe_survives_the_way_to_a_worker() -> None:
    import pickle

    recipe = load_recipe(TINY)
    again: Recipe = pickle.loads(pickle.dumps(recipe))
    assert again == recipe
    assert again.root == recipe.root


VALIDATED = ("data.validation=data.py:calibration", "data.training=data.py:training")


@pytest.mark.parametrize(
    "section",
    [
        "quantize={method: auto, samples: 64}",
        "prune={method: auto}",
        "recover={method: finetune}",
        "quantize={method: qat}",
    ],
)
def test_components_that_are_judged_in_the_same_surroundings_share_no_result(section: str) -> None:
    """Left and right tower: the same options, the same data, the same graphs around them."""
    overrides = [f"components.{name}.{section}" for name in ("left", "right")]
    plan = plan_of(*VALIDATED, *overrides)
    kinds = {step.kind for step in plan.steps} & {"prune", "recover", "train", "quantize"}
    assert kinds
    for kind in kinds:
        assert plan.step(f"left/{kind}").key != plan.step(f"right/{kind}").key


def test_sensitivity_is_measured_in_the_original_ensemble_and_each_component_has_its_own() -> None:
    recipe = load_recipe(TINY, [*VALIDATED, "components.left.quantize={method: auto}"])
    plan = make_plan(recipe, fixed_fingerprints(), "sensitivity")
    assert {step.kind for step in plan.steps} == {"samples", "export", "answers", "sensitivity"}
    assert len({step.key for step in plan.steps}) == len(plan.steps) == 6 + 1 + 3
    others = {"data/calibration", "data/validation", "original/answers"}
    assert set(plan.step("fusion/sensitivity").needs) == {"fusion/export", "left/export", "right/export"} | others
    assert [step.id for step in plan.upto("right/sensitivity").steps] == [
        "data/calibration", "data/evaluation", "data/validation",
        "left/export", "right/export", "fusion/export", "original/answers", "right/sensitivity",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "recorded"),
    [
        (["components.left.quantize={method: auto}"], True),
        (["components.left.engine={method: auto, max_drop: 0.01}"], True),
        (["components.left.quantize={method: static}"], False),
    ],
)
def test_the_fp32_graphs_answer_the_validation_split_once_where_something_is_scored(overrides, recorded) -> None:
    plan = plan_of(*VALIDATED, *overrides)
    assert any(step.id == "original/answers" for step in plan.steps) == recorded
    if recorded:
        exports = {f"{name}/export" for name in ("left", "right", "fusion")}
        assert set(plan.step("original/answers").needs) == exports | {"data/validation"}
        assert not plan.step("original/answers").exclusive
        assert "original/answers" in changed(plan, plan_of(*VALIDATED, *overrides, "components.fusion.export.opset=19"))
        assert "original/answers" not in changed(plan, plan_of(*VALIDATED, *overrides, "gates.1.metric=f1_macro"))


def test_what_a_search_is_judged_by_is_part_of_its_key() -> None:
    auto = (*VALIDATED, "components.left.quantize={method: auto}")
    before = plan_of(*auto)
    assert "left/quantize" in changed(before, plan_of(*auto, "gates.1.metric=f1_macro"))
    assert "left/quantize" in changed(before, plan_of(*auto, machine="another"))
    assert "left/quantize" in changed(before, plan_of(*auto, "components.left.engine={method: openvino}"))
