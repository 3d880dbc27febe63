"""Rules that hold for the package as a whole: one-way imports, a light start, modules of readable size."""

import ast
import subprocess
import sys
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
ROOMS = sorted(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file())


def light_modules() -> list[str]:
    names = (".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in MODULES)
    return [name for name in names if not name.startswith(NOT_LIGHT)]


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120, check=False
    )


def test_imports_run_one_way_only() -> None:
    found = run_python("from importlinter.cli import lint_imports_command; lint_imports_command()")
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize("room", [*ROOMS, "api"])
def test_importing_loads_nothing_heavy(room: str) -> None:
    modules = [name for name in light_modules() if name.split(".")[1:2] == [room]]
    assert modules
    found = run_python(f"import sys, {', '.join(modules)}; print(*sorted(set(sys.modules) & {set(HEAVY)!r}))")
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == "", f"importing {room} loads {found.stdout.strip()}"


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
    tree = ast.parse(text)
    too_long = {name: lines for name, lines in lengths(tree).items() if lines > 50}
    assert not too_long, f"functions over 50 lines (the guide is 45): {too_long}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_functions_take_few_positional_arguments(path: Path) -> None:
    if PACKAGE / "cli" in path.parents:
        return  # click passes a command's options by keyword
    for node in ast.walk(ast.parse(path.read_text())):
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
    calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    assert not any(isinstance(call, ast.Name) and call.id == "print" for call in calls)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_module_says_what_it_is(path: Path) -> None:
    text = path.read_text()
    assert not text.strip() or ast.get_docstring(ast.parse(text)), "no module docstring"
