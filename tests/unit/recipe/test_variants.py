"""Recipes of one family: a variant laid over its base, where its paths lead, and what is said when either is wrong."""

import hashlib
import os
import re
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recipe_samples import SAMPLE, write_sample_files

from mmdeploy.cli import commands
from mmdeploy.cli.outcome import run
from mmdeploy.core.contracts import method_of
from mmdeploy.core.errors import RecipeError
from mmdeploy.planning.fingerprints import take_fingerprints
from mmdeploy.planning.planner import make_plan
from mmdeploy.recipe.json_schema import json_schema
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.recipe.variants import merge
from mmdeploy.recipe.yaml_tree import Node, tree_from_text

KEYS = (
    "base, baseline, cascade, components, data, folder, gates, inputs, layout, model, name, needs, outputs, "
    "postprocess, preprocess, "
    "response_cache, schema_version, seed, "
    "sizes, stream, subsets, target"
)


@pytest.fixture
def variant(sample):
    """Writes a variant of the sample into a folder beside it; returns its path."""

    def write(text: str, *, base: str = "../recipe.yaml", name: str = "variant.yaml") -> Path:
        path = Path("variants") / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"base: {base}\n{text}")
        return path

    return write


def test_what_a_variant_does_not_say_is_as_in_its_base(sample, variant):
    merged = load_recipe(variant("name: other\nseed: 7\ncomponents: {fusion: {serving: {max_batch_size: 4}}}\n"))
    assert (merged.name, merged.seed, merged.base) == ("other", 7, None)
    base = load_recipe(sample, ["name=other", "seed=7", "components.fusion.serving.max_batch_size=4"])
    assert merged.model_dump(exclude={"folder"}) == base.model_dump(exclude={"folder"})
    assert merged.root == base.root


def test_null_takes_a_section_a_component_and_a_value_away(sample, variant):
    text = "components:\n  image_encoder: {quantize: null}\n  audio_encoder: ~\n  fusion: {inputs: {audio: null}}\n"
    merged = load_recipe(variant(f"{text}inputs: {{audio: null}}\noutputs: {{logits: {{labels: null}}}}\ngates:\n"))
    assert list(merged.components) == ["image_encoder", "fusion"]
    assert merged.components["image_encoder"].quantize is None
    assert merged.outputs["logits"].labels is None
    assert merged.gates == ()


def test_null_over_null_stays_one(edited, variant):
    """An output without anything is written so: a variant that repeats it does not lose it."""
    edited(("  logits: {labels: labels.txt}", "  logits:"))
    assert list(load_recipe(variant("outputs: {logits: }\n")).outputs) == ["logits"]


def test_a_section_of_the_same_method_is_merged_and_one_of_another_replaces(sample, variant):
    same = load_recipe(variant("components: {image_encoder: {quantize: {samples: 32}}}\n"))
    assert same.components["image_encoder"].quantize.model_dump(exclude_unset=True) == {
        "method": "static",
        "calibrator": "entropy",
        "samples": 32,
    }
    other = load_recipe(variant("components: {image_encoder: {quantize: {method: dynamic}}}\n"))
    assert other.components["image_encoder"].quantize.model_dump(exclude_unset=True) == {"method": "dynamic"}


def test_a_tensor_called_method_is_no_method(edited, variant):
    edited(("    inputs: {pixels: image}", "    inputs: {method: image, pixels: image}"))
    merged = load_recipe(variant("components: {image_encoder: {inputs: {method: audio}}}\n"))
    wires = merged.components["image_encoder"].inputs
    assert {name: wire.tensor for name, wire in wires.items()} == {"method": "audio", "pixels": "image"}


def test_a_list_is_replaced_as_a_whole(sample, variant):
    merged = load_recipe(variant("gates: [{method: size, max_ratio_to_reference: 0.3}]\n"))
    assert [method_of(gate) for gate in merged.gates] == ["size"]
    assert load_recipe(sample).gates != merged.gates


