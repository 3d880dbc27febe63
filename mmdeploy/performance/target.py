"""The served model that is put under load: what it is, what Triton counts of it, and connections to it.

Requests are serialized before anything is timed, and answers are not read: between two requests a client does next to
nothing, so that what is measured is the server and the way to it.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from mmdeploy.core.contracts import FeedDict
from mmdeploy.core.errors import InferenceError, ServerError, UsageError, did_you_mean
from mmdeploy.performance.grpc_wire import SERVICE, WireConnection
from mmdeploy.performance.prepared import LEAST_SEQUENCE, InChunks, Prepared
from mmdeploy.triton.address import START, Address
from mmdeploy.triton.channel import CHANNEL_OPTIONS
from mmdeploy.triton.client import GrpcRunner, HttpRunner, binary_request
from mmdeploy.triton.http import Endpoint, ask_json
from mmdeploy.triton.sequences import STREAM_PARAMETER, Cut

#: Threads that share one connection of gRPC, which carries several requests at once.
_PER_CHANNEL = 8
#: What gRPC says of a server that answers in another protocol.
_SOMETHING = "Socket closed"


class Connection(Protocol):
    """Sends prepared requests, one after the other."""

    def ask(self, request: Prepared) -> None:
        """Send a request and wait for the answer.

        Raises:
            InferenceError: If the server refuses the request.
            ServerError: If the server does not answer.
        """


class Target(ABC):
    """A served model at an address.

    Attributes:
        url: The address as it was given.
        address: Of it, ``host:port``.
        protocol: ``grpc`` or ``http``.
        model: Name of the served model.
        config: Its configuration, as Triton's HTTP endpoint gives it.
        cut: How samples are cut into chunks; None where they are sent whole.
    """

    protocol = ""

    def __init__(self, url: str, address: str, model: str | None, timeout_s: float) -> None:
        self.url, self.address, self._timeout_s = url, address, timeout_s
        names = sorted({str(entry["name"]) for entry in self.statistics()})
        self.model = model or self._only(names)
        if self.model not in names:
            raise UsageError(f"{url} serves no model {self.model!r}; {did_you_mean(self.model, names)}")
        self.config = self.config_of(self.model)
        self.cut = Cut.from_parameter(
            self.config.get("parameters", {}).get(STREAM_PARAMETER, {}).get("string_value", "")
        )

    @property
    def max_batch_size(self) -> int:
        """Largest batch; 0 where the model does not batch."""
        return int(self.config.get("max_batch_size", 0))

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs that a request may have."""
        return tuple(tensor["name"] for tensor in self.config["input"])

    def steps(self) -> dict[str, Mapping[str, Any]]:
        """Return the configurations of the models that an ensemble is made of, those of ensembles in it included.

        A model that is none has itself as its only step.
        """
        found, open_models = dict[str, Mapping[str, Any]](), [self.config]
        while open_models:
            config = open_models.pop(0)
            inner = config.get("ensemble_scheduling", {}).get("step", [])
            if not inner:
                found[config["name"]] = config
            open_models += [self.config_of(step["model_name"]) for step in inner if step["model_name"] not in found]
        return found

    @abstractmethod
    def config_of(self, model: str) -> Mapping[str, Any]:
        """Ask for the configuration of a model."""

    @abstractmethod
    def statistics(self) -> list[Mapping[str, Any]]:
        """Ask what Triton has counted, an entry for each version of each model."""

    @abstractmethod
    def prepared(self, feed_dict: FeedDict) -> Prepared:
        """Serialize a request."""

    def in_chunks(self, feed_dict: FeedDict) -> InChunks:
        """Serialize a sample of one row as the requests of a sequence.

        Raises:
            InferenceError: If it cannot be cut.
        """
        assert self.cut is not None
        pieces = self.cut.chunks(feed_dict, self.model)
        last = len(pieces) - 1
        return InChunks(tuple(self._chunk(piece, start=at == 0, end=at == last) for at, piece in enumerate(pieces)))

    @abstractmethod
    def _chunk(self, feed_dict: FeedDict, *, start: bool, end: bool) -> Callable[[int], Prepared]:
        """Serialize a chunk; what is returned gives it the number of its sequence."""

    @abstractmethod
    def connect(self, count: int) -> contextlib.AbstractContextManager[Sequence[Connection]]:
        """Open connections, as a context manager that closes them."""

    def _only(self, names: Sequence[str]) -> str:
        """Return the ensemble that is served, or the only model."""
        configs = {name: self.config_of(name) for name in names}
        inner = {step["model_name"] for one in configs.values() for step in _steps_of(one)}
        whole = [name for name, config in configs.items() if _steps_of(config) and name not in inner]
        found = whole or [name for name in names if name not in inner]
        if len(found) == 1:
            return found[0]
        what = f"{len(found)} models: {', '.join(found)}" if found else "no model"
        raise UsageError(f"{self.url} serves {what}", hint="say which one with --model NAME" if found else None)


