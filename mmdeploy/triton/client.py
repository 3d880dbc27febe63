"""Runners that ask a served model over the network: `GrpcRunner` and `HttpRunner`.

Both speak the KServe v2 protocol (https://github.com/kserve/open-inference-protocol) and take the tensors'
names, types and shapes from the server. With small tensors on two cores Python's gRPC library costs about
0.3 ms a request more than plain HTTP.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from mmdeploy.core.artifact import DTYPE_BY_NUMPY, NUMPY_BY_DTYPE, TensorSpec
from mmdeploy.core.contracts import Array, FeedDict
from mmdeploy.core.errors import InferenceError, ServerError, UsageError
from mmdeploy.core.strings import BYTES, packed, unpacked
from mmdeploy.triton.channel import CHANNEL_OPTIONS
from mmdeploy.triton.http import Endpoint, ask_json
from mmdeploy.triton.sequences import STREAM_PARAMETER, Chunks, Cut

# What gRPC says when the connection failed; Triton's own refusals (a full queue) are UNAVAILABLE too.
_CONNECTION_FAILED = (
    "failed to connect", "Socket closed", "Connection reset", "Broken pipe", "GOAWAY", "recvmsg",
    "Stream removed",
)  # fmt: skip
_HEADER_SIZE = "Inference-Header-Content-Length"
#: Parameters of a request that belongs to no sequence.
_WHOLE: Mapping[str, Any] = {}
_JSON = {"Content-Type": "application/json"}
#: Types that Triton neither takes nor gives in JSON.
ONLY_BINARY = ("FP16", "BF16")


class GrpcRunner:
    """A served model behind a gRPC connection of its own. Not thread-safe: open one for each thread.

    Attributes:
        model: Name of the served model.
        inputs: Tensors it takes, the batch left out.
        outputs: Tensors it gives, the batch left out.
        optional: Names of the inputs that a request may leave out.
        max_batch_size: Largest batch; 0 when the model does not batch.
        cut: How `infer` cuts samples, which it sends in chunks, each row a sequence; None where it sends them whole.
    """

    def __init__(self, url: str, model: str, *, model_version: str = "", timeout_s: float = 60.0) -> None:
        """Connect and read the model's configuration.

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

        self.model = model
        self._url, self._timeout_s, self._rpc_error = url.removeprefix("grpc://"), timeout_s, grpc.RpcError
        self._channel = grpc.insecure_channel(self._url, options=CHANNEL_OPTIONS)
        stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._model_infer = stub.ModelInfer
        question = service_pb2.ModelConfigRequest(name=model, version=model_version)
        try:
            config = stub.ModelConfig(question, timeout=timeout_s).config
        except grpc.RpcError as error:
            self.close()
            raise self._translated(error) from error
        type_name = model_config_pb2.DataType.Name
        self.inputs, self.outputs = (
            tuple(_spec(tensor.name, type_name(tensor.data_type), tensor.dims) for tensor in side)
            for side in (config.input, config.output)
        )
        self.optional = frozenset(tensor.name for tensor in config.input if tensor.optional)
        self.cut = Cut.from_parameter(config.parameters[STREAM_PARAMETER].string_value)
        self.max_batch_size = int(config.max_batch_size)
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
        return self._ask(feed_dict) if self.cut is None else self.cut.whole(feed_dict, self._ask, self.model)

    def chunks(self) -> Chunks:
        """Begin a sequence, of a model that takes samples in chunks.

        Raises:
            UsageError: If it takes whole samples: each chunk would be answered alone.
        """
        return _sequence(self)

    def _ask(self, feed_dict: FeedDict, sequence: Mapping[str, Any] = _WHOLE) -> dict[str, Array]:
        self._fill(feed_dict)
        _mark(self._request, sequence)
        try:
            response = self._model_infer(self._request, timeout=self._timeout_s)
        except self._rpc_error as error:
            raise self._translated(error) from error
        return {
            output.name: _read(raw, output.datatype, output.shape)
            for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
        }

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def __enter__(self) -> GrpcRunner:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def serialized(self, feed_dict: FeedDict) -> bytes:
        """Return a request as it goes over the wire (a ``ModelInferRequest``).

        Raises:
            InferenceError: If an array's type has no name in Triton.
        """
        self._fill(feed_dict)
        return bytes(self._request.SerializeToString())

    def _fill(self, feed_dict: FeedDict) -> None:
        """Write a request's tensors into the message that is sent."""
        layout = tuple((name, array.dtype, array.shape) for name, array in feed_dict.items())
        if layout != self._layout:
            self._describe(feed_dict)
            self._layout = layout
        del self._request.raw_input_contents[:]
        self._request.raw_input_contents.extend([_raw(self.model, name, array) for name, array in feed_dict.items()])

    def _describe(self, feed_dict: FeedDict) -> None:
        """Write names, types and shapes into the request; later requests of the same layout reuse them."""
        del self._request.inputs[:]
        self._layout = ()
        for name, array in feed_dict.items():
            datatype = _datatype(self.model, name, array)
            self._request.inputs.add(name=name, datatype=datatype, shape=array.shape)

    def _translated(self, error: Any) -> Exception:
        code, details = error.code().name, error.details() or ""
        where = f"{self.model} at {self._url}"
        if code == "DEADLINE_EXCEEDED":
            return ServerError(f"{where}: no answer within {self._timeout_s} s")
        if code == "UNAVAILABLE" and any(sign in details for sign in _CONNECTION_FAILED):
            return ServerError(f"{where}: the server does not answer ({details})")
        return InferenceError(f"{where}: {details} ({code})")