def test_keys_keep_the_order_of_the_base_and_new_ones_follow(sample, variant):
    text = (
        "components:\n"
        "  head: {module: head, inputs: {x: image_embedding}, outputs: {y: extra}}\n"
        "  fusion: {keep: always}\n"
        "  image_encoder: {keep: always}\n"
        "outputs: {extra: {}, logits: {labels: null}}\n"
    )
    merged = load_recipe(variant(text))
    assert list(merged.components) == ["image_encoder", "audio_encoder", "fusion", "head"]
    assert list(merged.outputs) == ["logits", "extra"]


def test_overrides_are_laid_over_the_merged_recipe(sample, variant):
    path = variant("gates: [{method: size, max_ratio_to_reference: 0.3}]\n")
    merged = load_recipe(path, ["gates.0.max_ratio_to_reference=0.2", "components.image_encoder.quantize.samples=8"])
    assert merged.gates[0].model_dump()["max_ratio_to_reference"] == 0.2
    assert merged.components["image_encoder"].quantize.model_dump()["calibrator"] == "entropy"


def test_the_digest_and_the_plan_follow_both_files(sample, variant):
    path = variant("name: other\n")
    before = load_recipe(path)
    assert before.origin.path == path
    assert before.origin.base == Path("recipe.yaml")
    assert before.origin.sha256 == hashlib.sha256(path.read_bytes() + sample.read_bytes()).hexdigest()
    plan = make_plan(before, take_fingerprints(before))
    sample.write_text(sample.read_text().replace("calibrator: entropy", "calibrator: minmax"))
    after = load_recipe(path)
    assert after.origin.sha256 != before.origin.sha256
    changed = make_plan(after, take_fingerprints(after))
    keys = {step.id: step.key for step in plan.steps}
    others = {step.id for step in changed.steps if step.key != keys[step.id]}
    assert "image_encoder/quantize" in others
    assert all(step.startswith("image_encoder/") for step in others)


# Paths


def files_of(recipe):
    return {
        "factory": recipe.model.factory,
        "weights": recipe.model.weights,
        "calibration": recipe.data.calibration,
        "loss": recipe.data.loss,
        "files": recipe.data.files,
        "labels": recipe.outputs["logits"].labels,
    }


OWN_FILES = """\
model: {factory: own.py:build, weights: own.safetensors}
data: {calibration: ../data.py:calibration, loss: torch.nn.functional:cross_entropy, files: ["*.npz", "../*.txt"]}
outputs: {logits: {labels: own.txt}}
"""


def write_own_files(folder: Path) -> None:
    (folder / "own.py").write_text("def build(): ...\n")
    for name in ("own.safetensors", "own.txt", "own.npz"):
        (folder / name).write_text("a\n")


def test_paths_are_relative_to_the_file_that_they_are_written_in(sample, variant):
    path = variant(OWN_FILES)
    write_own_files(path.parent)
    merged = load_recipe(path)
    assert merged.root == Path.cwd()
    assert files_of(merged) == {
        "factory": "variants/own.py:build",
        "weights": Path("variants/own.safetensors"),
        "calibration": "data.py:calibration",
        "loss": "torch.nn.functional:cross_entropy",
        "files": ("variants/*.npz", "*.txt"),
        "labels": Path("variants/own.txt"),
    }
    assert merged.data.evaluation == "data.py:evaluation"


def test_a_variant_may_lie_anywhere(sample, tmp_path):
    elsewhere = tmp_path / "far" / "away"
    elsewhere.mkdir(parents=True)
    write_own_files(elsewhere)
    base = tmp_path / "family"
    base.mkdir()
    write_sample_files(base)
    text = OWN_FILES.replace("../data.py", str(base / "data.py")).replace("../*.txt", "../../family/*.txt")
    (elsewhere / "variant.yaml").write_text(f"base: ../../family/recipe.yaml\n{text}")
    merged = load_recipe(elsewhere / "variant.yaml")
    assert merged.root == base
    assert files_of(merged) == {
        "factory": "../far/away/own.py:build",
        "weights": Path("../far/away/own.safetensors"),
        "calibration": f"{base}/data.py:calibration",
        "loss": "torch.nn.functional:cross_entropy",
        "files": ("../far/away/*.npz", "*.txt"),
        "labels": Path("../far/away/own.txt"),
    }
    for name in (merged.model.weights, merged.outputs["logits"].labels, "model.py"):
        assert (merged.root / name).is_file()
    absolute = elsewhere / "absolute.yaml"
    absolute.write_text(f"base: {base / 'recipe.yaml'}\n")
    assert load_recipe(absolute).root == base


