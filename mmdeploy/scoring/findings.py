"""What searches and analyses say of what they measured: filled by passes, read by reports and the plain recipe."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmdeploy.scoring import metrics
from mmdeploy.scoring.evaluations import ScoredDrop
from mmdeploy.scoring.metrics import Interval


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What a change does at the ensemble's output.

    Attributes:
        metric: The task's metric.
        drop: What it loses against the FP32 original: positive is worse.
        drop_interval: Confidence interval of ``drop``; None for a metric that is no mean over samples.
        sqnr_db: SQNR of the answers; None where none changed.
        cosine: Of the answers.
        samples: Samples that it was scored on.
    """

    metric: float
    drop: float
    drop_interval: Interval | None = None
    sqnr_db: float | None = None
    cosine: float | None = None
    samples: int = 0


def scored(found: ScoredDrop) -> Scored:
    """Return a score as it is recorded."""
    return Scored(**_figures(found))


def _figures(found: ScoredDrop) -> dict[str, Any]:
    score, unchanged = found.score, found.score.sqnr_db == math.inf
    return {
        "metric": score.metric,
        "drop": found.drop,
        "drop_interval": found.interval,
        "sqnr_db": None if unchanged else max(-metrics.UNCHANGED_DB, score.sqnr_db),
        "cosine": score.cosine,
        "samples": score.samples,
    }


@dataclass(frozen=True)
class Decision:
    """One decision of a search, in words: what was done, why, what it costs and what it brings."""

    what: str
    why: str = ""
    cost: str = ""
    gain: str = ""


@dataclass(frozen=True)
class PlainSection:
    """The recipe's section that gives what a search came to, without searching; None where it came to nothing."""

    plain: Mapping[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class SearchFindings:
    """What a search came to.

    Attributes:
        decisions: In the order in which they were taken.
        metric: Name of the task's metric.
        max_drop: The budget.
        result: What was found, in words; empty where other figures say it.
        searched: The result on the samples that the search saw.
        held_back: The result on those that it did not see.
        evaluations: Scores that it took; None where an earlier search is only written in another encoding.
        evaluation_seconds: Time that they took.
        seconds: Time of the whole search.
    """

    decisions: tuple[Decision, ...]
    metric: str = "metric"
    max_drop: float | None = None
    result: str = ""
    searched: Scored | None = None
    held_back: Scored | None = None
    evaluations: int | None = None
    evaluation_seconds: float | None = None
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class GroupScore(Scored):
    """A layer group alone in INT8, all else in FP32.

    Attributes:
        group: Its name.
        nodes: Its nodes.
        globs: What they are matched by in ``exclude``.
        weights: Numbers in its weights.
    """

    group: str
    nodes: tuple[str, ...] = ()
    globs: tuple[str, ...] = ()
    weights: int = 0


def group_score(
    group: str, found: ScoredDrop, *, nodes: Sequence[str], globs: Sequence[str], weights: int
) -> GroupScore:
    """Return a layer group's score as it is recorded."""
    return GroupScore(group=group, nodes=tuple(nodes), globs=tuple(globs), weights=weights, **_figures(found))


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """Layer groups of a component.

    Attributes:
        sensitivity: Each group, worst first.
        metric: Name of the task's metric.
        whole: The component with all groups in INT8; None where that was not scored.
    """

    sensitivity: tuple[GroupScore, ...]
    metric: str = "metric"
    whole: Scored | None = None


@dataclass(frozen=True, kw_only=True)
class PrecisionFindings(SearchFindings):
    """What a search for layer groups to quantize came to.

    Attributes:
        int8_groups: Layer groups in INT8; empty for a search that is not about precision.
        float_groups: Those that went back to FP32.
    """

    int8_groups: tuple[str, ...] = ()
    float_groups: tuple[str, ...] = ()
