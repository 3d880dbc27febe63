"""Runners that ask a served model: `GrpcRunner` for speed and for gates, `HttpRunner` for plain KServe v2 JSON.

Both speak the KServe v2 protocol (https://github.com/kserve/open-inference-protocol) and read the tensors'
names, types and shapes from the server.
"""

from __future__ import annotations

import http.client
import json
import urllib.parse
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from mmdeploy.artifact import DTYPE_BY_NUMPY, NUMPY_BY_DTYPE, TensorSpec
from mmdeploy.contracts import Array, FeedDict
from mmdeploy.errors import InferenceError, ServerError

_MAX_MESSAGE_BYTES = 2**31 - 1
# What gRPC says when the connection failed; Triton uses UNAVAILABLE for its own refusals too (a full queue).
_TRANSPORT = (
    "failed to connect",
    "Socket closed",
    "Connection reset",
    "Broken pipe",
    "GOAWAY",
    "recvmsg",
    "Stream removed",
)


class GrpcRunner:
    """A served model behind a gRPC connection of its own. Not thread-safe: open one for each thread.

    Attributes:
        model: Name of the served model.
        version: Its version; empty for the server's choice.
        inputs: Tensors it takes, the batch left out.
        outputs: Tensors it gives, the batch left out.
        max_batch_size: Largest batch; 0 when the model does not batch.
    """

    def __init__(self, url: str, model: str, *, model_version: str = "", timeout_s: float = 60.0) -> None:
        """Connect and read the model's metadata.

        Args:
            url: ``host:port`` of the server's gRPC endpoint.
            model: Name of a served model.
            model_version: A version to insist on.
            timeout_s: For each request.

        Raises:
            ServerError: If nothing answers there.
            InferenceError: If the model is not served.
        """
        import grpc
        from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

        self.model, self.version = model, model_version
        self._url, self._timeout_s = url.removeprefix("grpc://"), timeout_s
        self._failure: type[Exception] = grpc.RpcError
        limit = _MAX_MESSAGE_BYTES
        self._channel = grpc.insecure_channel(
            self._url,
            options=[
                ("grpc.max_send_message_length", limit),
                ("grpc.max_receive_message_length", limit),
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.enable_http_proxy", 0),
                ("grpc.initial_reconnect_backoff_ms", 100),
            ],
        )
        stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._call, self._pb = stub.ModelInfer, service_pb2
        try:
            config = stub.ModelConfig(
                service_pb2.ModelConfigRequest(name=model, version=model_version), timeout=timeout_s
            ).config
        except grpc.RpcError as error:
            self.close()
            raise self._translated(error) from error
        self.max_batch_size = int(config.max_batch_size)
        type_name = model_config_pb2.DataType.Name
        self.inputs = tuple(_spec(tensor.name, type_name(tensor.data_type), tensor.dims) for tensor in config.input)
        self.outputs = tuple(_spec(tensor.name, type_name(tensor.data_type), tensor.dims) for tensor in config.output)
        self._dtype_by_name = {spec.name: spec.numpy_dtype for spec in self.outputs}
        self._request = service_pb2.ModelInferRequest(model_name=model, model_version=model_version)
        self._layout: tuple[Any, ...] = ()

    def infer(self, feed_dict: FeedDict) -> dict[str, Array]:
        """Answer one request.

        Args:
            feed_dict: An array for each input, the batch as axis 0 where the model batches.

        Returns:
            An array for each output; read-only views of the received message.

        Raises:
            InferenceError: If the server refuses the request.
            ServerError: If the server does not answer.
        """
        request = self._request
        layout = tuple((name, array.dtype, array.shape) for name, array in feed_dict.items())
        if layout != self._layout:
            self._describe(layout)
        del request.raw_input_contents[:]
        request.raw_input_contents.extend([array.tobytes() for array in feed_dict.values()])
        try:
            response = self._call(request, timeout=self._timeout_s)
        except self._failure as error:
            raise self._translated(error) from error
        return {
            output.name: np.frombuffer(raw, self._dtype_by_name[output.name]).reshape(output.shape)
            for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
        }

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def __enter__(self) -> GrpcRunner:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _describe(self, layout: tuple[Any, ...]) -> None:
        """Write names, types and shapes into the request, which later requests of the same layout reuse."""
        del self._request.inputs[:]
        self._layout = ()
        for name, dtype, shape in layout:
            if dtype.name not in DTYPE_BY_NUMPY:
                raise InferenceError(f"{self.model}: input {name!r} has dtype {dtype}, which has no name in Triton")
            tensor = self._request.inputs.add()
            tensor.name, tensor.datatype = name, DTYPE_BY_NUMPY[dtype.name]
            tensor.shape.extend(shape)
        self._layout = layout

    def _translated(self, error: Any) -> Exception:
        code, details = error.code().name, error.details() or ""
        where = f"{self.model} at {self._url}"
        if code == "DEADLINE_EXCEEDED":
            return ServerError(f"{where}: no answer within {self._timeout_s} s")
        if code == "UNAVAILABLE" and any(sign in details for sign in _TRANSPORT):
            return ServerError(f"{where}: the server does not answer ({details})")
        return InferenceError(f"{where}: {details} ({code})")


