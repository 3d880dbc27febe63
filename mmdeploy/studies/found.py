"""What a sweep came to: the front, the chosen point, and what must not be read into them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmdeploy.core.errors import EXIT_GATE_FAILED, EXIT_INCONCLUSIVE, EXIT_INTERRUPTED, EXIT_PASS, EXIT_STEP_FAILED
from mmdeploy.core.version import __version__
from mmdeploy.studies import front
from mmdeploy.studies.objectives import OBJECTIVES, Figure
from mmdeploy.studies.space import Space
from mmdeploy.studies.trial import Trial


@dataclass(frozen=True)
class Found:
    """All trials of a study, and what they mean.

    Attributes:
        recipe: The recipe's file.
        name: Of its ensemble.
        folder: The study's.
        space: What varied.
        objectives: What was compared.
        trials: In the order in which they were made, also those that do not count.
        budget: Builds that were asked for.
        sampler: Who proposed.
        seed: Of the search.
        prefer: The objective that counts most, or None.
        machine: That measured.
        interrupted: Whether the search was interrupted.
    """

    recipe: Path
    name: str
    folder: Path
    space: Space
    objectives: tuple[str, ...]
    trials: tuple[Trial, ...]
    budget: int
    sampler: str
    seed: int
    prefer: str | None
    machine: str
    interrupted: bool = False

    @property
    def counted(self) -> tuple[Trial, ...]:
        """Those that were tried: without what was interrupted or proposed twice."""
        return tuple(one for one in self.trials if one.number >= 0)

    @property
    def passed(self) -> dict[int, Trial]:
        """Those that may be published, by number."""
        return {one.number: one for one in self.counted if one.status == "passed"}

    @property
    def front(self) -> tuple[Trial, ...]:
        """Those that nothing beats, the best in the first objective first."""
        passed = self.passed
        numbers = front.front({number: one.figures for number, one in passed.items()})
        return tuple(sorted((passed[number] for number in numbers), key=self._order))

    @property
    def chosen(self) -> Trial | None:
        """The one of the front that is built where nobody says another; None where nothing passed."""
        points = {one.number: one.figures for one in self.front}
        number = front.chosen(points, self.prefer, {one.number: one.figures for one in self.passed.values()})
        return None if number is None else self.passed[number]

    def alike(self, trial: Trial) -> tuple[int, ...]:
        """Return the numbers of those of the front that cannot be told apart from one in any objective."""
        others = (one for one in self.front if one.number != trial.number)
        return tuple(one.number for one in others if front.alike(one.figures, trial.figures))

    def untold(self, objective: str) -> tuple[int, ...]:
        """Return those of the front that cannot be told apart from the one that looks best in an objective."""
        if len(self.front) < 2:
            return ()
        best = min(self.front, key=lambda one: (one.figures[objective].value, one.number))
        return tuple(
            one.number for one in self.front if not one.figures[objective].unlike(best.figures[objective])
        )  # fmt: skip

    @property
    def exit_code(self) -> int:
        """What the command ends with: whether there is a point that may be published."""
        if self.interrupted:
            return EXIT_INTERRUPTED
        if self.front:
            return EXIT_PASS
        statuses = {one.status for one in self.counted}
        for status, code in (("undecided", EXIT_INCONCLUSIVE), ("failed", EXIT_GATE_FAILED)):
            if status in statuses:
                return code
        return EXIT_STEP_FAILED

    def recipe_of(self, trial: Trial) -> Path:
        """Return the file that builds a trial without a search."""
        return self.folder / trial.folder / "recipe.yaml"

    def build_command(self, trial: Trial) -> str:
        """Return the command that builds a trial, judges it and publishes it."""
        return f"mmdeploy build {shlex.quote(_near(self.recipe_of(trial)))}"

    def cautions(self) -> list[str]:
        """Say what must not be read into the front, a sentence each."""
        groups: dict[tuple[int, ...], list[str]] = {}
        for name in self.objectives:
            numbers = self.untold(name)
            if len(numbers) > 1 and not all(self.passed[one].figures[name].is_exact for one in numbers):
                groups.setdefault(numbers, []).append(OBJECTIVES[name].title)
        told = [_untold_text(titles, numbers) for numbers, titles in groups.items()]
        if self.chosen is not None and len(self.passed) > 1 and not self._all_exact:
            told.append(
                f"The chosen one was the best of {len(self.passed)} that passed, which flatters its figures: its own "
                "build judges it by measurements of its own."
            )
        return told

    def to_json(self) -> dict[str, Any]:
        """Return JSON-able fields."""
        best, on_front = self.chosen, {one.number for one in self.front}
        return {
            "schema_version": 1,
            "mmdeploy_version": __version__,
            "recipe": str(self.recipe),
            "name": self.name,
            "folder": str(self.folder),
            "space": self.space.to_json(),
            "objectives": [*self.objectives],
            "sampler": self.sampler,
            "seed": self.seed,
            "budget": self.budget,
            "machine": self.machine,
            "interrupted": self.interrupted,
            "chosen": None if best is None else best.number,
            "build": None if best is None else self.build_command(best),
            "front": [one.number for one in self.front],
            "cautions": self.cautions(),
            "trials": [
                {
                    **one.to_json(),
                    "front": one.number in on_front,
                    "alike": [*self.alike(one)] if one.number in on_front else [],
                    "recipe": str(self.recipe_of(one)) if one.built and one.status != "broke" else None,
                }
                for one in self.counted
            ],
        }

    @property
    def _all_exact(self) -> bool:
        return all(figure.is_exact for one in self.passed.values() for figure in one.figures.values())

    def _order(self, trial: Trial) -> tuple[float, ...]:
        return (*(trial.figures[name].value for name in self.objectives), trial.number)


def figure_text(name: str, figure: Figure | None, *, interval: bool = True) -> str:
    """Write a figure of an objective as people read it."""
    from mmdeploy.report.units import bytes_text

    if figure is None:
        return "-"
    if name == "bytes":
        return bytes_text(int(figure.value))
    if name == "parity":
        return f"{figure.value:.2g}"
    numbers = [f"{number:.3f}" if name == "accuracy" else f"{number:.2f}" for number in
               (figure.value, figure.low, figure.high)]  # fmt: skip
    numbers = [number.replace("-0.000", "0.000") if float(number) == 0 else number for number in numbers]
    return f"{numbers[0]} ({numbers[1]} to {numbers[2]})" if interval and not figure.is_exact else numbers[0]


def _untold_text(titles: Sequence[str], numbers: Sequence[int]) -> str:
    listed = ", ".join(str(number) for number in sorted(numbers))
    return f"In {' and '.join(titles)}, {listed} cannot be told apart: none of them is better than another."


def _near(path: Path) -> str:
    """Return a path as it is typed where the command runs."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
