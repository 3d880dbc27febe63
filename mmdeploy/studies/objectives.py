"""What trials are compared by, read from the report of what was served and judged: figures that are better smaller."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmdeploy.core.contracts import method_of
from mmdeploy.core.errors import UsageError, did_you_mean
from mmdeploy.recipe.schema import Recipe
from mmdeploy.record.build_report import BuildReport, GateRecord


@dataclass(frozen=True)
class Figure:
    """A measured number with its interval; one that is no estimate, such as bytes, is its own interval."""

    value: float
    low: float
    high: float

    def surely_below(self, other: Figure) -> bool:
        """Say whether it is smaller, beyond what measuring leaves open."""
        return self.high < other.low or (self.is_exact and other.is_exact and self.value < other.value)

    def unlike(self, other: Figure) -> bool:
        """Say whether the two can be told apart."""
        return self.surely_below(other) or other.surely_below(self)

    @property
    def is_exact(self) -> bool:
        """Whether measuring again would give the same."""
        return self.low == self.high


@dataclass(frozen=True)
class Objective:
    """Something to make small.

    Attributes:
        name: As ``--objective`` has it.
        title: What it is, for tables.
        meaning: The same in a sentence.
        gate: Method of the gate that measures it; empty where every build does.
        example: A gate that would measure it.
    """

    name: str
    title: str
    meaning: str
    gate: str = ""
    example: str = ""


OBJECTIVES: Mapping[str, Objective] = {
    one.name: one
    for one in (
        Objective(
            "accuracy", "drop", "what the served ensemble loses of the metric against the PyTorch original",
            "accuracy", "{method: accuracy, metric: top1, max_drop: 0.01}",
        ),
        Objective(
            "latency", "latency", "time of a request over that of the FP32 reference, asked in turns",
            "latency", "{method: latency, max_ratio_to_reference: 1.1}",
        ),
        Objective("bytes", "bytes", "bytes of all engines on disk"),
        Objective(
            "parity", "1 - cosine", "how far answers are from the PyTorch original's: 1 - the worst cosine",
            "parity", "{method: parity, min_cosine: 0.9}",
        ),
    )
}  # fmt: skip
#: What is compared where nothing is asked for, as far as the recipe's gates measure it.
DEFAULT = ("accuracy", "latency", "bytes")


def chosen_objectives(asked: Sequence[str], recipe: Recipe) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the objectives of a sweep, and those of the default ones that no gate of the recipe measures.

    Args:
        asked: What was asked for; the default where it is empty.
        recipe: Its gates measure.

    Raises:
        UsageError: If one is unknown, is there twice, or is asked for and not measured.
    """
    gates = {method_of(gate) for gate in recipe.gates}
    for name in asked:
        if name not in OBJECTIVES:
            raise UsageError(f"--objective {name}: there is none of this name; {did_you_mean(name, OBJECTIVES)}")
        if list(asked).count(name) > 1:
            raise UsageError(f"--objective {name} is there twice")
        one = OBJECTIVES[name]
        if one.gate and one.gate not in gates:
            raise UsageError(
                f"--objective {name}: it is measured by a gate {one.gate}, and the recipe has none",
                hint=f"add `- {one.example}` under gates, or leave {name} out",
            )
    measured = tuple(name for name in DEFAULT if OBJECTIVES[name].gate in {"", *gates})
    if asked:
        return tuple(asked), ()
    if measured == ("bytes",):
        raise UsageError(
            "the recipe has no gate that measures accuracy or latency: only bytes are left to compare",
            hint=f"add `- {OBJECTIVES['accuracy'].example}` under gates, or ask for --objective bytes",
        )
    return measured, tuple(name for name in DEFAULT if name not in measured)


def figures_of(report: BuildReport, recipe: Recipe, names: Sequence[str]) -> dict[str, Figure]:
    """Read what a build came to; without what its report does not have."""
    found = {name: _READERS[name](report, recipe) for name in names}
    return {name: figure for name, figure in found.items() if figure is not None}


def _of_gate(report: BuildReport, recipe: Recipe, method: str) -> Iterator[tuple[GateRecord, Any]]:
    """Give what the gates of a method found, with their options."""
    for record, options in zip(report.gates, recipe.gates, strict=False):
        if record.gate == method:
            yield record, options


def _accuracy(report: BuildReport, recipe: Recipe) -> Figure | None:
    """Return the largest drop of all gates that state one."""
    drops = [
        _figure(record.details["drop"], record.details.get("drop_interval"))
        for record, _ in _of_gate(report, recipe, "accuracy")
        if record.details.get("drop") is not None
    ]
    return max(drops, key=lambda one: one.value, default=None)


def _latency(report: BuildReport, recipe: Recipe) -> Figure | None:
    for record, options in _of_gate(report, recipe, "latency"):
        for check in record.checks:
            if check.name.startswith(f"{options.percentile} ratio") and check.measured is not None:
                return _figure(check.measured, check.interval)
        ours, theirs = ((record.details.get(f"{side}_ms") or {}) for side in ("candidate", "reference"))
        if isinstance(ours, dict) and isinstance(theirs, dict) and options.percentile in ours:
            return _ratio(record.details, options.percentile)
    return None


def _ratio(details: Mapping[str, Any], percentile: str) -> Figure:
    """Return a ratio of two measured times, as wide as both intervals allow."""
    ours, theirs = (float(details[f"{side}_ms"][percentile]) for side in ("candidate", "reference"))
    spans = [(details.get(f"{side}_interval_ms") or {}).get(percentile) for side in ("candidate", "reference")]
    (low, high), (least, most) = spans[0] or (ours, ours), spans[1] or (theirs, theirs)
    return Figure(ours / theirs, float(low) / float(most), float(high) / float(least))


def _bytes(report: BuildReport, recipe: Recipe) -> Figure | None:
    sizes = [one.candidate_bytes for one in report.sizes]
    if not sizes or None in sizes:
        return None
    return _figure(float(sum(size for size in sizes if size is not None)), None)


def _parity(report: BuildReport, recipe: Recipe) -> Figure | None:
    cosines = [
        tensor["cosine"]["worst"]
        for record, _ in _of_gate(report, recipe, "parity")
        for label, tensor in _tensors(record).items()
        if label.split(".")[0] == "end to end" and "cosine" in tensor
    ]
    return None if not cosines else _figure(1.0 - min(cosines), None)


def _tensors(record: GateRecord) -> Mapping[str, Any]:
    tensors = record.details.get("tensors")
    return tensors if isinstance(tensors, dict) else {}


def _figure(value: Any, interval: Any) -> Figure:
    low, high = (value, value) if interval is None else interval
    return Figure(float(value), float(low), float(high))


_READERS: Mapping[str, Callable[[BuildReport, Recipe], Figure | None]] = {
    "accuracy": _accuracy, "latency": _latency, "bytes": _bytes, "parity": _parity,
}  # fmt: skip
