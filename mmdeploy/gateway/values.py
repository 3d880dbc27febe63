"""Makes the tensors that a model reads of what a client sent: lists, text, files, ``.npy``, base64."""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from mmdeploy.core.artifact import NUMPY_BY_DTYPE, TensorSpec
from mmdeploy.core.contracts import Array
from mmdeploy.core.errors import UsageError, did_you_mean
from mmdeploy.core.strings import BYTES
from mmdeploy.data.media import kind_of, read_content
from mmdeploy.gateway.catalogue import Input, Model
from mmdeploy.gateway.parts import Part, Row, checked_object, json_kind, parsed
from mmdeploy.gateway.problems import Refused

_NPY = b"\x93NUMPY"
_BASE64 = "base64"


def tensors_of(model: Model, rows: Sequence[Row]) -> tuple[dict[str, Array], list[list[str]]]:
    """Make the tensors of a request.

    Args:
        model: Who reads them.
        rows: Values by input's name.

    Returns:
        Arrays by input, rows first where the model takes rows, with marks of the rows that have an input where some
        lack it; and for each row the inputs that it has.

    Raises:
        Refused: Saying which value of which row is wrong.
    """
    if not model.max_batch_size and len(rows) > 1:
        raise Refused("bad_request", f"{model.name} takes one sample a request, not {len(rows)} rows")
    made = [_row(model, row, f"row {at}: " if len(rows) > 1 else "") for at, row in enumerate(rows)]
    feed_dict: dict[str, Array] = {}
    for name, one in model.inputs.items():
        having = [name in row for row in made]
        if not any(having):
            continue
        sent = [row[name] for row in made if name in row]
        shapes = sorted({array.shape for array in sent})
        if len(shapes) > 1:
            unlike = f"{name}: rows are of {list(shapes[0])} and {list(shapes[1])}"
            raise Refused("bad_request", unlike, hint="send rows of one size, or one row a request")
        if not all(having):
            if one.marker is None:
                raise Refused("bad_request", f"{name}: row {having.index(False)} lacks what another row has")
            feed_dict[one.marker] = np.array(having)[:, None]
        nothing = np.full(shapes[0], b"", object) if one.spec.dtype == BYTES else np.zeros(shapes[0], sent[0].dtype)
        whole = [row.get(name, nothing) for row in made]
        feed_dict[name] = np.stack(whole) if model.max_batch_size else whole[0]
    return feed_dict, [list(row) for row in made]


def _row(model: Model, row: Row, where: str) -> dict[str, Array]:
    for name in row:
        if name not in model.inputs:
            guess = did_you_mean(name, model.inputs)
            raise Refused("bad_request", f"{where}{model.name} has no input {name[:80]!r}; {guess}")
    made = {
        name: _value(one, row[name], where)
        for name, one in model.inputs.items()
        if name in row and not _left_out(one, row[name])
    }
    for name, one in model.inputs.items():
        if name not in made and not one.optional:
            raise Refused("bad_request", f"{where}{name} is missing: {one.kind}, {one.spec.dtype} {[*one.spec.shape]}")
    if not made:
        raise Refused("bad_request", f"{where}there is none of {', '.join(model.inputs)}: send at least one")
    return made


def _left_out(one: Input, value: Any) -> bool:
    """Say whether a value is none: a part of a form that was left empty, as browsers send it."""
    return one.optional and isinstance(value, Part) and not value.content


def _value(one: Input, value: Any, where: str) -> Array:
    spec, what = one.spec, f"{where}{one.spec.name}"
    if spec.dtype not in NUMPY_BY_DTYPE:
        raise Refused("bad_request", f"{what}: {spec.dtype} cannot be sent here", hint="ask the server by gRPC")
    if value is None:
        raise Refused("bad_request", f"{what}: is null", hint="leave an input out that is not there")
    if spec.dtype == BYTES:
        return _strings(value, spec, what, is_file=one.kind in ("image", "audio", "video"))
    if isinstance(value, Part):
        if value.content.startswith(_NPY):
            return _npy(value.content, spec, what)
        if suffix := kind_of(value.content):
            return _media(value.content, suffix, spec, where)
        value = parsed(value.content, f"{what} (no picture, WAV or .npy file, and no list)")
    if isinstance(value, dict):
        return _encoded(value, spec, what)
    return _numbers(value, spec, what)


