"""Plug-ins of installed distributions: by entry point, in every list, refused where names clash."""

import json
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml
from plugin_files import ENGINE, GATE, PASS, distribution

from mmdeploy import gates, prune, quantize
from mmdeploy.cli import commands
from mmdeploy.cli.outcome import run
from mmdeploy.core.errors import PluginError
from mmdeploy.planning.fingerprints import take_fingerprints
from mmdeploy.planning.planner import make_plan
from mmdeploy.recipe.json_schema import json_schema
from mmdeploy.recipe.loader import load_recipe

GROUPS = {
    "gates": {"lenient": "their_plugins.gates:lenient"},
    "passes": {"quantize.copy": "their_plugins.passes:copy"},
    "engines": {"eager": "their_plugins.engines:eager"},
}


@pytest.fixture
def site(tmp_path_factory, monkeypatch):
    """A folder on the path, as a place to install into; what was imported from it is forgotten afterwards."""
    folder = tmp_path_factory.mktemp("site")
    monkeypatch.syspath_prepend(folder)
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "their_plugins"]:
        del sys.modules[name]


@pytest.fixture
def theirs(site):
    """An installed distribution with a gate, a pass and an engine."""
    package = site / "their_plugins"
    package.mkdir()
    (package / "__init__.py").write_text('"""Theirs."""\n')
    for name, text in (("gates", GATE), ("passes", PASS), ("engines", ENGINE)):
        (package / f"{name}.py").write_text(text)
    distribution(site, "their-plugins", "1.2", GROUPS)
    return package


GATES_LINE = "  - {method: size, max_ratio_to_reference: 0.5}\n"
LENIENT = "  - {method: lenient, limit: 0.5}\n"


def test_a_recipe_names_them_like_our_own(theirs, sample, edited):
    recipe = load_recipe(edited((GATES_LINE, LENIENT), ("{method: static, calibrator: entropy}", "{method: copy}")))
    assert gates.METHODS.of(recipe.gates[1]) is gates.METHODS["lenient"]
    assert [*gates.METHODS][-1] == "lenient"
    assert [*quantize.METHODS][-1] == "copy"
    assert "copy" not in prune.METHODS
    assert len(quantize.METHODS) == len(quantize.METHODS.built_in) + 1


def test_mistakes_know_them(theirs, sample, edited, problems):
    found = problems(edited((GATES_LINE, "  - {method: lenien, limit: 0.5}\n")))
    assert found == [
        ("recipe.yaml:33 gates.1.method", "unknown method 'lenien'; did you mean 'lenient'? accepted: accuracy, "
         "early_exit, graceful, latency, lenient, memory, parity, size, throughput"),
    ]  # fmt: skip
    found = problems(sample, "gates.1={method: lenient, limits: 2}")
    assert [message for _, message in found] == [
        "unknown key 'limits'; did you mean 'limit'? accepted: limit, method, tries"
    ]


