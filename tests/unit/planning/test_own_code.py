"""Of mmdeploy's own code a step depends on what runs in it, and on nothing that cannot change what it gives."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from test_planner import TINY

import mmdeploy
from mmdeploy.core.digests import FileFacts
from mmdeploy.model.imports import imported_names, mentions
from mmdeploy.planning.fingerprints import take_fingerprints
from mmdeploy.planning.kinds import KINDS
from mmdeploy.planning.own_code import _decides, _imported, own_code
from mmdeploy.planning.planner import make_plan
from mmdeploy.recipe.loader import load_recipe

PACKAGE = Path(mmdeploy.__file__).parent
SAY_KEYS = """
import sys
from pathlib import Path
from mmdeploy.core.store import Store
from mmdeploy.planning.fingerprints import take_fingerprints
from mmdeploy.planning.planner import make_plan
from mmdeploy.recipe.loader import load_recipe
store = Store(Path(sys.argv[1]))
recipe = load_recipe(Path(sys.argv[2]), sys.argv[3:])
for step in make_plan(recipe, take_fingerprints(recipe, store)).steps:
    print(step.id, step.key)
store.facts.save()
"""
#: Where every chain begins: code that runs in every step counts in all of them.
EVERY = {"data/calibration", "data/evaluation", "left/export", "right/export", "fusion/export", "original/outputs"}
DYNAMIC = "components.right.quantize={method: dynamic}"


@pytest.fixture(scope="module")
def keys_with(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, str]]:
    """Says the keys of the tiny recipe's steps in a copy of mmdeploy of which some files have a line more."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(PACKAGE, folder / "mmdeploy", ignore=shutil.ignore_patterns("__pycache__"))

    def run(*edited: str, line: str = "_more = 1", new: str = "") -> dict[str, str]:
        before = {name: (folder / "mmdeploy" / name).read_text() for name in edited}
        for name, text in before.items():
            (folder / "mmdeploy" / name).write_text(f"{text}\n{line}\n")
        if new:
            (folder / "mmdeploy" / new).write_text('"""New."""\n')
        try:
            command = [sys.executable, "-c", SAY_KEYS, str(folder / "store"), str(TINY), DYNAMIC]
            environment = {"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
        finally:
            for name, text in before.items():
                (folder / "mmdeploy" / name).write_text(text)
            if new:
                (folder / "mmdeploy" / new).unlink()
        return dict(line.split() for line in done.stdout.splitlines())

    return run


@pytest.fixture(scope="module")
def unchanged(keys_with: Callable[..., dict[str, str]]) -> dict[str, str]:
    return keys_with()


def test_outside_of_a_step_nothing_counts(keys_with: Callable[..., dict[str, str]], unchanged: dict[str, str]) -> None:
    edited = ["gates/size.py", "gates/__init__.py", "report/html.py", "building/builder.py", "cli/build.py", "api.py",
              "planning/planner.py", "planning/kinds.py", "triton/server.py", "recipe/schema.py", "record/observer.py",
              "engines/__init__.py", "quantize/__init__.py", "prune/structured.py", "engines/openvino.py"]  # fmt: skip
    assert keys_with(*edited, new="gates/calibration_error.py") == unchanged
    assert keys_with("worker/feeds.py", "quantize/static.py", line="# a remark") == unchanged


@pytest.mark.parametrize(
    ("edited", "first"),
    [
        ("worker/run_step.py", EVERY),
        ("worker/feeds.py", EVERY),
        ("data/samples.py", EVERY),
        ("model/torch_model.py", EVERY),
        ("data/recording.py", {"data/calibration", "data/evaluation"}),
        ("worker/original_outputs.py", {"original/outputs"}),
        ("export/trace.py", {"left/export", "right/export", "fusion/export"}),
        ("quantize/static.py", {"left/quantize"}),
        ("quantize/dynamic.py", {"right/quantize"}),
        ("engines/onnxruntime.py", {f"{name}/{kind}" for name in ("left", "right", "fusion")
                                    for kind in ("engine", "reference")}),
        ("worker/training_setup.py", set()),
        ("scoring/task_metric.py", set()),
    ],
)  # fmt: skip
def test_what_runs_in_a_step_counts_there(
    keys_with: Callable[..., dict[str, str]], unchanged: dict[str, str], edited: str, first: set[str]
) -> None:
    recipe = load_recipe(TINY, [DYNAMIC])
    expected = set(first)
    for step in make_plan(recipe, take_fingerprints(recipe)).steps:
        if expected.intersection(step.needs):
            expected.add(step.id)
    found = keys_with(edited)
    assert {step for step in unchanged if found[step] != unchanged[step]} == expected


def test_every_module_that_a_kind_starts_in_is_there(tmp_path: Path) -> None:
    facts = FileFacts()
    for kind in KINDS.values():
        for method in kind.methods.built_in if kind.methods else ("any",):
            modules = kind.starts_in(kind.module(method, tmp_path), ("training", "validation"), measures=True)
            files = own_code(modules, facts)
            assert {f"{name.replace('.', '/')}.py" for name in modules} <= set(files), (kind.name, method)
            assert not [name for name in files if name.split("/")[1] in ("gates", "report", "cli", "building")]


def test_what_is_imported_is_found_as_anybody_finds_it() -> None:
    facts, root = FileFacts(), PACKAGE.parent
    modules = [*(PACKAGE / "worker").glob("*.py"), *(PACKAGE / "preprocess").glob("*.py")]
    assert any(level for module in modules for level, *_ in mentions(module, facts).modules)
    for module in modules:
        found = mentions(module, facts)
        asked = {name for name in imported_names(module, root, found, [root]) if _decides(name)}
        assert {name for name in _imported(module, found) if _decides(name)} == asked
