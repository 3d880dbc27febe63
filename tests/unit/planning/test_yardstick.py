"""Which accuracy gate's metric and budget decide in searches and training, and what of it is in keys."""

import pytest
from test_planner import fixed_fingerprints

from mmdeploy.core.store import Store
from mmdeploy.model.reads import Reading, Readings
from mmdeploy.planning.chains import yardstick
from mmdeploy.planning.fingerprints import take_fingerprints
from mmdeploy.planning.planner import make_plan
from mmdeploy.planning.recipe_inputs import codes_of, digest_of, source_of
from mmdeploy.recipe.loader import load_recipe

VALIDATED = "data.validation=data.py:validation"
TWO = ("metric: top1, min: 0.9", "metric: f1_macro, max_drop: 0.3")
AUTO = "components.left.quantize.method=auto"


def with_gates(tiny_recipe, *gates, outputs="{logits: {}}"):
    text = tiny_recipe.read_text().replace("    keep: always\n", "")
    text = text.replace("outputs: {logits: {}}", f"outputs: {outputs}")
    lines = "".join(f"  - {{method: accuracy, {gate}}}\n" for gate in gates)
    tiny_recipe.write_text(text[: text.index("gates:")] + "gates:\n" + lines)
    return tiny_recipe


def rules(plan, step_id):
    step = plan.step(step_id)
    return step.identity["metric"], step.identity["scored output"], step.options["rules"]["max_drop"]


def test_a_metric_is_paired_with_its_own_gates_budget(tiny_recipe):
    recipe = load_recipe(with_gates(tiny_recipe, *TWO), [VALIDATED])
    plan = make_plan(recipe, fixed_fingerprints())
    assert rules(plan, "left/engine") == ("f1_macro", "logits", 0.3)


def test_the_first_gate_with_a_budget_is_taken_and_without_one_the_first(tiny_recipe):
    gates = ("metric: top1, max_drop: 0.1", "metric: f1_macro, max_drop: 0.3")
    assert yardstick(load_recipe(with_gates(tiny_recipe, *gates)), "left").metric.metric == "top1"
    found = yardstick(load_recipe(with_gates(tiny_recipe, "metric: auroc, min: 0.1", "metric: top1, min: 0.3")), "left")
    assert (found.metric.metric, found.max_drop) == ("auroc", None)
    text = tiny_recipe.read_text()
    tiny_recipe.write_text(text[: text.index("gates:")])
    found = yardstick(load_recipe(tiny_recipe), "left")
    assert (found.metric.metric, found.metric.outputs, found.max_drop) == ("top1", ("logits",), None)


def test_a_component_is_scored_by_a_metric_that_sees_what_it_feeds(tiny_recipe):
    gates = ("metric: top1, outputs: [logits], max_drop: 0.1", "metric: mse, outputs: [left_embedding], max_drop: 2")
    recipe = load_recipe(with_gates(tiny_recipe, *gates[::-1], outputs="{left_embedding: {}, logits: {}}"), [VALIDATED])
    plan = make_plan(recipe, fixed_fingerprints())
    assert rules(plan, "left/engine") == ("mse", "left_embedding", 2.0)
    assert rules(plan, "right/engine") == ("top1", "logits", 0.1)


@pytest.mark.parametrize(("own", "wanted"), [(None, 0.3), (0.05, 0.05)])
def test_a_search_without_a_budget_of_its_own_keeps_the_gates(tiny_recipe, own, wanted):
    overrides = [VALIDATED, AUTO, *([] if own is None else [f"components.left.quantize.max_drop={own}"])]
    recipe = load_recipe(with_gates(tiny_recipe, *TWO), overrides)
    step = make_plan(recipe, fixed_fingerprints()).step("left/quantize")
    assert (step.options["max_drop"], step.identity["metric"]) == (wanted, "f1_macro")


def test_a_search_without_any_budget_has_a_default(tiny_recipe):
    overrides = [VALIDATED, AUTO, "components.right.engine=auto"]
    recipe = load_recipe(with_gates(tiny_recipe, "metric: top1, min: 0.9"), overrides)
    plan = make_plan(recipe, fixed_fingerprints())
    assert plan.step("left/quantize").options["max_drop"] == 0.01
    assert rules(plan, "right/engine")[2] == 0.01
    assert rules(plan, "left/engine")[2] is None


def keys_of(recipe, *overrides):
    loaded = load_recipe(recipe, [VALIDATED, *overrides])
    return {step.id: step.key for step in make_plan(loaded, take_fingerprints(loaded)).steps}


def changed(before, after):
    return {name for name in before if before[name] != after[name]}


def test_the_code_and_the_arguments_of_a_metric_are_in_the_keys_of_what_is_scored_by_it(tiny_recipe):
    metrics, library = tiny_recipe.with_name("metrics.py"), tiny_recipe.with_name("library.py")
    metrics.write_text("from library import half\n\n\ndef score(outputs, labels, power=1): return half\n")
    library.write_text("half = 0.5\n")
    with_gates(tiny_recipe, "metric: metrics.py:score, arguments: {power: 1}, max_drop: 0.1")
    before = keys_of(tiny_recipe)
    scored = {"left/engine", "right/engine"}
    library.write_text("half = 0.25\n")
    after = keys_of(tiny_recipe)
    assert scored <= changed(before, after)
    assert not {"left/export", "left/quantize", "fusion/export"} & changed(before, after)
    again = keys_of(tiny_recipe, "gates.0.arguments.power=2")
    assert scored <= changed(after, again)
    assert "left/quantize" not in changed(after, again)


def test_what_a_metric_of_the_recipe_was_seen_to_read_is_in_the_keys(tiny_recipe, tmp_path):
    root, reference = tiny_recipe.parent.resolve(), "metrics.py:score"
    tiny_recipe.with_name("metrics.py").write_text("def score(outputs, labels): return 0.5\n")
    with_gates(tiny_recipe, f"metric: {reference}, max_drop: 0.1, larger_is_better: true")
    loaded, store = load_recipe(tiny_recipe, [VALIDATED]), Store(tmp_path / "store")
    costs = tiny_recipe.with_name("costs.json")
    costs.write_text("[1, 2]")
    source = digest_of(source_of(codes_of(loaded, store.facts)[reference], store.facts))
    reading = Reading({"costs.json": store.facts.sha256(costs)})
    Readings(store, root).keep(reference, source, reading, whole=False)
    plan = make_plan(loaded, take_fingerprints(loaded, store))
    costs.write_text("[1, 3]")
    again = make_plan(loaded, take_fingerprints(loaded, store))
    before, after = ({step.id: step.key for step in one.steps} for one in (plan, again))
    assert changed(before, after) == {"left/engine", "right/engine"}
    assert (
        again.step("left/engine").identity[f"read by {reference}"]
        != plan.step("left/engine").identity[f"read by {reference}"]
    )


def test_a_vocabulary_is_in_the_keys(tiny_recipe):
    words = tiny_recipe.with_name("words.txt")
    words.write_text("a\nb\n")
    with_gates(tiny_recipe, "metric: wer, arguments: {vocabulary: words.txt}, max_drop: 0.1")
    files = "data.files=['data.py']"
    before = keys_of(tiny_recipe, files)
    words.write_text("a\nc\n")
    assert changed(before, keys_of(tiny_recipe, files)) == {"left/engine", "right/engine"}
