"""The line of the user's code that calls a function now, as messages show it: ``model.py:12: text``."""

from __future__ import annotations

import ast
import linecache
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import FrameType

from mmdeploy.model.user_code import is_user_file


def line_of_call() -> str:
    """Return the user's line that calls a function of torch now; empty where a library does: it knows what it does."""
    return _found(within=False)


def line_above() -> str:
    """Return the nearest user's line, also where a library that it called is what calls now; empty without one."""
    return _found(within=True)


def decides_later() -> bool:
    """Say whether what is assigned on the user's line that calls now is asked by an if or a while of its function."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not _is_user(frame.f_code.co_filename):
        frame = frame.f_back
    return frame is not None and frame.f_lineno in _deciding(frame.f_code.co_filename)


@cache
def _deciding(filename: str) -> frozenset[int]:
    """Return the lines of a file that assign a name which decides in the same function."""
    try:
        tree = ast.parse("".join(linecache.getlines(filename)))
    except (SyntaxError, ValueError):
        return frozenset()
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return frozenset(number for function in functions for number in _assigning(function))


def _assigning(function: ast.AST) -> Iterator[int]:
    nodes = list(ast.walk(function))
    tests = [node.test for node in nodes if isinstance(node, ast.If | ast.While | ast.IfExp)]
    asked = {name for test in tests for name in _values_in(test)}
    for node in nodes:
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.NamedExpr):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = {one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name)}
            if names & asked:
                yield from range(node.lineno, (node.end_lineno or node.lineno) + 1)


def _values_in(test: ast.expr) -> Iterator[str]:
    """Give the names whose own value a test asks: not what has an attribute, is called with, or is None."""
    if isinstance(test, ast.Name):
        yield test.id
    elif isinstance(test, ast.Compare) and any(isinstance(one, ast.Is | ast.IsNot) for one in test.ops):
        return
    elif isinstance(test, ast.Compare | ast.BoolOp | ast.BinOp | ast.UnaryOp):
        for one in ast.iter_child_nodes(test):
            if isinstance(one, ast.expr):
                yield from _values_in(one)


def line_at(filename: str, number: int) -> str:
    """Return a line of a file with its place."""
    return f"{filename.rpartition('/')[2]}:{number}: {linecache.getline(filename, number).strip()}"


def _found(*, within: bool) -> str:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        filename = frame.f_code.co_filename
        if _is_user(filename):
            return line_at(filename, frame.f_lineno)
        if not within and not _is_passed_over(filename):
            return ""
        frame = frame.f_back
    return ""


@cache
def _is_user(filename: str) -> bool:
    return is_user_file(filename)


@cache
def _is_passed_over(filename: str) -> bool:
    import torch

    return any(Path(filename).is_relative_to(folder) for folder in (Path(torch.__file__).parent, Path(__file__).parent))
