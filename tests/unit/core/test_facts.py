"""Facts in metadata: what is written is read back, through JSON too; what is missing or odd is said where."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import PydanticSerializationError

from mmdeploy.core.artifact import Artifact
from mmdeploy.core.errors import StepError
from mmdeploy.core.facts import as_metadata, find, read


@dataclass(frozen=True)
class Part:
    name: str
    figure: float | None
    span: tuple[float, float] | None = None


@dataclass(frozen=True)
class Whole:
    root: Path
    parts: tuple[Part, ...]
    count: int = 0


def artifact(metadata: object) -> Artifact:
    return Artifact("onnx", Path("model.onnx"), "", (), (), "clip", metadata)


figures = st.none() | st.floats(allow_nan=False)
parts = st.builds(Part, st.text(), figures, st.none() | st.tuples(st.floats(allow_nan=False), st.floats(0, 1)))
wholes = st.builds(Whole, st.just(Path("a/b")), st.lists(parts).map(tuple), st.integers())


@given(wholes)
def test_what_is_written_is_read_back_through_the_store(whole: Whole) -> None:
    stored = Artifact.from_json(artifact(as_metadata(whole) | {"others": [1]}).to_json(), Path())
    assert read(Whole, stored) == whole
    assert read(Whole, artifact({"under": as_metadata(whole)}), under="under") == whole


def test_figures_that_json_cannot_hold_are_read_from_a_report() -> None:
    found = find(Part, {"name": "a", "figure": "-Infinity", "span": ["NaN", "Infinity"]})
    assert found is not None and found.figure == -math.inf
    assert found.span is not None and math.isnan(found.span[0]) and found.span[1] == math.inf


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"root": None}, "'under.root'"),
        ({"parts": [{"name": "a"}]}, "'under.parts.0.figure'"),
        ({"count": "many"}, "'under.count'"),
    ],
)
def test_what_is_missing_or_odd_is_said_where(change: dict, place: str) -> None:
    metadata = as_metadata(Whole(Path("a"), ())) | change
    with pytest.raises(StepError, match=place) as raised:
        read(Whole, artifact({"under": json.loads(json.dumps(metadata))}), under="under")
    assert "clip" in raised.value.message and "Whole" in str(raised.value.hint)
    assert find(Whole, {"under": metadata}, under="under") is None


def test_metadata_without_the_name_is_said_too() -> None:
    with pytest.raises(StepError, match="'under'"):
        read(Whole, artifact({}), under="under")
    assert find(Whole, {}, under="under") is None and find(Whole, {}) is None


def test_a_field_of_another_type_is_not_written() -> None:
    with pytest.raises(PydanticSerializationError):
        as_metadata(Whole(Path("a"), [Part("a", 1.0)], "many"))
