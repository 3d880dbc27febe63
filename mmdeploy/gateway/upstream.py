"""Asks a Triton over gRPC, many requests at once on one connection; its refusals become a gateway's."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from mmdeploy.core.artifact import DTYPE_BY_NUMPY, NUMPY_BY_DTYPE
from mmdeploy.core.contracts import Array, FeedDict
from mmdeploy.core.strings import BYTES, packed, unpacked
from mmdeploy.gateway.problems import Refused
from mmdeploy.triton.channel import CHANNEL_OPTIONS

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

logger = logging.getLogger(__name__)

#: What Triton says when others were before a request.
_BUSY = ("Exceeds maximum queue size", "Request timeout expired")
_STEPS = re.compile(r"^(in ensemble '[^']*', )+")
#: How exceptions begin that an engine or a step raised: sent as if the request were wrong, and it may be right.
_RAISED = re.compile(r"^\w*(Error|Exception): ")
_HIGHEST_WORDS = 2000


class Upstream:
    """A Triton that answers over gRPC."""

    def __init__(self, grpc_url: str, timeout_s: float) -> None:
        """Open a channel; call it where an event loop runs.

        Args:
            grpc_url: ``host:port``.
            timeout_s: For an answer.
        """
        import grpc
        from tritonclient.grpc import service_pb2, service_pb2_grpc

        self._url, self._timeout_s = grpc_url, timeout_s
        self._messages, self._rpc_error = service_pb2, grpc.aio.AioRpcError
        options = (
            *CHANNEL_OPTIONS,
            ("grpc.max_reconnect_backoff_ms", 2000),
            # A name with several addresses, as of a headless service, is several servers: each is asked in its turn.
            ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),
        )
        self._channel = grpc.aio.insecure_channel(grpc_url, options=options)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    async def configs(self) -> dict[str, ModelConfig]:
        """Return the configurations of all models that are loaded.

        Raises:
            Refused: If the server does not answer.
        """
        try:
            question = self._messages.ModelStatisticsRequest()
            told = await self._stub.ModelStatistics(question, timeout=self._timeout_s)
        except self._rpc_error as error:
            raise self._translated(error) from error
        found = {}
        for name in sorted({one.name for one in told.model_stats}):
            question = self._messages.ModelConfigRequest(name=name)
            try:
                found[name] = (await self._stub.ModelConfig(question, timeout=self._timeout_s)).config
            except self._rpc_error:
                logger.debug("%s went away while models were listed", name)
        return found

    async def infer(self, model: str, feed_dict: FeedDict) -> dict[str, Array]:
        """Answer one request.

        Args:
            model: Its name.
            feed_dict: An array for each input, rows first where the model takes rows.

        Raises:
            Refused: In the server's words.
        """
        request = self._messages.ModelInferRequest(model_name=model)
        for name, array in feed_dict.items():
            request.inputs.add(name=name, datatype=DTYPE_BY_NUMPY[array.dtype.name], shape=array.shape)
            request.raw_input_contents.append(packed(array) if array.dtype == object else array.tobytes())
        try:
            response = await self._stub.ModelInfer(request, timeout=self._timeout_s)
        except self._rpc_error as error:
            raise self._translated(error) from error
        return {
            output.name: _read(raw, output.datatype, output.shape)
            for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
        }

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()

    def _translated(self, error: Any) -> Refused:
        """Say whether a request was wrong or the server was: the first in its own words."""
        code, details = error.code().name, (error.details() or "")[:_HIGHEST_WORDS]
        words = _STEPS.sub("", details)
        if code == "DEADLINE_EXCEEDED":
            return Refused("server_timeout", f"the model did not answer within {self._timeout_s:g} s")
        if any(sign in words for sign in _BUSY):
            return Refused("busy", "the model has more requests waiting than it takes", retry_after_s=1)
        if code == "INVALID_ARGUMENT" and not _RAISED.match(words):
            return Refused("bad_request", words)
        logger.warning("Triton at %s answered %s: %s", self._url, code, details)
        if (
            code == "NOT_FOUND"
        ):  # it was there when what is served was looked at: it is being loaded again, or was unloaded
            return Refused("server_unavailable", "the model is not loaded at the moment", retry_after_s=2)
        if code == "UNAVAILABLE":
            return Refused("server_unavailable", "the model server does not answer", retry_after_s=2)
        return Refused("server_failed", f"the model server failed: {words.splitlines()[0] if words else code}")


def _read(raw: bytes, datatype: str, shape: Any) -> Array:
    if datatype == BYTES:
        return unpacked(raw, shape)
    return np.frombuffer(raw, NUMPY_BY_DTYPE[datatype]).reshape(shape)
