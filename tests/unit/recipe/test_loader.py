"""Recipes from files: what is wrong is said once, with its place, in words that tell what to do."""

import re
import string
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recipe_samples import SAMPLE, write_sample_files

from mmdeploy.core.errors import RecipeError
from mmdeploy.recipe import yaml_tree
from mmdeploy.recipe.loader import load_recipe

EMPTY = "is empty; a recipe is a mapping that starts with schema_version, name and target"
UNCLOSED = "not YAML: while parsing a flow sequence: did not find expected ',' or ']'"
SECOND_DOCUMENT = "not YAML: expected a single document in the stream: but found another document"
COMPONENT_KEYS = "engine, export, inputs, keep, module, outputs, prune, quantize, recover, serving"


def test_a_right_recipe_is_read_whole(sample):
    recipe = load_recipe(sample)
    assert recipe.name == "spoken"
    assert recipe.inputs["image"].shape == (8, 8)
    assert recipe.components["fusion"].inputs["audio"].tensor == "audio_embedding"
    assert recipe.components["fusion"].quantize is None
    assert recipe.max_batch_size == 8
    assert recipe.root == Path.cwd()
    assert recipe.origin.overrides == ()


@pytest.mark.parametrize(
    ("replacement", "where", "message"),
    [
        pytest.param(
            ("    quantize: {method", "    quantise: {method"),
            "recipe.yaml:18 components.image_encoder.quantise",
            f"unknown key 'quantise'; did you mean 'quantize'? accepted: {COMPONENT_KEYS}",
            id="misspelt key",
        ),
        pytest.param(
            ("target: cpu", "targte: cpu"),
            "recipe.yaml:3 targte",
            "unknown key 'targte'; did you mean 'target'? accepted: base, baseline, cascade, components, data, "
            "folder, gates, inputs, layout, model, name, needs, outputs, postprocess, preprocess, "
            "response_cache, schema_version, seed, sizes, stream, subsets, target",
            id="misspelt required key is one problem, not two",
        ),
        pytest.param(
            ("method: parity", "method: party"),
            "recipe.yaml:32 gates.0.method",
            "unknown method 'party'; did you mean 'parity'? accepted: accuracy, early_exit, graceful, latency, memory, "
            "parity, size, throughput",
            id="misspelt method",
        ),
        pytest.param(
            ("{method: size, max", "{max"),
            "recipe.yaml:33 gates.1.method",
            "missing; accepted: parity, accuracy, graceful, early_exit, latency, throughput, size, memory",
            id="missing method",
        ),
        pytest.param(
            ("method: static", "method: 3"),
            "recipe.yaml:18 components.image_encoder.quantize.method",
            "must be a string, not the number 3; accepted: auto, dynamic, qat, static",
            id="method of the wrong type",
        ),
        pytest.param(
            ("min_cosine: 0.99", "min_cosine: 0.99, statistic: wrst"),
            "recipe.yaml:32 gates.0.statistic",
            "'wrst' is not accepted; did you mean 'worst'? accepted: mean, worst",
            id="misspelt enum value",
        ),
        pytest.param(
            ("    serving: {max_batch_size: 8}", "    serving: {max_batch_size: 8}\n    engine: openvino"),
            "recipe.yaml:20 components.image_encoder.engine",
            "'openvino' is a method: write {{method: openvino}}",
            id="a method where a section belongs",
        ),
        pytest.param(
            ("target: cpu", "target: gpu"),
            "recipe.yaml:3 target",
            "'gpu' is not accepted; did you mean 'cpu'? accepted: cpu, cuda, tensorrt, tensorrt_rtx",
            id="unknown target",
        ),
        pytest.param(
            ("schema_version: 1", "schema_version: 2"),
            "recipe.yaml:1 schema_version",
            "must be 1, not the number 2",
            id="other schema version",
        ),
        pytest.param(
            ("max_batch_size: 8", 'max_batch_size: "8"'),
            "recipe.yaml:19 components.image_encoder.serving.max_batch_size",
            'must be a whole number, not the string "8"',
            id="a quoted number is a string",
        ),
        pytest.param(
            ("max_batch_size: 8", "max_batch_size: -1"),
            "recipe.yaml:19 components.image_encoder.serving.max_batch_size",
            "must be at least 0, not the number -1",
            id="out of range",
        ),
        pytest.param(
            ("max_batch_size: 8", "response_cache: yes"),
            "recipe.yaml:19 components.image_encoder.serving.response_cache",
            'must be true or false, not the string "yes" (YAML 1.2 knows no yes and no)',
            id="yes is a string",
        ),
        pytest.param(
            ("name: spoken", "name: 5"),
            "recipe.yaml:2 name",
            "must be a string, not the number 5; put it in quotes",
            id="a number where a string is due",
        ),
        pytest.param(
            ("name: spoken", "name: ../spoken"),
            "recipe.yaml:2 name",
            "must be a name of letters, digits, '_', '-' and '.' that does not start with '.' or '-': "
            'Triton makes it a folder and a part of URLs; not the string "../spoken"',
            id="a name that would leave the repository",
        ),
        pytest.param(
            ("  fusion:\n", "  a/b:\n"),
            "recipe.yaml:25 components.a/b",
            "must be a name of letters, digits, '_', '-' and '.' that does not start with '.' or '-': "
            'Triton makes it a folder and a part of URLs; not the string "a/b"',
            id="a component's name with a slash",
        ),
        pytest.param(
            ("shape: [8, 8]", "shape: 64"),
            "recipe.yaml:11 inputs.image.shape",
            "must be a list, such as [1, 2], not the number 64",
            id="a number where a list is due",
        ),
        pytest.param(
            ("shape: [8, 8]", "shape: [8, -2]"),
            "recipe.yaml:11 inputs.image.shape.1",
            "must be at least -1, not the number -2",
            id="an item of a list",
        ),
        pytest.param(
            ("{logits: logits}", "logits"),
            "recipe.yaml:28 components.fusion.outputs",
            'must be a mapping (key: value), not the string "logits"',
            id="a string where a mapping is due",
        ),
        pytest.param(
            ("    module: fusion\n", ""),
            "recipe.yaml:25 components.fusion.module",
            "missing; it must be given: Attribute path of the submodule in the model.",
            id="missing key",
        ),
        pytest.param(
            ("    module: fusion\n", "    module: fusion\n    max_queue_delay_us: 500\n"),
            "recipe.yaml:27 components.fusion.max_queue_delay_us",
            "unknown key 'max_queue_delay_us' here; it belongs to components.<name>.serving.dynamic_batching; "
            f"accepted: {COMPONENT_KEYS}",
            id="a key in the wrong section",
        ),
        pytest.param(
            ("model.py:build", "model.build"),
            "recipe.yaml:5 model.factory",
            "must be a callable, as path.py:callable (beside the recipe) or package.module:callable; "
            'not the string "model.build"',
            id="no callable",
        ),
        pytest.param(
            ("model.py:build", "mode.py:build"),
            "recipe.yaml:5 model.factory",
            "no such file: 'mode.py' in {cwd}; did you mean 'model.py'?",
            id="missing factory file",
        ),
        pytest.param(
            ("model.py:build", "model.py:biuld"),
            "recipe.yaml:5 model.factory",
            "model.py defines no 'biuld'; did you mean 'build'?",
            id="missing callable",
        ),
        pytest.param(
            ("data.py:calibration", "data.py:training_set"),
            "recipe.yaml:8 data.calibration",
            "data.py defines no 'training_set'; it defines calibration, evaluation",
            id="missing callable, nothing like it",
        ),
        pytest.param(
            ("weights: weights.", "weights: weigths."),
            "recipe.yaml:6 model.weights",
            "no such file: 'weigths.safetensors' in {cwd}; did you mean 'weights.safetensors'?",
            id="missing weights",
        ),
        pytest.param(
            ("labels: labels.txt", "labels: nowhere/labels.txt"),
            "recipe.yaml:30 outputs.logits.labels",
            "no such file: 'nowhere/labels.txt' (there is no folder {cwd}/nowhere)",
            id="missing folder",
        ),
        pytest.param(
            ("data:\n", "data:\n  files: ['*.npz']\n"),
            "recipe.yaml:8 data.files.0",
            "'*.npz' matches no file in {cwd}",
            id="a glob that matches nothing",
        ),
        pytest.param(
            ("{method: parity, min_cosine: 0.99}", "{method: parity}"),
            "recipe.yaml:32 gates.0",
            "give at least one limit: min_cosine, min_sqnr_db, max_abs_error, max_scale_error, min_exact_match or "
            "min_overlap_at_k",
            id="what the options themselves refuse",
        ),
        pytest.param(
            ("max_batch_size: 8", "max_batch_size: 8, dynamic_batching: {preferred_batch_size: [16]}"),
            "recipe.yaml:19 components.image_encoder.serving.dynamic_batching",
            "preferred_batch_size 16 is above max_batch_size 8",
            id="preferred batch size above the largest",
        ),
        *(
            pytest.param(
                (
                    "{dtype: FP32, shape: [4000]}",
                    f"{{dtype: FP32, shape: [4000]{span}}}",
                    "max_batch_size: 16",
                    f"max_batch_size: 16, warmup: {{data: {data}}}",
                ),
                "recipe.yaml:24 components.audio_encoder.serving.warmup.data",
                f"{says} of the input 'waveform'; say data: sample: a warm-up that a model refuses can end Triton",
                id=f"a warm-up by {data} that the model would refuse{span}",
            )
            for data, span, says in (
                ("zero", ", range: [1, 9]", "zeros are outside the declared range [1, 9]"),
                ("random", ", range: [-9, 9]", "random bytes do not keep to the declared range [-9, 9]"),
                ("random", "", "random bytes are no FP32 values: some are NaN"),
            )
        ),
        pytest.param(
            ("name: spoken\n", "name: spoken\nname: again\n"),
            "recipe.yaml:3 name",
            "the key is written twice; first in line 2",
            id="duplicate key",
        ),
        pytest.param(
            ("{method: parity, min_cosine: 0.99}", "{method: parity, min_cosine: .nan}"),
            "recipe.yaml:32 gates.0.min_cosine",
            "the number .nan is too large or no number",
            id="not a number, and no complaint that the limit is missing",
        ),
        pytest.param(
            ("target: cpu", f"target: cpu\nseed: 0x{'f' * 6000}"),
            "recipe.yaml:4 seed",
            f"the number 0x{'f' * 38}… is too large or no number",
            id="a number that cannot even be printed",
        ),
        pytest.param(
            ("weights.safetensors", "w" * 300),
            "recipe.yaml:6 model.weights",
            f"'{'w' * 300}' cannot be read: File name too long",
            id="a name that no file system takes",
        ),
        pytest.param(
            ("{pixels: image}", "{pixels: 3}"),
            "recipe.yaml:16 components.image_encoder.inputs.pixels",
            "must be a name or a mapping (key: value), not the number 3",
            id="one of two forms",
        ),
        pytest.param(
            ("max_batch_size: 8", "version_policy: {latst: 1}"),
            "recipe.yaml:19 components.image_encoder.serving.version_policy.latst",
            "unknown key 'latst'; did you mean 'latest'? accepted: latest",
            id="only the alternative that was meant speaks",
        ),
        pytest.param(
            ("method: size", "method: [size]"),
            "recipe.yaml:33 gates.1.method",
            'must be a string, not the list ["size"]; accepted: accuracy, early_exit, graceful, latency, memory, '
            "parity, size, throughput",
            id="a list of methods",
        ),
        pytest.param(
            ("{pixels: image}", "{}"),
            "recipe.yaml:16 components.image_encoder.inputs",
            "must not be empty",
            id="no inputs",
        ),
    ],
)
def test_each_mistake_has_one_message(edited, problems, replacement, where, message):
    pairs = zip(replacement[::2], replacement[1::2], strict=True)
    assert problems(edited(*pairs)) == [(where, message.format(cwd=Path.cwd()))]


