"""Makes malformed requests to a served model, the same ones for the same seed: what `soak.py` and a test of it send.

A request is the bytes that go over a connection: HTTP with its head, a protobuf for gRPC's ModelInfer, or whatever is
sent to gRPC's port. Left out is what crashes the wheel's Triton of 2024 by a fault of its own (`FATAL`): that is tried
apart.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Tensor:
    """An input as Triton's metadata has it."""

    name: str
    dtype: str
    dims: tuple[int, ...]


@dataclass(frozen=True)
class Model:
    """The served model, and a request that it answers.

    Attributes:
        name: Of the model.
        tensors: Its inputs, the batch left out of their dims.
        good: The request as KServe's JSON.
        protobuf: The same as a serialized ModelInferRequest.
    """

    name: str
    tensors: tuple[Tensor, ...]
    good: Mapping[str, Any]
    protobuf: bytes


@dataclass(frozen=True)
class Malformed:
    """One request that is wrong.

    Attributes:
        kind: What is wrong, in a word or two.
        door: Where it goes: ``http`` and ``frames`` are bytes of a connection, ``grpc`` is a message for ModelInfer.
        data: The bytes.
    """

    kind: str
    door: Literal["http", "grpc", "frames"]
    data: bytes


def requests(model: Model, seed: int, *, kinds: Sequence[str] = ()) -> Iterator[Malformed]:
    """Give requests without end, each kind as often as any other."""
    source = random.Random(seed)
    makers = [(kind, door, make) for kind, door, make in _MAKERS if not kinds or kind in kinds]
    while True:
        for kind, door, make in source.sample(makers, len(makers)):
            yield Malformed(kind, door, make(model, source))


def http(path: str, body: bytes, *, headers: Mapping[str, object] | None = None, length: object | None = None) -> bytes:
    """Return a POST request, the length of its body as told."""
    told = {"Host": "x", "Content-Type": "application/json", "Content-Length": len(body) if length is None else length}
    lines = [f"{name}: {value}" for name, value in {**told, **(headers or {})}.items() if value != ""]
    return "\r\n".join([f"POST {path} HTTP/1.1", *lines, "", ""]).encode("latin-1", "replace") + body


def _infer(model: Model) -> str:
    return f"/v2/models/{model.name}/infer"


def _json(change: Callable[[dict[str, Any], Model, random.Random], object]) -> Callable[[Model, random.Random], bytes]:
    """Make a maker that changes the good request."""

    def make(model: Model, source: random.Random) -> bytes:
        wrong = json.loads(json.dumps(model.good))
        change(wrong, model, source)
        return http(_infer(model), json.dumps(wrong).encode())

    return make


def _one(wrong: dict[str, Any], source: random.Random) -> dict[str, Any]:
    tensor: dict[str, Any] = source.choice(wrong["inputs"])
    return tensor


def _name(wrong: dict[str, Any], model: Model, source: random.Random) -> None:
    _one(wrong, source)["name"] = source.choice(["", "x", "A" * 10_000, "\u0000", "../..", 3, None, {}, "%n%s"])


def _dtype(wrong: dict[str, Any], model: Model, source: random.Random) -> None:
    one = _one(wrong, source)
    names = ["FP64", "INT8", "BYTES", "BOOL", "BF16", "FP16", "UINT64", "", "fp32", 7, None]
    one["datatype"] = source.choice([name for name in names if name != one["datatype"]])


def _shape(wrong: dict[str, Any], model: Model, source: random.Random) -> None:
    one = _one(wrong, source)
    shapes = [[], [1], [0, *one["shape"][1:]], [*one["shape"], 1], [-1, *one["shape"][1:]], [*one["shape"][::-1], 2]]
    shapes += [["1"], [1.5], [[1]], None, "1", {}, [1] * 500, [-(2**63)], [1, -(2**31)]]
    one["shape"] = source.choice(shapes)


def _large_batch(wrong: dict[str, Any], model: Model, source: random.Random) -> None:
    one = _one(wrong, source)
    one["shape"] = [source.choice([33, 1000, 4096]), *one["shape"][1:]]


