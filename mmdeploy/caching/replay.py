"""Replays a trace through a simulated response cache, as Triton's local one keeps and drops answers.

One list for all models, least recently used first out; see `mmdeploy.triton.response_cache`. Requests are taken one
after another: where equal requests overlap in time, a real server computes both.
"""

from __future__ import annotations

import functools
from collections import Counter, OrderedDict
from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, field

from mmdeploy.caching.blocks import Blocks
from mmdeploy.caching.trace import Request
from mmdeploy.triton.response_cache import RESERVED_BYTES, block_bytes

#: What a lookup costs a server: it hashes every byte of the request, one by one.
HASH_MS_PER_BYTE, LOOKUP_MS = 0.7e-6, 0.01


@dataclass(frozen=True)
class AskedModel:
    """A model whose answers could be kept.

    Attributes:
        name: The component's name, or the ensemble's for a request as a whole.
        reads: The clients' inputs that decide its answers.
        header_bytes: Of an answer, besides its rows.
        row_bytes: Of each row of an answer.
        input_bytes: Of a row of what it reads, which a lookup hashes.
        compute_ms: What a row costs without the cache.
    """

    name: str
    reads: tuple[str, ...]
    header_bytes: int
    row_bytes: int
    input_bytes: int
    compute_ms: float

    def entry(self, rows: int) -> int:
        """Return the bytes that an answer of so many rows takes in the cache."""
        return block_bytes(self.header_bytes + self.row_bytes * rows)

    def key(self, request: Request) -> Hashable | None:
        """Return what Triton knows the request by; None where the request has nothing for this model."""
        given = tuple(request.inputs.get(name) for name in self.reads)
        return (self.name, given) if any(given) else None


@dataclass(frozen=True)
class AskedEnsemble:
    """The models that a request meets.

    Attributes:
        whole: The ensemble.
        levels: The components; those of a level are asked side by side, after those of the level before.
    """

    whole: AskedModel
    levels: tuple[tuple[AskedModel, ...], ...]

    @functools.cached_property
    def models(self) -> dict[str, AskedModel]:
        """All models by name, the ensemble last."""
        return {model.name: model for level in self.levels for model in level} | {self.whole.name: self.whole}


class LocalCache:
    """Triton's local response cache, as far as hits depend on it."""

    def __init__(self, size_bytes: int) -> None:
        self._room = Blocks(size_bytes - RESERVED_BYTES)
        self._size = size_bytes
        self._kept: OrderedDict[Hashable, tuple[int, int]] = OrderedDict()
        self.used_bytes = self.most_bytes = self.evictions = 0

    def has(self, key: Hashable) -> bool:
        """Look for an answer, and count it as used."""
        if key not in self._kept:
            return False
        self._kept.move_to_end(key)
        return True

    def keep(self, key: Hashable, size: int) -> None:
        """Keep an answer and drop the oldest ones until it fits; one that never fits drops all, as in Triton."""
        if key in self._kept or size > self._size:
            return
        while (block := self._room.take(size)) is None and self._kept:
            _, freed = self._kept.popitem(last=False)
            self._room.give(*freed)
            self.used_bytes -= freed[1]
            self.evictions += 1
        if block is not None:
            self._kept[key] = block
            self.used_bytes += block[1]
            self.most_bytes = max(self.most_bytes, self.used_bytes + RESERVED_BYTES)


@dataclass
class Replay:
    """What a cache would have done for a trace.

    Attributes:
        lookups: By model.
        hits: By model.
        together: How often exactly these components answered from the cache in one request that met them.
        computed_ms: Spent on computing and on lookups.
        without_ms: What computing everything costs.
        most_bytes: The most that was in use.
        evictions: Answers that were dropped for others.
    """

    lookups: Counter[str] = field(default_factory=Counter)
    hits: Counter[str] = field(default_factory=Counter)
    together: Counter[frozenset[str]] = field(default_factory=Counter)
    computed_ms: float = 0.0
    without_ms: float = 0.0
    most_bytes: int = 0
    evictions: int = 0

    @property
    def saved(self) -> float:
        """Share of all computing that the cache saves; negative where lookups cost more than they save."""
        return 1 - self.computed_ms / self.without_ms if self.without_ms else 0.0

    def hit_rate(self, model: str) -> float:
        """Return the share of a model's lookups that hit."""
        return self.hits[model] / self.lookups[model] if self.lookups[model] else 0.0


def replay(ensemble: AskedEnsemble, requests: Iterable[Request], cached: Collection[str], size_bytes: int) -> Replay:
    """Replay a trace.

    Args:
        ensemble: What the requests meet.
        requests: In order.
        cached: Names of the models whose answers are kept.
        size_bytes: Of the cache.
    """
    cache, found = LocalCache(size_bytes), Replay()
    for request in requests:
        _ask(ensemble, request, cached, cache, found)
    found.most_bytes, found.evictions = cache.most_bytes, cache.evictions
    return found


def _ask(ensemble: AskedEnsemble, request: Request, cached: Collection[str], cache: LocalCache, found: Replay) -> None:
    rows, whole = request.rows, ensemble.whole
    met = {model.name: key for level in ensemble.levels for model in level if (key := model.key(request)) is not None}
    models: Mapping[str, AskedModel] = ensemble.models
    found.without_ms += sum(models[name].compute_ms for name in met) * rows
    whole_key = whole.key(request)
    if whole.name in cached and _hit(whole, whole_key, rows, cache, found):
        return
    hits = set()
    for level in ensemble.levels:
        missed = []
        for model in level:
            if model.name not in met:
                continue
            if model.name in cached and _hit(model, met[model.name], rows, cache, found):
                hits.add(model.name)
                continue
            found.computed_ms += model.compute_ms * rows
            missed.append(model)
        for model in missed:
            if model.name in cached:
                cache.keep(met[model.name], model.entry(rows))
    found.together[frozenset(hits)] += 1
    if whole.name in cached:
        cache.keep(whole_key, whole.entry(rows))


def _hit(model: AskedModel, key: Hashable, rows: int, cache: LocalCache, found: Replay) -> bool:
    found.lookups[model.name] += 1
    found.computed_ms += LOOKUP_MS + HASH_MS_PER_BYTE * model.input_bytes * rows
    hit = cache.has(key)
    found.hits[model.name] += hit
    return hit
