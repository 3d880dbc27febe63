"""What gates are told of inputs that may be missing: which samples a component is asked for, and the subsets."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from mmdeploy.core.contracts import EvidenceSubset, Samples
from mmdeploy.core.samples import column_of
from mmdeploy.data.columns import load_column
from mmdeploy.recipe.modalities import branches, sees_stand_ins, subsets
from mmdeploy.recipe.wiring import topological_order
from mmdeploy.triton.steps import modalities
from mmdeploy.worker.modalities import Modalities
from mmdeploy.worker.original_outputs import SUBSETS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mmdeploy.core.artifact import Array, Artifact
    from mmdeploy.recipe.schema import Recipe

#: What reports call requests whose rows lack other inputs each.
MIXED = "mixed rows"


def samples_asked(recipe: Recipe, feeds: Samples) -> dict[str, Array]:
    """Return the indices of the samples that each component of a branch is run for, where that is not all."""
    there = Modalities(recipe, {}).held(feeds)
    found: dict[str, Array] = {}
    for column, branch in zip(there.T, branches(recipe).values(), strict=True):
        if not column.all():
            found |= dict.fromkeys(branch.components, np.flatnonzero(column))
    return found


def evidence_subsets(recipe: Recipe, feeds: Samples, original: Artifact) -> tuple[EvidenceSubset, ...]:
    """Open what the PyTorch model answered where a subset of the modalities is missing.

    Args:
        recipe: The recipe.
        feeds: The evaluation samples.
        original: What the ``original/outputs`` step made.
    """
    folder, found_in = original.path.parent, Modalities(recipe, {})
    recorded = json.loads(original.path.read_text(encoding="utf-8")).get(SUBSETS, {})
    changed = tuple(name for name in topological_order(recipe.components) if sees_stand_ins(recipe, name))
    found = []
    for subset in subsets(recipe):
        answerable = found_in.answerable(found_in.without(feeds, subset.without))
        columns = {name: load_column(folder, entry) for name, entry in recorded[subset.label].items()}
        samples = None if answerable.all() else np.flatnonzero(answerable)
        found.append(EvidenceSubset(subset.label, subset.without, columns, changed, samples))
    return tuple(found)


def mixed_rows(
    recipe: Recipe, feeds: Samples, whole: Mapping[str, Array], subsets: Sequence[EvidenceSubset]
) -> EvidenceSubset | None:
    """Return requests in which each second row is whole, and the others lack what the subsets leave out, in turns.

    Args:
        recipe: The recipe.
        feeds: The evaluation samples; those that lack nothing themselves are asked.
        whole: What the PyTorch model gives on them, by ensemble tensor.
        subsets: What it gives where inputs are missing.
    """
    rows = np.flatnonzero(Modalities(recipe, {}).held(feeds).all(axis=1))
    if not subsets or not len(rows):
        return None
    turns = [None if turn % 2 == 0 else subsets[turn // 2 % len(subsets)] for turn in range(len(rows))]
    answered: list[Mapping[str, Array]] = [whole] * feeds.count
    for row, one in zip(rows.tolist(), turns, strict=True):
        answered[row] = whole if one is None else one.original
    original = {
        name: column_of([columns[name][row] for row, columns in enumerate(answered)]) for name in recipe.outputs
    }
    marks = {
        modalities.marker(name): np.array([[one is None or name not in one.without] for one in turns])
        for name in branches(recipe)
    }
    return EvidenceSubset(MIXED, (), original, (), rows, marks)