def _media(content: bytes, suffix: str, spec: TensorSpec, where: str) -> Array:
    """Return the pixels of a picture or the samples of a WAV file, as ``mmdeploy infer`` sends them."""
    try:
        return read_content(content, suffix, spec)
    except UsageError as error:
        raise Refused("bad_request", f"{where}{error.message}") from error
    except ImportError as error:
        hint = 'pip install "multimodal-deploy[media]", or send a list'
        raise Refused("bad_request", f"{where}{spec.name}: pictures are not read here", hint=hint) from error


def _strings(value: Any, spec: TensorSpec, what: str, *, is_file: bool) -> Array:
    if isinstance(value, list):
        flat, shape = _flat(value, max(1, len(spec.shape)), what)
        one_string = False
    else:
        flat, shape, one_string = [value], (1,) * len(spec.shape), True
    found = np.empty(len(flat), object)
    for at, one in enumerate(flat):
        found[at] = _string(one, what, is_file=is_file)
    if one_string and any(size not in (1, -1) for size in spec.shape):
        raise Refused("bad_request", f"{what}: is one string, expected {list(spec.shape)}")
    return _shaped(found, shape, spec, what)


def _string(value: Any, what: str, *, is_file: bool) -> bytes:
    if isinstance(value, Part):
        return value.content
    if isinstance(value, str) and is_file:
        raise Refused("bad_request", f'{what}: is text, expected {{"base64": …}} with the file')
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError as error:
            raise Refused("bad_request", f"{what}: half a character, {value[error.start]!a}, is no text") from error
    if isinstance(value, dict):
        return _bytes(checked_object(value, what, {_BASE64})[_BASE64], what)
    raise Refused("bad_request", f'{what}: is {json_kind(value)}, expected text, or {{"base64": …}} for a file')


def _bytes(text: Any, what: str) -> bytes:
    try:
        if not isinstance(text, str):
            raise ValueError("is no text")  # noqa: TRY004 - one complaint for both
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refused("bad_request", f"{what}: what base64 stands for cannot be read: {error}") from error


def _encoded(value: dict[str, Any], spec: TensorSpec, what: str) -> Array:
    """Return numbers that JSON holds as base64: an .npy file, or values in little-endian order."""
    content = _bytes(checked_object(value, what, {_BASE64})[_BASE64], what)
    if content.startswith(_NPY):
        return _npy(content, spec, what)
    if -1 in spec.shape:
        raise Refused("bad_request", f"{what}: bytes without a shape, and {list(spec.shape)} varies", hint="send .npy")
    dtype, count = spec.numpy_dtype.newbyteorder("<"), math.prod(spec.shape)
    if len(content) != count * dtype.itemsize:
        expected = f"{count * dtype.itemsize} are {spec.dtype} {list(spec.shape)}"
        raise Refused("bad_request", f"{what}: {len(content)} bytes, {expected}")
    return np.frombuffer(content, dtype).astype(spec.numpy_dtype).reshape(spec.shape)


def _npy(content: bytes, spec: TensorSpec, what: str) -> Array:
    """Read an array; what its header claims is held against the input before memory is spent on it."""
    stream = io.BytesIO(content)
    try:
        shape, fortran, dtype = _header(stream)
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError) as error:
        raise Refused("bad_request", f"{what}: the .npy file cannot be read: its header is damaged") from error
    if dtype.newbyteorder("=") != spec.numpy_dtype:
        raise Refused("bad_request", f"{what}: the .npy file holds {dtype}, expected {spec.dtype}")
    raw = content[stream.tell() :]
    if any(size < 0 for size in shape) or len(raw) != math.prod(shape) * dtype.itemsize:
        raise Refused("bad_request", f"{what}: the .npy file does not hold the {list(shape)} values that it says")
    array = np.frombuffer(raw, dtype).astype(spec.numpy_dtype)
    if fortran:
        array = array.reshape(shape[::-1]).T
    return _shaped(np.ascontiguousarray(array), shape, spec, what)