def test_a_link_on_the_way_leads_where_the_system_says(sample, tmp_path):
    """``link/../x`` is beside what the link names, not beside the link."""
    family, link = tmp_path / "deep" / "family", tmp_path / "link"
    (family / "variants").mkdir(parents=True)
    write_sample_files(family)
    link.symlink_to(family / "variants")
    write_own_files(family / "variants")
    (family / "variants" / "variant.yaml").write_text(f"base: ../recipe.yaml\n{OWN_FILES}")
    merged = load_recipe(link / "variant.yaml")
    assert merged.root == family
    assert merged.model.factory == "variants/own.py:build"
    assert merged.data.calibration == "data.py:calibration"


def test_each_file_has_a_folder_of_its_own(sample, variant, tmp_path):
    (tmp_path / "code").mkdir()
    write_sample_files(tmp_path / "code")
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "other.py").write_text("def evaluation(): ...\n")
    sample.write_text(f"{SAMPLE}folder: code\n")
    merged = load_recipe(variant("folder: ../samples\ndata: {evaluation: other.py:evaluation}\n"))
    assert merged.root == tmp_path / "code"
    assert merged.data.evaluation == "../samples/other.py:evaluation"
    assert merged.model.factory == "model.py:build"
    beside = load_recipe(variant("", base="recipe.yaml", name="../beside.yaml"))
    assert (beside.folder, beside.root) == (Path("code"), tmp_path / "code")


def test_a_variant_beside_its_base_has_the_same_folder(sample):
    Path("other.yaml").write_text("base: ./recipe.yaml\nmodel: {weights: ./weights.safetensors}\n")
    merged = load_recipe("other.yaml")
    assert (merged.folder, merged.root) == (None, Path.cwd())
    assert merged.model.weights == Path("weights.safetensors")


def test_paths_of_overrides_are_those_of_the_variant(sample, variant):
    path = variant("name: other\n")
    write_own_files(path.parent)
    merged = load_recipe(path, ["model.weights=own.safetensors", "data.evaluation=../data.py:calibration"])
    assert merged.model.weights == Path("variants/own.safetensors")
    assert merged.data.evaluation == "data.py:calibration"


def test_a_reference_through_a_folder_with_a_colon_is_refused(sample, tmp_path, problems):
    odd = tmp_path / "a:b"
    odd.mkdir()
    write_own_files(odd)
    (odd / "variant.yaml").write_text("base: ../recipe.yaml\nmodel: {factory: own.py:build}\n")
    assert problems(Path("a:b/variant.yaml")) == [
        (
            "a:b/variant.yaml:2 model.factory",
            f"'own.py:build' is 'a:b/own.py:build' from {tmp_path}; a folder in a reference has no ':' in its name",
        )
    ]


def test_what_a_gate_reads_is_told_from_the_file_too(sample, variant, problems):
    text = "gates:\n  - {method: accuracy, metric: own.py:build, min: 0.5}\n"
    path = variant(f"{text}  - {{method: accuracy, metric: wer, arguments: {{vocabulary: own.txt}}, max: 0.5}}\n")
    assert [where for where, _ in problems(path)] == [
        "variants/variant.yaml:3 gates.0.metric",
        "variants/variant.yaml:4 gates.1.arguments.vocabulary",
    ]
    write_own_files(path.parent)
    mine, words = load_recipe(path).gates
    assert mine.metric == "variants/own.py:build"
    assert words.arguments == {"vocabulary": "variants/own.txt"}
    Path("other.txt").write_text("")
    words = load_recipe(path, ["gates.1.arguments.vocabulary=../other.txt"]).gates[1]
    assert words.arguments == {"vocabulary": "other.txt"}


