"""What a gateway does, without HTTP: which models there are, who may ask, how many at once, and asking them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmdeploy.core.contracts import Array, FeedDict
from mmdeploy.core.errors import InferenceError, MmdeployError, ServerError, did_you_mean
from mmdeploy.gateway.catalogue import Model, described, models_of
from mmdeploy.gateway.metrics import Metrics
from mmdeploy.gateway.problems import Refused
from mmdeploy.gateway.rate import RateLimit
from mmdeploy.gateway.rollout import Rollout
from mmdeploy.gateway.settings import Settings
from mmdeploy.gateway.upstream import Upstream

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    from mmdeploy.triton.server import Server

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 10.0
_LOOK_AGAIN_S = 1.0
_AWAY_S = 60.0
_PROBE_TIMEOUT_S = 30.0


@dataclass
class Buffered:
    """Bytes of requests that are in memory, all together."""

    most: int
    now: int = 0

    @contextlib.contextmanager
    def hold(self) -> Iterator[Held]:
        """Hold bytes until the end of a request."""
        held = Held(self)
        try:
            yield held
        finally:
            self.now -= held.size


@dataclass
class Held:
    """What one request holds of them."""

    of: Buffered
    size: int = 0

    def add(self, size: int) -> None:
        """Take more.

        Raises:
            Refused: If that is more than there is.
        """
        if self.of.now + size > self.of.most:
            raise Refused("busy", "too many large requests are being answered", retry_after_s=1)
        self.of.now += size
        self.size += size


class Gateway:
    """A gateway before one server."""

    def __init__(self, server: Server, settings: Settings, repositories: Sequence[Path] = ()) -> None:
        """Take what it needs; `open` connects.

        Args:
            server: Who is asked.
            settings: Limits and keys.
            repositories: Releases that are at hand.
        """
        self.settings, self.metrics = settings, Metrics()
        self.rate = RateLimit(settings.requests_per_s, settings.burst)
        self.buffered = Buffered(settings.max_buffered_bytes)
        self.rollouts: dict[str, Rollout] = {}
        self.draining = False
        self._server, self._repositories = server, tuple(repositories)
        self._configs: dict[str, ModelConfig] = {}
        self._seen: dict[str, float] = {}
        self._models: dict[str, Model] = {}
        self._looked = -_LOOK_EVERY_S
        self._in_flight = 0
        self._probe: tuple[float, str | None] = (-1e9, None)
        self._probing = asyncio.Lock()
        self._looking: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect, and look at what is served now and from then on."""
        self._upstream = Upstream(self._server.grpc_url, self.settings.timeout_s)
        with contextlib.suppress(Refused):
            await self.look()
        self._looking = asyncio.create_task(self._keep_looking())

    async def close(self) -> None:
        """Disconnect."""
        if self._looking is not None:
            self._looking.cancel()
        for rollout in self.rollouts.values():
            await rollout.close()
        await self._upstream.close()

    async def look(self) -> None:
        """Look at what is served now.

        Raises:
            Refused: If the server does not answer.
        """
        self._looked = now = time.monotonic()
        configs = await self._upstream.configs()
        self._seen |= dict.fromkeys(configs, now)
        for name, config in self._configs.items():  # what is loaded again is away for a moment, and with it ensembles
            if name not in configs and now - self._seen[name] < _AWAY_S:
                configs[name] = config
        if configs != self._configs:
            self._models = await asyncio.to_thread(models_of, configs, self._repositories)
            self._configs = configs

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            try:
                await self.look()
            except Refused as refused:
                logger.warning("what is served cannot be told: %s", refused.message)
            except Exception:
                logger.exception("what is served cannot be told")

    @property
    def models(self) -> dict[str, Model]:
        """The models that clients ask, by name; candidates of a rollout are left out."""
        candidates = {rollout.candidate for rollout in self.rollouts.values()}
        return {name: model for name, model in self._models.items() if name not in candidates}

    async def model(self, name: str | None) -> Model:
        """Return a model; the only one where none is named.

        Raises:
            Refused: If there is no such model.
        """
        found = self._found(name)
        if found is None and time.monotonic() - self._looked > _LOOK_AGAIN_S:
            await self.look()
            found = self._found(name)
        if found is not None:
            return found
        names = sorted(self.models)
        if name is None and names:
            raise Refused("bad_request", "the request names no model", hint=f"add ?model=NAME: {', '.join(names)}")
        if not names:
            raise Refused("server_unavailable", "no model is served at the moment", retry_after_s=5)
        raise Refused("not_found", f"there is no model {str(name)[:80]!r}; {did_you_mean(str(name), names)}")

    def _found(self, name: str | None) -> Model | None:
        models = self.models
        if name is None:
            return next(iter(models.values())) if len(models) == 1 else None
        return models.get(name)

    def any_model(self, name: str) -> Model | None:
        """Return a model that is loaded, whether clients ask it or not."""
        return described(name, self._configs, self._repositories) if name in self._configs else None

    def require_room(self) -> None:
        """Do nothing where another request can be answered.

        Raises:
            Refused: Telling to come again.
        """
        if self._in_flight >= self.settings.max_in_flight:
            raise Refused("busy", f"{self._in_flight} requests are being answered already", retry_after_s=1)

    async def answer(
        self, model: Model, feed_dict: FeedDict, sticky: str | None = None
    ) -> tuple[dict[str, Array], str]:
        """Ask a model; return its answer and the name of the release that gave it.

        Args:
            model: Whom to ask.
            feed_dict: Its inputs.
            sticky: See `Rollout.answer`.

        Raises:
            Refused: If there is no room, or the server refuses, or the model takes samples in chunks.
        """
        if model.stream:
            what = f"{model.name} takes samples in chunks, and the gateway knows no sequences"
            raise Refused("bad_request", what, hint="ask Triton itself, with sequence_id, by gRPC or HTTP")
        self.require_room()
        rollout, gauge = self.rollouts.get(model.name), self.metrics.in_flight.labels(model.name)
        self._in_flight += 1
        gauge.inc()
        try:
            if rollout is not None:
                return await rollout.answer(self._upstream.infer, feed_dict, sticky)
            return await self._upstream.infer(model.name, feed_dict), model.name
        finally:
            self._in_flight -= 1
            gauge.dec()

    async def require_ready(self) -> None:
        """Do nothing where every model answers a probe; an answer is kept for a few seconds.

        Raises:
            Refused: Saying what does not answer.
        """
        if self.draining:
            raise Refused("server_unavailable", "the gateway is stopping")
        async with self._probing:
            at, wrong = self._probe
            if time.monotonic() - at > self.settings.probe_every_s:
                wrong = await asyncio.to_thread(self._probed)
                self._probe = (time.monotonic(), wrong)
        if wrong is not None:
            raise Refused("server_unavailable", wrong, retry_after_s=self.settings.probe_every_s)

    def _probed(self) -> str | None:
        try:
            self._server.probe(timeout_s=_PROBE_TIMEOUT_S)
        except (ServerError, InferenceError) as error:
            return error.message
        return None

    async def load(self, name: str) -> None:
        """Load a model, or load it again, and look at what is served then.

        Raises:
            Refused: If the server refuses.
        """
        try:
            await asyncio.to_thread(self._server.load, name)
        except MmdeployError as error:
            raise Refused("conflict", error.message, hint=error.hint) from error
        await self.look()

    async def begin_rollout(self, name: str, candidate: str, share: float, shadow: bool) -> Rollout:
        """Put a candidate beside a model.

        Raises:
            Refused: If there are no such two, or they do not answer the same requests.
        """
        await self.look()
        model, other = await self.model(name), self.any_model(candidate)
        if candidate == name:
            raise Refused("conflict", f"{name} is the live model itself")
        if other is None:
            raise Refused("conflict", f"{candidate[:80]!r} is not loaded", hint="load it beside the live one first")
        if other.signature() != model.signature():
            raise Refused("conflict", f"{candidate} takes or gives other tensors than {name}")
        await self.end_rollout(name)
        self.rollouts[name] = Rollout(model, candidate, share, shadow)
        return self.rollouts[name]

    async def end_rollout(self, name: str) -> Rollout | None:
        """Take a candidate away; return what was there."""
        ended = self.rollouts.pop(name, None)
        if ended is not None:
            await ended.close()
        return ended

    @property
    def server(self) -> Server:
        """Who is asked."""
        return self._server