class HttpRunner:
    """A served model asked in plain KServe v2 JSON over HTTP, as any client could. Slow for large tensors.

    Attributes:
        model: Name of the served model.
        inputs: Tensors it takes, the batch left out.
        outputs: Tensors it gives, the batch left out.
        max_batch_size: Largest batch; 0 when the model does not batch.
    """

    def __init__(self, url: str, model: str, *, timeout_s: float = 60.0) -> None:
        """Read the model's configuration.

        Args:
            url: ``http://host:port`` of the server.
            model: Name of a served model.
            timeout_s: For each request.

        Raises:
            ServerError: If nothing answers there.
            InferenceError: If the model is not served.
        """
        self.model, self._url, self._timeout_s = model, url.rstrip("/"), timeout_s
        config = get_json(f"{self._url}/v2/models/{model}/config", timeout_s=timeout_s)
        self.max_batch_size = int(config["max_batch_size"])
        self.inputs, self.outputs = (
            tuple(_spec(tensor["name"], tensor["data_type"], map(int, tensor["dims"])) for tensor in config[side])
            for side in ("input", "output")
        )

    def infer(self, feed_dict: FeedDict) -> dict[str, Array]:
        """Answer one request, as `GrpcRunner.infer` does."""
        body = request_json(feed_dict)
        url = f"{self._url}/v2/models/{self.model}/infer"
        answer = get_json(url, body=body, timeout_s=self._timeout_s)
        return {
            output["name"]: np.array(output["data"], NUMPY_BY_DTYPE[output["datatype"]]).reshape(output["shape"])
            for output in answer["outputs"]
        }

    def close(self) -> None:
        """Do nothing: every request has a connection of its own."""


def request_json(feed_dict: FeedDict) -> dict[str, Any]:
    """Return the KServe v2 JSON body of an inference request."""
    return {
        "inputs": [
            {
                "name": name,
                "datatype": DTYPE_BY_NUMPY[array.dtype.name],
                "shape": list(array.shape),
                "data": array.ravel().tolist(),
            }
            for name, array in feed_dict.items()
        ]
    }


def get_json(url: str, *, body: Mapping[str, Any] | None = None, timeout_s: float = 60.0) -> dict[str, Any]:
    """Ask an HTTP endpoint that answers in JSON: POST when there is a body, else GET.

    Raises:
        InferenceError: If the server answers with an error.
        ServerError: If the server does not answer.
    """
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)
    try:
        data = None if body is None else json.dumps(body).encode()
        connection.request("GET" if data is None else "POST", parts.path, data, {"Content-Type": "application/json"})
        response = connection.getresponse()
        text = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise ServerError(f"{url}: the server does not answer ({error})") from error
    finally:
        connection.close()
    if response.status != 200:
        raise InferenceError(f"{url}: {text.decode(errors='replace')} (HTTP {response.status})")
    answer = json.loads(text) if text else {}
    return answer if isinstance(answer, dict) else {"items": answer}


def _spec(name: str, data_type: str, dims: Iterable[int]) -> TensorSpec:
    dtype = data_type.removeprefix("TYPE_")
    return TensorSpec(name, {"STRING": "BYTES"}.get(dtype, dtype), tuple(dims))
