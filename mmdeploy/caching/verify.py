"""Feeds a trace to a real Triton and holds what its cache did against what was reckoned.

The release is served from a copy whose config.pbtxt files cache what is to be cached; its model files are linked, those
of steps in Python copied, and nothing of the release itself is changed. Triton counts by model: ``cache_hit`` and
``cache_miss`` of its statistics, which are ``nv_cache_num_hits_per_model`` and its sister among the metrics, but right
for ensembles too.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmdeploy.caching.contents import Contents
from mmdeploy.caching.replay import AskedEnsemble, replay
from mmdeploy.caching.trace import Request
from mmdeploy.core.errors import InferenceError, UsageError
from mmdeploy.core.temporary import temporary_folder
from mmdeploy.triton import server as triton_server
from mmdeploy.triton.config import parse, to_text
from mmdeploy.triton.http import ask_json
from mmdeploy.triton.known_samples import SAMPLES

if TYPE_CHECKING:
    from mmdeploy.triton.server import Server

#: How far the share of hits may be from what was reckoned, in points of a hundred.
MOST_POINTS = 5.0


@dataclass(frozen=True)
class Verified:
    """A cached model in both worlds.

    Attributes:
        model: Its name in the recipe.
        reckoned: Share of hits in the replay.
        measured: Share of hits that Triton counted.
        lookups: How often Triton looked.
        hit_ms: Mean time of a hit in the server; None without hits.
        compute_ms: Mean time of computing in the server; None where nothing was computed.
    """

    model: str
    reckoned: float
    measured: float
    lookups: int
    hit_ms: float | None
    compute_ms: float | None

    @property
    def points(self) -> float:
        """How far both are apart, in points."""
        return 100 * abs(self.reckoned - self.measured)


@dataclass(frozen=True)
class Verification:
    """What a real Triton did with the trace.

    Attributes:
        models: One a cached model.
        seconds: Time of the whole trace, one request after the other.
    """

    models: tuple[Verified, ...]
    seconds: float

    @property
    def agrees(self) -> bool:
        """Whether every share of hits is as reckoned."""
        return all(one.points <= MOST_POINTS for one in self.models)


def verify(
    release: Path,
    ensemble: AskedEnsemble,
    requests: Sequence[Request],
    contents: Contents,
    *,
    cached: Collection[str],
    size_bytes: int,
    log: Path,
) -> Verification:
    """Serve a release with a cache, ask it every request of a trace in order, and compare.

    Args:
        release: Model repository of the ensemble.
        ensemble: What the requests meet; the cost of a model is not used.
        requests: The trace.
        contents: Where its arrays are from.
        cached: Models to cache, by their names in the recipe.
        size_bytes: Of the cache.
        log: Where the server's log goes.

    Raises:
        UsageError: Naming the line of the trace, if a request cannot be asked, or the server refuses it.
        ServerError: If the server refuses the release or dies.
    """
    expected = replay(ensemble, contents.known_by_bytes(requests), cached, size_bytes)
    served = {name: name if name == ensemble.whole.name else f"{ensemble.whole.name}.{name}" for name in cached}
    with temporary_folder("cache-plan") as folder:
        linked_with_cache(release, folder, set(served.values()))
        with triton_server.start([folder], log=log, response_cache_bytes=size_bytes) as running:
            before = {name: _counted(running, model) for name, model in served.items()}
            began = time.perf_counter()
            with running.runner(ensemble.whole.name) as runner:
                for request in requests:
                    try:
                        runner.infer(contents.feeds(request))
                    except InferenceError as error:
                        raise UsageError(f"{contents.place(request)}: {error.message}", hint=error.hint) from error
            seconds = time.perf_counter() - began
            after = {name: _counted(running, model) for name, model in served.items()}
    models = tuple(_verified(name, expected.hit_rate(name), before[name], after[name]) for name in sorted(served))
    return Verification(models, seconds)


def linked_with_cache(release: Path, folder: Path, cached: Collection[str]) -> None:
    """Write a model repository that serves a release's files, and caches just these models."""
    for model in sorted(path.parent for path in release.glob("*/config.pbtxt")):
        config = parse((model / "config.pbtxt").read_text("utf-8"), str(model / "config.pbtxt"))
        config.response_cache.enable = model.name in cached
        if not config.response_cache.enable:
            config.ClearField("response_cache")
        (folder / model.name).mkdir()
        python = any(model.rglob("*.py"))  # Python would leave what it compiles in a folder that is linked
        for entry in model.iterdir():
            own = folder / model.name / entry.name
            if entry.name == "config.pbtxt":
                continue
            if python and entry.is_dir():
                shutil.copytree(entry, own)
            else:
                own.symlink_to(entry.resolve())
        (folder / model.name / "config.pbtxt").write_text(to_text(config), encoding="utf-8")
    if (samples := release / SAMPLES).is_file():
        (folder / SAMPLES).symlink_to(samples.resolve())


@dataclass(frozen=True)
class _Counts:
    """What a model's statistics say: how often, and nanoseconds."""

    hits: int
    misses: int
    computed: int
    hit_ns: int
    compute_ns: int


def _counted(running: Server, model: str) -> _Counts:
    versions = ask_json(f"{running.http_url}/v2/models/{model}/stats")["model_stats"]
    stats = [version["inference_stats"] for version in versions]

    def total(what: str, unit: str) -> int:
        return sum(int(one.get(what, {}).get(unit, 0)) for one in stats)

    return _Counts(
        hits=total("cache_hit", "count"),
        misses=total("cache_miss", "count"),
        computed=total("compute_infer", "count"),
        hit_ns=total("cache_hit", "ns"),
        compute_ns=sum(total(f"compute_{part}", "ns") for part in ("input", "infer", "output")),
    )


def _verified(name: str, reckoned: float, before: _Counts, after: _Counts) -> Verified:
    hits, misses = after.hits - before.hits, after.misses - before.misses
    computed = after.computed - before.computed
    return Verified(
        model=name,
        reckoned=reckoned,
        measured=hits / (hits + misses) if hits + misses else 0.0,
        lookups=hits + misses,
        hit_ms=(after.hit_ns - before.hit_ns) / hits / 1e6 if hits else None,
        compute_ms=(after.compute_ns - before.compute_ns) / computed / 1e6 if computed else None,
    )
