"""The condition of a cascade, such as ``max(softmax(quick_logits)) < 0.9``: what it may say, and what it comes to.

It is written as an expression of Python and never run as one: its tree is walked, and what is not listed here is
refused. Names are tensors; one that is no identifier stands in quotes. All is computed in FP64, row by row of a batch:

- ``max``, ``min``, ``sum``, ``mean``: of the last axis, which is gone then
- ``softmax`` of the last axis, ``sigmoid`` of each value
- ``entropy`` of shares along the last axis, in nats; ``margin``: the largest less the second largest of the last axis
- comparisons, ``and``, ``or``, ``not``, numbers, parentheses

A row is true or false in the end: what has several values a row is an error. A row of whose tensors a value is NaN or
infinite counts as true, whatever the comparison would say: nothing may rest on it.

This file is copied into releases, so it imports nothing of mmdeploy.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

_LONGEST = 1000


class ConditionError(ValueError):
    """What is wrong with a condition, in words for whoever wrote it."""


def _softmax(values: Array) -> Array:
    with np.errstate(invalid="ignore"):
        raised = np.exp(values - values.max(axis=-1, keepdims=True))
    shares: Array = raised / raised.sum(axis=-1, keepdims=True)
    return shares


def _sigmoid(values: Array) -> Array:
    shares: Array = 0.5 * (1.0 + np.tanh(0.5 * values))
    return shares


def _entropy(shares: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        each = np.where(shares > 0, shares * np.log(shares), 0.0)
    found: Array = -each.sum(axis=-1)
    return found


def _margin(values: Array) -> Array:
    if values.shape[-1] < 2:
        raise ConditionError("margin takes the two largest of an axis, and this one has a single value")
    best = np.partition(values, -2, axis=-1)
    margin: Array = best[..., -1] - best[..., -2]
    return margin


_SAME_SHAPE: Mapping[str, Callable[[Array], Array]] = {"softmax": _softmax, "sigmoid": _sigmoid}
_REDUCING: Mapping[str, Callable[[Array], Array]] = {
    "max": lambda values: np.max(values, axis=-1),
    "min": lambda values: np.min(values, axis=-1),
    "sum": lambda values: np.sum(values, axis=-1),
    "mean": lambda values: np.mean(values, axis=-1),
    "entropy": _entropy,
    "margin": _margin,
}
FUNCTIONS = (*_REDUCING, *_SAME_SHAPE)
_COMPARISONS: Mapping[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
    ast.Eq: operator.eq, ast.NotEq: operator.ne,
}  # fmt: skip
_MAY_SAY = f"a condition says {', '.join(FUNCTIONS)}, < <= > >= == !=, and, or, not, numbers and names of tensors"


def tensors_of(text: str) -> tuple[str, ...]:
    """Return the names of the tensors that a condition reads, each once.

    Raises:
        ConditionError: If it is no condition.
    """
    return tuple(dict.fromkeys(_names(_parsed(text))))


def asks_further(text: str, tensors: Mapping[str, Array]) -> Mask:
    """Say of each row whether the condition holds, or a value that it reads is not finite.

    Args:
        text: The condition.
        tensors: What it reads, rows along axis 0; others are passed over.

    Returns:
        [rows].

    Raises:
        ConditionError: If it is no condition, or comes to more than one value a row.
    """
    tree = _parsed(text)
    read = {name: _rows(tensors[name]) for name in _names(tree)}
    holds = _value(tree, read)
    if any(size != 1 for size in holds.shape[1:]):
        raise ConditionError(
            f"comes to {list(holds.shape[1:])} values a row, and a row is true or false: reduce it with max, min, sum "
            "or mean"
        )
    rows = len(next(iter(read.values())))
    further: Mask = holds.reshape(rows).copy()
    for array in read.values():
        further |= ~np.isfinite(array).reshape(rows, -1).all(axis=1)
    return further


def entropies_of(text: str, tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Return what a condition takes the entropy of, [rows, ..., values] by its text: it should be shares.

    Raises:
        ConditionError: If it is no condition, or a value cannot be computed.
    """
    tree = _parsed(text)
    read = {name: _rows(tensors[name]) for name in _names(tree)}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    taken = [node.args[0] for node in calls if isinstance(node.func, ast.Name) and node.func.id == "entropy"]
    return {ast.unparse(node): _value(node, read) for node in taken}


def _rows(array: Array) -> Array:
    found = array.astype(np.float64)
    return found[:, None] if found.ndim == 1 else found


