"""Scores at the fused output, written down as they are made: a search that is killed goes on where it was.

The journal is a file of JSON lines in the step's scratch folder, each flushed to disk before the search goes on. The
folder belongs to the step's key, so what is found there was measured on the same graph, options and data.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mmdeploy.core.contracts import FusedScore
from mmdeploy.scoring import metrics
from mmdeploy.scoring.comparison import drop_interval

if TYPE_CHECKING:
    from mmdeploy.scoring.metrics import Interval

#: What a search may lose where neither its section nor the gate whose metric it scores with says it.
DEFAULT_MAX_DROP = 0.01
#: Validation samples that a search decides on, and those that it is verified on: every other one, so that samples
#: in the order of their classes are split evenly.
SEARCHED, HELD_BACK = slice(0, None, 2), slice(1, None, 2)


class Scorer(Protocol):
    """What scores candidates: `mmdeploy.core.contracts.FusedOutput` for graphs, or another for modules."""

    @property
    def metric(self) -> str:
        """Name of the task's metric."""

    @property
    def larger_is_better(self) -> bool:
        """Whether a larger metric is better."""

    def original(self, part: slice | None = None) -> FusedScore:
        """Score the FP32 original."""

    def score(self, candidate: Any, part: slice | None = None) -> FusedScore:
        """Score a candidate in the component's place."""


class Journal:
    """JSON values by name, kept through a kill."""

    def __init__(self, path: Path | None) -> None:
        """Read what is there; a line that was cut off in the middle is dropped."""
        self._path = path
        self._values: dict[str, Any] = {}
        if path is None or not path.is_file():
            return
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                break
            self._values[entry["name"]] = entry["value"]
        whole = path.with_name(f"{path.name}.whole")
        whole.write_text("".join(self._line(name, value) for name, value in self._values.items()), encoding="utf-8")
        whole.replace(path)

    def remembered(self, name: str, make: Callable[[], Any]) -> Any:
        """Return the value of a name; make it and write it down where there is none."""
        if name not in self._values:
            value = make()
            self._values[name] = value
            if self._path is not None:
                with self._path.open("a") as stream:
                    stream.write(self._line(name, value))
                    stream.flush()
                    os.fsync(stream.fileno())
        return self._values[name]

    @staticmethod
    def _line(name: str, value: Any) -> str:
        return json.dumps({"name": name, "value": value}) + "\n"


@dataclass(frozen=True)
class ScoredDrop:
    """A candidate's score against that of the FP32 original on the same samples.

    Attributes:
        score: Of the candidate.
        drop: What the task's metric loses, in its own unit: positive is worse.
        interval: Confidence interval of the drop, from the paired samples; None for a metric that is no mean of them.
    """

    score: FusedScore
    drop: float
    interval: Interval | None

    @property
    def range_text(self) -> str:
        """The interval in words, such as `` (0.01 to 0.03)``; empty where there is none."""
        return f" ({number_text(self.interval[0])} to {number_text(self.interval[1])})" if self.interval else ""


@dataclass(frozen=True)
class Budget:
    """What may be lost.

    Attributes:
        max_drop: Of the task's metric against the FP32 original, in its own unit.
        by_interval: Whether the whole interval of the drop must keep it on the samples held back, or the estimate.
    """

    max_drop: float
    by_interval: bool = False

    def kept(self, found: ScoredDrop) -> bool:
        """Say whether the estimate of a drop is within the budget."""
        return found.drop <= self.max_drop + metrics.SLACK

    def proven(self, found: ScoredDrop) -> bool:
        """Say whether a drop on the samples held back is within the budget."""
        if self.by_interval and found.interval is not None:
            return found.interval[1] <= self.max_drop + metrics.SLACK
        return self.kept(found)


class Evaluations:
    """Scores candidates, each once, and counts them.

    Attributes:
        count: Scores that were needed, those found in the journal included.
        seconds: Time that they took, that of the earlier run included.
    """

    def __init__(self, scorer: Scorer, journal: Journal, *, confidence: float, seed: int) -> None:
        """Start counting.

        Args:
            scorer: Scores candidates.
            journal: Where scores are written down.
            confidence: Of the intervals, such as 0.95.
            seed: For intervals that are resampled.
        """
        self.scorer, self._journal, self._confidence, self._seed = scorer, journal, confidence, seed
        self.count, self.seconds = 0, 0.0
        self._counted: set[str] = set()

    def original(self, part: slice) -> FusedScore:
        """Score the FP32 original."""
        return self._score("original", part, lambda: self.scorer.original(part))

    def drop_of(self, name: str, make: Callable[[], Any], part: slice) -> ScoredDrop:
        """Score a candidate.

        Args:
            name: What tells it from all others of the step.
            make: Gives it to the scorer; not called when the score is known.
            part: Of the validation samples.
        """
        score = self._score(name, part, lambda: self.scorer.score(make(), part))
        original = self.original(part)
        drop = original.metric - score.metric if self.scorer.larger_is_better else score.metric - original.metric
        return ScoredDrop(score, drop, self._interval(original, score))

    def _score(self, name: str, part: slice, make: Callable[[], FusedScore]) -> FusedScore:
        key = f"{name} [{part.start}:{part.stop}:{part.step}]"

        def timed() -> dict[str, Any]:
            started = time.perf_counter()
            return _to_json(make()) | {"seconds": time.perf_counter() - started}

        record = self._journal.remembered(key, timed)
        if key not in self._counted:
            self._counted.add(key)
            self.count += 1
            self.seconds += record["seconds"]
        return _from_json(record)

    def _interval(self, original: FusedScore, score: FusedScore) -> Interval | None:
        if original.per_sample is None or score.per_sample is None:
            return None
        return drop_interval(
            original.per_sample, score.per_sample, larger_is_better=self.scorer.larger_is_better,
            confidence=self._confidence, seed=self._seed,
        )  # fmt: skip


def number_text(value: float) -> str:
    """Return a figure of a metric for a sentence."""
    return f"{value:.4g}"


def _to_json(score: FusedScore) -> dict[str, Any]:
    per_sample = None if score.per_sample is None else score.per_sample.tolist()
    return {
        "metric": score.metric, "per_sample": per_sample, "sqnr_db": score.sqnr_db, "cosine": score.cosine,
        "samples": score.samples,
    }  # fmt: skip


def _from_json(record: Mapping[str, Any]) -> FusedScore:
    import numpy as np

    per_sample = None if record["per_sample"] is None else np.array(record["per_sample"], dtype=np.float64)
    return FusedScore(record["metric"], per_sample, record["sqnr_db"], record["cosine"], record["samples"])