def _steps_of(config: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    steps: Sequence[Mapping[str, Any]] = config.get("ensemble_scheduling", {}).get("step", [])
    return steps


class GrpcTarget(Target):
    """A model behind a gRPC endpoint."""

    protocol = "grpc"

    def config_of(self, model: str) -> Mapping[str, Any]:
        """Ask for the configuration of a model."""
        from tritonclient.grpc import service_pb2

        answer = self._ask("ModelConfig", service_pb2.ModelConfigRequest(name=model))
        config: Mapping[str, Any] = answer["config"]
        return config

    def statistics(self) -> list[Mapping[str, Any]]:
        """Ask what Triton has counted, an entry for each version of each model."""
        from tritonclient.grpc import service_pb2

        return list(self._ask("ModelStatistics", service_pb2.ModelStatisticsRequest()).get("model_stats", []))

    def prepared(self, feed_dict: FeedDict) -> Prepared:
        """Serialize a request."""
        with GrpcRunner(self.address, self.model, timeout_s=self._timeout_s) as runner:
            return Prepared(runner.serialized(feed_dict))

    def _chunk(self, feed_dict: FeedDict, *, start: bool, end: bool) -> Callable[[int], Prepared]:
        from tritonclient.grpc import service_pb2

        body = self.prepared(feed_dict).body

        def numbered(sequence: int) -> Prepared:
            marks = service_pb2.ModelInferRequest()  # of two messages in a row the fields of both count
            marks.parameters["sequence_id"].int64_param = sequence
            marks.parameters["sequence_start"].bool_param = start
            marks.parameters["sequence_end"].bool_param = end
            return Prepared(body + marks.SerializeToString())

        return numbered

    @contextlib.contextmanager
    def connect(self, count: int) -> Any:
        """Open connections, as a context manager that closes them."""
        with contextlib.ExitStack() as opened:
            check = opened.enter_context(
                contextlib.closing(WireConnection(self.address, self._timeout_s, method="ServerLive"))
            )
            if not check.understands():
                yield self._by_library(opened, count)
                return
            wires = [contextlib.closing(WireConnection(self.address, self._timeout_s)) for _ in range(count)]
            yield [opened.enter_context(one) for one in wires]

    def _by_library(self, opened: contextlib.ExitStack, count: int) -> Sequence[Connection]:
        import grpc

        found = list[Connection]()
        while len(found) < count:
            asked = opened.enter_context(self._channel()).unary_unary(f"{SERVICE}ModelInfer")
            found += [_GrpcConnection(asked, self._timeout_s, grpc.RpcError)] * min(_PER_CHANNEL, count - len(found))
        return found

    def _channel(self) -> Any:
        import grpc

        return grpc.insecure_channel(self.address, options=CHANNEL_OPTIONS)

    def _ask(self, method: str, question: Any) -> dict[str, Any]:
        import grpc
        from google.protobuf.json_format import MessageToDict
        from tritonclient.grpc import service_pb2_grpc

        with self._channel() as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            try:
                answer = getattr(stub, method)(question, timeout=self._timeout_s)
            except grpc.RpcError as error:
                details = error.details() or error.code().name
                raise ServerError(
                    f"{self.url}: the server does not answer ({details})",
                    hint=f"is it the HTTP port? say http://{self.address}" if _SOMETHING in details else START,
                ) from error
        return dict(MessageToDict(answer, preserving_proto_field_name=True))


class _GrpcConnection:
    def __init__(self, asked: Any, timeout_s: float, refused: type[Exception]) -> None:
        self._asked, self._timeout_s, self._refused = asked, timeout_s, refused

    def ask(self, request: Prepared) -> None:
        try:
            self._asked(request.body, timeout=self._timeout_s)
        except self._refused as error:
            code, details = error.code().name, error.details() or ""  # type: ignore[attr-defined]
            if code in ("DEADLINE_EXCEEDED", "CANCELLED"):
                raise ServerError(f"no answer within {self._timeout_s:g} s") from error
            raise InferenceError(f"{details} ({code})") from error


class HttpTarget(Target):
    """A model behind an HTTP endpoint; tensors go as bytes."""

    protocol = "http"

    def config_of(self, model: str) -> Mapping[str, Any]:
        """Ask for the configuration of a model."""
        config: Mapping[str, Any] = self._get(f"models/{model}/config")
        return config

    def statistics(self) -> list[Mapping[str, Any]]:
        """Ask what Triton has counted, an entry for each version of each model."""
        answer = self._get("models/stats")
        if not isinstance(answer, dict) or "model_stats" not in answer:
            raise self._no_kserve()
        return list(answer["model_stats"])

    def prepared(self, feed_dict: FeedDict) -> Prepared:
        """Serialize a request."""
        return self._prepared(feed_dict, {})

    def _prepared(self, feed_dict: FeedDict, sequence: Mapping[str, Any]) -> Prepared:
        with HttpRunner(f"http://{self.address}", self.model, binary=True, timeout_s=self._timeout_s) as runner:
            headers, body = binary_request(feed_dict, [spec.name for spec in runner.outputs], self.model, sequence)
        return Prepared(body, headers)

    def _chunk(self, feed_dict: FeedDict, *, start: bool, end: bool) -> Callable[[int], Prepared]:
        marks = {"sequence_id": LEAST_SEQUENCE, "sequence_start": start, "sequence_end": end}
        made = self._prepared(feed_dict, marks)
        before, number, after = made.body.partition(str(LEAST_SEQUENCE).encode())
        assert number
        return lambda sequence: Prepared(before + str(sequence).encode() + after, made.headers)

    @contextlib.contextmanager
    def connect(self, count: int) -> Any:
        """Open connections, as a context manager that closes them."""
        url = f"http://{self.address}/v2/models/{self.model}/infer"
        with contextlib.ExitStack() as endpoints:
            opened = [contextlib.closing(Endpoint(url, self._timeout_s)) for _ in range(count)]
            yield [_HttpConnection(endpoints.enter_context(one)) for one in opened]

    def _get(self, path: str) -> Any:
        try:
            return ask_json(f"http://{self.address}/v2/{path}", timeout_s=self._timeout_s)
        except ServerError as error:
            error.hint = START
            raise
        except ValueError as error:
            raise self._no_kserve() from error

    def _no_kserve(self) -> ServerError:
        return ServerError(
            f"{self.url}: what answers there speaks HTTP, but no KServe; is it the port of metrics?", hint=START
        )


class _HttpConnection:
    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def ask(self, request: Prepared) -> None:
        self._endpoint.ask(request.body, request.headers)


def open_target(url: str, model: str | None = None, *, timeout_s: float = 10.0, chunks: bool = False) -> Target:
    """Find a served model.

    Args:
        url: ``host:port`` or ``grpc://host:port`` for gRPC, ``http://host:port`` for HTTP.
        model: Its name; the ensemble that is served where there is one, or the only model.
        timeout_s: For each request.
        chunks: Whether it may be one that takes samples in chunks.

    Raises:
        UsageError: If the address is none, or the model is not served, or takes samples in chunks and may not.
        ServerError: If nothing answers there.
    """
    address = Address.parsed(url)
    target = (HttpTarget if address.is_http else GrpcTarget)(url, str(address), model, timeout_s)
    if target.cut is not None and not chunks:
        raise UsageError(
            f"{target.model} takes samples in chunks, each behind the answer to the one before: requests of no "
            "sequence would all be refused",
            hint="`mmdeploy bench` measures chunks, the gate `latency` whole samples in chunks",
        )
    return target
