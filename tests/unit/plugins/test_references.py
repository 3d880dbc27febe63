"""Passes, engines and gates beside a recipe: found, checked with it, kept apart, carried to other processes."""

import json
import multiprocessing
import pickle
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest
from plugin_files import ENGINE, GATE, PASS

from mmdeploy import engines, gates, quantize
from mmdeploy.core.contracts import method_of
from mmdeploy.core.errors import PluginError, StepError
from mmdeploy.core.target import Target
from mmdeploy.model import sources
from mmdeploy.planning.fingerprints import take_fingerprints
from mmdeploy.planning.planner import make_plan
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.recipe.schema import Recipe

GATES_LINE = "  - {method: size, max_ratio_to_reference: 0.5}\n"
LENIENT = "  - {method: gates.py:lenient, limit: 0.5}\n"


@pytest.fixture
def with_plugins(sample, edited):
    """The sample recipe with a gate, a pass and an engine of its own."""
    for name, text in (("gates.py", GATE), ("passes.py", PASS), ("engines.py", ENGINE)):
        (sample.parent / name).write_text(text)
    return edited(
        (GATES_LINE, LENIENT),
        ("quantize: {method: static, calibrator: entropy}", "quantize: {method: passes.py:copy}"),
        (
            "outputs: {embedding: audio_embedding}",
            "outputs: {embedding: audio_embedding}\n    engine: {method: engines.py:eager}",
        ),
    )


def test_options_are_those_of_the_plugin(with_plugins):
    recipe = load_recipe(with_plugins)
    gate = recipe.gates[1]
    assert (method_of(gate), gate.limit, gate.tries) == ("gates.py:lenient", 0.5, 3)
    assert gates.METHODS.of(gate).check(gate, None).checks[0].limit == "<= 0.5"
    assert gates.METHODS.of(gate).REQUIRES == ()
    assert gates.METHODS.of(gate).NEEDS_LABELS is False
    assert gates.METHODS.of(gate).advice(gate, None) is None
    engine = recipe.engine_options("audio_encoder")
    assert engines.METHODS.of(engine).unavailable(engine) is None
    assert engines.METHODS.of(engine).serving(engine) == {}
    assert quantize.METHODS.of(recipe.components["image_encoder"].quantize).data_needs(None) == frozenset()


def test_what_is_dumped_is_read_again(with_plugins):
    recipe = load_recipe(with_plugins)
    dumped = recipe.model_dump(mode="json")
    assert dumped["gates"][1] == {"method": "gates.py:lenient", "limit": 0.5, "tries": 3}
    assert recipe.model_dump(mode="json", exclude_unset=True)["gates"][1] == {
        "method": "gates.py:lenient",
        "limit": 0.5,
    }
    with_plugins.write_text(json.dumps(dumped))
    assert load_recipe(with_plugins).model_dump() == recipe.model_dump()