class HttpRunner:
    """A served model behind an HTTP connection of its own. Not thread-safe: open one for each thread.

    Attributes:
        model: Name of the served model.
        inputs: Tensors it takes, the batch left out.
        outputs: Tensors it gives, the batch left out.
        optional: Names of the inputs that a request may leave out.
        max_batch_size: Largest batch; 0 when the model does not batch.
        cut: How `infer` cuts samples, which it sends in chunks, each row a sequence; None where it sends them whole.
    """

    def __init__(self, url: str, model: str, *, binary: bool = False, timeout_s: float = 60.0) -> None:
        """Connect and read the model's configuration.

        Args:
            url: ``http://host:port`` of the server.
            model: Name of a served model.
            binary: Send and receive tensors as bytes (Triton's binary tensor data extension) instead of plain
                KServe v2 JSON, which any server understands but is slow for large tensors. A model with tensors in
                FP16 is always asked so: JSON has none. So are strings that are no text.
            timeout_s: For each request.

        Raises:
            ServerError: If nothing answers there.
            InferenceError: If the model is not served.
        """
        self.model = model
        self._url = url.rstrip("/")
        config = ask_json(f"{self._url}/v2/models/{model}/config", timeout_s=timeout_s)
        self.optional = frozenset(tensor["name"] for tensor in config["input"] if tensor.get("optional"))
        self.max_batch_size = int(config["max_batch_size"])
        self.cut = Cut.from_parameter(config.get("parameters", {}).get(STREAM_PARAMETER, {}).get("string_value", ""))
        self.inputs, self.outputs = (
            tuple(_spec(tensor["name"], tensor["data_type"], tensor["dims"]) for tensor in config[side])
            for side in ("input", "output")
        )
        self.binary = binary or any(spec.dtype in ONLY_BINARY for spec in (*self.inputs, *self.outputs))
        self._names = [spec.name for spec in self.outputs]
        self._infer = Endpoint(f"{self._url}/v2/models/{model}/infer", timeout_s)

    def infer(self, feed_dict: FeedDict) -> dict[str, Array]:
        """Answer one request, as `GrpcRunner.infer` does."""
        return self._ask(feed_dict) if self.cut is None else self.cut.whole(feed_dict, self._ask, self.model)

    def chunks(self) -> Chunks:
        """Begin a sequence, as `GrpcRunner.chunks` does."""
        return _sequence(self)

    def _ask(self, feed_dict: FeedDict, sequence: Mapping[str, Any] = _WHOLE) -> dict[str, Array]:
        if not self.binary and all(map(_is_text, feed_dict.values())):
            fields = request_json(feed_dict, model=self.model, sequence=sequence)
            text, _ = self._infer.ask(json.dumps(fields).encode(), _JSON)
            return {output["name"]: _array(output) for output in json.loads(text)["outputs"]}
        sent, body = binary_request(feed_dict, self._names, self.model, sequence)
        text, headers = self._infer.ask(body, sent)
        header_size = int(headers.get(_HEADER_SIZE, len(text)))
        answers, start = {}, header_size
        for output in json.loads(text[:header_size])["outputs"]:
            end = start + output["parameters"]["binary_data_size"]
            answers[output["name"]], start = _read(text[start:end], output["datatype"], output["shape"]), end
        return answers

    def close(self) -> None:
        """Close the connection."""
        self._infer.close()

    def __enter__(self) -> HttpRunner:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def request_json(
    feed_dict: FeedDict, *, model: str = "the model", sequence: Mapping[str, Any] = _WHOLE
) -> dict[str, Any]:
    """Return the KServe v2 JSON body of an inference request, with the parameters of its sequence.

    Raises:
        InferenceError: If an array's type has no name in Triton, or strings are no text: JSON carries nothing else.
    """
    tensors = [
        {
            "name": name,
            "datatype": _datatype(model, name, array),
            "shape": list(array.shape),
            "data": _listed(model, name, array),
        }
        for name, array in feed_dict.items()
    ]
    return {"inputs": tensors, **({"parameters": dict(sequence)} if sequence else {})}


