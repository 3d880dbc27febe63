"""The verbs: each shows an example, loads only what it needs, and prints what it should."""

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

import mmdeploy.cli
from mmdeploy import engines, export, gates, prune, quantize, recover
from mmdeploy.cli import VERBS, commands
from mmdeploy.cli.outcome import run
from mmdeploy.core.errors import RecipeError
from mmdeploy.recipe.loader import load_recipe

RECIPES = sorted((Path(__file__).parents[3] / "recipes").rglob("*.yaml"))
HEAVY = ("numpy", "torch", "onnx", "onnxruntime", "onnxscript", "tensorrt", "tensorrt_rtx", "tritonclient", "scipy",
         "matplotlib", "torchmetrics", "sklearn", "PIL", "jinja2", "rich")  # fmt: skip


def test_every_verb_is_a_file_with_a_command():
    files = {path.stem for path in Path(mmdeploy.cli.__file__).parent.glob("*.py")}
    named = {verb.replace("-", "_") for verb in VERBS}
    assert named <= files
    assert files - named == {
        "__init__", "completion", "init_pretrained", "options", "outcome", "output", "text",
    }  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_shows_an_example(capsys, verb):
    assert run(commands, [verb, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"Example:\n    mmdeploy {verb}" in shown
    assert "--verbose" in shown


def test_help_lists_every_verb_and_no_verb_alone_is_a_usage_error(capsys):
    assert run(commands, ["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {verb} " in shown for verb in VERBS)
    assert run(commands, []) == 2
    assert capsys.readouterr().out == shown


def test_version(capsys):
    assert run(commands, ["--version"]) == 0
    assert capsys.readouterr().out == f"mmdeploy {mmdeploy.__version__} (multimodal-deploy)\n"


@pytest.mark.parametrize("argv", [["--help"], ["validate", "recipe.yaml"], ["list"], ["schema"]])
def test_what_does_not_build_loads_nothing_heavy(sample, argv):
    program = (
        "import sys; from mmdeploy.cli import commands; from mmdeploy.cli.outcome import run\n"
        f"code = run(commands, {argv!r})\n"
        f"print('loaded:', [name for name in {HEAVY!r} if name in sys.modules], code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("loaded: [] 0\n"), done.stdout + done.stderr


#: What `validate` imports of the methods' packages for a recipe that names none: it knows these gates' limits.
ALWAYS = {"accuracy", "latency", "memory", "parity", "size", "throughput"}


@pytest.mark.parametrize("named", [(), ("quantize.dynamic", "prune.magnitude", "engines.openvino")])
def test_validate_imports_the_methods_that_the_recipe_names_and_no_others(sample, named):
    recipe = yaml.safe_load(sample.read_text(encoding="utf-8"))
    recipe.pop("gates", None)
    for part in recipe["components"].values():
        part.update({"quantize": None, "prune": None, "recover": None})
    for one in named:
        room, method = one.split(".")
        recipe["components"]["fusion"][room.replace("engines", "engine")] = {"method": method}
    if "prune.magnitude" in named:
        recipe["components"]["fusion"]["prune"]["sparsity"] = 0.5
    sample.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    program = (
        "import sys; from mmdeploy.cli import commands; from mmdeploy.cli.outcome import run\n"
        "assert run(commands, ['validate', 'recipe.yaml']) == 0\n"
        "print(*sorted(name for name in sys.modules if name.startswith('mmdeploy.')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    rooms = (engines, export, gates, prune, quantize, recover)
    methods = {f"mmdeploy.{room.__name__.rpartition('.')[2]}.{name}" for room in rooms for name in room.METHODS}
    expected = {f"mmdeploy.{one}" for one in (*named, "engines.onnxruntime", *(f"gates.{one}" for one in ALWAYS))}
    assert methods & loaded == expected
    assert not {name for name in loaded if name.startswith(("mmdeploy.preprocess", "mmdeploy.recipe.media_sections"))}


def test_help_does_not_load_the_verbs():
    program = (
        "import sys; from mmdeploy.cli import commands; from mmdeploy.cli.outcome import run\n"
        "run(commands, ['--help'])\n"
        "print('loaded:', [name for name in ('pydantic', 'numpy', 'yaml') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("loaded: []\n")


VALIDATED = """\
ok: recipe.yaml: spoken for cpu, 3 components, 2 gates

component      reads               writes              steps               batch
image_encoder  pixels <- image     embedding ->        onnx > static >     8
                                   image_embedding     onnxruntime
audio_encoder  waveform <- audio   embedding ->        onnx > onnxruntime  16
                                   audio_embedding
fusion         image <-            logits -> logits    onnx > onnxruntime  8
               image_embedding
               audio <-
               audio_embedding

ensemble  max_batch_size 8
inputs    image: UINT8 [8, 8]
          audio: FP32 [4000]
outputs   logits
data      calibration: data.py:calibration (once a build)
          evaluation: data.py:evaluation (once a build)
gates     parity min_cosine 0.99
          size max_ratio_to_reference 0.5
"""


@pytest.mark.parametrize("argument", ["recipe.yaml", "."])
def test_validate_shows_what_it_understood(sample, capsys, argument):
    assert run(commands, ["validate", argument]) == 0
    assert capsys.readouterr() == (VALIDATED, "")


def test_validate_shows_what_is_made_of_files_and_what_may_be_missing(capsys):
    [path] = [path for path in RECIPES if path.name == "media.yaml"]
    assert run(commands, ["validate", str(path)]) == 0
    shown = {" ".join(line.split()) for line in capsys.readouterr().out.splitlines()}
    assert shown >= {
        "preprocess see: decode_image, image -> pixels",
        "hear: decode_audio, audio -> waveform",
        "inputs image: BYTES [1], may be missing: mean",
    }


def test_validate_tells_every_problem(edited, capsys):
    edited(("target: cpu", "target: cpuu"), ("{pixels: image}", "{pixels: imag}"))
    assert run(commands, ["validate", "recipe.yaml", "--set", "seed=-1"]) == 2
    assert capsys.readouterr() == (
        "",
        "error: 4 problems in the recipe\n"
        "recipe.yaml:3 target\n"
        "    'cpuu' is not accepted; did you mean 'cpu'? accepted: cpu, cuda, tensorrt, tensorrt_rtx\n"
        "recipe.yaml:11 inputs.image\n"
        "    no component reads the input 'image': Triton refuses it; wire it, or take it out\n"
        "recipe.yaml:16 components.image_encoder.inputs.pixels\n"
        "    nothing writes the tensor 'imag'; did you mean 'image'? accepted: audio, audio_embedding, image, "
        "image_embedding, logits\n"
        "--set seed=-1\n"
        "    must be at least 0, not the number -1\n",
    )


def test_validate_as_json(edited, capsys):
    edited()
    assert run(commands, ["validate", "recipe.yaml", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is True
    assert told["order"] == ["image_encoder", "audio_encoder", "fusion"]
    assert told["recipe"]["components"]["fusion"]["module"] == "fusion"
    edited(("target: cpu", "target: cpuu"))
    assert run(commands, ["validate", "recipe.yaml", "--json"]) == 2
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is False
    assert [problem["where"] for problem in told["problems"]] == ["recipe.yaml:3 target"]


def test_schema_is_a_schema_that_takes_the_sample(sample, capsys):
    assert run(commands, ["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(yaml.safe_load(sample.read_text()), schema)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipes_of_this_repository_are_right(path, capsys):
    try:
        load_recipe(path)
    except RecipeError as error:  # what is not in the repository is the one thing that may be missing
        told = [f"needs.{name}.path" for name in yaml.safe_load(path.read_text())["needs"]]
        assert [problem.where.rpartition(" ")[2] for problem in error.problems] == told
    assert run(commands, ["schema"]) == 0
    jsonschema.validate(yaml.safe_load(path.read_text()), json.loads(capsys.readouterr().out))


LISTED = {"export": export, "quantize": quantize, "engines": engines, "gates": gates}


def test_list_gives_everything_a_line(capsys):
    assert run(commands, ["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    for package in LISTED.values():
        for method in package.METHODS:
            assert sum(line.startswith(f"  {method} ") for line in lines) == 1 + (method == "auto")
    assert run(commands, ["list", "--quiet"]) == 0
    names = capsys.readouterr().out.split()
    assert {f"{section}.{method}" for section, package in LISTED.items() for method in package.METHODS} < set(names)


@pytest.mark.parametrize("section", LISTED)
def test_list_of_a_section_names_its_methods_with_their_options(capsys, section):
    assert run(commands, ["list", section]) == 0
    shown = capsys.readouterr().out
    for method, module in LISTED[section].METHODS.items():
        assert f"\n  {section}.{method}\n" in shown
        for option in set(module.Options.model_fields) - {"method"}:
            assert f"      {option}: " in shown


def test_list_as_json_has_each_option(capsys):
    assert run(commands, ["list", "parity", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    [parity] = told["methods"]
    assert (told["schema_version"], parity["name"], parity["section"]) == (1, "gates.parity", "gates")
    [statistic] = [one for one in parity["options"] if one["name"] == "statistic"]
    assert statistic == {
        "name": "statistic",
        "type": "worst | mean",
        "required": False,
        "default": "worst",
        "text": "Judge the worst sample, or all together.",
    }


@pytest.mark.parametrize("name", ["gates.parity", "parity"])
def test_list_of_one_entry_is_its_whole_docstring(capsys, name):
    assert run(commands, ["list", name]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("gates.parity\n\nParity: do the served models answer")
    assert " ".join(gates.METHODS["parity"].__doc__.split())[-400:] in " ".join(shown.split())
    assert '  statistic: worst | mean = "worst"\n      Judge the worst sample, or all together.\n' in shown
    assert "  min_cosine: number in [-1.0, 1.0] = none\n" in shown


def test_list_of_serving_shows_the_sections_within(capsys):
    assert run(commands, ["list", "serving"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("serving\n\nThe ``serving`` section of a recipe: how Triton runs a component.")
    assert "\n  max_batch_size: integer >= 0 = 8\n" in shown
    assert "\n  dynamic_batching.max_queue_delay_us: integer >= 0 = 0\n" in shown


@pytest.mark.parametrize(("name", "guess"), [("gates.party", "gates.parity"), ("statik", "static"), ("xyz", None)])
def test_list_of_something_unknown(capsys, name, guess):
    assert run(commands, ["list", name]) == 2
    meant = f"did you mean {guess!r}? " if guess else ""
    assert capsys.readouterr().err.splitlines() == [
        f"error: nothing is named {name!r}; {meant}accepted: preprocess, prune, recover, export, quantize, engines, "
        "serving, gates, or a method of one",
        "hint: mmdeploy list names them all",
    ]


def repository(folder, config):
    model = folder / "encoder"
    (model / "1").mkdir(parents=True)
    (model / "1" / "model.onnx").write_bytes(b"graph")
    (model / "config.pbtxt").write_text(config)
    return str(folder)


RIGHT = """\
name: "encoder"
backend: "onnxruntime"
max_batch_size: 8
input [{name: "x" data_type: TYPE_FP32 dims: [4]}]
output [{name: "y" data_type: TYPE_FP32 dims: [4]}]
"""


def test_lint_of_what_triton_takes(tmp_path, capsys):
    path = repository(tmp_path, RIGHT)
    assert run(commands, ["lint", path]) == 0
    assert capsys.readouterr() == (f"ok: {path}: Triton takes it\n", "")
    assert run(commands, ["lint", path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"schema_version": 1, "findings": []}


def test_lint_of_what_triton_refuses(tmp_path, capsys):
    path = repository(tmp_path, RIGHT.replace('"encoder"', '"decoder"'))
    assert run(commands, ["lint", path]) == 1
    shown = capsys.readouterr().out
    assert f"error     {path}/encoder/config.pbtxt:1" in shown
    assert "(model-name)" in shown
    assert shown.endswith(f"{path}: 1 error, 0 warnings: Triton refuses what has an error\n")
    assert run(commands, ["lint", path, "--json"]) == 1
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert (finding["rule"], finding["severity"], finding["line"]) == ("model-name", "error", 1)


def test_lint_as_code_hosts_read_it(tmp_path, monkeypatch, capsys):
    path = Path(repository(tmp_path, 'name: "other"\nbackend: "onnxruntime"\n'))
    monkeypatch.chdir(path.parent)
    assert run(commands, ["lint", str(path), "--sarif"]) == 1
    log = json.loads(capsys.readouterr().out)
    (lint,) = log["runs"]
    rules = [rule["id"] for rule in lint["tool"]["driver"]["rules"]]
    assert log["version"] == "2.1.0" and "model-name" in rules
    found = next(result for result in lint["results"] if result["ruleId"] == "model-name")
    assert rules[found["ruleIndex"]] == "model-name" and found["level"] == "error"
    (location,) = found["locations"]
    uri = location["physicalLocation"]["artifactLocation"]["uri"]
    assert (path.parent / uri).is_file() and uri.endswith("config.pbtxt")
    assert location["physicalLocation"]["region"] == {"startLine": 1}
    monkeypatch.chdir("/")
    assert run(commands, ["lint", str(path), "--sarif", "--json"]) == 2


def test_lint_of_no_folder(capsys):
    assert run(commands, ["lint", "/nowhere"]) == 2
    assert capsys.readouterr().err.startswith("error: /nowhere")


def test_validate_says_what_code_fetches_from_elsewhere(sample, capsys):
    with Path("model.py").open("a") as stream:
        stream.write("\ndef fetch():\n    from urllib.request import urlopen\n    return urlopen('http://x')\n")
    line = Path("model.py").read_text().splitlines().index("    return urlopen('http://x')") + 1
    assert run(commands, ["validate", "recipe.yaml"]) == 0
    shown = capsys.readouterr().out
    assert f"warning: model.py:{line} urlopen: what it gets is not noticed when it changes" in shown
    assert "model.files or data.files" in shown
    assert not Path(".mmdeploy").exists(), "validating makes no work folder"
    assert run(commands, ["validate", "recipe.yaml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["unseen"] == [
        f"model.py:{line} urlopen: what it gets is not noticed when it changes"
    ]


def test_validate_warns_of_limits_and_samples_that_prove_little(sample, capsys):
    doubtful = [
        "--set",
        'gates=[{"method": "parity", "min_cosine": -1}]',
        "--set",
        "data.calibration=data.py:evaluation",
    ]
    assert run(commands, ["validate", "recipe.yaml", *doubtful]) == 0
    shown = capsys.readouterr().out
    assert "warning: gates.0.min_cosine: can never fail: no cosine is below -1" in shown
    assert "warning: data.calibration: 'data.py:evaluation' is what the gates judge on too" in shown
    assert run(commands, ["validate", "recipe.yaml", *doubtful, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["warnings"]) == 2
