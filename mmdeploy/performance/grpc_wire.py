"""A client of one gRPC call over HTTP/2, as light as a load generator wants it: bytes out, status in.

Python's gRPC library takes a quarter of a millisecond of processor time a request, several times what a client in C++
takes: next to a server that answers in two, on the same machine, that is what one would measure. So frames are written
here by hand (RFC 9113, and gRPC's PROTOCOL-HTTP2): one request at a time on a connection, answers are counted and not
read. The header table is switched off, so that headers are literals (RFC 7541); a server or a proxy that writes them in
Huffman's code is not understood, which `WireConnection.understands` finds out, and the library is taken there.
"""

from __future__ import annotations

import socket
import struct
import urllib.parse
from collections.abc import Iterator

from mmdeploy.core.errors import InferenceError, ServerError
from mmdeploy.performance.prepared import Prepared

SERVICE = "/inference.GRPCInferenceService/"
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
_END_STREAM, _ACK, _END_HEADERS, _PADDED, _PRIORITY = 1, 1, 4, 8, 32
_HEADER_TABLE_SIZE, _INITIAL_WINDOW_SIZE, _MAX_FRAME_SIZE = 1, 4, 5
_DEFAULT_WINDOW, _LARGEST = 65_535, 2**31 - 1
_RECEIVED = 1 << 18
#: Names of gRPC's status codes, by number.
_CODES = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip


