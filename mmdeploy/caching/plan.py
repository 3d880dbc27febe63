"""A cache plan: what a trace asks for, what keeping each answer is worth, what to cache, and how that is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mmdeploy.caching.advice import MIB, Advice, Potential, advise, potentials
from mmdeploy.caching.contents import Contents, samples_for
from mmdeploy.caching.layout import Cost, asked_ensemble, known_of
from mmdeploy.caching.replay import AskedEnsemble
from mmdeploy.caching.trace import Request, read_trace
from mmdeploy.caching.value import bytes_for, half_life
from mmdeploy.caching.verify import MOST_POINTS, Verification, verify
from mmdeploy.core.errors import UsageError
from mmdeploy.record.build_report import FILENAME
from mmdeploy.record.report_file import read_report

if TYPE_CHECKING:
    from mmdeploy.recipe.schema import Recipe

#: Of the value of a model's contents: the part whose size is told, and how many of the best are listed.
_MOST_VALUE, _LISTED = 0.8, 20


@dataclass(frozen=True)
class CachePlan:
    """What a trace says about a recipe's cache.

    Attributes:
        ensemble: What requests meet.
        requests: The trace.
        costs: What a row of each component costs.
        potentials: By encoder, and by the ensemble's name.
        advice: What to cache.
        half_life_s: In which a request's worth halves.
        whole_refused: Why the ensemble may not be cached as a whole; empty where it may.
    """

    ensemble: AskedEnsemble
    requests: Sequence[Request]
    costs: Mapping[str, Cost]
    potentials: Mapping[str, Potential]
    advice: Advice
    half_life_s: float
    whole_refused: str

    POTENTIAL_HEAD: ClassVar = ("model", "contents", "hits at most", "a row", "all rows", "80 % of the value", "costs")
    ADVICE_HEAD: ClassVar = ("cached", "lookups", "hits")
    JOINT_HEAD: ClassVar = ("encoders", "requests")
    VERIFIED_HEAD: ClassVar = ("model", "lookups", "hits", "reckoned", "apart", "a hit", "computing")

    @property
    def heading(self) -> str:
        """Say what was replayed."""
        first, last = self.requests[0].time_s, self.requests[-1].time_s
        life = f"a request counts half after {self.half_life_s:.4g} s"
        return f"{len(self.requests)} requests in {last - first:.4g} s; {life}"

    def potential_rows(self) -> list[tuple[str, ...]]:
        """Give a row for each model that could be cached."""
        rows = list[tuple[str, ...]]()
        for name, found in self.potentials.items():
            cost = self.costs.get(name)
            told = f"{cost.ms:.3g} ms ({cost.source})" if cost else f"{found.model.compute_ms:.3g} ms"
            rows.append(
                (
                    name,
                    str(len(found.contents)),
                    f"{found.endless.hit_rate(name):.1%}",
                    _size(found.model.entry(1)),
                    _size(found.all_bytes),
                    _size(bytes_for(_MOST_VALUE, found.contents)),
                    told,
                )
            )
        return rows

    def sentences(self) -> list[str]:
        """Say what is advised."""
        advice, found = self.advice, self.advice.replay
        if not advice.cached:
            return ["No cache is advised: it would not save as much computing as its lookups cost."]
        told = [
            f"Advised: cache {', '.join(advice.cached)} in {advice.size_mib} MiB. That saves {found.saved:.1%} of "
            f"the computing; {_size(found.most_bytes)} are used at most, and {found.evictions} answers make room for "
            "others."
        ]
        return told + ([self.whole_refused] if self.whole_refused else [])

    def advice_rows(self) -> list[tuple[str, ...]]:
        """Give a row for each model that is advised."""
        found = self.advice.replay
        return [(name, str(found.lookups[name]), f"{found.hit_rate(name):.1%}") for name in self.advice.cached]

    def joint_rows(self) -> list[tuple[str, ...]]:
        """Say how often which components answered from the cache in one request, the most frequent first."""
        found, whole = self.advice.replay, self.ensemble.whole.name
        counts = [(" and ".join(sorted(names)) or "none", count) for names, count in found.together.most_common()]
        if whole in self.advice.cached:
            counts.insert(0, (f"{whole} as a whole", found.hits[whole]))
        return [(names, f"{count / len(self.requests):.1%}") for names, count in counts]

    def recipe_lines(self) -> list[str]:
        """Return what to write into the recipe."""
        whole = self.ensemble.whole.name
        lines = [
            f"  response_cache: {{size_mib: {self.advice.size_mib}"
            + (", ensemble: true}" if whole in self.advice.cached else "}")
        ]
        parts = [name for name in self.advice.cached if name != whole]
        return lines + [f"  components.{name}.serving.response_cache: true" for name in parts]

    def verified_rows(self, found: Verification) -> list[tuple[str, ...]]:
        """Give a row for each model of a verification."""
        return [
            (
                one.model,
                str(one.lookups),
                f"{one.measured:.1%}",
                f"{one.reckoned:.1%}",
                f"{one.points:.1f} points" + ("" if one.points <= MOST_POINTS else f", more than {MOST_POINTS:g}"),
                _ms(one.hit_ms),
                _ms(one.compute_ms),
            )
            for one in found.models
        ]

    def to_json(self, found: Verification | None = None) -> dict[str, Any]:
        """Return everything as JSON values."""
        replayed = self.advice.replay
        return {
            "requests": len(self.requests),
            "half_life_s": self.half_life_s,
            "models": {name: self._potential(name) for name in self.potentials},
            "advice": {
                "cached": list(self.advice.cached),
                "size_mib": self.advice.size_mib,
                "hit_rate": {name: replayed.hit_rate(name) for name in self.advice.cached},
                "saved": replayed.saved,
                "most_bytes": replayed.most_bytes,
                "evictions": replayed.evictions,
                "together": {" and ".join(sorted(names)): count for names, count in replayed.together.items()},
            },
            "verified": None
            if found is None
            else {
                "agrees": found.agrees,
                "seconds": found.seconds,
                "models": [asdict(one) | {"points": one.points} for one in found.models],
            },
        }

    def _potential(self, name: str) -> dict[str, Any]:
        found, cost = self.potentials[name], self.costs.get(name)
        return {
            "contents": len(found.contents),
            "most_hits": found.endless.hit_rate(name),
            "row_bytes": found.model.entry(1),
            "all_bytes": found.all_bytes,
            "compute_ms": found.model.compute_ms,
            "cost_source": cost.source if cost else "the sum of its components",
            "popular": [
                {
                    "inputs": {key: [str(row) for row in rows] for key, rows in one.request.inputs.items()
                               if key in found.model.reads},
                    "asked": one.asked,
                    "last_s": one.last_s,
                    "value_ms": one.value_ms,
                }
                for one in found.contents[:_LISTED]
            ],
        }  # fmt: skip


def make_plan(
    recipe: Recipe,
    trace: Path,
    *,
    release: Path | None,
    row_bytes: Mapping[str, int],
    max_mib: int,
    half_life_s: float | None = None,
) -> CachePlan:
    """Plan the cache of a recipe for a trace.

    Args:
        recipe: The recipe.
        trace: File with requests.
        release: Its published model repository, with the report beside it; None where there is none.
        row_bytes: Bytes of a row of an answer by component, where nothing else tells.
        max_mib: The most memory that the cache may have.
        half_life_s: In which a request's worth halves; a quarter of the trace's time where it is None.

    Raises:
        UsageError: If the trace cannot be read, or the size of an answer is known from nowhere.
    """
    if half_life_s is not None and not half_life_s > 0:
        raise UsageError(f"--half-life {half_life_s:g}: a half-life is longer than 0 s")
    optional = {name for name, spec in recipe.inputs.items() if spec.optional}
    requests = read_trace(trace, recipe.inputs, optional=optional, most_rows=max(1, recipe.max_batch_size))
    report = read_report(release) if release is not None and (release / FILENAME).is_file() else None
    known = known_of(recipe, release, report, row_bytes)
    ensemble = asked_ensemble(recipe, known)
    life = half_life(requests) if half_life_s is None else half_life_s
    refused = ""
    if len(recipe.outputs) > 1:
        refused = f"{recipe.name} as a whole is left out: with several outputs it may not be cached."
    elif not known.outputs.get(recipe.name):
        refused = f"{recipe.name} as a whole is left out: without a release the size of its answers is not known."
    found = potentials(ensemble, requests, life, whole=not refused)
    advice = advise(ensemble, requests, found, max_mib=max_mib)
    return CachePlan(ensemble, requests, known.costs, found, advice, life, refused)


def verify_plan(recipe: Recipe, plan: CachePlan, trace: Path, release: Path, *, log: Path) -> Verification:
    """Ask a real Triton the requests of a plan, with the cache that it advises; where it advises none, each encoder.

    Raises:
        UsageError: If the arrays behind the trace cannot be had.
        MmdeployError: If the server fails.
    """
    ranges = {name: spec.range for name, spec in recipe.inputs.items() if spec.range is not None}
    samples = samples_for(recipe, plan.requests)
    contents = Contents(recipe.input_specs, trace=trace, ranges=ranges, samples=samples)
    cached = plan.advice.cached or tuple(model.name for model in plan.ensemble.levels[0])
    size = max(1, plan.advice.size_mib) * MIB
    return verify(release, plan.ensemble, plan.requests, contents, cached=cached, size_bytes=size, log=log)


def _size(count: int) -> str:
    return f"{count} B" if count < 1024 else f"{count / 1024:.3g} KiB" if count < MIB else f"{count / MIB:.3g} MiB"


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.3g} ms"
