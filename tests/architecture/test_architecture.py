"""Rules that hold for the package as a whole: one-way imports, a light start, modules of readable size."""

import ast
import functools
import graphlib
import subprocess
import sys
from collections.abc import Container, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "mmdeploy"
MODULES = sorted(PACKAGE.rglob("*.py"))
HEAVY = (
    "matplotlib", "onnx", "onnx_ir", "onnxruntime", "onnxscript", "openvino", "polygraphy", "safetensors", "scipy",
    "tensorrt", "tensorrt_rtx", "torch", "torch_pruning", "torchmetrics", "tritonclient",
)  # fmt: skip
#: What has a main of its own, runs in a step's process after its libraries, or in Triton's stub.
NOT_LIGHT = ("mmdeploy.__main__", "mmdeploy.worker.preloaded", "mmdeploy.triton.backends", "mmdeploy.training.launched")
#: What the user's models are made of, in PyTorch: nothing of mmdeploy imports it.
OF_TORCH = "zoo"
ROOMS = sorted(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file() and path.name != OF_TORCH)


def light_modules() -> list[str]:
    names = (module_name(path, ROOT) for path in MODULES)
    return [name for name in names if not name.startswith(NOT_LIGHT)]


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120, check=False
    )


def test_imports_run_one_way_only() -> None:
    found = run_python("from importlinter.cli import lint_imports_command; lint_imports_command()")
    assert found.returncode == 0, found.stdout + found.stderr


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def module_name(path: Path, top: Path) -> str:
    return ".".join(path.relative_to(top).with_suffix("").parts).removesuffix(".__init__")


def imported(tree: ast.Module, names: Container[str]) -> Iterator[str]:
    """Give the modules, of those with these names, that one imports: anywhere, also for types only."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            parts = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (
                part if part in names else node.module for part in parts if part in names or node.module in names
            )


@pytest.mark.parametrize(("folder", "top"), [(PACKAGE, ROOT), (ROOT / "benchmarks", ROOT / "benchmarks")])
def test_no_modules_import_each_other_in_a_circle_not_even_for_types(folder: Path, top: Path) -> None:
    trees = {module_name(path, top): parsed(path) for path in folder.rglob("*.py")}
    assert len(trees) > 10
    graph = {name: {other for other in imported(tree, trees) if other != name} for name, tree in trees.items()}
    assert sum(map(len, graph.values())) > 10
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names them


def test_importing_loads_nothing_heavy() -> None:
    """In one process: the first module after which something heavy is there is named."""
    modules = [name for name in light_modules() if name.split(".")[1:2] != [OF_TORCH]]
    assert {name.split(".")[1] for name in modules if "." in name} == {*ROOMS, "api"}
    found = run_python(
        f"import importlib, sys\nfor name in {modules!r}:\n    importlib.import_module(name)\n"
        f"    if loaded := set(sys.modules) & {set(HEAVY)!r}:\n        sys.exit(f'importing {{name}} loads {{loaded}}')"
    )
    assert found.returncode == 0, found.stderr


def test_a_build_imports_what_runs_and_judges_only_when_there_is_something_to_run_or_to_judge() -> None:
    later = {
        "mmdeploy.building.crew", "mmdeploy.building.judge", "mmdeploy.building.scheduler", "mmdeploy.triton.lint",
        "mmdeploy.triton.server", "mmdeploy.worker.run_step", "multiprocessing.forkserver",
    }  # fmt: skip
    assert {name for name in later if name.startswith("mmdeploy.")} <= {module_name(path, ROOT) for path in MODULES}
    found = run_python(f"import sys, mmdeploy.building.builder\nprint(sorted({later!r} & set(sys.modules)))")
    assert found.stdout == "[]\n", found.stderr or found.stdout


def test_modules_lie_in_rooms() -> None:
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py", "api.py"}


def lengths(tree: ast.Module) -> dict[str, int]:
    """Return the lines of each function, its docstring left out."""
    counted = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            lines = node.end_lineno - node.lineno + 1
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and first.end_lineno:
                lines -= first.end_lineno - first.lineno + 1
            counted[node.name] = lines
    return counted


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_and_functions_are_short_enough_to_read(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) < 400
    tree = parsed(path)
    too_long = {name: lines for name, lines in lengths(tree).items() if lines > 50}
    assert not too_long, f"functions over 50 lines (the guide is 45): {too_long}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_functions_take_few_positional_arguments(path: Path) -> None:
    if PACKAGE / "cli" in path.parents:
        return  # click passes a command's options by keyword
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            positional = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
            named = [name for name in positional if name not in ("self", "cls")]
            assert len(named) <= 5, f"{node.name} takes {len(named)} positional arguments (the guide is 4): {named}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_names_say_what_a_module_does(path: Path) -> None:
    vague = {"utils", "util", "helper", "helpers", "manager", "handler", "base", "common", "misc"}
    assert not vague & set(path.stem.split("_"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_command_line_prints(path: Path) -> None:
    if PACKAGE / "cli" in path.parents:
        return
    calls = [node.func for node in ast.walk(parsed(path)) if isinstance(node, ast.Call)]
    assert not any(isinstance(call, ast.Name) and call.id == "print" for call in calls)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_module_says_what_it_is(path: Path) -> None:
    text = path.read_text()
    assert not text.strip() or ast.get_docstring(parsed(path)), "no module docstring"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_temporary_folders_are_those_that_are_swept(path: Path) -> None:
    """A process may be killed: what `tempfile` made it leaves, unless it lies in a folder that is removed anyway."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            makes_folder = node.func.attr in ("TemporaryDirectory", "mkdtemp")
            assert not makes_folder or "dir" in {word.arg for word in node.keywords}, f"{path}:{node.lineno}"
