"""Plans of compressed components: which steps, what each is made from, and when it is measured what ships."""

from pathlib import Path

import pytest
from test_planner import changed, fixed_fingerprints, fixed_inputs, plan_of

from mmdeploy.core.contracts import Encoding
from mmdeploy.core.errors import EnvironmentUnfitError, RecipeError
from mmdeploy.planning.chains import candidates
from mmdeploy.planning.planner import make_plan
from mmdeploy.planning.steps import Plan, Step, options_key
from mmdeploy.recipe.loader import load_recipe

TINY = Path(__file__).parents[2] / "tiny_recipe" / "recipe.yaml"
SPLITS = ("data.training=data.py:calibration", "data.validation=data.py:calibration")
PRUNE = "components.left.prune={method: structured, ratio: 0.5}"
RECOVER = "components.left.recover={method: finetune, epochs: 1}"
QAT = "components.left.quantize={method: qat, epochs: 1}"
MEASURED = "components.left.keep=if_it_pays"
AUTO = "components.left.engine=auto"


def step(plan: Plan, step_id: str) -> Step:
    return plan.step(step_id)


def ids(plan: Plan, component: str = "left") -> list[str]:
    return [one.id.partition("/")[2] for one in plan.steps if one.component == component]


def test_the_chain_runs_from_the_module_to_the_engine() -> None:
    plan = plan_of(PRUNE, RECOVER, *SPLITS)
    assert sorted(ids(plan)) == sorted(["prune", "recover", "export", "quantize", "original", "reference", "engine"])
    chain = {one: step(plan, f"left/{one}").source for one in ("prune", "recover", "export", "quantize")}
    assert chain == {"prune": None, "recover": "left/prune", "export": "left/recover", "quantize": "left/export"}
    assert step(plan, "left/reference").needs == ("left/original", "data/calibration"), (
        "measured against what was trained"
    )


def test_quantization_aware_training_comes_before_the_export_and_is_written_after_it() -> None:
    plan = plan_of(PRUNE, QAT, *SPLITS)
    assert step(plan, "left/train").source == "left/prune"
    assert step(plan, "left/export").source == "left/train"
    assert step(plan, "left/quantize").uses["made"] == {"left": "left/train"}


def test_a_head_that_is_trained_sees_the_encoders_as_they_were_left() -> None:
    plan = plan_of(PRUNE, RECOVER, *SPLITS, "components.fusion.recover={method: finetune}")
    assert step(plan, "fusion/recover").uses["torch"] == {"left": "left/recover"}
    assert step(plan, "fusion/recover").source is None
    before, after = (
        plan,
        plan_of(PRUNE.replace("0.5", "0.25"), RECOVER, *SPLITS, "components.fusion.recover={method: finetune}"),
    )
    assert "fusion/recover" in changed(before, after)


def test_what_is_kept_always_is_not_measured() -> None:
    assert "select" not in {one.kind for one in plan_of(PRUNE, RECOVER, *SPLITS).steps}


def test_a_compressed_component_is_measured_against_the_original() -> None:
    plan = plan_of(MEASURED)
    select = step(plan, "left/engine")
    assert (select.kind, select.method, select.exclusive) == ("select", "must_pay", True)
    assert select.needs[0] == "left/reference"
    assert [one["compressed"] for one in select.options["candidates"]] == [False, True]
    assert select.options["rules"]["max_drop"] == 0.2, "the accuracy gate's"


def test_lower_precision_must_pay_too() -> None:
    bf16 = "components.fusion.engine={method: openvino, precision: bf16}"
    select = step(plan_of(bf16), "fusion/engine")
    assert [one["engine"]["precision"] for one in select.options["candidates"]] == ["fp32", "bf16"]
    assert step(plan_of(bf16, "components.fusion.keep=always"), "fusion/engine").kind == "engine"
    assert step(plan_of("components.fusion.engine={method: openvino}"), "fusion/engine").kind == "engine"


def test_other_test_data_is_looked_through_for_what_was_trained_on() -> None:
    others = fixed_inputs(evaluation="others")
    touched = changed(plan_of(PRUNE, RECOVER, *SPLITS), plan_of(PRUNE, RECOVER, *SPLITS, inputs=others))
    assert "left/recover" in touched
    assert "left/prune" not in touched


def test_a_pruned_and_quantized_component_may_ship_pruned_only() -> None:
    select = step(plan_of(PRUNE, RECOVER, MEASURED, *SPLITS), "left/engine")
    graphs = [(one["graph"], one["compressed"]) for one in select.options["candidates"]]
    assert graphs == [("float", False), ("float", True), ("quantized", True)]