# What is wrong, and where


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        pytest.param(
            "components: {left: {}, fuson: {keep: always}}\n",
            "variants/variant.yaml:2 components.fuson",
            "recipe.yaml has no 'fuson' here; did you mean 'fusion'? accepted: audio_encoder, fusion, image_encoder; "
            "a new one must be given module, inputs, outputs",
            id="misspelt component",
        ),
        pytest.param(
            "inputs:\n  imge: null\n",
            "variants/variant.yaml:3 inputs.imge",
            "recipe.yaml has no 'imge' here; did you mean 'image'? accepted: audio, image; "
            "there is nothing to take away",
            id="nothing to take away",
        ),
        pytest.param(
            "components:\n  fusion:\n    module: null\n",
            "variants/variant.yaml:4 components.fusion.module",
            "missing; it must be given: Attribute path of the submodule in the model.",
            id="taken away what must be there",
        ),
        pytest.param(
            "components:\n  image_encoder:\n    quantize: {method: null}\n",
            "variants/variant.yaml:4 components.image_encoder.quantize.method",
            "missing; accepted: static, dynamic, qat, auto",
            id="method taken away",
        ),
        pytest.param(
            "model:\n  weights: weights.safetensors\n",
            "variants/variant.yaml:3 model.weights",
            "no such file: 'weights.safetensors' in {cwd}/variants; did you mean '../weights.safetensors'? "
            "Paths are relative to the file that they are written in",
            id="path as if written in the base",
        ),
        pytest.param(
            "data:\n  evaluation: data.py:evaluation\n",
            "variants/variant.yaml:3 data.evaluation",
            "no such file: 'data.py' in {cwd}/variants; did you mean '../data.py'? "
            "Paths are relative to the file that they are written in",
            id="reference as if written in the base",
        ),
    ],
)
def test_one_thing_wrong_in_a_variant_is_one_problem_with_its_place(variant, problems, text, where, message):
    found = problems(variant(text))
    assert (where, message.replace("{cwd}", str(Path.cwd()))) in found
    assert len([place for place, _ in found if not place.endswith("components.left")]) == 1


def test_a_misspelt_base_is_one_problem(sample, problems):
    Path("other.yaml").write_text("bsae: recipe.yaml\nname: other\n")
    assert problems(Path("other.yaml")) == [
        ("other.yaml:1 bsae", f"unknown key 'bsae'; did you mean 'base'? accepted: {KEYS}")
    ]


def test_problems_of_both_files_are_told_at_once_those_of_the_variant_first(edited, variant, problems):
    edited(("target: cpu", "target: cpuu"), ("calibrator: entropy", "calibrator: entrpy"), ("name:", "name: a\nname:"))
    found = problems(variant("seed: -1\nname: other\nname: other\n"), "components.fusion.keep=never")
    assert [where for where, _ in found] == [
        "variants/variant.yaml:2 seed",
        "variants/variant.yaml:4 name",
        "recipe.yaml:3 name",
        "recipe.yaml:4 target",
        "recipe.yaml:19 components.image_encoder.quantize.calibrator",
        "--set components.fusion.keep=never",
    ]


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("../recpie.yaml", "no such file: '../recpie.yaml' in variants; did you mean '../recipe.yaml'?"),
        ("..", "'..' is a folder; name the recipe's YAML file in it"),
        ("variant.yaml", "'variant.yaml' is this recipe itself; name another one, or take the key away"),
        ("link.yaml", "'link.yaml' is this recipe itself; name another one, or take the key away"),
        (
            "circle.yaml",
            "a circle: 'circle.yaml' names this recipe as its base in turn; take one of the two keys away "
            "(the other is variants/circle.yaml:2 base)",
        ),
        (
            "second.yaml",
            "'second.yaml' has a base of its own, and one level is accepted; name a recipe without one "
            "(the other is variants/second.yaml:1 base)",
        ),
        ("loop.yaml", "'loop.yaml' cannot be read: Too many levels of symbolic links"),
        ("3", "must be the path of another recipe, not the number 3"),
        ("[a]", 'must be the path of another recipe, not the list ["a"]'),
        ("''", 'must be the path of another recipe, not the string ""'),
    ],
)
def test_a_base_that_cannot_be_one(sample, variant, problems, base, message):
    path = variant("name: other\n", base=base)
    (path.parent / "link.yaml").symlink_to("variant.yaml")
    (path.parent / "loop.yaml").symlink_to("loop.yaml")
    (path.parent / "circle.yaml").write_text("name: other\nbase: link.yaml\n")
    (path.parent / "second.yaml").write_text("base: ../recipe.yaml\n")
    assert problems(path) == [("variants/variant.yaml:1 base", message)]
    assert run(commands, ["validate", str(path)]) == 2


