import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdeploy.performance.grpc_wire import _literals, _number, _status_of

TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=300)


def number(value: int, bits: int, flags: int) -> bytes:
    """Write an integer as RFC 7541, section 5.1, has it."""
    most = 2**bits - 1
    if value < most:
        return bytes([flags | value])
    out, value = [flags | most], value - most
    while value >= 128:
        out.append(value % 128 + 128)
        value //= 128
    return bytes([*out, value])


def text(value: str) -> bytes:
    return number(len(value), 7, 0) + value.encode("latin-1")


@given(st.integers(0, 2**28), st.integers(4, 7))
def test_numbers_are_read_as_they_were_written(value, bits):
    assert _number(number(value, bits, 0), 0, bits) == (value, len(number(value, bits, 0)))


@given(st.lists(st.tuples(TEXT.filter(bool), TEXT, st.sampled_from([0x40, 0x00, 0x10]))))
def test_headers_that_are_written_out_are_read(headers):
    block = b"\x20\x88" + b"".join(bytes([kind]) + text(name) + text(value) for name, value, kind in headers)
    assert [*_literals(block)] == [(name, value) for name, value, _ in headers]


def test_the_status_is_read_and_the_message_unquoted():
    block = b"\x40" + text("grpc-status") + text("3") + b"\x40" + text("grpc-message") + text("no %5Bshape%5D")
    assert _status_of(block) == (3, "no [shape]")


@given(st.binary(max_size=60))
def test_no_bytes_bring_it_down(block):
    status, message = _status_of(block)
    assert isinstance(status, int)
    assert isinstance(message, str)


@pytest.mark.parametrize("block", [b"", b"\x88", b"\x40" + text("grpc-status") + b"\x81\x00"])
def test_a_status_that_is_not_there_or_in_huffmans_code_is_none(block):
    assert _status_of(block)[0] == -1
