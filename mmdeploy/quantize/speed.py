"""What INT8 brings in speed, layer group by layer group, on the engine that a component really has.

A group's gain is what is lost without it: the latency with all groups in INT8 but this one, over that with all of
them. That counts what the group costs at its borders, where values are converted, which timing it alone would not.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmdeploy.core.contracts import LatencyEstimate, StepContext
from mmdeploy.quantize.partial import PartialGraphs
from mmdeploy.scoring.evaluations import Journal

#: Graphs measured side by side, besides the one that they are compared with: each is an engine in memory.
_SIDE_BY_SIDE = 4
ALL, FLOAT = "INT8", "FP32"


@dataclass(frozen=True)
class Gains:
    """Measured latencies, as ratios to all groups in INT8.

    Attributes:
        without: By group, the ratio with that group in FP32; above 1 where its INT8 pays.
        float_ratio: With all groups in FP32.
    """

    without: Mapping[str, LatencyEstimate]
    float_ratio: LatencyEstimate

    def proven(self, group: str) -> bool:
        """Say whether a group's INT8 is measurably faster."""
        return self.without[group].ratio_interval[0] > 1.0


class Stopwatch:
    """Times graphs with some groups in INT8; measurements are kept in the step's journal."""

    def __init__(self, graphs: PartialGraphs, float_graph: Path, context: StepContext, journal: Journal) -> None:
        """Take what writes graphs; ``context.timed`` times them."""
        assert context.timed is not None
        self._graphs, self._float, self._timed, self._journal = graphs, float_graph, context.timed, journal
        self._context = context
        self._seconds: dict[str, float] = {}

    @property
    def seconds(self) -> float:
        """Time spent on measuring, that of an earlier run of the step included."""
        return sum(self._seconds.values())

    def compare(self, names: Sequence[str], others: Mapping[str, Sequence[str]]) -> dict[str, LatencyEstimate]:
        """Time graphs against the one that has the named groups in INT8.

        Args:
            names: Groups in INT8 in the graph that the others are compared with.
            others: By label, the groups in INT8; none of them is the float graph.

        Raises:
            EngineError: If an engine cannot be built or run.
        """
        wanted = {ALL: sorted(names)} | {label: sorted(inside) for label, inside in others.items()}
        name = f"latency {wanted}"
        record = self._journal.remembered(name, lambda: self._measure(wanted))
        self._seconds[name] = record["seconds"]
        return {
            label: LatencyEstimate(one["median_ms"], one["ratio"], tuple(one["ratio_interval"]))
            for label, one in record["estimates"].items()
        }

    def gains(self) -> Gains:
        """Time the graph without each of the groups, a few at a time."""
        names = [group.name for group in self._graphs.groups]
        found: dict[str, LatencyEstimate] = {}
        variants = {FLOAT: list[str]()} | {
            f"without {name}": [other for other in names if other != name] for name in names
        }
        for chunk in _chunks(list(variants), _SIDE_BY_SIDE):
            self._context.progress(len(found), len(variants), "graphs timed on the engine")
            found |= self.compare(names, {label: variants[label] for label in chunk})
        return Gains({name: found[f"without {name}"] for name in names}, found[FLOAT])

    def _measure(self, wanted: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        started = time.perf_counter()
        with tempfile.TemporaryDirectory(dir=self._context.workdir) as folder:
            paths = {
                label: self._graphs.write(names, Path(folder) / f"{index}.onnx") if names else self._float
                for index, (label, names) in enumerate(wanted.items())
            }
            estimates = self._timed(paths)
        found = {label: asdict(one) for label, one in estimates.items()}
        return {"estimates": found, "seconds": time.perf_counter() - started}


def unpaid(watch: Stopwatch, gains: Gains, names: Sequence[str]) -> list[str]:
    """Return groups that can go back to FP32 together without the graph becoming measurably slower.

    Groups whose gain is not proven may be many, each too small to see: so they are timed together, and only as many
    of them, the smallest gains first, are returned as make no difference that can be measured.

    Args:
        watch: Times graphs.
        gains: What was measured of each group.
        names: Groups in INT8 now.
    """
    doubtful = sorted((name for name in names if not gains.proven(name)), key=lambda name: gains.without[name].ratio)
    count = len(doubtful)
    while count:
        rest = [name for name in names if name not in doubtful[:count]]
        slower = watch.compare(names, {"without": rest})["without"].ratio_interval[0] > 1.0
        if not slower:
            return doubtful[:count]
        count //= 2
    return []


def _chunks(names: Sequence[str], size: int) -> Iterable[Sequence[str]]:
    return (names[start : start + size] for start in range(0, len(names), size))