@pytest.mark.parametrize(
    ("made", "called"),
    [
        ((PRUNE, RECOVER), "pruned"),
        ((RECOVER,), "trained"),
        (("components.left.recover={method: distill, student: model.py:build}",), "student"),
    ],
)
def test_a_float_graph_that_may_ship_is_called_what_it_is(made: tuple[str, ...], called: str) -> None:
    found = [one for one in ids(plan_of(*made, MEASURED, *SPLITS)) if one.startswith("candidate.")]
    assert f"candidate.onnxruntime-fp32-{called}" in found


def test_a_head_is_calibrated_on_what_was_chosen_upstream() -> None:
    plan = plan_of(MEASURED, "components.fusion.quantize={method: static}")
    assert step(plan, "fusion/quantize").uses["shipped"] == {"left": "left/engine", "right": "right/quantize"}


def test_what_cannot_run_here_is_not_measured() -> None:
    plan = plan_of(MEASURED, unrunnable={"left": "no GPU"})
    assert step(plan, "left/engine").kind == "engine"


def test_engine_auto_builds_every_engine_in_every_encoding() -> None:
    plan = plan_of(AUTO, *SPLITS)
    select = step(plan, "left/engine")
    engines = {one["engine"]["method"] for one in select.options["candidates"]}
    assert engines == {"onnxruntime", "openvino"}
    quantized = {one.encoding for one in plan.steps if one.component == "left" and one.kind == "quantize"}
    assert quantized == set(Encoding), "what the engines ask for"
    assert step(plan, "left/quantize").encoding is Encoding.UINT8_ASYMMETRIC, "the default engine's, for searches"
    assert all(step(plan, one["step"]).optional for one in select.options["candidates"][1:])
    assert len({step(plan, one["step"]).key for one in select.options["candidates"]}) == len(
        select.options["candidates"]
    )


def test_of_what_is_kept_always_only_compressed_engines_are_measured() -> None:
    kept = step(plan_of(AUTO, *SPLITS), "left/engine").options["candidates"]
    assert {one["compressed"] for one in kept} == {True}
    free = step(plan_of(AUTO, MEASURED, *SPLITS), "left/engine").options["candidates"]
    assert {one["compressed"] for one in free} == {True, False}


def test_engines_that_are_not_here_are_left_out_with_the_reason() -> None:
    recipe = load_recipe(TINY, [AUTO, *SPLITS])
    missing = {
        options_key(one.options): "not installed"
        for one in candidates(recipe, "left")
        if one.options.method == "openvino"
    }
    select = step(make_plan(recipe, fixed_fingerprints(unavailable=missing)), "left/engine")
    assert {one["engine"]["method"] for one in select.options["candidates"]} == {"onnxruntime"}
    assert set(select.options["left_out"].values()) == {"not installed"}


def test_checks_in_a_graph_leave_the_engines_that_serve_it_as_a_graph() -> None:
    plan = plan_of(AUTO, MEASURED, "components.left.serving.guard=graph", *SPLITS)
    engines = [one["engine"] for one in step(plan, "left/engine").options["candidates"]]
    assert {(engine["method"], engine["provider"]) for engine in engines} == {("onnxruntime", "cpu")}
    assert len(engines) > 2, "float, and INT8 in two encodings"


def test_no_engine_to_measure_is_said() -> None:
    recipe = load_recipe(TINY, [AUTO, *SPLITS, "target=tensorrt_rtx"])
    missing = {options_key(one.options): "no GPU here" for one in candidates(recipe, "left")}
    unrunnable = dict.fromkeys(recipe.components, "no GPU here")
    with pytest.raises(EnvironmentUnfitError, match=r"components\.left\.engine: auto.*no GPU here"):
        make_plan(recipe, fixed_fingerprints(unavailable=missing, unrunnable=unrunnable))


def test_another_machine_measures_again() -> None:
    touched = changed(plan_of(MEASURED), plan_of(MEASURED, machine="another"))
    assert touched == {"left/engine"}


def test_a_search_reads_the_whole_ensemble() -> None:
    plan = plan_of("components.left.quantize={method: auto, max_drop: 0.1}", *SPLITS)
    search = step(plan, "left/quantize")
    assert search.exclusive
    assert search.uses["original"] == {name: f"{name}/export" for name in ("left", "right", "fusion")}


def test_sensitivity_plans_no_engines() -> None:
    recipe = load_recipe(TINY, SPLITS)
    plan = make_plan(recipe, fixed_fingerprints(), "sensitivity")
    kinds = {one.kind for one in plan.steps}
    assert "sensitivity" in kinds
    assert not kinds & {"engine", "reference", "select", "outputs"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((PRUNE, RECOVER), "data.training"),
        ((QAT,), "data.validation"),
        ((AUTO,), "data.validation"),
        ((*SPLITS, "data.validation=data.py:evaluation"), "what the gates judge on"),
        ((*SPLITS, "data.training=data.py:evaluation"), "what the gates judge on"),
    ],
)
def test_missing_and_leaking_splits_are_refused(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(RecipeError) as refused:
        load_recipe(TINY, overrides)
    assert message in str(refused.value)