@pytest.mark.parametrize(
    ("content", "where", "message"),
    [
        ("name: a\ntarget: [cpu\n", "recipe.yaml:3:1", "not YAML: while parsing a flow sequence"),
        ("- a\n", "recipe.yaml:1", "the top of a recipe must be a mapping (key: value), not a list"),
        ("", "recipe.yaml", "is empty; a recipe is a mapping"),
        (f"{SAMPLE}folder: 3\n", "recipe.yaml:34 folder", "must be a path, not the number 3"),
    ],
)
def test_a_base_that_is_no_recipe_is_told_with_its_own_place(sample, variant, problems, content, where, message):
    sample.write_text(content)
    ((place, found),) = problems(variant("name: other\n"))
    assert place == where
    assert found.startswith(message)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_base_that_may_not_be_read(sample, variant, problems):
    sample.chmod(0)
    assert problems(variant("")) == [("recipe.yaml", "cannot be read: Permission denied")]


def test_a_base_on_the_command_line_comes_too_late(sample, variant, problems):
    message = "the base is read before overrides are laid over the recipe: name it in the file"
    assert problems(variant(""), "base=x.yaml") == [("--set base=x.yaml", message)]


def test_what_an_override_takes_away_is_missed_in_its_place(sample, problems):
    ((where, message),) = problems(sample, "components.fusion.module=null")
    assert where == "--set components.fusion.module=null"
    assert message.startswith("missing")


def test_validate_names_the_base(variant, capsys):
    path = variant("name: other\n")
    assert run(commands, ["validate", str(path)]) == 0
    assert capsys.readouterr().out.startswith("ok: variants/variant.yaml over recipe.yaml: other for cpu,")


def test_the_schema_for_editors_takes_a_part_of_a_recipe_where_a_base_is_named():
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    part = {
        "base": "../recipe.yaml",
        "components": {"a": {"quantize": {"samples": 8}, "prune": None, "inputs": {"x": None}}, "b": None},
        "inputs": {"x": {"range": [0, 1]}},
        "gates": None,
    }
    accepts = jsonschema.Draft202012Validator(schema)
    accepts.validate(part)
    for place, wrong in [
        ({"components": {"a": {"quantise": {}}}}, "quantise"),
        ({"components": {"a": {"quantize": {"method": "qat", "calibratr": "mse"}}}}, "calibratr"),
        ({"gates": [{"method": "size", "min": 3}]}, "min"),
        ({"gates": [{"max_drop": 3}]}, "max_drop"),
        ({"base": None}, "required property"),
    ]:
        with pytest.raises(jsonschema.ValidationError, match=wrong):
            accepts.validate(part | place)


# Properties of merging

SCALARS = st.one_of(st.integers(0, 3), st.sampled_from(["x", "y"]), st.booleans())
KEYS_OF_TREES = st.sampled_from(["a", "b", "c", "method"])
VALUES = st.recursive(
    st.one_of(SCALARS, st.none(), st.lists(SCALARS, max_size=2)),
    lambda below: st.dictionaries(KEYS_OF_TREES, below, max_size=3),
    max_leaves=8,
)
TREES = st.dictionaries(KEYS_OF_TREES, VALUES, max_size=4)
#: Trees that have the same kind of thing at the same place.
ALIKE = st.fixed_dictionaries(
    {},
    optional={
        "a": SCALARS,
        "b": st.dictionaries(st.sampled_from("pq"), SCALARS),
        "c": st.fixed_dictionaries({}, optional={"d": st.lists(SCALARS), "e": st.dictionaries(st.just("f"), SCALARS)}),
    },
)


def tree(value, name="base.yaml"):
    return tree_from_text(yaml.safe_dump(value, sort_keys=False), name)[0]


