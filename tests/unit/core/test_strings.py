"""BYTES tensors: what is packed is unpacked, and what is no string is said to be none."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdeploy.core.strings import as_strings, nbytes, packed, text_of, unpacked


@given(st.lists(st.binary(max_size=20), max_size=6))
def test_what_is_packed_is_unpacked(contents: list[bytes]) -> None:
    array = np.empty(len(contents), dtype=object)
    array[:] = contents
    assert unpacked(packed(array), (len(contents),)).tolist() == contents
    assert len(packed(array)) == nbytes(array)


@given(st.lists(st.binary(max_size=5), min_size=1, max_size=3), st.data())
def test_a_cut_is_seen(contents: list[bytes], data: st.DataObject) -> None:
    array = as_strings(contents)
    assert array is not None
    raw = packed(array)
    cut = data.draw(st.integers(0, len(raw) - 1))
    with pytest.raises(ValueError, match=r"ends within|cannot reshape"):
        unpacked(raw[:cut], (len(contents),))


@pytest.mark.parametrize("value", ["é", b"\xc3\xa9", ["é"], np.array(["é"]), np.array(["é"], dtype=object)])
def test_text_and_bytes_are_taken_in_any_form(value: object) -> None:
    found = as_strings(value)
    assert found is not None and found.dtype == object and found.tolist() == [b"\xc3\xa9"]


@pytest.mark.parametrize("value", [3, 3.0, [1, 2], None, np.zeros(2), {"a": b"x"}])
def test_numbers_are_no_strings(value: object) -> None:
    assert as_strings(value) is None


def test_what_is_no_utf8_is_shown_escaped() -> None:
    assert text_of(b"caf\xc3\xa9 \xff") == "café \\xff"
