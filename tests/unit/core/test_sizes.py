"""Sizes that vary: which lengths are theirs, and which are tried."""

from hypothesis import given
from hypothesis import strategies as st

from mmdeploy.core.artifact import Artifact, TensorSpec
from mmdeploy.core.sizes import Size, lengths_problem


@st.composite
def sizes(draw: st.DrawFn) -> Size:
    step = draw(st.integers(1, 16))
    low = draw(st.integers(1, 40))
    return Size("tokens", low * step, (low + draw(st.integers(1, 400))) * step, step)


@given(size=sizes(), typical=st.lists(st.integers(-5, 9000), max_size=3), length=st.floats(-10, 1e6))
def test_what_is_tried_is_of_the_size_and_holds_both_ends(size, typical, length):
    tried = size.tried(typical)
    assert all(size.wrong(one) is None for one in (*tried, size.nearest(length)))
    assert (tried[0], tried[-1]) == (size.min, size.max)
    assert list(tried) == sorted(set(tried))
    if size.max - size.min > 3 * size.multiple_of:
        assert any(one // size.multiple_of % 2 for one in tried[1:-1])


@given(size=sizes(), length=st.integers(-5, 9000))
def test_the_nearest_length_is_at_most_a_step_away_within_the_bounds(size, length):
    near = size.nearest(length)
    inside = size.min <= length <= size.max
    assert abs(near - length) * 2 <= size.multiple_of if inside else near in (size.min, size.max)


def test_each_wrong_length_is_told_with_its_input():
    tokens = Size("tokens", 8, 80, 8)
    told = {
        7: "input 'ids': a length of 7, outside [8, 80] of the size 'tokens' (axis 0)",
        88: "input 'ids': a length of 88, outside [8, 80] of the size 'tokens' (axis 0)",
        12: "input 'ids': a length of 12, no multiple of 8, as the size 'tokens' must be (axis 0)",
        16: None,
    }
    assert {length: lengths_problem({"ids": (length,)}, {"ids": (tokens,)}) for length in told} == told


def test_axes_of_one_name_have_one_length():
    tokens, wide = Size("tokens", 1, 77), Size("wide", 1, 9)
    declared = {"ids": (tokens,), "mask": (tokens, None), "boxes": (wide, tokens), "absent": (tokens,)}
    assert lengths_problem({"ids": (5,), "mask": (5, 3), "boxes": (4, 5)}, declared) is None
    assert lengths_problem({"ids": (5,), "mask": (6, 3), "boxes": (4, 5)}, declared) == (
        "input 'mask' is 6 long where 'ids' is 5: both have the size 'tokens', which is one length in a request"
    )


def test_an_artifact_keeps_what_is_known_of_sizes(tmp_path):
    known = TensorSpec("ids", "INT64", (-1, 3), (Size("tokens", 1, 77), None))
    made = Artifact("onnx", tmp_path / "model.onnx", "", (known,), (TensorSpec("logits", "FP32", (4,)),), "onnx")
    again = Artifact.from_json(made.to_json(), tmp_path)
    assert [spec.sizes for spec in (*again.inputs, *again.outputs)] == [known.sizes, ()]
    assert known == TensorSpec("ids", "INT64", (-1, 3))  # what an engine says of itself has no names