def test_all_problems_are_reported_at_once_in_the_order_of_lines(edited, problems):
    path = edited(
        ("factory: model.py:build", "factory: model.py:biuld"),
        ("shape: [8, 8]", "shape: [8, x]"),
        ("module: audio_encoder", "modul: audio_encoder"),
        ("{waveform: audio}", "{waveform: adio}"),
        ("method: static, calibrator: entropy", "method: statc, calibratr: entropy"),
        ("max_batch_size: 16", "max_batch_size: 0"),
        ("min_cosine: 0.99", "min_cosin: 0.99"),
        ("labels.txt", "labels.tx"),
    )
    assert [where for where, _ in problems(path)] == [
        "recipe.yaml:5 model.factory",
        "recipe.yaml:11 inputs.image.shape.1",
        "recipe.yaml:12 inputs.audio",
        "recipe.yaml:18 components.image_encoder.quantize.method",
        "recipe.yaml:18 components.image_encoder.quantize.calibratr",
        "recipe.yaml:21 components.audio_encoder.modul",
        "recipe.yaml:22 components.audio_encoder.inputs.waveform",
        "recipe.yaml:24 components.audio_encoder.serving.max_batch_size",
        "recipe.yaml:30 outputs.logits.labels",
        "recipe.yaml:32 gates.0.min_cosin",
    ]


