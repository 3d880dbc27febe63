"""Checks of the files that a recipe names: that they are there, and define the callables asked for.

Python files are parsed and not run: of a recipe's code only the plug-ins that it names are imported to check it, where
their options are read (`mmdeploy.recipe.methods`).
"""

from __future__ import annotations

import functools
import importlib.util
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mmdeploy.core.contracts import method_of
from mmdeploy.core.errors import ModelError, did_you_mean, nearest
from mmdeploy.gates import accuracy
from mmdeploy.model.adapter_files import files_of_adapter
from mmdeploy.model.weight_files import INDEX, files_of
from mmdeploy.recipe.baseline import file_misfit as file_misfit_of_baseline
from mmdeploy.recipe.baseline import findings as baseline_findings
from mmdeploy.recipe.declared import plain_shape
from mmdeploy.recipe.finding import Finding
from mmdeploy.recipe.label_files import label_problem
from mmdeploy.recipe.media import OwnStep, file_misfit, written_specs
from mmdeploy.recipe.media_wiring import given_specs, steps_of
from mmdeploy.recipe.own_steps import outside_problem, signature_findings
from mmdeploy.recipe.schema import Recipe
from mmdeploy.recipe.yaml_tree import Keys

if TYPE_CHECKING:
    import ast

    from mmdeploy.scoring.metric_spec import MetricSpec

_SHOWN_NAMES = 8
_DATA = ("calibration", "evaluation", "training", "validation", "loss")


def check_files(recipe: Recipe, folder_at: Callable[[Keys], Path]) -> list[Finding]:
    """Return what is wrong with the files of a recipe.

    Args:
        recipe: With its paths as they are written.
        folder_at: Gives the folder that the path at a place of the recipe is relative to.
    """
    return list(_findings(recipe, folder_at))


def argument_files(recipe: Recipe) -> dict[Keys, Path]:
    """Return the files that arguments of metrics name, by their place: the schema of a recipe does not know them."""
    return {
        ("gates", index, "arguments", key): Path(value)
        for index, spec in _metrics(recipe).items()
        for key, value in spec.arguments.items()
        if isinstance(value, str) and Path(value) in spec.files
    }


def _metrics(recipe: Recipe) -> dict[int, MetricSpec]:
    outputs = tuple(recipe.outputs)
    return {index: gate.spec(outputs) for index, gate in enumerate(recipe.gates) if isinstance(gate, accuracy.Options)}


def _findings(recipe: Recipe, folder_at: Callable[[Keys], Path]) -> Iterator[Finding]:
    references: dict[Keys, str | None] = {
        ("model", "factory"): recipe.model.factory,
        **{("data", key): getattr(recipe.data, key) for key in _DATA},
        **{
            ("components", name, "recover", "student"): getattr(component.recover, "student", None)
            for name, component in recipe.components.items()
        },
        **{("gates", index, "metric"): spec.metric for index, spec in _metrics(recipe).items() if not spec.is_built_in},
    }
    if (weights := recipe.model.weights) is not None and (problem := _weights_problem(weights, folder_at)):
        yield Finding(("model", "weights"), problem)
    yield from _adapter_findings(recipe, folder_at)
    files = argument_files(recipe)
    for path, reference in references.items():
        if reference is not None and (problem := _reference_problem(reference, folder_at(path))):
            yield Finding(path, problem)
    for path, file in files.items():
        if file is not None and (problem := file_problem(str(file), folder_at(path))):
            yield Finding(path, problem)
    if recipe.baseline is not None:
        file, root = recipe.baseline.file, folder_at(("baseline", "file"))
        if problem := file_problem(str(file), root) or file_misfit_of_baseline(root / file, recipe.name):
            yield Finding(("baseline", "file"), problem)
        yield from baseline_findings(recipe.baseline, recipe.name, map(method_of, recipe.gates))
    yield from _label_findings(recipe, folder_at)
    yield from _media_findings(recipe, folder_at)
    for section, patterns in (("model", recipe.model.files), ("data", recipe.data.files)):
        for index, pattern in enumerate(patterns or ()):
            path = (section, "files", index)
            if problem := _glob_problem(pattern, folder_at(path)):
                yield Finding(path, problem)


def _media_findings(recipe: Recipe, folder_at: Callable[[Keys], Path]) -> Iterator[Finding]:
    for section, name, step in steps_of(recipe):
        for option, file in step.paths.items():
            place: Keys = (section, name, option)
            if problem := file_problem(str(file), folder_at(place)):
                yield Finding(place, problem)
        if isinstance(step, OwnStep):
            place = (section, name, "method")
            if problem := _reference_problem(step.method, folder_at(place)):
                yield Finding(place, problem)
            else:
                code = step.method.rpartition(":")[0]
                module = _parsed((folder_at(place) / code).read_bytes(), code)
                yield from signature_findings((section, name), step, module)
                if problem := outside_problem(step, folder_at(place)):
                    yield Finding(place, problem)
            for index, pattern in enumerate(step.files):
                place = (section, name, "files", index)
                if problem := _glob_problem(pattern, folder_at(place)):
                    yield Finding(place, problem)
    yield from _unfit_media(recipe, folder_at)


def _unfit_media(recipe: Recipe, folder_at: Callable[[Keys], Path]) -> Iterator[Finding]:
    """Find files of steps that are not what their method takes, or that do not fit what it is given."""
    if not recipe.preprocess and not recipe.postprocess:
        return
    for section, given in given_specs(recipe):
        steps = getattr(recipe, section)
        known = given | written_specs(steps, given)
        for name, step in steps.items():
            for option, file in step.paths.items():
                root = folder_at((section, name, option))
                if file_problem(str(file), root) is None and (problem := file_misfit(step, root, known)):
                    yield Finding((section, name, option), problem)