def _short_data(wrong: dict[str, Any], model: Model, source: random.Random) -> None:
    one = _one(wrong, source)
    one["data"] = source.choice([one["data"][:-1], [], one["data"] + [1], [one["data"], []], 3, None, "", {"a": 1}])


def _values(wrong: dict[str, Any], model: Model, source: random.Random) -> None:
    one = _one(wrong, source)
    bad = source.choice(["x", None, [], {}, True, 1e300, -(2**62), 2**64, 10**400, "\ud800", float("nan")])
    one["data"] = [bad] * len(one["data"])


def _twice(wrong: dict[str, Any], model: Model, source: random.Random) -> None:
    wrong["inputs"].append(dict(_one(wrong, source)))


def _missing(wrong: dict[str, Any], model: Model, source: random.Random) -> None:
    one = _one(wrong, source)
    if source.random() < 0.5:
        wrong["inputs"].remove(one)
    else:
        del one[source.choice(sorted(one))]


def _outputs(wrong: dict[str, Any], model: Model, source: random.Random) -> None:
    names = ["nothing", "", "a" * 5000, 1, None]
    wrong["outputs"] = source.choice([[{"name": source.choice(names)}], [{}], 3, {}, [[]], "logits", [None]])


def _parameters(wrong: dict[str, Any], model: Model, source: random.Random) -> None:
    place = source.choice([wrong, _one(wrong, source)])
    choices: list[Any] = [
        {"sequence_id": source.choice([1, "s", -1, 2**63]), "sequence_start": True},
        {"priority": source.choice([-1, 2**64 - 1, 3])}, {"timeout": source.choice([0, 1, -1, "x"])},
        {"shared_memory_region": "none", "shared_memory_byte_size": 2**40}, {"shared_memory_region": 3},
        {"binary_data_size": source.choice([-1, 0, 1, 2**40, "x"])}, {"binary_data_output": "x"}, 3, [], None,
        {"headers": {"a": 1}}, {"triton_enable_empty_final_response": 7},
    ]  # fmt: skip
    place["parameters"] = source.choice(choices)


def _truncated(model: Model, source: random.Random) -> bytes:
    body = json.dumps(model.good).encode()
    return http(_infer(model), body[: source.randrange(len(body))])


def _lying_length(model: Model, source: random.Random) -> bytes:
    body = json.dumps(model.good).encode()
    lies = [len(body) + source.randrange(1, 9999), len(body) - source.randrange(1, len(body)), 0, -1, 2**62, "x", "1,2"]
    return http(_infer(model), body, length=source.choice(lies))