def test_what_follows_from_a_mistake_is_no_second_problem(edited, problems):
    # The encoder's outputs are unreadable: that nothing writes image_embedding follows from it.
    path = edited(("outputs: {embedding: image_embedding}", "outputs: [image_embedding]"))
    assert problems(path) == [
        (
            "recipe.yaml:17 components.image_encoder.outputs",
            'must be a mapping (key: value), not the list ["image_embedding"]',
        )
    ]


@pytest.mark.parametrize(
    ("content", "where", "message"),
    [
        (b"", "recipe.yaml", EMPTY),
        (b"# nothing\n", "recipe.yaml", EMPTY),
        (b"- a\n- b\n", "recipe.yaml:1", "the top of a recipe must be a mapping (key: value), not a list"),
        (b"a: [1, 2\nb: 3\n", "recipe.yaml:2:2", UNCLOSED),
        (
            b"a:\n\tb: 3\n",
            "recipe.yaml:2:1",
            "not YAML: while scanning for the next token: found character that cannot start any token; "
            "indent with spaces, not tabs",
        ),
        (b"a: 1\nb: \xff\n", "recipe.yaml:2", "byte 0xff is not UTF-8; save the recipe as UTF-8 text"),
        (b"a: *b\n", "recipe.yaml:1:4", "not YAML: found undefined alias"),
        (b"a: &a [*a]\n", "recipe.yaml:1 a.0", "an alias stands inside its own anchor"),
        (b"a: 1\n---\nb: 1\n", "recipe.yaml:2:1", SECOND_DOCUMENT),
        (b"a: " + b"[" * 50_000, "recipe.yaml:1", "more than 50 levels deep"),
        (b"x" * (1 << 21), "recipe.yaml", "has 2097152 bytes; a recipe is a YAML file of a few kilobytes"),
    ],
)  # fmt: skip
def test_what_is_no_recipe_at_all(sample, problems, content, where, message):
    sample.write_bytes(content)
    assert problems(sample) == [(where, message)]


