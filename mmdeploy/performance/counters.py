"""What Triton counts of each model, between two moments: queueing, computing, batches, hits of its cache."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_PARTS = ("queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss")


@dataclass(frozen=True)
class Batch:
    """Executions of one batch size.

    Attributes:
        size: Rows of the batch.
        executions: How often.
        compute_ms: Mean time of one, with what comes in and what goes out.
    """

    size: int
    executions: int
    compute_ms: float


@dataclass(frozen=True)
class Component:
    """What a model did for the requests of a stretch of time; times are means of a request.

    Attributes:
        count: Requests that succeeded.
        rows: Rows that were computed; those from the cache are not.
        executions: Times that the model was run.
        queue_ms: Waiting to be run, and for others to share its batch.
        input_ms: Gathering the inputs.
        infer_ms: Running.
        output_ms: Handing out the outputs.
        cache_hits: Requests that were answered from the response cache.
        cache_misses: Requests that were looked for there in vain.
        batches: Executions by batch size.
    """

    count: int
    rows: int
    executions: int
    queue_ms: float
    input_ms: float
    infer_ms: float
    output_ms: float
    cache_hits: int
    cache_misses: int
    batches: tuple[Batch, ...] = ()

    @property
    def compute_ms(self) -> float:
        """The three parts of computing together."""
        return self.input_ms + self.infer_ms + self.output_ms

    @property
    def batch(self) -> float:
        """Mean rows of an execution; 0 where there was none."""
        return self.rows / self.executions if self.executions else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return JSON-able fields."""
        return {
            "queue_ms": self.queue_ms,
            "compute_ms": self.compute_ms,
            "compute_input_ms": self.input_ms,
            "compute_infer_ms": self.infer_ms,
            "compute_output_ms": self.output_ms,
            "count": self.count,
            "batch": self.batch,
            "executions": self.executions,
            "cache_hits": self.cache_hits,
            "cache_misses": self.cache_misses,
            "batches": [
                {"size": one.size, "executions": one.executions, "compute_ms": one.compute_ms} for one in self.batches
            ],
        }


#: Sums since the server started: a model's numbers by name, and those of its batch sizes.
Counters = dict[str, dict[str, int]]


def counted(statistics: Iterable[Mapping[str, Any]]) -> Counters:
    """Add up what Triton's statistics say of each model, over its versions."""
    totals: Counters = {}
    for entry in statistics:
        into = totals.setdefault(str(entry["name"]), {})
        _add(into, "rows", entry.get("inference_count", 0))
        _add(into, "executions", entry.get("execution_count", 0))
        of_requests = entry.get("inference_stats", {})
        for part in ("success", *_PARTS):
            _add(into, f"{part}.count", of_requests.get(part, {}).get("count", 0))
            _add(into, f"{part}.ns", of_requests.get(part, {}).get("ns", 0))
        for batch in entry.get("batch_stats", []):
            size = int(batch["batch_size"])
            _add(into, f"batch.{size}.count", batch.get("compute_infer", {}).get("count", 0))
            for part in ("compute_input", "compute_infer", "compute_output"):
                _add(into, f"batch.{size}.ns", batch.get(part, {}).get("ns", 0))
    return totals


def between(before: Counters, after: Counters, names: Iterable[str]) -> dict[str, Component]:
    """Return what models did between two readings; those that did nothing are left out."""
    found = {}
    for name in names:
        earlier, later = before.get(name, {}), after.get(name, {})
        moved = {key: value - earlier.get(key, 0) for key, value in later.items()}
        if moved.get("success.count", 0) > 0:
            found[name] = _component(moved)
    return found


def _component(moved: Mapping[str, int]) -> Component:
    count = moved["success.count"]

    def mean_ms(part: str) -> float:
        return moved[f"{part}.ns"] / count / 1e6

    sizes = sorted(int(key.split(".")[1]) for key in moved if key.startswith("batch.") and key.endswith(".count"))
    batches = tuple(
        Batch(size, runs, moved[f"batch.{size}.ns"] / runs / 1e6)
        for size in sizes
        if (runs := moved[f"batch.{size}.count"]) > 0
    )
    return Component(
        count=count,
        rows=moved["rows"],
        executions=moved["executions"],
        queue_ms=mean_ms("queue"),
        input_ms=mean_ms("compute_input"),
        infer_ms=mean_ms("compute_infer"),
        output_ms=mean_ms("compute_output"),
        cache_hits=moved["cache_hit.count"],
        cache_misses=moved["cache_miss.count"],
        batches=batches,
    )


def _add(totals: dict[str, int], key: str, value: Any) -> None:
    totals[key] = totals.get(key, 0) + int(value)