def laid(*values):
    """Return what comes of several trees, each laid over those before it."""
    below = tree(values[0])
    for value in values[1:]:
        below, problems = merge(below, tree(value, "variant.yaml"), "base.yaml")
        assert problems == []
    return below.plain()


def leaves(node: Node, place=()):
    if not isinstance(node.value, dict):
        yield place, node
        return
    for key, below in node.value.items():
        yield from leaves(below, (*place, key))


def ordered(value):
    return yaml.safe_dump(value, sort_keys=False)


@given(TREES)
def test_an_empty_variant_changes_nothing_and_neither_does_the_base_itself(base):
    assert ordered(laid(base, {})) == ordered(base)
    assert ordered(laid(base, base)) == ordered(base)


@given(TREES, TREES)
def test_what_the_variant_says_stands(base, variant):
    merged, _ = merge(tree(base), tree(variant, "variant.yaml"), "base.yaml")
    below = tree(base)
    for place, leaf in leaves(tree(variant, "variant.yaml")):
        found = merged.at(place)
        if leaf.value is not None:
            assert found is not None
            assert (found.plain(), found.origin) == (leaf.plain(), leaf.origin)
        elif below.at(place) is not None and below.at(place).value is not None and found is None:
            assert merged.closest(place).origin == leaf.origin
    for place, leaf in leaves(merged):
        written = tree(variant, "variant.yaml") if leaf.origin.startswith("variant.yaml") else below
        assert written.at(place) == leaf


@given(TREES, TREES)
def test_keys_of_the_base_come_first_in_its_order(base, variant):
    merged = list(laid(base, variant))
    old = [key for key in merged if key in base]
    assert old == [key for key in base if key in old]
    assert merged[: len(old)] == old


@given(ALIKE, ALIKE, ALIKE)
def test_it_does_not_matter_which_two_are_laid_together_first(first, second, third):
    assert laid(first, second, third) == laid(first, laid(second, third))


TREE = yaml.safe_load(SAMPLE)


def _places(value, place=()):
    yield place
    for key, below in value.items() if isinstance(value, dict) else ():
        yield from _places(below, (*place, key))


PLACES = [place for place in _places(TREE) if place]
WORDS = st.sampled_from(["image", "audio", "logits", "static", "qat", "method", "quantise", "fuson", "a/b.py:c"])
LEAVES = st.one_of(WORDS, st.none(), st.integers(-1, 9), st.just([]), st.just({}), st.dictionaries(WORDS, WORDS))


@st.composite
def parts(draw, least):
    """Pieces of a recipe, some of them renamed, with anything in them."""
    made = {}
    for place in draw(st.lists(st.sampled_from(PLACES), min_size=least, max_size=3)):
        *around, key = place
        parent = made
        for step in around:
            below = parent.setdefault(step, {})
            parent = below if isinstance(below, dict) else {}
        parent[draw(WORDS) if draw(st.integers(0, 3)) == 0 else key] = draw(LEAVES)
    return made


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(parts(1), parts(0))
def test_every_problem_has_a_place_that_exists_in_the_file_that_it_names(tmp_path_factory, above, damage):
    folder = tmp_path_factory.mktemp("family")
    write_sample_files(folder)
    texts = {
        "recipe.yaml": ordered(_damaged(TREE, damage)),
        "v/variant.yaml": ordered({"base": "../recipe.yaml", **above}),
    }
    (folder / "v").mkdir()
    for name, text in texts.items():
        (folder / name).write_text(text)
    try:
        recipe = load_recipe(folder / "v" / "variant.yaml")
    except RecipeError as error:
        assert error.problems
        for problem in error.problems:
            name, line = re.match(
                r"(recipe\.yaml|v/variant\.yaml):(\d+)\b", problem.where.removeprefix(f"{folder}/")
            ).groups()
            assert 1 <= int(line) <= len(texts[name].splitlines())
    else:
        assert recipe.root == folder


def _damaged(value, damage):
    if not isinstance(value, dict) or not isinstance(damage, dict):
        return damage
    return value | {key: _damaged(value.get(key), below) for key, below in damage.items()}