def _parsed(text: str) -> ast.expr:
    if len(text) > _LONGEST:
        raise ConditionError(f"has {len(text)} characters, {_LONGEST} are the most")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        why = error.msg if isinstance(error, SyntaxError) else "it is nested too deeply"
        raise ConditionError(f"cannot be read ({why}); {_MAY_SAY}") from error
    if not _is_truth(tree):
        raise ConditionError("is a number, and a row is true or false: compare it, such as `max(...) < 0.9`")
    _check(tree)
    if not any(True for _ in _names(tree)):
        raise ConditionError("names no tensor: it would say the same of every row")
    return tree


def _is_truth(node: ast.expr) -> bool:
    is_not = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)
    return isinstance(node, ast.Compare | ast.BoolOp) or is_not


def _check(node: ast.expr) -> None:
    """Refuse what a condition does not say, with what may be said."""
    if isinstance(node, ast.BoolOp) or (isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)):
        for part in node.values if isinstance(node, ast.BoolOp) else [node.operand]:
            if not _is_truth(part):
                raise ConditionError(f"`{ast.unparse(part)}` is a number where and, or, not take a comparison")
            _check(part)
        return
    for part in _parts(node):
        if _is_truth(part):
            raise ConditionError(f"`{ast.unparse(part)}` is true or false where a number belongs")
        _check(part)


def _parts(node: ast.expr) -> list[ast.expr]:
    """Return what a number, or a comparison of numbers, is made of."""
    if isinstance(node, ast.Compare):
        if any(type(one) not in _COMPARISONS for one in node.ops):
            raise ConditionError(f"`{ast.unparse(node)}` cannot be said; {_MAY_SAY}")
        return [node.left, *node.comparators]
    if isinstance(node, ast.Call):
        if not isinstance(node.func, ast.Name) or node.func.id not in FUNCTIONS:
            raise ConditionError(f"there is no function `{ast.unparse(node.func)}`; {_MAY_SAY}")
        if len(node.args) != 1 or node.keywords or isinstance(node.args[0], ast.Starred):
            raise ConditionError(f"`{ast.unparse(node)}`: {node.func.id} takes one tensor, or what is made of one")
        return node.args
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and _is_number(node.operand):
        return []
    if isinstance(node, ast.Name) or _is_number(node) or (isinstance(node, ast.Constant) and type(node.value) is str):
        return []
    raise ConditionError(f"`{ast.unparse(node)}` cannot be said; {_MAY_SAY}")


def _is_number(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) in (int, float)


def _names(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, ast.Constant) and type(node.value) is str:
        yield node.value
    elif isinstance(node, ast.Call):  # what is called is no tensor
        yield from _names(node.args[0])
    else:
        for part in ast.iter_child_nodes(node):
            if isinstance(part, ast.expr):
                yield from _names(part)


def _value(node: ast.expr, tensors: Mapping[str, Array]) -> Array:
    """Compute a tree that `_check` let pass: [rows, ...], of a number [1]."""
    if isinstance(node, ast.Name):
        return tensors[node.id]
    if isinstance(node, ast.Constant):
        return tensors[node.value] if isinstance(node.value, str) else np.array([node.value], np.float64)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand, tensors)
    if isinstance(node, ast.Call):
        assert isinstance(node.func, ast.Name)
        return _called(node.func.id, _value(node.args[0], tensors), node)
    if isinstance(node, ast.Compare):
        values = [_value(one, tensors) for one in (node.left, *node.comparators)]
        _require_alike(values, node)
        with np.errstate(invalid="ignore"):
            pairs = zip(node.ops, values, values[1:], strict=False)
            return _all([_COMPARISONS[type(one)](left, right) for one, left, right in pairs])
    if isinstance(node, ast.UnaryOp):
        return ~_value(node.operand, tensors)
    assert isinstance(node, ast.BoolOp)
    truths = [_value(one, tensors) for one in node.values]
    _require_alike(truths, node)
    return _all(truths) if isinstance(node.op, ast.And) else ~_all([~one for one in truths])


def _called(name: str, values: Array, node: ast.expr) -> Array:
    if name in _SAME_SHAPE:
        return _SAME_SHAPE[name](values)
    if values.ndim < 2:
        raise ConditionError(f"`{ast.unparse(node)}`: nothing is left to reduce, it has one value a row already")
    if values.shape[-1] == 0:
        raise ConditionError(f"`{ast.unparse(node)}`: there is no value in that axis")
    return _REDUCING[name](values)


def _require_alike(values: list[Array], node: ast.expr) -> None:
    """Refuse tensors of different shapes: which values would meet is a guess."""
    shapes = list(dict.fromkeys(value.shape[1:] for value in values if value.shape != (1,)))
    if len(shapes) > 1:
        shown = " and ".join(str(list(shape)) for shape in shapes)
        raise ConditionError(f"`{ast.unparse(node)}`: {shown} values a row cannot be compared; reduce them first")


def _all(truths: list[Array]) -> Array:
    found = truths[0]
    for one in truths[1:]:
        found = found & one
    return found
