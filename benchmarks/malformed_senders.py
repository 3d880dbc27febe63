"""Sends what `malformed_requests` makes, and says in a word what came back."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping
from typing import Any

from malformed_requests import Malformed, Model, Tensor

from mmdeploy.core.contracts import FeedDict
from mmdeploy.triton.client import GrpcRunner, request_json

#: How long to wait for an answer to what is wrong: a request that promises more than it sends gets none.
PATIENCE_S = 0.4


def model_of(grpc: str, name: str, feed_dict: FeedDict) -> Model:
    """Describe a served model by a request that it answers."""
    with GrpcRunner(grpc, name) as runner:
        tensors = tuple(Tensor(spec.name, spec.dtype, tuple(map(int, spec.shape))) for spec in runner.inputs)
        message = runner.serialized(feed_dict)
    return Model(name, tensors, request_json(feed_dict), message)


class Sender:
    """Sends malformed requests to one server; a context manager."""

    def __init__(self, grpc: str, http: str, *, patience_s: float = PATIENCE_S) -> None:
        """Take ``host:port`` of both doors."""
        import grpc as library

        self._doors = {"http": _address(http), "frames": _address(grpc)}
        self._patience_s, self._error = patience_s, library.RpcError
        options: Mapping[str, Any] = {"grpc.max_send_message_length": -1, "grpc.use_local_subchannel_pool": 1}
        self._channel = library.insecure_channel(grpc, options=list(options.items()))
        self._infer = self._channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")

    def __enter__(self) -> Sender:
        return self

    def __exit__(self, *exception: object) -> None:
        self._channel.close()

    def send(self, request: Malformed) -> str:
        """Return the status of HTTP or the code of gRPC; ``silence`` and ``closed`` where there was none."""
        if request.door != "grpc":
            return self._bytes(request)
        try:
            self._infer(request.data, timeout=10)
        except self._error as error:
            return str(error.code().name)  # type: ignore[attr-defined]
        return "OK"

    def _bytes(self, request: Malformed) -> str:
        received = b""
        with contextlib.suppress(OSError), socket.create_connection(self._doors[request.door], timeout=5) as connection:
            connection.settimeout(5)
            connection.sendall(request.data)
            connection.settimeout(self._patience_s)
            try:
                received = connection.recv(65536)
            except TimeoutError:
                return "silence"
        if not received:
            return "closed"
        return received.split()[1].decode(errors="replace")[:20] if received.startswith(b"HTTP/1") else "frames"


def _address(url: str) -> tuple[str, int]:
    host, _, port = url.rpartition("://")[2].rpartition(":")
    return host, int(port)