def _header(stream: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read the header of an .npy file: the shape, whether columns come first, the type."""
    form: Any = np.lib.format
    version = form.read_magic(stream)
    found = form.read_array_header_1_0(stream) if version == (1, 0) else form.read_array_header_2_0(stream)
    return tuple(found[0]), bool(found[1]), np.dtype(found[2])


def _numbers(value: Any, spec: TensorSpec, what: str) -> Array:
    alone = not isinstance(value, list)
    flat, shape = ([value], (1,) * len(spec.shape)) if alone else _flat(value, max(1, len(spec.shape)), what)
    kinds, dtype = set(map(type, flat)), spec.numpy_dtype
    accepted = {bool} if dtype.kind == "b" else {int, float}
    if wrong := [one for one in flat if type(one) not in accepted] if kinds - accepted else []:
        expected = "true or false" if dtype.kind == "b" else "a number"
        raise Refused("bad_request", f"{what}: has {json_kind(wrong[0])}, expected {expected}")
    if dtype.kind in "iu":
        return _shaped(_whole(flat, spec, what), shape, spec, what)
    if dtype.kind == "b":
        return _shaped(np.array(flat, dtype), shape, spec, what)
    try:
        exact = np.array(flat, np.float64)
    except OverflowError as error:
        raise Refused("bad_request", f"{what}: has a number beyond {spec.dtype}") from error
    if not (np.abs(exact) <= np.finfo(dtype).max).all():  # before it is rounded
        raise Refused("bad_request", f"{what}: has a number beyond {spec.dtype}")
    return _shaped(exact.astype(dtype), shape, spec, what)


def _whole(flat: Sequence[Any], spec: TensorSpec, what: str) -> Array:
    """Return integers; 1.0 is one, as JSON has it."""
    for one in flat:
        if type(one) is float and not one.is_integer():
            raise Refused("bad_request", f"{what}: {one} is no {spec.dtype}")
    limits = np.iinfo(spec.numpy_dtype)
    whole = [int(one) for one in flat]
    for one in (min(whole), max(whole)) if whole else ():
        if not limits.min <= one <= limits.max:
            shown = str(one) if abs(one) < 10**20 else "a number"
            raise Refused("bad_request", f"{what}: {shown} is beyond {spec.dtype}, {limits.min} to {limits.max}")
    return np.array(whole, spec.numpy_dtype)


def _flat(value: list[Any], rank: int, what: str) -> tuple[list[Any], tuple[int, ...]]:
    """Flatten lists in lists, all of one length at each depth."""
    shape = [len(value)]
    for depth in range(1, rank):
        lengths = {len(one) if isinstance(one, list) else -1 for one in value}
        if not lengths:
            return [], (*shape, *[0] * (rank - depth))
        if len(lengths) > 1 or -1 in lengths:
            raise Refused("bad_request", f"{what}: lists of one length were expected, {rank} deep")
        shape.append(lengths.pop())
        value = list(chain.from_iterable(value))
    if any(isinstance(one, list) for one in value):
        raise Refused("bad_request", f"{what}: lists are nested more than {rank} deep")
    return value, tuple(shape)


def _shaped(array: Array, shape: Sequence[int], spec: TensorSpec, what: str) -> Array:
    fits = len(shape) == len(spec.shape) and all(want in (-1, got) for want, got in zip(spec.shape, shape, strict=True))
    if not fits:
        raise Refused("bad_request", f"{what}: has the shape {list(shape)}, expected {list(spec.shape)}")
    return array.reshape(tuple(shape))