class WireConnection:
    """One connection, which carries one request at a time."""

    def __init__(self, address: str, timeout_s: float, *, method: str = "ModelInfer") -> None:
        """Take the address; the first request connects.

        Args:
            address: ``host:port``.
            timeout_s: Longest silence while an answer is awaited.
            method: Of Triton's inference service.
        """
        self._host, _, port = address.rpartition(":")
        self._port, self._timeout_s = int(port), timeout_s
        self._headers = _request_headers(f"{SERVICE}{method}", address)
        self._socket: socket.socket | None = None
        self._buffer, self._good, self._block = b"", b"", b""
        self._stream, self._ended, self._received = -1, False, 0
        self._window = self._stream_window = self._first_window = _DEFAULT_WINDOW
        self._largest_frame = 16_384

    def ask(self, request: Prepared) -> None:
        """Send a request and wait for the answer.

        Raises:
            InferenceError: If the server refuses the request.
            ServerError: If the server does not answer.
        """
        try:
            if self._socket is None:
                self._connect()
            self._send(b"\0" + len(request.body).to_bytes(4, "big") + request.body)
            trailers = self._receive()
        except TimeoutError as error:
            self.close()
            raise ServerError(f"no answer within {self._timeout_s:g} s") from error
        except OSError as error:
            self.close()
            raise ServerError(f"the server does not answer ({error.strerror or error})") from error
        if trailers == self._good:
            return
        status, message = _status_of(trailers)
        if status != 0:
            code = _CODES[status] if 0 <= status < len(_CODES) else "UNKNOWN"
            raise InferenceError(f"{message} ({code})")
        self._good = trailers

    def understands(self) -> bool:
        """Say whether an answer of this server can be read; ``method`` must be one that takes an empty message."""
        try:
            self.ask(Prepared(b""))
        except (InferenceError, ServerError):
            return False
        return True

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    def _connect(self) -> None:
        self._socket = socket.create_connection((self._host, self._port), self._timeout_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        settings = struct.pack(">HIHI", _HEADER_TABLE_SIZE, 0, _INITIAL_WINDOW_SIZE, _LARGEST)
        more = struct.pack(">I", _LARGEST - _DEFAULT_WINDOW)
        self._socket.sendall(_PREFACE + _frame(_SETTINGS, 0, 0, settings) + _frame(_WINDOW_UPDATE, 0, 0, more))
        self._buffer, self._stream, self._received, self._largest_frame = b"", -1, 0, 16_384
        self._window = self._stream_window = self._first_window = _DEFAULT_WINDOW

    def _send(self, message: bytes) -> None:
        """Write the headers and the message, as much at a time as the server has room for."""
        assert self._socket is not None
        self._stream, self._ended, self._block = self._stream + 2, False, b""
        self._stream_window = self._first_window
        out, at = [_frame(_HEADERS, _END_HEADERS, self._stream, self._headers)], 0
        while at < len(message) and not self._ended:
            room = min(self._window, self._stream_window, self._largest_frame, len(message) - at)
            if room <= 0:
                self._socket.sendall(b"".join(out))
                out = []
                self._take(self._next_frame())
                continue
            last = at + room == len(message)
            out.append(_frame(_DATA, _END_STREAM if last else 0, self._stream, message[at : at + room]))
            at, self._window, self._stream_window = at + room, self._window - room, self._stream_window - room
        self._socket.sendall(b"".join(out))

    def _receive(self) -> bytes:
        """Read until the answer has ended; return its last headers, the trailers."""
        while not self._ended:
            self._take(self._next_frame())
        return self._block

    def _next_frame(self) -> tuple[int, int, int, bytes]:
        """Return the kind, the flags, the stream and the content of the next frame."""
        assert self._socket is not None
        buffer = self._buffer
        while len(buffer) < 9 or len(buffer) < 9 + int.from_bytes(buffer[:3], "big"):
            received = self._socket.recv(_RECEIVED)
            if not received:
                raise ConnectionResetError(0, "the server closed the connection")
            buffer += received
        end = 9 + int.from_bytes(buffer[:3], "big")
        self._buffer = buffer[end:]
        return buffer[3], buffer[4], int.from_bytes(buffer[5:9], "big") & _LARGEST, buffer[9:end]

    def _take(self, frame: tuple[int, int, int, bytes]) -> None:
        kind, flags, stream, content = frame
        if kind in (_DATA, _HEADERS, _CONTINUATION) and stream == self._stream:
            if kind == _HEADERS:
                self._block = _unpadded(content, flags)
            elif kind == _CONTINUATION:
                self._block += content
            else:
                self._count(len(content))
            self._ended = self._ended or (kind != _CONTINUATION and bool(flags & _END_STREAM))
        elif kind == _SETTINGS and not flags & _ACK:
            self._set(content)
        elif kind == _PING and not flags & _ACK:
            assert self._socket is not None
            self._socket.sendall(_frame(_PING, _ACK, 0, content))
        elif kind == _WINDOW_UPDATE:
            more = int.from_bytes(content, "big") & _LARGEST
            if stream == 0:
                self._window += more
            elif stream == self._stream:
                self._stream_window += more
        elif kind == _GOAWAY:
            raise ConnectionResetError(0, "the server is going away")
        elif kind == _RST_STREAM and stream == self._stream:
            raise ConnectionResetError(
                0, f"the server reset the request, HTTP/2 error {int.from_bytes(content, 'big')}"
            )

    def _count(self, received: int) -> None:
        """Give the server room again for what was received."""
        self._received += received
        if self._received > _LARGEST // 2:
            assert self._socket is not None
            self._socket.sendall(_frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", self._received)))
            self._received = 0

    def _set(self, content: bytes) -> None:
        assert self._socket is not None
        for setting, value in struct.iter_unpack(">HI", content):
            if setting == _INITIAL_WINDOW_SIZE:
                self._stream_window += value - self._first_window
                self._first_window = value
            elif setting == _MAX_FRAME_SIZE:
                self._largest_frame = value
        self._socket.sendall(_frame(_SETTINGS, _ACK, 0, b""))


def _frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    return len(content).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + content


def _unpadded(content: bytes, flags: int) -> bytes:
    if flags & _PADDED:
        content = content[1 : len(content) - content[0]]
    return content[5:] if flags & _PRIORITY else content


def _request_headers(path: str, authority: str) -> bytes:
    """Return the headers of a gRPC request: what the static table has by number, the rest as literals."""
    return b"".join(
        (
            b"\x83\x86",  # :method POST, :scheme http
            b"\x04" + _string(path),
            b"\x01" + _string(authority),
            b"\x00" + _string("te") + _string("trailers"),
            b"\x0f\x10" + _string("application/grpc"),  # content-type
        )
    )


def _string(text: str) -> bytes:
    raw = text.encode()
    assert len(raw) < 127
    return bytes((len(raw),)) + raw


def _status_of(block: bytes) -> tuple[int, str]:
    """Return the status and the message of an answer; -1 where they cannot be read."""
    try:
        headers = dict(_literals(block))
        return int(headers["grpc-status"]), urllib.parse.unquote(headers.get("grpc-message", ""))
    except (IndexError, KeyError, ValueError):
        return -1, "an answer whose status cannot be read"


def _literals(block: bytes) -> Iterator[tuple[str, str]]:
    """Yield the headers of a block that are written out; others, and text in Huffman's code, are passed over."""
    at = 0
    while at < len(block):
        first = block[at]
        if first & 0x80 or first & 0xE0 == 0x20:  # all of it from the static table; or the size of the dynamic one
            _, at = _number(block, at, 7 if first & 0x80 else 5)
            continue
        index, at = _number(block, at, 6 if first & 0x40 else 4)
        name = None
        if index == 0:
            name, at = _text(block, at)
        value, at = _text(block, at)
        if name is not None and value is not None:
            yield name, value


def _number(block: bytes, at: int, bits: int) -> tuple[int, int]:
    value, most = block[at] & (2**bits - 1), 2**bits - 1
    at += 1
    if value < most:
        return value, at
    shift = 0
    while True:
        value += (block[at] & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if not block[at - 1] & 0x80:
            return value, at


def _text(block: bytes, at: int) -> tuple[str | None, int]:
    huffman = bool(block[at] & 0x80)
    length, at = _number(block, at, 7)
    if at + length > len(block):
        raise ValueError("a header beyond its block")
    return None if huffman else block[at : at + length].decode("latin-1"), at + length