DEEP = f"a: 1\nb: {'[' * 60}{']' * 60}\n"
SHALLOW = f"a: 1\nb: {'[[], {}], ' * 60}\n"
DEPTH_ERRORS = [
    yaml.scanner.ScannerError("while increasing flow level", None, "exceeded maximum nesting depth", None),
    yaml.parser.ParserError("while parsing", None, "words of a later release", None),
    RecursionError("maximum recursion depth exceeded"),
]


@pytest.fixture(params=DEPTH_ERRORS, ids=lambda error: type(error).__name__)
def refusing(request, monkeypatch):
    """A libyaml that refuses every document at once, as some releases do with many brackets; returns what it says."""
    parse = yaml.parse

    def refuse(text, Loader):  # noqa: N803
        if Loader is yaml_tree._Core:
            raise request.param
        return parse(text, Loader=Loader)

    monkeypatch.setattr(yaml, "parse", refuse)
    return request.param


def test_what_is_too_deep_is_said_in_our_words_whichever_library_refuses_it(sample, problems, refusing):
    sample.write_text(DEEP)
    assert problems(sample) == [("recipe.yaml:2", "more than 50 levels deep")]


def test_the_parser_in_python_refuses_what_is_too_deep_alike(sample, problems, monkeypatch):
    """A PyYAML that was built without libyaml."""
    monkeypatch.setattr(yaml_tree, "_Core", yaml.SafeLoader)
    for content in (DEEP, "a: " + "[" * 50_000, "a:\n" + "- " * 5_000):
        sample.write_text(content)
        ((where, message),) = problems(sample)
        assert (where.partition(":")[0], message) == ("recipe.yaml", "more than 50 levels deep")


