"""Plug-ins in whole builds with a real Triton: an installed package, and the examples of the documentation."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mmdeploy.record.report_file import read_report
from mmdeploy.triton.config import parse

REPOSITORY = Path(__file__).parents[2]
TINY = REPOSITORY / "tests" / "tiny_recipe"
MMDEPLOY = [sys.executable, "-c", "from mmdeploy.cli import main; main()"]
EXTENDING = REPOSITORY / "docs" / "extending.md"

pytestmark = [pytest.mark.triton, pytest.mark.slow]


def run(folder: Path, *arguments: str, path: Path | None = None, code: int = 0) -> str:
    """Run the command line in a folder, with what is installed in ``path`` besides."""
    import os

    environment = dict(os.environ) | ({"PYTHONPATH": str(path)} if path else {})
    done = subprocess.run(
        [*MMDEPLOY, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def recipe(folder: Path, changes: dict) -> Path:
    """Write the tiny recipe with its components' sections and its gates replaced as a snippet says."""
    shutil.copytree(TINY, folder, ignore=shutil.ignore_patterns("__pycache__"))
    fields = yaml.safe_load((folder / "recipe.yaml").read_text())
    for name, sections in changes["components"].items():
        kept = {key: fields["components"][name][key] for key in ("module", "inputs", "outputs")}
        fields["components"][name] = kept | sections
    fields["gates"] += changes["gates"]
    (folder / "recipe.yaml").write_text(yaml.safe_dump(fields, sort_keys=False))
    return folder


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The example package, installed as pip does it, without a network."""
    source = tmp_path_factory.mktemp("source") / "plugin"
    shutil.copytree(REPOSITORY / "examples" / "plugin", source, ignore=shutil.ignore_patterns("build", "*.egg-info"))
    target = tmp_path_factory.mktemp("target")
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    subprocess.run([sys.executable, "-m", "pip", "install", *offline, "--target", target, source], check=True)
    return target


def test_an_installed_package_builds_serves_and_gates(installed, tmp_path):
    folder = recipe(
        tmp_path / "recipe",
        {
            "components": {
                "left": {"prune": {"method": "near_zero", "share": 0.2}, "engine": {"method": "torchscript"},
                         "keep": "always"},
                "fusion": {"engine": {"method": "torchscript", "threads": 2}},
            },
            "gates": [{"method": "calibration_error", "max_increase": 0.2}],
        },
    )  # fmt: skip
    run(folder, "build", ".", path=installed)
    report = read_report(folder / "model_repository" / "two_towers")
    assert [gate.gate for gate in report.gates] == ["parity", "accuracy", "calibration_error"]
    assert report.substitute is None
    by_id = {step.id: step for step in report.steps}
    assert by_id["left/prune"].method == "near_zero"
    assert by_id["left/prune"].metadata["zeros"] > 0
    published = folder / "model_repository" / "two_towers"
    config = parse((published / "two_towers.fusion" / "config.pbtxt").read_text(), "config.pbtxt")
    assert (config.backend, config.default_model_filename) == ("pytorch", "model.pt")
    assert config.parameters["INTRA_OP_THREAD_COUNT"].string_value == "2"
    assert sorted(path.name for path in (published / "two_towers.fusion" / "1").iterdir()) == ["model.pt"]
    assert "Triton takes it" in run(folder, "lint", "model_repository/two_towers")
    plan = run(folder, "plan", ".", path=installed)
    assert "0 to run" in plan
    assert by_id["left/engine"].size_after_bytes != by_id["left/export"].size_after_bytes


def test_the_tests_of_the_package_pass_where_it_is_installed(installed, tmp_path):
    import os

    tests = tmp_path / "tests"
    shutil.copytree(REPOSITORY / "examples" / "plugin" / "tests", tests)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests)]
    environment = dict(os.environ) | {"PYTHONPATH": str(installed)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "7 passed" in done.stdout


def test_a_served_repository_needs_the_stand_in_of_an_installed_engine(installed, tmp_path):
    """Without the package the server of the wheel has no such backend, and the message says what to do."""
    from mmdeploy.core.errors import ServerError
    from mmdeploy.triton import server
    from mmdeploy.triton.install import find_installation

    if not find_installation().embedded:
        pytest.skip("a native Triton has the pytorch backend")
    model = tmp_path / "repository" / "scripted"
    (model / "1").mkdir(parents=True)
    (model / "1" / "model.pt").write_bytes(b"")
    tensor = "data_type: TYPE_FP32 dims: [4]"
    (model / "config.pbtxt").write_text(
        f'name: "scripted" backend: "pytorch" max_batch_size: 2\ninput [{{name: "x" {tensor}}}]\n'
        f'output [{{name: "y" {tensor}}}]\n'
    )
    with pytest.raises(ServerError) as caught:
        server.start([model.parent], log=tmp_path / "triton.log")
    assert "install the plug-in whose engine brings a stand-in" in str(caught.value.hint)


def documented(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", EXTENDING.read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def examples(tmp_path_factory) -> Path:
    """The files of the documentation, beside the recipe that it shows."""
    snippets = [text for text in documented("yaml") if "passes.py:" in text]
    assert len(snippets) == 1
    folder = recipe(tmp_path_factory.mktemp("documented") / "recipe", yaml.safe_load(snippets[0]))
    for text in documented("python"):
        if found := re.match(r"# (\w+\.py)\n", text):
            (folder / found[1]).write_text(text)
    assert {"gates.py", "passes.py", "engines.py", "test_extensions.py"} <= {path.name for path in folder.iterdir()}
    return folder


def test_the_examples_of_the_documentation_build(examples):
    run(examples, "build", ".")
    report = read_report(examples / "model_repository" / "two_towers")
    by_id = {step.id: step for step in report.steps}
    assert by_id["left/quantize"].method == "passes.py:bfloat16_weights"
    assert by_id["left/quantize"].metadata["rounded"] > 0
    assert by_id["left/engine"].method == "engines.py:optimized"
    assert report.gates[-1].gate == "gates.py:flips"
    assert report.gates[-1].details["flips"] >= 0


def test_a_failed_gate_of_the_documentation_gives_its_advice(examples, tmp_path):
    folder = shutil.copytree(examples, tmp_path / "recipe")
    gates = folder / "gates.py"
    gates.write_text(gates.read_text().replace("share <= options", "share < 0 * options"))
    shown = run(folder, "build", ".", code=1)
    assert "gates.py:flips: quantize less: mmdeploy sensitivity names the layers that cost most" in " ".join(
        shown.split()
    )


def test_the_tests_of_the_documentation_pass(examples):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_extensions.py"]
    done = subprocess.run(command, cwd=examples, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout


def test_listing_shows_an_example_of_the_documentation(examples):
    shown = run(examples, "list", "passes.py:bfloat16_weights")
    assert "Round the weights of a graph to bfloat16" in shown
    assert "smallest: integer >= 1 = 16" in shown
