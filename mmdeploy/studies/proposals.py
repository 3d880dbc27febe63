"""Which point comes next: Optuna's samplers, all points of a small space, a grid, or chance.

Every proposal has a seed of its own, made of the study's seed and the number of the trial: a study that was interrupted
proposes what it would have proposed.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from mmdeploy.studies.domains import Choices
from mmdeploy.studies.space import Dimension, Space
from mmdeploy.studies.trial import Trial

if TYPE_CHECKING:
    from mmdeploy.studies.study import Study

Sampler = Literal["tpe", "nsga2", "random", "grid"]
SAMPLERS: tuple[Sampler, ...] = ("tpe", "nsga2", "random", "grid")
#: Times that a sampler may propose what was built before, until chance proposes something else.
_MOST_AGAIN = 5
_MOST_CHANCES = 1000
#: A prime: seeds of neighbouring studies do not meet.
_STRIDE = 1_000_003


class Proposals:
    """Gives points that were not tried, as trials of Optuna's study."""

    def __init__(self, study: Study, space: Space, sampler: Sampler, seed: int, budget: int) -> None:
        self._study, self._space, self._seed, self._budget = study, space, seed, budget
        self._sampler: Sampler = sampler
        self._distributions = {one.option: _distribution(one) for one in space.dimensions}

    @property
    def exhaustive(self) -> bool:
        """Whether the budget is enough for every point of the space."""
        return self._space.size is not None and self._space.size <= self._budget

    def next(self) -> tuple[Any, dict[str, str]] | None:
        """Return Optuna's next trial and its point, one that was not tried; None where none is left."""
        tried = self._study.tried
        for _ in range(_MOST_AGAIN):
            if not self._arm():
                return None
            asked, point = self._asked()
            if not tried(point):
                return asked, point
            self._study.close(asked, Trial(-1, point, "again"))
        if (unseen := self._unseen()) is None:
            return None
        self._enqueue(unseen)
        return self._asked()

    @property
    def _ordered(self) -> bool:
        return self.exhaustive or self._sampler == "grid"

    def _arm(self) -> bool:
        """Make ready for a proposal; say whether there is one."""
        import optuna
        from optuna.trial import TrialState

        number = len(self._study.optuna.get_trials(deepcopy=False))
        seed = (self._seed * _STRIDE + number) % 2**32
        starting = max(4, min(10, self._budget // 4))
        samplers = optuna.samplers
        if self._ordered:
            point = next((one for one in self._grid() if not self._study.tried(one)), None)
            if point is None and not self._study.optuna.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
                return False
            if point is not None:
                self._enqueue(point)
            self._study.optuna.sampler = samplers.RandomSampler(seed=seed)
        elif self._sampler == "tpe":
            self._study.optuna.sampler = samplers.TPESampler(seed=seed, n_startup_trials=starting, multivariate=True)
        elif self._sampler == "nsga2":
            self._study.optuna.sampler = samplers.NSGAIISampler(seed=seed, population_size=starting)
        else:
            self._study.optuna.sampler = samplers.RandomSampler(seed=seed)
        return True

    def _asked(self) -> tuple[Any, dict[str, str]]:
        asked = self._study.optuna.ask(self._distributions)
        return asked, {one.option: _text(one, asked.params[one.option]) for one in self._space.dimensions}

    def _grid(self) -> Iterator[dict[str, str]]:
        """Give the points of a grid that the budget is enough for, with as many values of each range as it allows."""
        if self.exhaustive:
            return self._space.grid(self._budget)
        levels = 2
        while levels < self._budget and sum(1 for _ in self._space.grid(levels + 1)) <= self._budget:
            levels += 1
        return self._space.grid(levels)

    def _unseen(self) -> dict[str, str] | None:
        """Return a point by chance that was not tried; None where there is none."""
        tried = self._study.tried
        chance = random.Random(f"{self._seed} {len(self._study.trials)}")
        if self._space.size is not None and self._space.size <= _MOST_CHANCES:
            left = [point for point in self._space.grid(self._space.size) if not tried(point)]
            return chance.choice(left) if left else None
        for _ in range(_MOST_CHANCES):
            point = {one.option: chance.choice(one.domain.levels(_MOST_CHANCES)) for one in self._space.dimensions}
            if not tried(point):
                return point
        return None

    def _enqueue(self, point: Mapping[str, str]) -> None:
        self._study.optuna.enqueue_trial(self.params(point))

    def params(self, point: Mapping[str, str]) -> dict[str, Any]:
        """Return a point as Optuna has it."""
        return {one.option: _number(one, point[one.option]) for one in self._space.dimensions}


def _distribution(dimension: Dimension) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    domain = dimension.domain
    if isinstance(domain, Choices):
        return CategoricalDistribution(domain.texts)
    if domain.integral:
        low, high, step = (int(number) for number in (domain.low, domain.high, domain.step or 1))
        return IntDistribution(low, high, log=domain.log, step=step)
    return FloatDistribution(domain.low, domain.high, log=domain.log, step=domain.step)


def _text(dimension: Dimension, value: Any) -> str:
    return str(value) if isinstance(dimension.domain, Choices) else dimension.domain.text(value)


def _number(dimension: Dimension, text: str) -> Any:
    domain = dimension.domain
    if isinstance(domain, Choices):
        return text
    return int(text) if domain.integral else float(text)
