"""Inputs that may be missing, on the PyTorch side: stand-ins in the place of embeddings, presence beside them.

What the served step ``<ensemble>_modalities`` does to a request, `Modalities` does to a batch of samples, by the same
code where it decides anything (`mmdeploy.triton.steps.modalities`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mmdeploy.core.artifact import Array
from mmdeploy.core.samples import Samples
from mmdeploy.planning.steps import STAND_INS
from mmdeploy.recipe.modalities import Branch, branches, detection, left_out, presence_tensors, subsets
from mmdeploy.triton.steps.modalities import holds_something

if TYPE_CHECKING:
    from mmdeploy.core.artifact import Artifact
    from mmdeploy.model.torch_model import TorchChain
    from mmdeploy.recipe.missing import Subset
    from mmdeploy.recipe.schema import Recipe
    from mmdeploy.worker.task import Task

Rows = npt.NDArray[np.intp]
#: Column that says which optional inputs a sample has [samples, optional inputs]; no tensor has this name.
PRESENT = ""


class Modalities:
    """What a recipe's optional inputs mean for whoever runs its components outside of a server."""

    def __init__(self, recipe: Recipe, stand_ins: Mapping[str, Array]) -> None:
        """Take the recipe and one sample of each stand-in, by ensemble tensor; those not needed may be missing."""
        self._recipe, self._stand_ins = recipe, dict(stand_ins)
        self._branches: dict[str, Branch] = branches(recipe)
        self._detections = {name: detection(recipe, branch) for name, branch in self._branches.items()}
        self._presence = presence_tensors(recipe)
        self._required = [name for name in recipe.inputs if name not in self._branches]

    @classmethod
    def of(cls, task: Task) -> Modalities:
        """Return those of a step, with the stand-ins that it was given."""
        artifact = task.artifacts.get(STAND_INS)
        return cls(task.recipe, {} if artifact is None else read_stand_ins(artifact))

    @property
    def branches(self) -> Mapping[str, Branch]:
        """The branch of each optional input."""
        return self._branches

    def sent(self, name: str, feeds: Collection[str]) -> bool:
        """Say whether samples have an optional input, by the tensors that they hold: all that components read of it."""
        return all(tensor in feeds for tensor in self._branches[name].sources)

    def without(self, samples: Samples, absent: Collection[str]) -> Samples:
        """Return samples with some optional inputs left out, and what steps make of them."""
        return samples.without(left_out(self._recipe, absent))

    @property
    def presence(self) -> Mapping[str, str]:
        """The presence tensor of each optional input that names one."""
        return self._presence

    def stand_in(self, tensor: str) -> Array:
        """Return one sample of what stands in for an embedding."""
        return self._stand_ins[tensor]

    @property
    def subsets(self) -> tuple[Subset, ...]:
        """The subsets of modalities that the recipe declares; none where no stand-in is known."""
        return subsets(self._recipe) if self._stand_ins else ()

    def skipped(self, absent: Collection[str]) -> frozenset[str]:
        """Return the components that are not run where some inputs are missing."""
        return frozenset(component for name in absent for component in self._branches[name].components)

    def complete(self, feeds: Mapping[str, Array], absent: Collection[str] = ()) -> dict[str, Array]:
        """Return what components are given of samples that all lack the same inputs, and that none of them computes.

        Args:
            feeds: What was sent, batch on axis 0.
            absent: Inputs that are missing, sent or not.
        """
        rows = len(next(iter(feeds.values())))
        lacked = left_out(self._recipe, absent)
        tensors = {name: array for name, array in feeds.items() if name not in lacked}
        for name in absent:
            tensors |= {tensor: self._standing(tensor, rows) for tensor in self._branches[name].embeddings}
        for name, tensor in self._presence.items():
            tensors[tensor] = np.full((rows, 1), name not in absent)
        return tensors

    def patterns(self, feeds: Mapping[str, Array], first: int | None = None) -> Iterator[tuple[Rows, frozenset[str]]]:
        """Give the rows that lack the same inputs, and those inputs: not sent, or nothing is in them.

        Args:
            feeds: What was sent, batch on axis 0.
            first: Number of the first sample where samples are to lack the inputs of the recipe's subsets in turns, so
                that half of them are whole and each subset has its share of the rest; None leaves them as they are.
        """
        there = feeds[PRESENT] if PRESENT in feeds else self.holds(feeds)
        if first is not None and self.subsets:
            there &= self._turns(first, there)
        names = np.array([*self._branches], dtype=object)
        for pattern in np.unique(there, axis=0)[::-1]:
            yield np.flatnonzero((there == pattern).all(axis=1)), frozenset(names[~pattern].tolist())

    def holds(self, feeds: Mapping[str, Array]) -> npt.NDArray[np.bool_]:
        """Say of each row [rows, optional inputs] whether it has the input, and something is in it."""
        rows = len(next(iter(feeds.values())))
        there = np.ones((rows, len(self._branches)), dtype=bool)
        for index, (name, found) in enumerate(self._detections.items()):
            if not self.sent(name, feeds):
                there[:, index] = False
                continue
            for tensor, asked in ((name, found.sent), (found.tensor, found.made)):
                if asked and tensor is not None and tensor in feeds:
                    there[:, index] &= holds_something(feeds[tensor], asked)
        return there

    def held(self, samples: Samples) -> npt.NDArray[np.bool_]:
        """Say of each sample [samples, optional inputs] whether it has the input, and something is in it."""
        there = np.zeros((samples.count, len(self._branches)), dtype=bool)
        for rows in samples.groups():
            taken = samples.take(rows)
            there[rows] = self.holds(taken) if taken else False
        return there

    def answerable(self, samples: Samples) -> npt.NDArray[np.bool_]:
        """Say of each sample whether a request can be made of it: it must hold something."""
        answerable: npt.NDArray[np.bool_] = self.held(samples).any(axis=1) | bool(self._required)
        return answerable

    def _turns(self, first: int, there: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Leave out in every second row what a subset leaves out, as long as something is left of it."""
        left, names, declared = np.ones_like(there), [*self._branches], self.subsets
        for row in range(len(there)):
            number = first + row
            if number % 2:
                for name in declared[number // 2 % len(declared)].without:
                    left[row, names.index(name)] = False
        if not self._required:
            left[~(there & left).any(axis=1)] = True
        return left

    def run(self, chain: TorchChain, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Answer a batch of samples as the model does where inputs are missing.

        Args:
            chain: The whole model.
            feeds: What was sent; an optional input may be left out.

        Returns:
            What the components wrote, what stands in for that, and presence, by ensemble tensor.
        """
        found = self.through(lambda given, without: given | chain.run(given, without=without), feeds)
        given = {*self._recipe.inputs, *self._recipe.sources()}
        return {name: array for name, array in found.items() if name not in given}

    def marked(self, samples: Samples, *, in_turns: bool = False) -> Samples:
        """Return samples with a column, `PRESENT`, that says which inputs each has; as they are where none may miss.

        Args:
            samples: Any.
            in_turns: Whether they are to lack the inputs of the recipe's subsets in turns, as of `patterns`.
        """
        if not self._branches:
            return samples
        there = self.held(samples)
        if in_turns and self.subsets:
            there &= self._turns(0, there)
        return Samples({**samples, PRESENT: there})

    def dropped(self, there: npt.NDArray[np.bool_], rate: float, random: np.random.Generator) -> npt.NDArray[np.bool_]:
        """Return which inputs rows have when a share of them lacks what one of the subsets leaves out, drawn evenly."""
        left, names, declared = there.copy(), [*self._branches], subsets(self._recipe)
        for row in np.flatnonzero(random.random(len(there)) < rate) if declared else ():
            absent = declared[int(random.integers(len(declared)))].without
            left[row, [names.index(name) for name in absent]] = False
            if not self._required and not left[row].any():
                left[row] = there[row]
        return left

    def through(
        self,
        run: Callable[[dict[str, Array], Collection[str]], dict[str, Array]],
        feeds: Mapping[str, Array],
        first: int | None = None,
    ) -> dict[str, Array]:
        """Run a batch of samples, those that lack the same inputs together.

        Args:
            run: Takes what is given, and the components that are not run; returns that with what the others write.
            feeds: What was sent; with `PRESENT`, tensors that were computed from that before.
            first: As for `patterns`.

        Returns:
            All tensors, by name. What a component writes that was not run for a row is zeros there.
        """
        if not self._branches:
            return run(dict(feeds), ())
        rows = len(next(iter(feeds.values())))
        together: dict[str, Array] = {}
        for chosen, absent in self.patterns(feeds, first):
            some = feeds if len(chosen) == rows else {name: array[chosen] for name, array in feeds.items()}
            found = run(self.complete(some, absent), self.skipped(absent))
            if len(chosen) == rows:
                return found
            for tensor, array in found.items():
                together.setdefault(tensor, np.zeros((rows, *array.shape[1:]), array.dtype))[chosen] = array
        return together

    def _standing(self, tensor: str, rows: int) -> Array:
        one = self._stand_ins[tensor]
        return np.broadcast_to(one, (rows, *one.shape)).copy()


def read_stand_ins(artifact: Artifact) -> dict[str, Array]:
    """Return what the ``original/stand_ins`` step made: one sample a tensor, by ensemble tensor."""
    with np.load(artifact.path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}
