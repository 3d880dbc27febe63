"""Which models to cache, and in how much memory: every sensible set is replayed, in sizes that double.

Encoders join in the order of what keeping their answers saves for each byte, one after the other, each set with and
without the ensemble as a whole. The set that saves the most computing is taken, in the smallest size that has nearly
all of it; a set that saves hardly more is not worth the memory, and none is advised where lookups cost what they save.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mmdeploy.caching.replay import AskedEnsemble, AskedModel, Replay, replay
from mmdeploy.caching.trace import Request
from mmdeploy.caching.value import Worth, worths
from mmdeploy.triton.response_cache import RESERVED_BYTES

MIB = 2**20
#: Share of what the largest cache saves that a smaller one must have.
NEARLY = 0.95
#: Share of all computing that a further model must save.
WORTHWHILE = 0.01


@dataclass(frozen=True)
class Potential:
    """What could be kept of one model.

    Attributes:
        model: The model.
        contents: Different ones that it was asked for, the most valuable for each byte first.
        endless: What a cache without limit for this model alone would do.
        all_bytes: What all its answers take.
    """

    model: AskedModel
    contents: Sequence[Worth]
    endless: Replay
    all_bytes: int


@dataclass(frozen=True)
class Advice:
    """A set of models to cache.

    Attributes:
        cached: Their names; none where a cache does not pay.
        size_mib: Of the cache.
        replay: What it would have done.
    """

    cached: tuple[str, ...]
    size_mib: int
    replay: Replay


def potentials(
    ensemble: AskedEnsemble, requests: Sequence[Request], half_life_s: float, *, whole: bool
) -> dict[str, Potential]:
    """Say of the encoders, and of the ensemble where it may be cached ``whole``, what a cache could do at most."""
    found = {}
    for model in (*ensemble.levels[0], *([ensemble.whole] if whole else [])):
        contents = worths(model, requests, half_life_s)
        size = sum(one.bytes for one in contents)
        endless = replay(ensemble, requests, {model.name}, size + MIB)
        found[model.name] = Potential(model, contents, endless, size)
    return found


def advise(
    ensemble: AskedEnsemble,
    requests: Sequence[Request],
    found: Mapping[str, Potential],
    *,
    max_mib: int,
) -> Advice:
    """Advise what to cache.

    Args:
        ensemble: What requests meet.
        requests: The trace.
        found: What `potentials` says of it.
        max_mib: The most memory that the cache may have.
    """
    encoders = sorted((model.name for model in ensemble.levels[0]), key=lambda name: -_density(found[name]))
    sets = [tuple(encoders[:count]) for count in range(len(encoders) + 1)]
    if ensemble.whole.name in found:
        sets += [(*names, ensemble.whole.name) for names in sets]
    best = Advice((), 0, replay(ensemble, requests, (), 0))
    for names in sorted(filter(None, sets), key=len):
        candidate = _smallest(ensemble, requests, names, _mib(sum(found[name].all_bytes for name in names), max_mib))
        if candidate.replay.saved > best.replay.saved + WORTHWHILE:
            best = candidate
    return best


def _smallest(ensemble: AskedEnsemble, requests: Sequence[Request], names: tuple[str, ...], most: int) -> Advice:
    """Find the smallest size, a power of two, that saves nearly what the largest does."""
    sizes = [2**power for power in range(most.bit_length())]
    sizes = [size for size in sizes if size < most] + [most]
    largest = Advice(names, most, replay(ensemble, requests, names, most * MIB))
    low, high, chosen = 0, len(sizes) - 1, largest
    while low < high:
        middle = (low + high) // 2
        tried = Advice(names, sizes[middle], replay(ensemble, requests, names, sizes[middle] * MIB))
        if tried.replay.saved >= NEARLY * largest.replay.saved:
            high, chosen = middle, tried
        else:
            low = middle + 1
    return chosen


def _density(potential: Potential) -> float:
    saved = potential.endless.without_ms - potential.endless.computed_ms
    return saved / max(potential.all_bytes, 1)


def _mib(size: int, most: int) -> int:
    return max(1, min(most, -(-(size + RESERVED_BYTES) // MIB)))
