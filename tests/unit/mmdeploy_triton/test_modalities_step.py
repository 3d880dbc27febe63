"""What the served step takes for empty, row by row."""

import ast
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mmdeploy.preprocess import DecodeAudio, RefusedError, WiredMethod
from mmdeploy.triton.steps import modalities


def test_silence_and_black_images_hold_nothing():
    sound = np.stack([np.zeros(100, np.float32), np.full(100, 1e-4, np.float32), np.linspace(-1, 1, 100)])
    assert modalities.holds_something(sound, {"min_rms": 1e-3}).tolist() == [False, False, True]
    image = np.stack([np.zeros((4, 4), np.uint8), np.full((4, 4), 255, np.uint8), np.eye(4, dtype=np.uint8) * 255])
    assert modalities.holds_something(image, {"min_std": 1.0}).tolist() == [False, False, True]


@pytest.mark.filterwarnings("error")
def test_what_is_not_finite_is_no_silence():
    """It is there, and its encoder refuses it."""
    sound = np.array([[np.nan, 0.0], [np.inf, 0.0], [-np.inf, np.inf], [0.0, 0.0]], np.float32)
    assert modalities.holds_something(sound, {"min_rms": 0.1, "min_std": 0.1}).tolist() == [True, True, True, False]


def test_empty_strings_hold_nothing():
    text = np.array([[b""], [b"a"], [b""]], dtype=object)
    assert modalities.holds_something(text, {"empty": True}).tolist() == [False, True, False]
    assert modalities.holds_something(np.zeros((2, 0), np.float32), {"empty": True}).tolist() == [False, False]


def test_nothing_is_taken_for_empty_unless_it_is_asked_for():
    assert modalities.holds_something(np.zeros((3, 5), np.float32), {}).all()


@given(
    arrays.arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 6)), elements=st.floats(-1e3, 1e3, width=32)),
    st.floats(1e-3, 10),
)
def test_a_row_does_not_depend_on_its_neighbours(rows, limit):
    whole = modalities.holds_something(rows, {"min_std": limit, "min_rms": limit})
    alone = [bool(modalities.holds_something(row[None], {"min_std": limit, "min_rms": limit})[0]) for row in rows]
    assert whole.tolist() == alone


def test_the_step_stands_alone():
    """A release container has neither mmdeploy nor anything but numpy and Triton's own module."""
    tree = ast.parse(Path(modalities.__file__).read_text())
    imported = {
        (node.module if isinstance(node, ast.ImportFrom) else alias.name).partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    allowed = {"__future__", "asyncio", "json", "re", "threading", "collections", "pathlib", "typing", "numpy"}
    assert imported - allowed == {"triton_python_backend_utils"}


@pytest.mark.parametrize("name", ["audio", "image"])
def test_marks_are_named_after_their_input(name):
    assert modalities.marker(name) == f"{name}_present"


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("'photo', row 1: cannot be read", "'photo', row 3: cannot be read"),
        ("'clip': rows 0 and 2 give 'sound' of [3] and [4]", "'clip': rows 1 and 4 give 'sound' of [3] and [4]"),
        ("a length of 9, accepted: 1 and 8", "a length of 9, accepted: 1 and 8"),
    ],
)
def test_rows_are_told_as_the_request_counts_them(wrong, told):
    there = np.array([False, True, False, True, True])
    assert modalities.Request({}, 5, {"photo": there}).told("photo", wrong) == told
    whole = np.ones(5, dtype=bool)
    assert modalities.Request({}, 5, {"photo": whole}).told("photo", wrong) == wrong


def test_a_row_that_a_step_refuses_is_told_from_a_step_that_fails():
    """By its words, for business logic scripting hands on nothing else of an error."""
    wired = WiredMethod(DecodeAudio(), {"data": "clip"}, {"samples": "sound"})
    with pytest.raises(RefusedError) as caught:
        wired.batch({"clip": np.array([[b"no sound"]], dtype=object)})
    for refused in (str(caught.value), f"in ensemble 'digits.clip_steps', {caught.value}"):
        assert modalities.REFUSED_ROW.match(refused)
    for failed in (
        "KeyError: 'clip'",
        "in ensemble 'digits.clip_steps', ImportError: no 'soxr'",
        "Stub is not healthy",
    ):
        assert not modalities.REFUSED_ROW.match(failed)
