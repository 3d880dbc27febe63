"""Finds settings of a release's components that keep a stated limit on this machine, by trying them under the load.

One thing at a time is changed: first in all components at once (how long requests wait for a batch, instances,
threads), then component by component. Each candidate is a real Triton on the same engines, asked in turns with the best
so far; what is not better at first sight is dropped, until the time is up. The best of many that were measured looks
better than it is, so it is held anew against the settings that are there and against the limit, by measurements of its
own, and those alone decide.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from mmdeploy.core.errors import ServerError
from mmdeploy.core.target import usable_cores
from mmdeploy.performance import samples
from mmdeploy.performance.contest import Goal, Outcome, Served, Side, contest
from mmdeploy.performance.settings import Setting, Settings, served_with
from mmdeploy.performance.target import open_target
from mmdeploy.triton import server as triton_server

_DELAYS_US = (None, 0, 500, 2000, 5000)
_PREFERRED = (4, 8, 16)
#: What must be better by so much at first sight to take the place of the best so far: less is noise.
_WORTH = 1.04
_SCREEN_ROUNDS, _FINAL_ROUNDS = 3, 10
#: Seeds of the measurements that choose, and of those that decide.
_SEED_OF_SEARCH, _SEED_OF_VERDICT = 1, 100_000


@dataclass(frozen=True)
class Trial:
    """One candidate, held against the best so far.

    Attributes:
        change: What was changed, in words.
        outcome: What was measured; None where the server did not start.
        kept: Whether it is the best since.
        reason: Why it did not start.
    """

    change: str
    outcome: Outcome | None
    kept: bool
    reason: str = ""


@dataclass(frozen=True)
class Tuned:
    """What a search came to.

    Attributes:
        goal: What was asked for.
        before: The settings that were there.
        best: The best that were found; the same where nothing looked better.
        trials: What was tried, in order.
        final: The measurement that decides: the settings that were there, and the best.
        left: Candidates for which there was no time.
    """

    goal: Goal
    before: Settings
    best: Settings
    trials: tuple[Trial, ...]
    final: Outcome
    left: int = 0

    @property
    def verdict(self) -> Literal["better", "as good", "missed", "undecided"]:
        """What it means for the recipe: only ``better`` is written."""
        was, now = self.final.first.verdict, self.final.second.verdict
        if self.best != self.before and now == "met" and (was == "missed" or self.final.gain[1] > 1.0):
            return "better"
        if was == "met":
            return "as good"
        return "missed" if was == now == "missed" else "undecided"

    def to_json(self) -> dict[str, Any]:
        """Return JSON-able fields."""
        return {
            "schema_version": 1,
            "goal": {
                "p95_ms": self.goal.p95_ms,
                "throughput_per_s": self.goal.throughput_per_s or None,
                "clients": None if self.goal.throughput_per_s else self.goal.clients,
            },
            "verdict": self.verdict,
            "before": {name: str(setting) for name, setting in self.before.items()},
            "best": {name: str(setting) for name, setting in self.best.items()},
            "present": _side_json(self.final.first),
            "tuned": _side_json(self.final.second),
            "gain": dict(zip(("estimate", "low", "high"), self.final.gain, strict=True)),
            "trials": [_trial_json(trial) for trial in self.trials],
            "left": self.left,
        }


def tune(
    release: Path,
    name: str,
    before: Mapping[str, Setting],
    goal: Goal,
    *,
    workdir: Path,
    seconds: float = 300.0,
    window_s: float = 1.0,
    progress: Callable[[Trial], None] = lambda trial: None,
) -> Tuned:
    """Search, and decide.

    Args:
        release: Folder of a release.
        name: Of its ensemble.
        before: The settings that are there, by component.
        goal: The load, and the limit.
        workdir: Where the servers' logs go.
        seconds: Time of the search: no candidate is begun after it. A last measurement comes then.
        window_s: Length of a stretch of load; those of the last measurement are twice as long.
        progress: Called after each candidate.

    Raises:
        ServerError: If the settings that are there cannot be served.
    """
    bench = _Bench(release, name, workdir / "tune", window_s)
    trials, best, left = list[Trial](), dict(before), 0
    with contextlib.ExitStack() as serving:
        incumbent = serving.enter_context(bench.serving(best))
        deadline = time.monotonic() + seconds
        for change, altered in _candidates(best):
            settings = {part: altered(part, setting) for part, setting in best.items()}
            if settings == best:
                continue
            if time.monotonic() > deadline:
                left += 1
                continue
            trial, kept = bench.tried(change, incumbent, settings, goal)
            trials.append(trial)
            progress(trial)
            if kept:
                best = settings
                serving.close()
                incumbent = serving.enter_context(bench.serving(best))
    with bench.serving(before) as first, bench.serving(best) as second:
        final = contest(first, second, goal, rounds=_FINAL_ROUNDS, seconds=2 * window_s, seed=_SEED_OF_VERDICT)
    return Tuned(goal, before, best, tuple(trials), final, left)


def _candidates(settings: Settings) -> Iterator[tuple[str, Callable[[str, Setting], Setting]]]:
    """Give what to change in words, and how: in all components first, then in each."""
    cores = usable_cores()
    changes: list[tuple[str, dict[str, Any]]] = [
        *(("not grouped" if us is None else f"delay {us} us", {"delay_us": us, "preferred": ()}) for us in _DELAYS_US),
        *((f"instances {count}", {"instances": count}) for count in dict.fromkeys((1, 2, cores)) if count <= cores),
        *((f"threads {count}", {"threads": count}) for count in dict.fromkeys((1, cores))),
    ]
    groups = [tuple(settings)] if len(settings) > 1 else []
    groups += [(one,) for one in settings]
    for parts in groups:
        more = [] if len(parts) > 1 else [(f"preferred {size}", {"preferred": (size,)}) for size in _PREFERRED]
        for change, fields in [*changes, *more]:
            where = parts[0] if len(parts) == 1 else "all"
            yield f"{where}: {change}", _change(parts, fields)


def _change(parts: tuple[str, ...], fields: Mapping[str, Any]) -> Callable[[str, Setting], Setting]:
    def changed(part: str, setting: Setting) -> Setting:
        unfit = ("threads" in fields and setting.threads is None) or (
            tuple(fields) == ("preferred",) and setting.delay_us is None
        )
        return setting if part not in parts or unfit else replace(setting, **fields)

    return changed


class _Bench:
    """Starts servers of a release with other settings, and holds them against each other."""

    def __init__(self, release: Path, name: str, logs: Path, window_s: float) -> None:
        self._release, self._name, self._logs, self._window_s = release, name, logs, window_s
        self._number = 0

    @contextlib.contextmanager
    def serving(self, settings: Settings) -> Iterator[Served]:
        """Start a server, ask it each sample once, and stop it at the end."""
        self._number += 1
        log = self._logs / f"triton-{self._number}.log"
        with (
            served_with(self._release, self._name, settings) as repository,
            triton_server.start([repository], log=log) as server,
        ):
            target = open_target(server.grpc_url, self._name)
            asked = samples.find(target, release=self._release)
            yield Served(target, [target.prepared(feed) for feed in asked.feeds])

    def tried(self, change: str, incumbent: Served, settings: Settings, goal: Goal) -> tuple[Trial, bool]:
        """Hold a candidate against the best so far."""
        try:
            with self.serving(settings) as candidate:
                outcome = contest(
                    incumbent, candidate, goal, rounds=_SCREEN_ROUNDS, seconds=self._window_s, seed=_SEED_OF_SEARCH
                )
        except ServerError as error:
            return Trial(change, None, False, error.message.splitlines()[0]), False
        kept = outcome.gain[0] > _WORTH and not _breaks(outcome, goal)
        return Trial(change, outcome, kept), kept


def _breaks(outcome: Outcome, goal: Goal) -> bool:
    """Return whether the second is above the limit where the first is not, at first sight."""
    return outcome.second.p95_ms[0] > goal.p95_ms >= outcome.first.p95_ms[0]


def _side_json(side: Side) -> dict[str, Any]:
    low, high = side.p95_ms[1:]
    return {
        "p95_ms": side.p95_ms[0], "p95_ms_interval": [low, high], "throughput_per_s": side.throughput_per_s,
        "verdict": side.verdict,
    }  # fmt: skip


def _trial_json(trial: Trial) -> dict[str, Any]:
    if trial.outcome is None:
        return {"change": trial.change, "kept": False, "reason": trial.reason}
    return {
        "change": trial.change, "kept": trial.kept, "gain": trial.outcome.gain[0],
        "best_so_far": _side_json(trial.outcome.first), "candidate": _side_json(trial.outcome.second),
    }  # fmt: skip