def _label_findings(recipe: Recipe, folder_at: Callable[[Keys], Path]) -> Iterator[Finding]:
    declared = {
        wire.tensor: plain_shape(wire.shape) if wire.shape else None
        for component in recipe.components.values()
        for wire in component.outputs.values()
    }
    for name, output in recipe.outputs.items():
        path: Keys = ("outputs", name, "labels")
        if output.labels is not None:
            file, root = str(output.labels), folder_at(path)
            if problem := file_problem(file, root) or label_problem(file, root, declared.get(name)):
                yield Finding(path, problem)


def _weights_problem(weights: Path, folder_at: Callable[[Keys], Path]) -> str | None:
    root = folder_at(("model", "weights"))
    try:
        several = (root / weights).is_dir() or weights.name.endswith(INDEX)
        found = files_of(root / weights) if several else (root / weights,)
    except ModelError as error:
        return f"{error.message.removeprefix('weights ')}; {error.hint}"
    except (OSError, ValueError):
        found = (root / weights,)
    problems = (file_problem(os.path.relpath(file, root), root) for file in found)
    return next((problem for problem in problems if problem), None)


def _adapter_findings(recipe: Recipe, folder_at: Callable[[Keys], Path]) -> Iterator[Finding]:
    for module, folder in recipe.model.adapters.items():
        place: Keys = ("model", "adapters", module)
        if problem := _adapter_problem(folder_at(place) / folder):
            yield Finding(place, problem)


def _adapter_problem(folder: Path) -> str | None:
    try:
        files_of_adapter(folder)
    except ModelError as error:
        return f"{error.message}; {error.hint}"
    except (OSError, ValueError) as error:
        return f"{str(folder)!r} cannot be read: {error}"
    return None


def file_problem(name: str, root: Path) -> str | None:
    """Say why ``name`` is no readable file, relative to ``root``; None where it is one."""
    path = root / name
    try:
        kind = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return _not_there(name, root)
    except OSError as error:
        return f"{name!r} cannot be read: {error.strerror}"
    except ValueError as error:
        return f"{name!r} is no path: {error}"
    return None if stat.S_ISREG(kind) else f"{name!r} is not a file"


def _not_there(name: str, root: Path) -> str:
    path = root / name
    try:
        beside = [entry.name for entry in path.parent.iterdir() if entry.is_file()]
    except OSError:
        return f"no such file: {name!r} (there is no folder {path.parent})"
    guess = nearest(path.name, beside)
    hint = f"; did you mean {str(Path(name).with_name(guess))!r}?" if guess else ""
    return f"no such file: {name!r} in {root}{hint}"


def _glob_problem(pattern: str, root: Path) -> str | None:
    from glob import glob

    matches = glob(pattern, root_dir=root, recursive=True)  # noqa: PTH207 - Path.glob refuses absolute patterns
    if any((root / match).is_file() for match in matches):
        return None
    return f"{pattern!r} matches no file in {root}"


def _reference_problem(reference: str, root: Path) -> str | None:
    """Check ``path.py:callable``; a ``package.module:callable`` is looked for when it is imported.

    Those of torchmetrics are looked for in its files, if it is installed.
    """
    file, _, name = reference.rpartition(":")
    if file.split(".")[0] == "torchmetrics":
        return _torchmetrics_problem(file, name)
    if not file.endswith(".py"):
        return None
    if problem := file_problem(file, root):
        return problem
    return _name_problem(file, name, root)


def _torchmetrics_problem(module: str, name: str) -> str | None:
    """Check ``torchmetrics.module:Class`` without importing it."""
    spec = importlib.util.find_spec("torchmetrics")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        return None
    place = Path(folders[0]).joinpath(*module.split(".")[1:])
    file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    if not file.is_file():
        there = {one.stem for one in place.parent.iterdir() if one.suffix in ("", ".py") and one.name[0] != "_"}
        return f"there is no module {module!r}; {did_you_mean(module, [f'torchmetrics.{one}' for one in there])}"
    return _name_problem(file.name, name, file.parent, shown=module)


def _name_problem(file: str, name: str, root: Path, *, shown: str | None = None) -> str | None:
    """Check that a Python file defines a name."""
    import ast

    shown = shown or file
    try:
        module = _parsed((root / file).read_bytes(), file)
    except OSError as error:
        return f"{shown} cannot be read: {error.strerror}"
    except SyntaxError as error:
        return f"{file}{f':{error.lineno}' if error.lineno else ''} is not Python: {error.msg}"
    except (ValueError, RecursionError, MemoryError) as error:
        return f"{shown} is not Python: {error or 'nested too deeply'}"
    names = _names(module)
    first = name.partition(".")[0]
    if names is None or first in names:
        return None
    defined = [node.name for node in module.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    if guess := nearest(first, names):
        return f"{shown} defines no {first!r}; did you mean {guess!r}?"
    return f"{shown} defines no {first!r}; it defines {', '.join(defined[:_SHOWN_NAMES]) or 'nothing'}"


@functools.lru_cache(maxsize=4)
def _parsed(content: bytes, file: str) -> ast.Module:
    """Parse a file once for all the callables that a recipe names in it."""
    import ast

    return ast.parse(content, file)


def _names(module: ast.Module) -> set[str] | None:
    """Return the names that a module defines or imports, ``if`` and ``try`` included; None if unknowable."""
    import ast

    names: set[str] = set()
    waiting: list[ast.AST] = list(module.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
            continue
        if isinstance(node, ast.alias):
            if node.name == "*":
                return None
            names.add(node.asname or node.name.partition(".")[0])
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        waiting += ast.iter_child_nodes(node)
    return None if "__getattr__" in names else names
