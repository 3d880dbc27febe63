"""The condition of a cascade, and what its step hands on."""

import ast
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from mmdeploy.triton.steps import cascade, condition
from mmdeploy.triton.steps.condition import ConditionError, asks_further, tensors_of

LOGITS = np.random.default_rng(5).normal(0, 3, (40, 6)).astype(np.float32)
SHARES = special.softmax(LOGITS.astype(np.float64), axis=-1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max(softmax(logits)) < 0.9", SHARES.max(-1) < 0.9),
        ("entropy(softmax(logits)) > 0.5", stats.entropy(SHARES, axis=-1) > 0.5),
        ("margin(logits) <= 2", np.diff(np.sort(LOGITS, axis=-1)[:, -2:])[:, 0] <= 2),
        ("min(sigmoid(logits)) < 0.1 and not mean(logits) > 0",
         (special.expit(LOGITS).min(-1) < 0.1) & ~(LOGITS.mean(-1) > 0)),
        ("sum(logits) < -1 or max(logits) >= 3", (LOGITS.sum(-1) < -1) | (LOGITS.max(-1) >= 3)),
        ("-1 < mean(logits) < 1", (LOGITS.mean(-1) > -1) & (LOGITS.mean(-1) < 1)),
    ],
)  # fmt: skip
def test_a_condition_is_what_scipy_computes(text, expected):
    assert 0 < expected.sum() < len(expected)
    assert asks_further(text, {"logits": LOGITS}).tolist() == expected.tolist()


def test_axes_are_reduced_one_by_one_and_names_may_stand_in_quotes():
    tokens = np.arange(12, dtype=np.int64).reshape(2, 3, 2)
    assert asks_further("min(max('my-tokens')) < 4", {"my-tokens": tokens}).tolist() == [True, False]
    assert asks_further("score < 0.5", {"score": np.array([0.1, 0.9])}).tolist() == [True, False]
    assert asks_further("score < 0.5", {"score": np.array([[0.1], [0.9]])}).tolist() == [True, False]
    assert tensors_of("max(a) < 1 and (margin(softmax('b c')) < 2 or max(a) > 9)") == ("a", "b c")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("text", ["max(softmax(x)) < 0.9", "max(x) > 5", "not max(x) < 5"])
def test_what_is_not_finite_is_asked_further(text):
    rows = np.array([[np.nan, 0.0], [np.inf, 0.0], [-np.inf, 0.0]])
    assert asks_further(text, {"x": rows}).all()


@given(st.integers(1, 5), st.integers(2, 6), st.integers(0, 2**32 - 1))
def test_a_row_does_not_depend_on_its_neighbours(rows, classes, seed):
    logits = np.random.default_rng(seed).normal(size=(rows, classes)).astype(np.float32)
    for text in ("max(softmax(x)) < 0.6", "margin(x) < 1 or entropy(softmax(x)) > 1"):
        whole = asks_further(text, {"x": logits}).tolist()
        assert whole == [bool(asks_further(text, {"x": row[None]})[0]) for row in logits]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("max(softmax(x)) <", "cannot be read (invalid syntax)"),
        ("max(softmax(x))", "is a number, and a row is true or false"),
        ("x", "is a number"),
        ("__import__('os').system('true') == 0", "there is no function `__import__('os').system`"),
        ("maximum(x) < 1", "there is no function `maximum`; a condition says max, min, sum, mean, entropy, margin"),
        ("max(x, y) < 1", "max takes one tensor"),
        ("max(x, axis=0) < 1", "max takes one tensor"),
        ("max(*x) < 1", "max takes one tensor"),
        ("x.max() < 1", "there is no function `x.max`"),
        ("x[0] < 1", "`x[0]` cannot be said"),
        ("max(x) + 1 < 2", "`max(x) + 1` cannot be said"),
        ("max(x) in [1]", "cannot be said"),
        ("max(x) < True", "`True` cannot be said"),
        ("max(x) < 1 and max(x)", "`max(x)` is a number where and, or, not take a comparison"),
        ("max(max(x) < 1) < 1", "`max(x) < 1` is true or false where a number belongs"),
        ("1 < 2", "names no tensor"),
        ("(lambda: x)() < 1", "there is no function"),
        ("(y := x) < 1", "cannot be said"),
        ("max(" * 500 + "x" + ")" * 500 + " < 1", "1000 are the most"),
        ("(" * 400 + "x" + ")" * 400 + " < 1", "nested too deeply|too many nested"),
    ],
)
def test_what_is_no_condition_is_told(text, told):
    with pytest.raises(ConditionError, match=told if "|" in told else None) as wrong:
        tensors_of(text)
    assert "|" in told or told in str(wrong.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x < 1", "comes to [6] values a row"),
        ("max(x) < x", "[] and [6] values a row cannot be compared"),
        ("max(max(x)) < 1", "nothing is left to reduce"),
        ("margin(one) < 1", "margin takes the two largest"),
    ],
)
def test_what_is_no_truth_of_a_row_is_told(text, told):
    with pytest.raises(ConditionError) as wrong:
        asks_further(text, {"x": LOGITS, "one": LOGITS[:, :1]})
    assert told in str(wrong.value)


def test_rows_are_told_as_the_request_counts_them():
    one = cascade.Request({}, np.array([False, True, False, True]))
    assert one.told("'photo', row 1: cannot be read") == "'photo', row 3: cannot be read"


@pytest.mark.parametrize("module", [cascade, condition])
def test_the_step_stands_alone(module):
    """A release container has neither mmdeploy nor anything but numpy and Triton's own module."""
    tree = ast.parse(Path(module.__file__).read_text())
    checked = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    passed_over = {id(inner) for node in checked for inner in ast.walk(node)}
    imported = {
        (node.module if isinstance(node, ast.ImportFrom) else alias.name).partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom) and id(node) not in passed_over
        for alias in node.names
    }
    allowed = {
        "__future__", "ast", "asyncio", "importlib", "json", "operator", "re", "threading", "collections", "pathlib",
        "typing", "numpy",
    }  # fmt: skip
    assert imported - allowed <= {"triton_python_backend_utils"}
