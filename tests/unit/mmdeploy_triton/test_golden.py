"""Golden requests: kept whole, and told from answers of anything else."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mmdeploy.core.errors import InferenceError, StoreError
from mmdeploy.triton.golden import (
    FLOOR,
    Golden,
    GoldenRequest,
    disagreements,
    distance,
    read_golden,
    usual_norms,
    write_golden,
)

TEXT = np.array([[b"a \xff", b""]], dtype=object)


def golden(*outputs: np.ndarray, tolerance: float = 0.01) -> Golden:
    requests = tuple(
        GoldenRequest(f"sample {row}", {"x": np.full((1, 2), row, np.float32), "words": TEXT}, {"logits": one})
        for row, one in enumerate(outputs)
    )
    return Golden("digits", requests, {"logits": tolerance, "words": math.inf})


def row(*values: float) -> np.ndarray:
    return np.array([values], np.float32)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    written = golden(row(1, 2), row(np.nan, np.inf), TEXT)
    write_golden(tmp_path / "golden.npz", written)
    found = read_golden(tmp_path / "golden.npz")
    assert (found.model, found.tolerances) == (written.model, written.tolerances)
    for ours, theirs in zip(written.requests, found.requests, strict=True):
        assert ours.about == theirs.about
        for side in ("inputs", "outputs"):
            for name, array in getattr(ours, side).items():
                np.testing.assert_array_equal(getattr(theirs, side)[name], array)
                assert getattr(theirs, side)[name].dtype == array.dtype


@pytest.mark.parametrize("content", [b"", b"PK no zip", b"x" * 1000])
def test_what_cannot_be_read_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "golden.npz").write_bytes(content)
    with pytest.raises(StoreError, match="golden requests cannot be read"):
        read_golden(tmp_path / "golden.npz")
    np.savez(tmp_path / "golden.npz", about=np.frombuffer(b'{"schema_version": 2}', np.uint8))
    with pytest.raises(StoreError, match="is of another version of mmdeploy"):
        read_golden(tmp_path / "golden.npz")


FINITE = arrays.arrays(np.float32, (1, 4), elements=st.floats(-1000, 1000, width=32))


@given(FINITE, FINITE)
def test_a_distance_is_relative_and_none_to_itself(one: np.ndarray, other: np.ndarray) -> None:
    assert distance(one, one.copy()) == 0
    apart = distance(one, other)
    assert (apart == 0) == np.array_equal(one, other)
    if np.linalg.norm(other) > 1e-3:
        assert distance(one * 8, other * 8) == pytest.approx(apart, rel=1e-4)


def test_another_shape_type_number_or_kind_of_nothing_is_infinitely_far() -> None:
    for other in (row(1, 2, 3), row(1, 2).astype(np.float16), row(1, np.nan), row(1, np.inf)):
        assert distance(other, row(1, 2)) == math.inf
    assert distance(row(1, np.nan), row(1, np.nan)) == 0
    assert distance(row(1, np.inf), row(1, -np.inf)) == math.inf
    assert distance(np.array([[3]]), np.array([[3]])) == 0
    assert distance(np.array([[3]]), np.array([[4]])) == math.inf
    assert distance(np.array([[b"a"]], object), np.array([[b"b"]], object)) == math.inf


def test_what_is_near_zero_is_held_against_what_is_usual() -> None:
    usual = usual_norms([{"logits": row(3, 4)}, {"logits": row(0, 0)}])
    assert usual == {"logits": 2.5}
    assert distance(row(1e-6, 0), row(0, 0), usual["logits"]) == pytest.approx(4e-6)


def test_wrong_missing_and_refused_answers_are_told_each() -> None:
    asked = golden(row(1, 2), row(3, 4), row(5, 6), row(7, 8))

    def infer(feed):
        number = int(feed["x"][0, 0])
        if number == 1:
            raise InferenceError("no such thing")
        return {0: {"logits": row(1.001, 2)}, 2: {}, 3: {"logits": row(7, 9)}}[number]

    assert disagreements(asked, infer) == (
        "sample 1: refused: no such thing",
        "sample 2: the answer has no output 'logits'",
        "sample 3: output 'logits' is 0.0941 away from what was served in the build (0.01)",
    )
    assert FLOOR < 0.01
