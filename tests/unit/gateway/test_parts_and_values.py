"""Bodies of requests, taken apart and made into tensors: what is right arrives whole, what is wrong is told."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from mmdeploy.core.artifact import TensorSpec
from mmdeploy.gateway.catalogue import Input, Model
from mmdeploy.gateway.parts import FORM, JSON, Part, rows_of
from mmdeploy.gateway.problems import Refused
from mmdeploy.gateway.values import tensors_of

PHOTO = Input(TensorSpec("photo", "BYTES", (1,)), "image", optional=True, marker="photo_present")
CAPTION = Input(TensorSpec("caption", "BYTES", (1,)), "text")


def model(*inputs: Input, max_batch_size: int = 8) -> Model:
    return Model("pets", {one.spec.name: one for one in inputs}, {}, max_batch_size)


def numbers(dtype: str, *shape: int) -> Input:
    return Input(TensorSpec("x", dtype, shape))


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def picture() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3)).save(stream, "PNG")
    return stream.getvalue()


def test_a_picture_is_its_pixels() -> None:
    assert made(numbers("UINT8", 2, 3), Part(picture(), "x.png")).tolist() == [[0, 1, 2], [3, 4, 5]]


def made(one: Input, value: Any) -> np.ndarray:
    return tensors_of(model(one), [{one.spec.name: value}])[0][one.spec.name][0]


@given(arrays.arrays(np.float32, (2, 3), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_an_array_arrives_the_same_by_every_way(array: np.ndarray) -> None:
    one = numbers("FP32", 2, 3)
    ways = (
        json.loads(json.dumps(array.tolist())),
        Part(json.dumps(array.tolist()).encode()),
        Part(npy(array), "x.npy"),
        Part(npy(np.asfortranarray(array)), "x.npy"),
        Part(npy(array.astype(">f4")), "x.npy"),
        {"base64": base64.b64encode(npy(array)).decode()},
        {"base64": base64.b64encode(array.tobytes()).decode()},
    )
    for value in ways:
        found = made(one, value)
        assert found.dtype == np.float32
        assert found.tobytes() == array.tobytes()


@given(st.lists(st.integers(0, 255), min_size=4, max_size=4))
def test_whole_numbers_stay_what_they_are(values: list[int]) -> None:
    assert made(numbers("UINT8", 4), values).tolist() == values
    assert made(numbers("UINT8", 4), [float(one) for one in values]).tolist() == values


WRONG_VALUES = {
    "a row too short": (numbers("FP32", 3), [1, 2], "x: has the shape [2], expected [3]"),
    "ragged": (numbers("FP32", 2, 2), [[1, 2], [3]], "x: lists of one length were expected, 2 deep"),
    "flat": (numbers("FP32", 2, 2), [1, 2], "x: lists of one length were expected, 2 deep"),
    "too deep": (numbers("FP32", 2), [[1], [2]], "x: lists are nested more than 1 deep"),
    "text in numbers": (numbers("FP32", 2), [1, "2"], "x: has text, expected a number"),
    "true in numbers": (numbers("INT32", 2), [1, True], "x: has true or false, expected a number"),
    "numbers for truth": (numbers("BOOL", 2), [True, 1], "x: has a number, expected true or false"),
    "null": (numbers("FP32", 2), None, "x: is null"),
    "null inside": (numbers("FP32", 2), [1, None], "x: has null, expected a number"),
    "a fraction": (numbers("INT64", 2), [1, 2.5], "x: 2.5 is no INT64"),
    "infinite": (numbers("INT64", 1), [1e999], "x: inf is no INT64"),
    "beyond": (numbers("UINT8", 2), [1, 256], "x: 256 is beyond UINT8, 0 to 255"),
    "far beyond": (numbers("INT64", 1), [10**400], "x: a number is beyond INT64"),
    "beyond a float": (numbers("FP32", 1), [1e39], "x: has a number beyond FP32"),
    "a little beyond": (numbers("FP32", 1), [3.402823466385289e38], "x: has a number beyond FP32"),
    "far beyond a float": (numbers("FP32", 1), [10**400], "x: has a number beyond FP32"),
    "no base64": (numbers("FP32", 1), {"base64": "…"}, "x: what base64 stands for cannot be read"),
    "base64 of what": (numbers("FP32", 1), {"base64": 1}, "x: what base64 stands for cannot be read: is no text"),
    "another key": (numbers("FP32", 1), {"bytes": ""}, "x has 'bytes'; accepted: base64"),
    "bytes too few": (numbers("FP32", 2), {"base64": "AAAA"}, "x: 3 bytes, 8 are FP32 [2]"),
    "bytes of any shape": (numbers("FP32", -1), {"base64": "AAAA"}, "x: bytes without a shape, and [-1] varies"),
    "another type": (numbers("FP32", 1), Part(npy(np.zeros(1)), "x.npy"), "x: the .npy file holds float64"),
    "half a file": (numbers("FP32", 2), Part(npy(np.zeros(2, "f4"))[:-3], "x.npy"), "does not hold the [2] values"),
    "half a header": (numbers("FP32", 2), Part(b"\x93NUMPY\x01\x00", "x.npy"), "its header is damaged"),
    "a file of objects": (numbers("FP32", 1), Part(npy(np.array([{}])), "x.npy"), "the .npy file holds object"),
    "neither": (numbers("FP32", 1), Part(b"\x89PNx", "x.bin"), "x (no picture, WAV or .npy file, and no list) is no"),
    "no pixels": (numbers("UINT8", 2, 2), Part(b"\x89PNG\r\n", "x.png"), "x: the file cannot be read as an image"),
    "no samples": (numbers("FP32", 2), Part(b"RIFF", "x.wav"), "x: the file cannot be read as a WAV file: the file"),
    "a picture for a sound": (numbers("FP32", 2), Part(picture(), "x.png"), "takes FP32 [2], which is no image"),
    "a picture too large": (numbers("UINT8", 2, 2), Part(picture(), "x"), "it has 3 x 2 pixels, the model takes 2 x 2"),
    "text for a file": (PHOTO, "aGk=", 'photo: is text, expected {"base64": …} with the file'),
    "a number for text": (CAPTION, 3, "caption: is a number, expected text"),
    "half a character": (CAPTION, "\ud800", "caption: half a character, '\\ud800', is no text"),
    "two texts": (CAPTION, ["a", "b"], "caption: has the shape [2], expected [1]"),
}


@pytest.mark.parametrize(("one", "value", "words"), WRONG_VALUES.values(), ids=WRONG_VALUES)
def test_a_wrong_value_is_told_by_its_input(one: Input, value: Any, words: str) -> None:
    with pytest.raises(Refused) as refused:
        made(one, value)
    assert words in refused.value.message
    assert refused.value.status == 400


def test_a_header_that_claims_much_takes_no_memory() -> None:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(8)
    with pytest.raises(Refused, match=r"does not hold the \[1099511627776\] values"):
        made(numbers("FP32", -1), Part(content, "x.npy"))


def test_rows_may_lack_what_is_marked() -> None:
    feed_dict, sent = tensors_of(
        model(PHOTO, CAPTION), [{"photo": {"base64": "aGk="}, "caption": "a"}, {"caption": "b"}]
    )
    assert feed_dict["photo"].tolist() == [[b"hi"], [b""]]
    assert feed_dict["photo_present"].tolist() == [[True], [False]]
    assert feed_dict["caption"].tolist() == [[b"a"], [b"b"]]
    assert sent == [["photo", "caption"], ["caption"]]


def test_an_empty_part_of_an_optional_input_is_none_and_of_another_is_empty() -> None:
    feed_dict, sent = tensors_of(model(PHOTO, CAPTION), [{"photo": Part(b"", ""), "caption": Part(b"")}])
    assert list(feed_dict) == ["caption"]
    assert feed_dict["caption"].tolist() == [[b""]]
    assert sent == [["caption"]]


WRONG_ROWS = {
    "missing": ([{"photo": Part(b"x", "x")}], "caption is missing: text, BYTES [1]"),
    "missing in a row": ([{"caption": "a"}, {}], "row 1: caption is missing"),
    "unknown": ([{"caption": "a", "foto": "b"}], "pets has no input 'foto'; did you mean 'photo'?"),
    "the mark": ([{"caption": "a", "photo_present": [True]}], "pets has no input 'photo_present'"),
}


@pytest.mark.parametrize(("rows", "words"), WRONG_ROWS.values(), ids=WRONG_ROWS)
def test_a_wrong_row_is_told(rows: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(Refused) as refused:
        tensors_of(model(PHOTO, CAPTION), rows)
    assert words in refused.value.message


def test_nothing_at_all_is_told() -> None:
    with pytest.raises(Refused, match="there is none of photo: send at least one"):
        tensors_of(model(PHOTO), [{}])


def test_rows_of_different_sizes_are_told() -> None:
    with pytest.raises(Refused, match=r"x: rows are of \[1\] and \[2\]"):
        tensors_of(model(numbers("FP32", -1)), [{"x": [1]}, {"x": [1, 2]}])


def test_a_model_without_rows_takes_one_sample() -> None:
    alone = model(numbers("FP32", 2), max_batch_size=0)
    assert tensors_of(alone, [{"x": [1, 2]}])[0]["x"].shape == (2,)
    with pytest.raises(Refused, match="pets takes one sample a request, not 2 rows"):
        tensors_of(alone, [{"x": [1, 2]}] * 2)


def form(*parts: tuple[str, bytes, str | None], end: bytes = b"--") -> tuple[bytes, str]:
    body = b""
    for name, content, filename in parts:
        told = f'; filename="{filename}"' if filename is not None else ""
        body += f'--edge\r\nContent-Disposition: form-data; name="{name}"{told}\r\n\r\n'.encode() + content + b"\r\n"
    return body + b"--edge" + end + b"\r\n", f"{FORM}; boundary=edge"


@given(st.binary(max_size=200), st.text(max_size=20))
def test_what_a_form_holds_arrives_as_it_was(content: bytes, text: str) -> None:
    if b"\r\n--edge" in b"\r\n" + content or "\r\n--edge" in text:
        return
    body, content_type = form(("photo", content, "a.png"), ("caption", text.encode("utf-8", "replace"), None))
    (row,) = rows_of(body, content_type, batch=False)
    assert row == {"photo": Part(content, "a.png"), "caption": Part(text.encode("utf-8", "replace"))}


def test_rows_of_a_form_are_numbered() -> None:
    body, content_type = form(("photo[1]", b"1", "b"), ("photo[0]", b"0", "a"), ("caption[1]", b"one", None))
    rows = rows_of(body, content_type, batch=True)
    assert rows == [{"photo": Part(b"0", "a")}, {"photo": Part(b"1", "b"), "caption": Part(b"one")}]


WRONG_BODIES: dict[str, tuple[bytes, str, bool, int, str]] = {
    "no type": (b"", "", False, 415, "the body is of no type"),
    "another type": (b"", "text/plain", False, 415, "the body is text/plain"),
    "no JSON": (b"{", JSON, False, 400, "the body is no JSON: Expecting"),
    "no text": (b"\xff", JSON, False, 400, "the body is no JSON: it is not UTF-8"),
    "NaN": (b'{"inputs": {"x": NaN}}', JSON, False, 400, "NaN is no number there"),
    "minus infinity": (b'{"inputs": {"x": -Infinity}}', JSON, False, 400, "-Infinity is no number there"),
    "twice": (b'{"inputs": {"x": 1, "x": 2}}', JSON, False, 400, "'x' is there twice"),
    "deep": (b"[" * 100_000, JSON, False, 400, "the body is nested too deeply"),
    "digits": (b"1" * 10_000, JSON, False, 400, "the body is no JSON: Exceeds the limit"),
    "a list": (b"[]", JSON, False, 400, 'the body is a list, expected an object: {"inputs": …}'),
    "another field": (b'{"input": {}}', JSON, False, 400, "the body has 'input'; did you mean 'inputs'?"),
    "no field": (b"{}", JSON, False, 400, "the body has no 'inputs'"),
    "inputs in a list": (b'{"inputs": []}', JSON, False, 400, "inputs is a list, expected an object"),
    "no rows": (b'{"rows": []}', JSON, True, 400, "rows is empty"),
    "one row": (b'{"rows": {}}', JSON, True, 400, "rows is an object, expected a list"),
    "a row that is none": (b'{"rows": [{}, 1]}', JSON, True, 400, "row 1 is a number, expected an object"),
    "no boundary": (b"", FORM, False, 400, "the form's content type has no boundary"),
    "an empty form": (*form(), False, 400, "the form is empty"),
    "an early end": (*form(("x", b"1", None), end=b""), False, 400, "the form ends too early"),
    "no form": (b"hello", f"{FORM}; boundary=edge", False, 400, "the form cannot be read"),
    "a part twice": (*form(("x", b"1", None), ("x", b"2", None)), False, 400, "the form has 'x' twice"),
    "no row number": (*form(("x", b"1", None)), True, 400, "the form's part 'x' has no row"),
    "a row left out": (*form(("x[2]", b"1", None), ("x[0]", b"1", None)), True, 400, "no part of row 1"),
    "many parts": (*form(*[("x", b"", None)] * 4097), False, 413, "the form has more than 4096 parts"),
    "a part without a name": (
        b"--edge\r\nContent-Type: text/plain\r\n\r\n1\r\n--edge--\r\n", f"{FORM}; boundary=edge", False, 400,
        "a part of the form has no name",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("body", "content_type", "batch", "status", "words"), WRONG_BODIES.values(), ids=WRONG_BODIES)
def test_a_wrong_body_is_told(body: bytes, content_type: str, batch: bool, status: int, words: str) -> None:
    with pytest.raises(Refused) as refused:
        rows_of(body, content_type, batch=batch)
    assert words in refused.value.message
    assert refused.value.status == status


@given(st.binary(max_size=300), st.sampled_from([JSON, f"{FORM}; boundary=edge", FORM, "text/html"]), st.booleans())
def test_nothing_but_a_refusal_comes_of_anything(body: bytes, content_type: str, batch: bool) -> None:
    try:
        rows_of(body, content_type, batch=batch)
    except Refused as refused:
        assert 400 <= refused.status < 500