def test_list_and_schema_know_them(theirs, capsys):
    assert run(commands, ["list"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^  lenient +\[their-plugins 1.2\] Says yes.$", shown, re.MULTILINE)
    assert re.search(r"^  copy +\[their-plugins 1.2\] ", shown, re.MULTILINE)
    assert run(commands, ["list", "gates"]) == 0
    shown = capsys.readouterr().out
    assert (
        "\n  gates.lenient\n    Says yes. Brought by their-plugins 1.2.\n      limit: number > 0 (required)\n" in shown
    )
    assert run(commands, ["list", "lenient"]) == 0
    assert "Brought by their-plugins 1.2." in capsys.readouterr().out
    assert run(commands, ["list", "gates.lenent"]) == 2
    assert "did you mean 'gates.lenient'?" in capsys.readouterr().err


def test_the_schema_takes_and_refuses_as_the_loader_does(theirs, sample):
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    tree = yaml.safe_load(sample.read_text())
    tree["gates"] = [{"method": "lenient", "limit": 1}, {"method": "gates.py:any", "whatever": 1}]
    jsonschema.validate(tree, schema)
    for wrong in ({"method": "lenient", "limt": 1}, {"method": "lenient"}, {"method": "unknown"}):
        tree["gates"] = [wrong]
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(tree, schema)


def test_a_name_of_our_own_is_refused_with_both_places(site):
    distribution(site, "clashing", "2.0", {"gates": {"parity": "clashing_gates:parity"}})
    with pytest.raises(PluginError, match=r"clashing_gates:parity of clashing 2.0 calls itself 'parity', as the "
                       r"built-in gate 'parity' of mmdeploy.gates"):  # fmt: skip
        list(gates.METHODS)
    assert gates.METHODS["parity"].__name__ == "mmdeploy.gates.parity"  # what is built in needs no look at the others


def test_two_of_one_name_are_refused_with_both_places(theirs, site):
    distribution(site, "other-plugins", "3.0", {"gates": {"lenient": "other_plugins:lenient"}})
    with pytest.raises(PluginError, match=r"two installed plug-ins are called 'lenient'") as caught:
        gates.METHODS.installed()
    assert "their-plugins 1.2" in caught.value.message
    assert "other-plugins 3.0" in caught.value.message


@pytest.mark.parametrize(
    ("group", "name", "message"),
    [
        ("passes", "copy", "does not say which section it is for"),
        ("passes", "squeeze.copy", "does not say which section it is for"),
        ("gates", "sure.lenient", "has a name that no recipe can write"),
        ("engines", "my engine", "has a name that no recipe can write"),
    ],
)
def test_a_name_that_cannot_be_one_is_refused(site, group, name, message):
    from mmdeploy import engines

    distribution(site, "odd", "0.1", {group: {name: "odd:thing"}})
    registry = {"passes": quantize, "gates": gates, "engines": engines}[group].METHODS
    with pytest.raises(PluginError, match=message) as caught:
        registry.installed()
    assert "of odd 0.1" in caught.value.message


def test_one_that_is_broken_is_told_in_the_list_and_where_it_is_used(theirs, sample, edited, problems, capsys):
    (theirs / "gates.py").write_text("1 / 0\n")
    assert run(commands, ["list", "gates"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "gates.lenient CANNOT BE USED: their_plugins.gates:lenient of their-plugins 1.2 cannot be loaded" in shown
    assert "gates.parity" in shown
    ((where, message),) = problems(edited((GATES_LINE, LENIENT)))
    assert where == "recipe.yaml:33 gates.1.method"
    assert "ZeroDivisionError at " in message
    assert "their_plugins/gates.py:1" in message


def test_a_broken_one_that_is_not_used_changes_nothing(theirs, sample):
    (theirs / "gates.py").write_text("1 / 0\n")
    assert load_recipe(sample).gates


def test_what_a_recipe_does_not_name_is_not_imported(theirs, site, sample):
    program = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "from mmdeploy.cli import commands; from mmdeploy.cli.outcome import run\n"
        "code = run(commands, ['validate', 'recipe.yaml']) or run(commands, ['plan', 'recipe.yaml'])\n"
        "print(code, 'their_plugins' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 False"


def test_a_clash_refuses_also_a_recipe_that_means_our_own(site, sample):
    distribution(site, "clashing", "2.0", {"gates": {"size": "clashing_gates:size"}})
    with pytest.raises(PluginError, match=r"clashing_gates:size of clashing 2.0 calls itself 'size'"):
        load_recipe(sample)


def keys(path):
    recipe = load_recipe(path)
    return {step.id: step.key for step in make_plan(recipe, take_fingerprints(recipe)).steps}


def test_keys_hold_the_version_and_the_code(theirs, site, sample, edited):
    path = edited(("{method: static, calibrator: entropy}", "{method: copy}"))
    first = keys(path)
    (theirs / "passes.py").write_text(PASS.replace("Copies a graph", "Copies graphs"))
    second = keys(path)
    info = site / "their_plugins-1.2.dist-info"
    (info / "METADATA").write_text((info / "METADATA").read_text().replace("1.2", "1.3"))
    program = f"import sys; sys.path[:0] = [{str(site)!r}, {str(Path(__file__).parent)!r}]; " + (
        "import json; from test_installed import keys; print(json.dumps(keys('recipe.yaml')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    third = json.loads(done.stdout)
    step = "image_encoder/quantize"
    assert len({first[step], second[step], third[step]}) == 3
    assert first["image_encoder/export"] == second["image_encoder/export"] == third["image_encoder/export"]
