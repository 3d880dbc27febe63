"""What the PyTorch model answers early by a recipe's cascade, decided by the code that decides in the server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from mmdeploy.core.artifact import Array
from mmdeploy.core.errors import ModelError
from mmdeploy.core.samples import Samples
from mmdeploy.recipe.cascade import Cascade
from mmdeploy.triton.steps.condition import ConditionError, asks_further, entropies_of, tensors_of
from mmdeploy.worker.media import postprocessed

if TYPE_CHECKING:
    from mmdeploy.recipe.schema import Recipe

#: How far from 1 shares may sum, as a model's own softmax in lower precision does.
_SHARES_SUM_WITHIN = 0.02


def answered_early(recipe: Recipe, tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Return early answers of all samples, by output of the ensemble, and which samples leave early.

    Args:
        recipe: With a cascade or without; without, nothing is answered early.
        tensors: What the components write: columns by ensemble tensor.

    Raises:
        ModelError: If the condition is no truth a sample, or takes the entropy of what are no shares, or if an early
            answer is not what it answers for.
    """
    cascade = recipe.cascade
    if cascade is None:
        return {}
    _require_alike(cascade, tensors)
    _require_shares(cascade, tensors)
    answers = {output: tensors[early] for output, early in cascade.answers.items()}
    found = postprocessed(recipe, {**tensors, **answers})
    return {name: found[name] for name in recipe.outputs} | {cascade.left_early: leaving(cascade, tensors)[:, None]}


def leaving(cascade: Cascade, tensors: Mapping[str, Array]) -> Array:
    """Say of each sample whether it leaves early [samples].

    Raises:
        ModelError: If the condition is no truth a sample.
    """
    read = Samples({name: tensors[name] for name in tensors_of(cascade.when)})
    left = np.zeros(read.count, dtype=bool)
    for rows in read.groups():
        try:
            left[rows] = ~asks_further(cascade.when, read.take(rows))
        except ConditionError as error:
            raise ModelError(f"cascade.when: `{cascade.when}` {error}") from error
    return left


def _require_shares(cascade: Cascade, tensors: Mapping[str, Array]) -> None:
    """Refuse an entropy of scores: it is a number, and says nothing of how sure they are."""
    read = Samples({name: tensors[name] for name in tensors_of(cascade.when)})
    for rows in read.groups():
        try:
            taken = entropies_of(cascade.when, read.take(rows))
        except ConditionError:
            return  # told where the condition is decided
        for text, values in taken.items():
            values = values[np.isfinite(values).all(axis=-1)]
            sums, least = values.sum(axis=-1), values.min(axis=-1, initial=0.0)
            wrong = (abs(sums - 1.0) > _SHARES_SUM_WITHIN) | (least < 0)
            if wrong.any():
                raise ModelError(
                    f"cascade.when: `{cascade.when}` takes the entropy of `{text}`, and its values are no shares: they "
                    f"sum to {sums.min():.4g} to {sums.max():.4g}, the least is {least.min():.4g}",
                    hint=f"say entropy(softmax({text})) where these are scores of classes",
                )


def _require_alike(cascade: Cascade, tensors: Mapping[str, Array]) -> None:
    for output, early in cascade.answers.items():
        ours, theirs = (Samples({"tensor": tensors[name]}).take(np.array([0]))["tensor"] for name in (early, output))
        if (ours.dtype, ours.shape) != (theirs.dtype, theirs.shape):
            shown = f"{ours.dtype} {list(ours.shape[1:])}, and {output!r} {theirs.dtype} {list(theirs.shape[1:])}"
            raise ModelError(
                f"cascade.answers.{output}: {early!r} is {shown}",
                hint="one answers for the other, so they must be alike",
            )
