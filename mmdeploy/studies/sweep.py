"""A search over a recipe's settings: every trial is an ordinary build that shares the store, and publishes nothing.

What a trial is worth is read from the report of what was served and judged. Trials that break, or that a gate refuses,
are kept with their reason: they are on no front, and Optuna learns from what gates refuse.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmdeploy.building import plain_recipe
from mmdeploy.building.builder import Outcome, run_build
from mmdeploy.building.settings import Settings
from mmdeploy.cluster.connection import connected
from mmdeploy.core.contracts import Verdict
from mmdeploy.core.errors import MmdeployError, RecipeError, StoreError
from mmdeploy.core.shared_store import SharedStore
from mmdeploy.core.store import Store, translated
from mmdeploy.core.target import this_hardware
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.recipe.schema import Recipe
from mmdeploy.record.observer import Silent
from mmdeploy.report import write_all
from mmdeploy.studies.found import Found
from mmdeploy.studies.objectives import OBJECTIVES, figures_of
from mmdeploy.studies.proposals import Proposals, Sampler
from mmdeploy.studies.reasons import why
from mmdeploy.studies.space import Space, as_written
from mmdeploy.studies.study import Study, identity_of, locked, open_study, write_identity
from mmdeploy.studies.trial import Status, Trial, words

logger = logging.getLogger(__name__)

_STATUS: Mapping[Verdict, Status] = {
    Verdict.PASS: "passed", Verdict.FAIL: "failed", Verdict.INCONCLUSIVE: "undecided",
}  # fmt: skip
#: Builds that break one after the other, in the same way, before the first that does not: then it is not the values.
_MOST_BROKEN = 3
#: Points that are no recipe, for each build of the budget.
_MOST_REFUSED = 20


@dataclass(frozen=True)
class SweepSettings:
    """How to search.

    Attributes:
        workdir: Folder of the store, which trials share with all builds, and of the studies.
        name: Of the study; the recipe's where it is empty.
        budget: Builds of the study, those of earlier calls included.
        hours: Time of this call, after which no trial is begun; None for any.
        seed: Of the search.
        sampler: Who proposes.
        prefer: The objective that counts most when one of the front is chosen; None where all count alike.
        anew: Whether an earlier study of the name is set aside.
        jobs: Steps of a build at once.
        shared: Where trials take results from that other machines made, and send theirs to; None shares nothing.
        on: Cluster that the steps of trials run on, as of `Settings`.
    """

    workdir: Path
    name: str = ""
    budget: int = 20
    hours: float | None = None
    seed: int = 0
    sampler: Sampler = "tpe"
    prefer: str | None = None
    anew: bool = False
    jobs: int | None = None
    shared: SharedStore | None = None
    on: str | None = None


def run_sweep(
    recipe: Recipe,
    space: Space,
    objectives: Sequence[str],
    settings: SweepSettings,
    progress: Callable[[Trial, int], None] = lambda trial, built: None,
) -> Found:
    """Search, or go on with a search; Ctrl-C loses at most the trial that runs.

    Args:
        recipe: With what holds for all trials.
        space: What varies.
        objectives: What trials are compared by.
        settings: How.
        progress: Told of each trial, and how many builds there are.

    Returns:
        What was found so far; it says whether the search was interrupted.

    Raises:
        UsageError: If the study that is there is of something else, or another process works on it.
        StoreError: If the work folder cannot be written.
        MmdeployError: If every build breaks in the same way.
    """
    folder = (settings.workdir / "sweeps" / (settings.name or recipe.name)).absolute()
    with locked(folder), connected(settings.on):
        search = _Search(recipe, space, tuple(objectives), settings, folder)
        search.run(progress)
        return search.found()


class _Search:
    """One call of a sweep, over a study that is held."""

    def __init__(
        self, recipe: Recipe, space: Space, objectives: tuple[str, ...], settings: SweepSettings, folder: Path
    ) -> None:
        self.recipe, self.space, self.objectives, self.settings, self.folder = (
            recipe, space, objectives, settings, folder,
        )  # fmt: skip
        self.study: Study = open_study(folder, self._identity(), objectives, anew=settings.anew)
        self.proposals = Proposals(self.study, space, settings.sampler, settings.seed, settings.budget)
        self.interrupted = False
        self._builds = Settings(
            workdir=settings.workdir, jobs=settings.jobs, publishes=False, runs_in=folder,
            shared=settings.shared, on=settings.on,
        )  # fmt: skip

    def run(self, progress: Callable[[Trial, int], None]) -> None:
        """Try points until the budget, the time or the space is used up."""
        began = time.monotonic()
        first = as_written(self.space, self.recipe)
        if not self.study.trials and first is not None and not self.proposals.exhaustive:
            self.study.optuna.enqueue_trial(self.proposals.params(first))
        while self.study.built < self.settings.budget and not self.interrupted:
            if self.settings.hours is not None and time.monotonic() - began > 3600 * self.settings.hours:
                break
            refused = sum(one.status == "refused" for one in self.study.trials)
            if refused > _MOST_REFUSED * self.settings.budget:
                break
            proposed = self.proposals.next()
            if proposed is None:
                break
            trial = self._try(*proposed)
            progress(trial, self.study.built)

    def found(self) -> Found:
        """Return what all trials so far came to."""
        return Found(
            recipe=self.recipe.origin.path,
            name=self.recipe.name,
            folder=self.folder,
            space=self.space,
            objectives=self.objectives,
            trials=tuple(self.study.trials),
            budget=self.settings.budget,
            sampler="every point" if self.proposals.exhaustive else self.settings.sampler,
            seed=self.settings.seed,
            prefer=self.settings.prefer,
            machine=str(this_hardware()),
            interrupted=self.interrupted,
        )

    def _identity(self) -> dict[str, str]:
        return identity_of(
            self.recipe,
            self.space,
            Store(self.settings.workdir / "store"),
            objectives=", ".join(self.objectives),
            seed=str(self.settings.seed),
            sampler=self.settings.sampler,
        )

    def _try(self, asked: Any, point: dict[str, str]) -> Trial:
        """Build a point, and write down what it came to before anything else happens."""
        number = sum(one.number >= 0 for one in self.study.trials)
        try:
            recipe = load_recipe(self.recipe.origin.path, self.space.overrides(point))
        except RecipeError as error:
            told = "; ".join(dict.fromkeys(problem.message for problem in error.problems))
            return self.study.close(asked, Trial(number, point, "refused", " ".join(told.split())))
        try:
            outcome = run_build(recipe, self._builds, Silent())
            trial = self._judged(number, point, recipe, outcome)
        except BaseException as error:
            self.interrupted = True
            by_hand = isinstance(error, KeyboardInterrupt)
            self.study.close(asked, Trial(-1, point, "stopped", "interrupted" if by_hand else type(error).__name__))
            self.study.optuna.enqueue_trial(self.proposals.params(point))
            if not by_hand:
                raise
            return self.study.trials[-1]
        self.study.close(asked, trial)
        self._remember()
        self._require_not_hopeless(outcome)
        return trial

    def _judged(self, number: int, point: dict[str, str], recipe: Recipe, outcome: Outcome) -> Trial:
        """Read a build's report, and keep it with the build's recipe."""
        error, report = outcome.error, outcome.report
        if error is not None and (isinstance(error, StoreError) or not isinstance(error, MmdeployError)):
            raise error  # Ctrl-C, a full disk, a bug: not the point's fault
        place = f"trials/{number:03d}"
        trial = Trial(
            number,
            point,
            "broke" if error is not None else _STATUS[report.verdict],
            why(outcome),
            figures_of(report, recipe, self.objectives),
            place,
            report.seconds,
            sum(step.status == "ran" for step in report.steps),
            len(report.steps),
        )
        if trial.status == "passed" and (missing := [one for one in self.objectives if one not in trial.figures]):
            trial = replace(trial, status="undecided", reason=f"its report does not have {', '.join(missing)}")
        folder = self.folder / place
        with translated(folder):
            folder.mkdir(parents=True, exist_ok=True)
        write_all(report, folder)
        if error is None:
            plain_recipe.write_point(recipe, outcome.artifacts, folder / "recipe.yaml", self._remarks(trial))
        return trial

    def _remarks(self, trial: Trial) -> list[str]:
        measured = ", ".join(
            f"{OBJECTIVES[name].title} {figure.value:.4g}" for name, figure in trial.figures.items()
        )  # fmt: skip
        return [
            f"Trial {trial.number} of a sweep of {self.recipe.origin.path.name}: {words(trial.point)}",
            f"{trial.status}; {measured} on {this_hardware()}",
        ]

    def _remember(self) -> None:
        """Add to what the study is of what is known since its code has run."""
        with translated(self.folder):
            write_identity(self.folder, self._identity())

    def _require_not_hopeless(self, outcome: Outcome) -> None:
        built = [one for one in self.study.trials if one.built]
        if len(built) < _MOST_BROKEN or outcome.error is None:
            return
        if all(one.status == "broke" and one.reason == built[0].reason for one in built):
            if isinstance(outcome.error, MmdeployError) and outcome.error.hint is None:
                outcome.error.hint = f"all {len(built)} trials broke in this way: it is not the values that were tried"
            raise outcome.error