@pytest.mark.parametrize("refusing", DEPTH_ERRORS[:2], indirect=True)
def test_another_mistake_among_many_brackets_keeps_its_own_words(sample, problems, refusing):
    sample.write_text(SHALLOW)
    assert problems(sample) == [("recipe.yaml", f"not YAML: {refusing.context}: {refusing.problem}")]


def test_expanding_aliases_is_bounded(sample, problems):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    sample.write_text("\n".join(lines))
    ((where, message),) = problems(sample)
    assert where.startswith("recipe.yaml:")
    assert message == "more than 100000 values with aliases expanded"


def test_missing_files_and_folders(sample, problems):
    assert problems(Path("recpe.yaml")) == [("recpe.yaml", "no such file; did you mean 'recipe.yaml'?")]
    assert problems(Path("nowhere/recipe.yaml")) == [("nowhere/recipe.yaml", "no such file, and no folder nowhere")]
    assert problems(Path()) == [(".", "is a folder; name the recipe's YAML file in it")]


def test_yaml_1_1_traps_are_read_as_written(edited):
    recipe = load_recipe(edited(("{image: image_embedding", "{yes: image_embedding"), ("name: spoken", "name: off")))
    assert recipe.name == "off"
    assert set(recipe.components["fusion"].inputs) == {"yes", "audio"}


def test_anchors_and_merge_keys_work(edited):
    path = edited(
        ("    serving: {max_batch_size: 8}", "    serving: &serving {max_batch_size: 4, response_cache: true}"),
        ("    serving: {max_batch_size: 16}", "    serving:\n      <<: *serving\n      max_batch_size: 16"),
    )
    serving = load_recipe(path).components["audio_encoder"].serving
    assert (serving.max_batch_size, serving.response_cache) == (16, True)