def served_models(grpc_url: str, *, timeout_s: float = 10.0) -> tuple[str, ...]:
    """Return the names of the models that a server at ``host:port`` has loaded, sorted.

    Raises:
        ServerError: If nothing answers there.
    """
    import grpc
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    with grpc.insecure_channel(grpc_url, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            statistics = stub.ModelStatistics(service_pb2.ModelStatisticsRequest(), timeout=timeout_s).model_stats
        except grpc.RpcError as error:
            raise ServerError(f"{grpc_url}: the server does not answer ({error.details()})") from error
    return tuple(sorted({model.name for model in statistics}))


def binary_request(
    feed_dict: FeedDict, outputs: Iterable[str], model: str, sequence: Mapping[str, Any] = _WHOLE
) -> tuple[dict[str, str], bytes]:
    """Return the headers and the body of a request whose tensors follow as bytes (extension_binary_data.md).

    Args:
        feed_dict: An array for each input.
        outputs: Those that are wanted, as bytes too; none for all.
        model: Its name, for messages.
        sequence: Parameters of the sequence that it belongs to.

    Raises:
        InferenceError: If an array's type has no name in Triton.
    """
    contents = {name: _raw(model, name, array) for name, array in feed_dict.items()}
    inputs = [
        {
            "name": name,
            "datatype": _datatype(model, name, array),
            "shape": array.shape,
            "parameters": {"binary_data_size": len(contents[name])},
        }
        for name, array in feed_dict.items()
    ]
    fields: dict[str, Any] = {"inputs": inputs, "parameters": {"binary_data_output": True, **sequence}}
    if wanted := [{"name": name, "parameters": {"binary_data": True}} for name in outputs]:
        fields["outputs"] = wanted
    header = json.dumps(fields).encode()
    body = b"".join([header, *contents.values()])
    return {"Content-Type": "application/octet-stream", _HEADER_SIZE: str(len(header))}, body


def text_only(feed_dict: FeedDict) -> bool:
    """Say whether a request can go as JSON: no type that it lacks, and no strings that are no text."""
    return all(
        DTYPE_BY_NUMPY.get(array.dtype.name) not in ONLY_BINARY and _is_text(array) for array in feed_dict.values()
    )


def _sequence(runner: GrpcRunner | HttpRunner) -> Chunks:
    if runner.cut is None:
        raise UsageError(f"{runner.model} takes whole samples, not chunks", hint="send them by infer()")
    return Chunks(runner._ask, runner.cut)


def _mark(request: Any, sequence: Mapping[str, Any]) -> None:
    """Write the parameters of a sequence into a request."""
    request.parameters.clear()
    for name, value in sequence.items():
        setattr(request.parameters[name], "bool_param" if isinstance(value, bool) else "int64_param", value)


def _is_text(array: Array) -> bool:
    """Say whether JSON can carry an array's strings, if they are any."""
    if array.dtype != object:
        return True
    try:
        for one in array.ravel().tolist():
            if isinstance(one, bytes):
                one.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _listed(model: str, name: str, array: Array) -> list[Any]:
    if array.dtype != object:
        return list(array.ravel().tolist())
    if not _is_text(array):
        raise InferenceError(
            f"{model}: input {name!r} holds bytes that are no UTF-8, and JSON carries text only",
            hint="send them by gRPC, or as binary tensor data",
        )
    return [one.decode("utf-8") if isinstance(one, bytes) else one for one in array.ravel().tolist()]


def _raw(model: str, name: str, array: Array) -> bytes:
    """Return an array as Triton takes it."""
    if array.dtype != object:
        return array.tobytes()
    try:
        return packed(array)
    except ValueError as error:
        raise InferenceError(f"{model}: input {name!r} {error}") from error


def _read(raw: bytes, datatype: str, shape: Any) -> Array:
    if datatype == BYTES:
        return unpacked(raw, shape)
    return np.frombuffer(raw, NUMPY_BY_DTYPE[datatype]).reshape(shape)


def _array(output: Mapping[str, Any]) -> Array:
    if output["datatype"] == BYTES:
        array = np.empty(len(output["data"]), dtype=object)
        array[:] = [str(one).encode() for one in output["data"]]
        return array.reshape(output["shape"])
    return np.array(output["data"], NUMPY_BY_DTYPE[output["datatype"]]).reshape(output["shape"])


def _datatype(model: str, name: str, array: Array) -> str:
    datatype = DTYPE_BY_NUMPY.get(array.dtype.name)
    if datatype is None:
        raise InferenceError(f"{model}: input {name!r} has dtype {array.dtype}, accepted: {', '.join(DTYPE_BY_NUMPY)}")
    return datatype


def _spec(name: str, data_type: str, dims: Iterable[Any]) -> TensorSpec:
    dtype = data_type.removeprefix("TYPE_")
    return TensorSpec(name, BYTES if dtype == "STRING" else dtype, tuple(map(int, dims)))