def _lying_header_length(model: Model, source: random.Random) -> bytes:
    body = json.dumps(model.good).encode()
    told = source.choice([0, 1, -1, len(body) + 1, 2**31, 2**40, 2**64, "x", "", " ", "1e3", len(body) // 2])
    return http(_infer(model), body, headers={"Inference-Header-Content-Length": told})


def _binary(model: Model, source: random.Random) -> bytes:
    """Tensors as bytes whose sizes are not what is told."""
    wrong = json.loads(json.dumps(model.good))
    tail = source.randbytes(source.choice([0, 3, 64, 5000]))
    for one in wrong["inputs"]:
        del one["data"]
        one["parameters"] = {"binary_data_size": source.choice([0, 1, 4, 32, len(tail), len(tail) + 1, 2**31])}
    head = json.dumps(wrong).encode()
    return http(_infer(model), head + tail, headers={"Inference-Header-Content-Length": len(head)})


def _deep(model: Model, source: random.Random) -> bytes:
    depth = source.choice([50, 200, 2000, 20_000])
    opening = source.choice([("[", "]"), ('{"a":', "}")])
    nested = opening[0] * depth + "1" + opening[1] * depth
    text = source.choice([nested, f'{{"inputs": {nested}}}', f'{{"inputs": [{{"name": "a", "data": {nested}}}]}}'])
    return http(_infer(model), text.encode())


def _not_finite(model: Model, source: random.Random) -> bytes:
    wrong = json.loads(json.dumps(model.good))
    one = _one(wrong, source)
    one["data"] = ["@"] * len(one["data"])
    word = source.choice(["NaN", "Infinity", "-Infinity", "1e999", "nan", "0x1", "1.", "01", "-"])
    return http(_infer(model), json.dumps(wrong).replace('"@"', word).encode())


def _utf8(model: Model, source: random.Random) -> bytes:
    body = json.dumps(model.good).encode()
    name = model.tensors[0].name.encode()
    bad = source.choice([b"\xff\xfe", b"\xc0\x80", b"\xed\xa0\x80", b"\x80", b"\xf5\x80\x80\x80", b"\x00"])
    return http(_infer(model), body.replace(b'"' + name, b'"' + bad + name, 1))


def _no_json(model: Model, source: random.Random) -> bytes:
    bodies = [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'"',
        b"1",
        b'{"inputs":3}',
        b'{"inputs":[{}]}',
        b'{"inputs":[3]}',
        b"\x00" * 9,
    ]
    return http(_infer(model), source.choice([*bodies, source.randbytes(source.randrange(2000))]))


def _form(model: Model, source: random.Random) -> bytes:
    types = ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain", "", "x" * 3000]
    body = source.choice([json.dumps(model.good).encode()[:-1], b"a=1&b=%zz&" * 100, b"--x\r\n\r\n--x--", b"%"])
    return http(_infer(model), body, headers={"Content-Type": source.choice(types)})


def _encoding(model: Model, source: random.Random) -> bytes:
    word = source.choice(["gzip", "deflate", "br", "gzip, gzip", "x"])
    return http(_infer(model), source.randbytes(source.randrange(300)), headers={"Content-Encoding": word})


def _path(model: Model, source: random.Random) -> bytes:
    names = ["nothing", "..", "%2e%2e", "", "a" * 5000, f"{model.name}/versions/9", f"{model.name}/versions/-1", "%00",
             f"{model.name}/versions/x", f"{model.name}/versions/99999999999999999999", "$(id)", "\xff"]  # fmt: skip
    ends = ["infer", "generate", "generate_stream", "", "config", "stats", "ready", "infer/infer", "trace/setting"]
    return http(f"/v2/models/{source.choice(names)}/{source.choice(ends)}", json.dumps(model.good).encode())


def _head(model: Model, source: random.Random) -> bytes:
    body = json.dumps(model.good).encode()
    heads = [
        b"GET " + b"/" * 9000 + b" HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"\r\n" * 50, b"POST\r\n\r\n",
        b"POST / HTTP/9.9\r\nHost: x\r\n\r\n", b"BREW /v2 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n12345",
        http(_infer(model), body, headers={f"x-{number}": "y" * 50 for number in range(400)}),
        http(_infer(model), body, headers={"Transfer-Encoding": "chunked", "Content-Length": ""}),
        http(_infer(model), b"zz\r\n", headers={"Transfer-Encoding": "chunked", "Content-Length": ""}),
        http(_infer(model), b"ffffffffffff\r\nx", headers={"Transfer-Encoding": "chunked", "Content-Length": ""}),
        b"POST /v2 HTTP/1.1\r\n" + b"a" * 20_000 + b"\r\n\r\n", b"GET /v2 HTTP/1.1\r\nHost: \xff\xfe\x00\r\n\r\n",
        source.randbytes(source.randrange(1, 3000)),
    ]  # fmt: skip
    return source.choice(heads)


def _message(change: Callable[[Any, Model, random.Random], object]) -> Callable[[Model, random.Random], bytes]:
    """Make a maker that changes the good message."""

    def make(model: Model, source: random.Random) -> bytes:
        from tritonclient.grpc import service_pb2

        message = service_pb2.ModelInferRequest.FromString(model.protobuf)
        change(message, model, source)
        data: bytes = message.SerializeToString()
        return data

    return make


def _grpc_tensor(message: Any, model: Model, source: random.Random) -> None:
    one = source.choice(message.inputs)
    change = source.randrange(4)
    if change == 0:
        one.name = source.choice(["", "x", "a" * 100_000, "\u0000"])
    elif change == 1:
        one.datatype = source.choice(["", "FP64", "INT8", "BYTES", "BOOL", "BF16", "x", "fp32"])
    elif change == 2:
        shape = list(one.shape)
        shapes = [[], [1], [0, *shape[1:]], [-1, *shape[1:]], [*shape, 1], [*shape[::-1], 3], [1] * 300, [-(2**63)]]
        one.shape[:] = source.choice(shapes)
    else:
        one.shape[0] = source.choice([33, 2, 1000, 4096])


def _grpc_raw(message: Any, model: Model, source: random.Random) -> None:
    raw = message.raw_input_contents
    change = source.randrange(5)
    if change == 0:
        del raw[source.randrange(len(raw))]
    elif change == 1:
        raw.append(b"x" * source.choice([0, 1, 1000]))
    elif change == 2:
        number = source.randrange(len(raw))
        raw[number] = raw[number][: source.randrange(len(raw[number]))]
    elif change == 3:
        message.inputs[0].contents.fp32_contents.extend([1.0] * source.choice([1, 8, 100]))
    else:
        del raw[:]
        for one in message.inputs:
            one.contents.bytes_contents.append(source.randbytes(9))


def _grpc_values(message: Any, model: Model, source: random.Random) -> None:
    raw = message.raw_input_contents
    for number, one in enumerate(message.inputs):
        if one.datatype == "FP32":
            value = source.choice([float("nan"), float("inf"), -float("inf")])
            raw[number] = struct.pack("<f", value) * (len(raw[number]) // 4)


def _grpc_bytes(message: Any, model: Model, source: random.Random) -> None:
    one = source.choice(message.inputs)
    one.datatype, one.shape[:] = "BYTES", [source.choice([1, 8])]
    number = list(message.inputs).index(one)
    message.raw_input_contents[number] = struct.pack("<I", source.choice([0, 5, 2**31, 2**32 - 1])) + b"abc"


def _grpc_names(message: Any, model: Model, source: random.Random) -> None:
    change = source.randrange(5)
    if change == 0:
        message.model_name = source.choice(["", "nothing", "..", "a" * 5000])
    elif change == 1:
        message.model_version = source.choice(["9", "-1", "x", "99999999999999999999", " 1"])
    elif change == 2:
        message.outputs.add(name=source.choice(["", "nothing", "a" * 5000]))
    elif change == 3:
        message.inputs.add().CopyFrom(message.inputs[0])
        message.raw_input_contents.append(message.raw_input_contents[0])
    else:
        del message.inputs[:]


def _grpc_parameters(message: Any, model: Model, source: random.Random) -> None:
    where = source.choice([message.parameters, message.inputs[0].parameters])
    name = source.choice(["sequence_id", "priority", "timeout", "shared_memory_region", "binary_data_size", "headers"])
    kind = source.choice(["string_param", "int64_param", "bool_param", "uint64_param", "double_param"])
    values = {
        "string_param": "x",
        "int64_param": -1,
        "bool_param": True,
        "uint64_param": 2**64 - 1,
        "double_param": 1e9,
    }
    setattr(where[name], kind, values[kind])


def _bits(model: Model, source: random.Random) -> bytes:
    """Some bits of the first bytes turned: names, lengths and tags of fields."""
    data = bytearray(model.protobuf)
    for _ in range(source.randrange(1, 6)):
        data[source.randrange(min(len(data), 120))] ^= 1 << source.randrange(8)
    return bytes(data)


def _cut(model: Model, source: random.Random) -> bytes:
    return model.protobuf[: source.randrange(len(model.protobuf))]


def _noise(model: Model, source: random.Random) -> bytes:
    return source.randbytes(source.choice([0, 1, 10, 1000, 100_000]))


_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def _frame(kind: int, flags: int, stream: int, payload: bytes, *, length: int | None = None) -> bytes:
    size = len(payload) if length is None else length
    return struct.pack(">I", size)[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def _field(name: str, value: str) -> bytes:
    """A literal header field that is never indexed (RFC 7541, 6.2.3), without Huffman."""
    return b"\x10" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


def _frames(model: Model, source: random.Random) -> bytes:
    """Frames of HTTP/2 and of gRPC that lie about their length, their order or what is in them."""
    fields = {":method": "POST", ":scheme": "http", ":path": "/inference.GRPCInferenceService/ModelInfer",
              ":authority": "x", "te": "trailers", "content-type": "application/grpc"}  # fmt: skip
    head = _frame(1, 4, 1, b"".join(_field(*each) for each in fields.items()))
    start = _PREFACE + _frame(4, 0, 0, b"")
    size = len(model.protobuf)
    told = source.choice([size + 1, size - 1, 0, 2**31, 2**32 - 1])
    message = bytes([source.choice([0, 1, 7])]) + struct.pack(">I", told) + model.protobuf
    tails = [
        head + _frame(0, 1, 1, message[:16_000]),
        head + _frame(0, 0, 1, message[:100], length=16_000),
        head + _frame(0, 1, 3, message[:100]),
        _frame(1, 4, 1, source.randbytes(60)), _frame(9, 4, 1, b"x" * 50), _frame(8, 0, 0, b"\x7f\xff\xff\xff") * 3,
        _frame(4, 0, 0, source.randbytes(6) * 50), _frame(6, 0, 0, b"12345678") * 30, _frame(7, 0, 0, b"\x00" * 8),
        _frame(source.randrange(256), source.randrange(256), source.randrange(9), source.randbytes(50)) * 5,
        head * 3, head + _frame(3, 0, 1, b"\x00\x00\x00\x08"), source.randbytes(500),
    ]  # fmt: skip
    return source.choice([start, start, start, _PREFACE[:10], b""]) + source.choice(tails)


_MAKERS: tuple[tuple[str, Literal["http", "grpc", "frames"], Callable[[Model, random.Random], bytes]], ...] = (
    *((kind, "http", _json(change)) for kind, change in {
        "name": _name, "dtype": _dtype, "shape": _shape, "large batch": _large_batch, "data and shape": _short_data,
        "values": _values, "an input twice": _twice, "something missing": _missing, "outputs": _outputs,
        "parameters": _parameters,
    }.items()),
    ("JSON cut off", "http", _truncated), ("length of the body", "http", _lying_length),
    ("length of the header", "http", _lying_header_length), ("sizes of bytes", "http", _binary),
    ("deep JSON", "http", _deep), ("NaN", "http", _not_finite), ("UTF-8", "http", _utf8), ("no JSON", "http", _no_json),
    ("forms", "http", _form), ("encodings", "http", _encoding), ("paths", "http", _path), ("heads", "http", _head),
    *((f"gRPC {kind}", "grpc", _message(change)) for kind, change in {
        "tensor": _grpc_tensor, "contents": _grpc_raw, "values": _grpc_values, "strings": _grpc_bytes,
        "names": _grpc_names, "parameters": _grpc_parameters,
    }.items()),
    ("gRPC bits", "grpc", _bits), ("gRPC cut off", "grpc", _cut), ("gRPC noise", "grpc", _noise),
    ("gRPC frames", "frames", _frames),
)  # fmt: skip

KINDS = tuple(kind for kind, _, _ in _MAKERS)


def _huge(model: Model) -> bytes:
    wrong = json.loads(json.dumps(model.good))
    wrong["inputs"][0]["shape"] = [2**40]
    return http(_infer(model), json.dumps(wrong).encode())


def _large_form(model: Model) -> bytes:
    body = json.dumps({**model.good, "id": "x" * 9_000_000}).encode()
    return http(_infer(model), body, headers={"Content-Type": "application/x-www-form-urlencoded"})


#: What takes down the wheel's Triton of 2024, whatever it serves.
FATAL: Mapping[str, Callable[[Model], bytes]] = {"a shape of 2^40": _huge, "a form of 9 MB": _large_form}