def test_overrides_change_add_and_remove(sample):
    recipe = load_recipe(
        sample,
        [
            "components.fusion.quantize.method=static",
            "components.image_encoder.quantize=null",
            "gates.0.min_cosine=0.5",
            "gates.1=null",
            "inputs.audio.shape=[8000]",
            "seed=7",
        ],
    )
    assert recipe.components["fusion"].quantize is not None
    assert recipe.components["image_encoder"].quantize is None
    assert [gate.model_dump()["method"] for gate in recipe.gates] == ["parity"]
    assert recipe.gates[0].model_dump()["min_cosine"] == 0.5
    assert recipe.inputs["audio"].shape == (8000,)
    assert recipe.seed == 7
    assert len(recipe.origin.overrides) == 6


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "must be path=value, such as components.fusion.quantize.method=static"),
        ("sed=1", "the recipe has no key 'sed'; did you mean 'seed'? accepted: base, baseline, cascade, components, "
                  "data, folder, gates, inputs, layout, model, name, needs, outputs, postprocess, preprocess, "
                  "response_cache, schema_version, seed, sizes, stream, subsets, target"),
        ("components.fushion.quantize.method=static",
         "components has no 'fushion'; did you mean 'fusion'? accepted: audio_encoder, fusion, image_encoder"),
        ("components.fusion.quantise.method=static",
         f"components.fusion has no key 'quantise'; did you mean 'quantize'? accepted: {COMPONENT_KEYS}"),
        ("gates.2.min_cosine=1", "gates has 2 items, so an index below 2 is accepted, not '2'"),
        ("name.first=1", "name is a single value and has no 'first'"),
        ("seed=[1", UNCLOSED),
    ],
)  # fmt: skip
def test_overrides_that_lead_nowhere(sample, problems, override, message):
    ((where, found),) = problems(sample, override)
    assert where.startswith(f"--set {override}")
    assert found == message


def test_a_wrong_value_in_an_override_is_said_to_come_from_it(sample, problems):
    assert problems(sample, "seed=many", "components.fusion.serving={max_batch: 3}") == [
        ("--set seed=many", 'must be a whole number, not the string "many"'),
        (
            "--set components.fusion.serving={max_batch: 3} components.fusion.serving.max_batch",
            "unknown key 'max_batch'; did you mean 'max_batch_size'? accepted: dynamic_batching, guard, "
            "instance_group, max_batch_size, response_cache, version_policy, warmup",
        ),
    ]


TREE = yaml.safe_load(SAMPLE)
WORDS = st.sampled_from(["image", "audio", "logits", "static", "method", "yes", "", "a/b", "fusion", "1"])
LEAVES = st.one_of(
    WORDS,
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(string.printable, max_size=5),
    st.just([]),
    st.just({}),
    st.lists(st.integers(-2, 3), max_size=3),
)


def _places(value, place=()):
    yield place
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from _places(inner, (*place, key))


PLACES = [place for place in _places(TREE) if place]


@st.composite
def mutated_recipes(draw):
    tree = yaml.safe_load(SAMPLE)
    for _ in range(draw(st.integers(1, 4))):
        *around, key = draw(st.sampled_from(PLACES))
        parent = tree
        try:
            for step in around:
                parent = parent[step]
            parent[key]
        except (KeyError, IndexError, TypeError):
            continue
        kind = draw(st.sampled_from(["replace", "remove", "rename", "add"]))
        if kind == "remove":
            del parent[key]
        elif kind == "rename" and isinstance(parent, dict):
            parent[draw(WORDS)] = parent.pop(key)
        elif kind == "add" and isinstance(parent, dict):
            parent[draw(WORDS)] = draw(LEAVES)
        elif kind == "replace":
            parent[key] = draw(LEAVES)
    return yaml.safe_dump(tree, sort_keys=False)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mutated_recipes())
def test_whatever_is_wrong_is_a_problem_with_a_line(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp("mutated")
    write_sample_files(folder)
    (folder / "recipe.yaml").write_text(text)
    try:
        load_recipe(folder / "recipe.yaml")
    except RecipeError as error:
        assert error.problems
        for problem in error.problems:
            assert re.search(r"recipe\.yaml:\d+", problem.where), problem
            assert problem.message


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from([*SAMPLE.splitlines(), "", "{", "]", "- x", "\t", "? :", "&a *a", "<<: *a"]), max_size=12)
)
def test_any_text_is_a_recipe_or_a_recipe_error(tmp_path_factory, lines):
    path = tmp_path_factory.mktemp("text") / "recipe.yaml"
    path.write_text("\n".join(lines))
    with pytest.raises(RecipeError):
        load_recipe(path)