@pytest.mark.parametrize(
    ("written", "place", "message"),
    [
        ("{method: gates.py:lenient}", "limit", "missing; it must be given: A number."),
        ("{method: gates.py:lenient, limit: 0}", "limit", "must be greater than 0, not the number 0"),
        ("{method: gates.py:lenient, limit: 1, tires: 2}", "tires",
         "unknown key 'tires'; did you mean 'tries'? accepted: limit, method, tries"),
        ("{method: gates.py:lenient, limit: 1, tries: x}", "tries", 'must be a whole number, not the string "x"'),
        ("{method: gates.py:lenent}", "method",
         "gates.py:lenent cannot be loaded: gates.py has no 'lenent'; did you mean 'lenient'? accepted: lenient"),
        ("{method: gatez.py:lenient}", "method",
         "gatez.py:lenient cannot be loaded: there is no file gatez.py in {here}; "
         "did you mean 'gates.py'? accepted: data.py, gates.py, model.py"),
        ("{method: no_such_package.gates:lenient}", "method", "no_such_package.gates:lenient cannot be loaded: "
         "no_such_package.gates: there is no module 'no_such_package'"),
        ("{method: gates.py:Field}", "method",
         "gates.py:Field is no gate: it has no Options; it has no check; it needs "
         "Options, check(options, evidence); may have REQUIRES, NEEDS_LABELS, advice(options, result)"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_place(sample, edited, problems, written, place, message):
    (sample.parent / "gates.py").write_text(GATE)
    found = problems(edited((GATES_LINE, f"  - {written}\n")))
    assert found == [(f"recipe.yaml:33 gates.1.{place}", message.replace("{here}", str(Path.cwd())))]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("1 / 0\n", "importing gates.py failed: ZeroDivisionError at gates.py:1 (<module>): division by zero"),
        ("def check(:\n", "importing gates.py failed: SyntaxError at gates.py:1: "),
        (
            "import no_such_library\n",
            "importing gates.py failed: ModuleNotFoundError at gates.py:1 (<module>): No module",
        ),
        ("raise SystemExit(3)\n", "importing gates.py failed: SystemExit at gates.py:1 (<module>): 3"),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_a_problem_of_the_recipe(sample, edited, problems, code, message):
    (sample.parent / "gates.py").write_text(code)
    ((where, told),) = problems(edited((GATES_LINE, LENIENT)))
    assert where == "recipe.yaml:33 gates.1.method"
    assert told.startswith(f"gates.py:lenient cannot be loaded: {message}")


def test_other_mistakes_are_told_beside_a_plugin_that_fails(sample, edited, problems):
    (sample.parent / "gates.py").write_text("1 / 0\n")
    found = problems(edited((GATES_LINE, LENIENT), ("target: cpu", "target: cpuu")))
    assert [where for where, _ in found] == ["recipe.yaml:3 target", "recipe.yaml:33 gates.1.method"]


def test_a_whole_file_is_a_plugin(sample, edited):
    text = GATE.partition("class lenient")[0]
    (sample.parent / "yes.py").write_text(
        f"{text}class Options(MethodOptions):\n    pass\n\n\ndef check(options, evidence):\n    return 1\n"
    )
    recipe = load_recipe(edited((GATES_LINE, "  - {method: yes.py}\n")))
    assert gates.METHODS.of(recipe.gates[1]).check(None, None) == 1


def test_a_module_of_a_package_beside_the_recipe(sample, edited):
    (sample.parent / "own").mkdir()
    (sample.parent / "own" / "__init__.py").touch()
    (sample.parent / "own" / "gates.py").write_text(GATE)
    recipe = load_recipe(edited((GATES_LINE, "  - {method: own.gates:lenient, limit: 2}\n")))
    assert recipe.gates[1].limit == 2


def test_an_engine_of_the_module_and_quantize_contradict_each_other(with_plugins, problems):
    ((where, told),) = problems(with_plugins, "components.audio_encoder.quantize={method: static}")
    assert where == "--set components.audio_encoder.quantize={method: static}"
    assert "engines.py:eager is made of the PyTorch module, not of the graph that quantize writes" in told
    assert "(onnxruntime, openvino, tensorrt, tensorrt_rtx)" in told


def test_a_recipe_in_memory_has_no_folder_for_references(sample):
    import yaml

    fields = yaml.safe_load(sample.read_text())
    fields["gates"] = [{"method": "gates.py:lenient", "limit": 1}]
    with pytest.raises(ValueError, match="was not read from a file"):
        Recipe.model_validate(fields)


def test_one_reference_in_two_folders_is_two_gates(tmp_path, with_plugins):
    other = tmp_path / "other"
    shutil.copytree(with_plugins.absolute().parent, other, ignore=shutil.ignore_patterns("other"))
    (other / "gates.py").write_text(GATE.replace("tries: int = 3", "tries: int = 7").replace("<= ", "at most "))
    first, second, again = load_recipe(with_plugins), load_recipe(other / "recipe.yaml"), load_recipe(with_plugins)
    told = [gates.METHODS.of(one.gates[1]).check(one.gates[1], None).checks[0].limit for one in (first, second, again)]
    assert told == ["<= 0.5", "at most 0.5", "<= 0.5"]
    assert [one.gates[1].tries for one in (first, second, again)] == [3, 7, 3]


def test_a_plugin_that_was_edited_is_read_again(with_plugins):
    before = load_recipe(with_plugins)
    Path("gates.py").write_text(GATE.replace("tries: int = 3", "tries: int = 11"))
    assert load_recipe(with_plugins).gates[1].tries == 11
    assert before.gates[1].tries == 3


def test_a_recipe_is_the_same_after_a_way_to_another_process(with_plugins):
    recipe = load_recipe(with_plugins)
    assert pickle.loads(pickle.dumps(recipe)) == recipe
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_limit_of, (recipe,)) == ("<= 0.5", "gates.py:lenient")


def test_a_recipe_is_the_same_where_a_library_goes_by_the_name_of_a_plug_in(with_plugins, monkeypatch):
    monkeypatch.setattr(sources, "_loaded", {})
    for name in ("gates", "passes", "engines"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    recipe = load_recipe(with_plugins)
    assert pickle.loads(pickle.dumps(recipe)) == recipe


def _limit_of(recipe):
    gate = recipe.gates[1]
    return gates.METHODS.of(gate).check(gate, None).checks[0].limit, method_of(gate)


def keys(path):
    recipe = load_recipe(path)
    return {step.id: step.key for step in make_plan(recipe, take_fingerprints(recipe)).steps}


def test_the_code_of_a_pass_and_of_what_it_imports_is_in_its_key_and_in_no_other(with_plugins):
    Path("passes.py").write_text(f"from beside import THREE\n{PASS}")
    Path("beside.py").write_text("THREE = 3\n")
    before = keys(with_plugins)
    Path("beside.py").write_text("THREE = 4\n")
    after = keys(with_plugins)
    changed = {step for step in before if before[step] != after[step]}
    assert "image_encoder/quantize" in changed
    assert not [step for step in changed if step.startswith("audio_encoder") or step.endswith("/export")]


def test_a_project_that_moves_keeps_its_keys(with_plugins, tmp_path_factory):
    here = keys(with_plugins)
    elsewhere = tmp_path_factory.mktemp("moved") / "deep" / "project"
    shutil.copytree(with_plugins.absolute().parent, elsewhere)
    assert keys(elsewhere / "recipe.yaml") == here


def test_a_gate_changes_no_key(with_plugins):
    before = keys(with_plugins)
    Path("gates.py").write_text(GATE.replace("Says yes", "Says no"))
    assert keys(with_plugins) == before


def test_an_engine_of_the_module_takes_the_module_and_keeps_the_graph_beside_it(with_plugins):
    recipe = load_recipe(with_plugins, ["components.audio_encoder.prune={method: magnitude, sparsity: 0.5}",
                                        "components.audio_encoder.keep=always"])  # fmt: skip
    plan = make_plan(recipe, take_fingerprints(recipe))
    engine, reference = plan.step("audio_encoder/engine"), plan.step("audio_encoder/reference")
    assert engine.source == "audio_encoder/prune"
    assert engine.uses["graph"] == {"audio_encoder": "audio_encoder/export"}
    assert set(engine.needs) == {"audio_encoder/prune", "audio_encoder/export", "data/calibration"}
    assert reference.source is None  # the factory's own module
    assert reference.needs == ("audio_encoder/original", "data/calibration")


def test_candidates_of_a_plugin_know_whose_they_are(with_plugins):
    recipe = load_recipe(with_plugins)
    plugin = engines.METHODS.of(recipe.engine_options("audio_encoder"))
    (variant,) = plugin.candidates(Target.CPU)
    assert engines.METHODS.of(variant.options) is plugin
    assert method_of(variant.options) == "engines.py:eager"


def test_engine_auto_takes_references(with_plugins, problems):
    auto = "components.audio_encoder.engine={method: auto, engines: [onnxruntime, engines.py:eager]}"
    Path("data.py").write_text(f"{Path('data.py').read_text()}\n\ndef validation(): ...\n")
    recipe = load_recipe(with_plugins, [auto, "data.validation=data.py:validation"])
    steps = {step.id for step in make_plan(recipe, take_fingerprints(recipe)).steps}
    assert "audio_encoder/candidate.engines.py-eager-fp32" in steps
    missing = auto.replace("engines.py:eager", "engines.py:eagr")
    ((_, told),) = problems(with_plugins, missing, "data.validation=data.py:validation")
    assert "engines.py has no 'eagr'" in told


def test_what_a_plugin_raises_is_told_as_its_own(with_plugins):
    recipe = load_recipe(with_plugins)
    Path("gates.py").write_text(GATE.replace("        return GateResult", "        return {}[0] or GateResult"))
    broken = load_recipe(with_plugins).gates[1]
    with pytest.raises(StepError, match=r"gates.py:lenient: check failed: KeyError at gates.py:\d+ \(check\): 0"):
        gates.METHODS.of(broken).check(broken, None)
    assert gates.METHODS.of(recipe.gates[1]).check(recipe.gates[1], None).checks


def test_an_import_inside_a_function_finds_the_recipes_siblings(with_plugins):
    body = "        import beside_it\n        return beside_it.answer()\n"
    Path("gates.py").write_text(GATE[: GATE.index("        return GateResult")] + body)
    Path("beside_it.py").write_text("def answer():\n    return 42\n")
    gate = load_recipe(with_plugins).gates[1]
    assert gates.METHODS.of(gate).check(gate, None) == 42


def test_a_plugin_that_loads_torch_is_warned_of_and_others_load_none(with_plugins):
    program = (
        "import logging, sys; logging.basicConfig(format='%(message)s', stream=sys.stdout)\n"
        "from mmdeploy.recipe.loader import load_recipe\n"
        "from mmdeploy.planning.fingerprints import take_fingerprints\n"
        "from mmdeploy.planning.planner import make_plan\n"
        "recipe = load_recipe('recipe.yaml'); make_plan(recipe, take_fingerprints(recipe))\n"
        "print('torch' in sys.modules)"
    )
    run = [sys.executable, "-c", program]
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout == "False\n"
    Path("gates.py").write_text(f"import torch\n{GATE}")
    told = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    assert told.startswith(
        "gates.py:lenient imports torch when it is loaded, also to plan: import it inside functions\n"
    )


def test_an_unknown_name_is_told_by_find():
    with pytest.raises(PluginError, match=r"unknown gate 'parityy'; did you mean 'parity'\?"):
        gates.METHODS.find("parityy")


def test_a_variant_and_its_base_each_name_plugins_beside_themselves(with_plugins):
    variants = Path("variants")
    variants.mkdir()
    (variants / "gates.py").write_text(GATE.replace("tries: int = 3", "tries: int = 8").replace("lenient", "strict"))
    (variants / "one.yaml").write_text(
        "base: ../recipe.yaml\n"
        "components: {fusion: {engine: {method: ../engines.py:eager}}}\n"
        "gates: [{method: gates.py:strict, limit: 1}, {method: size, max_bytes: 5}]\n"
    )
    recipe = load_recipe(variants / "one.yaml")
    assert method_of(recipe.gates[0]) == "variants/gates.py:strict"
    assert recipe.gates[0].tries == 8
    assert method_of(recipe.components["fusion"].engine) == "engines.py:eager"
    assert method_of(recipe.components["image_encoder"].quantize) == "passes.py:copy"
