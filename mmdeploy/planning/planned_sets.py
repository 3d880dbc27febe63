"""The sets of samples in a plan: which steps read which of them, and how many of their samples are recorded.

Every step on a component is fed with examples, the first samples of one set (`mmdeploy.planning.steps.examples_from`);
some read whole sets besides. Who reads the first samples of a set has the digest of those in its key, whoever reads all
of it that of all.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mmdeploy.planning.kinds import SAMPLES
from mmdeploy.planning.steps import DATA_SETS, EXAMPLES, Contents, Step, examples_from, samples_taken

if TYPE_CHECKING:
    from mmdeploy.planning.identities import Identities
    from mmdeploy.recipe.schema import Recipe

_KEYS: Mapping[str, str] = {step_id: key for key, step_id in DATA_SETS.items()}


@dataclass(frozen=True)
class Extent:
    """How much of a set is recorded.

    Attributes:
        samples: The first so many; None for all.
        only_examples: Whether nobody reads it but for examples: then it need not be fit to take ranges from.
    """

    samples: int | None
    only_examples: bool


class PlannedSets:
    """Adds the steps that record sets of samples to the steps of a plan, as others ask for them."""

    def __init__(
        self,
        recipe: Recipe,
        identities: Identities,
        steps: dict[str, Step],
        contents: Contents,
        wanted: Mapping[str, Extent],
    ) -> None:
        """Take what the steps are added to.

        Args:
            recipe: The recipe.
            identities: Gives parts of identities.
            steps: The plan's steps so far, by id; sets are added to it.
            contents: Tells what the sets hold that have been recorded already.
            wanted: How much of each set is recorded, by its step's id; all of those that are missing.
        """
        self._recipe, self._identities, self._steps = recipe, identities, steps
        self._contents, self._wanted = contents, wanted
        self._read: dict[str, list[Extent]] = {}

    def read(self, keys: Collection[str] = frozenset()) -> tuple[str, ...]:
        """Add the sets that a step on a component reads, and that of its examples; return the ids of their steps."""
        examples = examples_from(self._recipe.data)
        return self.add({*keys, *([examples] if examples else [])})

    def add(self, keys: Collection[str]) -> tuple[str, ...]:
        """Add the steps of sets, as far as the recipe names them; return their ids."""
        named = [key for key in DATA_SETS if key in keys and getattr(self._recipe.data, key) is not None]
        for key in named:
            if DATA_SETS[key] not in self._steps:
                self._add(key)
        return tuple(DATA_SETS[key] for key in named)

    def inputs(
        self,
        needs: Collection[str],
        reads: Collection[str] = frozenset(),
        options: Mapping[str, Any] = MappingProxyType({}),
    ) -> dict[str, str]:
        """Name what a step takes: steps by their keys, sets of samples by what is in them.

        Args:
            needs: Ids of the steps whose artifacts it takes.
            reads: Keys of the sets that it reads; others among ``needs`` are read for examples alone.
            options: The step's options: they say how many calibration samples it takes.
        """
        found = {}
        for step_id in needs:
            key = self._steps[step_id].key
            if step_id in _KEYS:
                extent = _extent(_KEYS[step_id], reads, options)
                self._read.setdefault(step_id, []).append(extent)
                if extent.only_examples and any(step_id in self._steps[need].needs for need in needs):
                    continue  # in the key of what it takes, which was fed with them too
                key = self._contents(key, extent.samples) or key
            found[f"input {step_id}"] = key
        return found

    def wanted(self) -> dict[str, Extent]:
        """Return how much of each set is read, by its step's id, where it is less than all or for examples alone."""
        found = {}
        for step_id, extents in self._read.items():
            counts = [extent.samples for extent in extents]
            most = None if None in counts else max(count for count in counts if count is not None)
            extent = Extent(most, all(extent.only_examples for extent in extents))
            if extent != Extent(None, only_examples=False):
                found[step_id] = extent
        return found

    def _add(self, key: str) -> None:
        """Add the step that calls a data callable; what searches and training choose by is not what gates judge on."""
        step_id = DATA_SETS[key]
        needs = self.add({"evaluation"}) if key == "validation" else ()
        extent = self._wanted.get(step_id, Extent(None, only_examples=False))
        options: dict[str, Any] = {"samples": extent.samples} if key == "calibration" or extent.samples else {}
        if extent.only_examples:
            options["only_examples"] = True
        identity = {
            **self._identities.samples(key),
            **{f"option {name}": json.dumps(value) for name, value in options.items()},
            **self.inputs(needs, {"evaluation"}),
            **self._identities.made_by(SAMPLES),
        }
        self._steps[step_id] = Step(step_id, "data", SAMPLES.name, SAMPLES.name, options, needs, identity)


def _extent(key: str, reads: Collection[str], options: Mapping[str, Any]) -> Extent:
    """Return how much of a set a step reads that takes its examples from it if it does not read it."""
    if key not in reads:
        return Extent(EXAMPLES, only_examples=True)
    taken = samples_taken(options) if key == "calibration" else None
    return Extent(None if taken is None else max(taken, EXAMPLES), only_examples=False)
