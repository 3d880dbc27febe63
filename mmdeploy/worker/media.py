"""What a recipe's ``preprocess`` and ``postprocess`` make of samples, by the very code that serves.

What the steps read is known from the recipe: it counts as read by them, and not by whatever of the recipe ran before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mmdeploy.core.artifact import Array, TensorSpec
from mmdeploy.core.errors import DataError, EnvironmentUnfitError
from mmdeploy.core.samples import column_of
from mmdeploy.model.passing_over import passing_over
from mmdeploy.model.sources import describe
from mmdeploy.preprocess import Own, Pipeline, RefusedError, WiredMethod
from mmdeploy.recipe.media import MediaStep, OwnStep, in_order
from mmdeploy.recipe.modalities import Branch, Detection, branches, detection
from mmdeploy.triton.steps.modalities import holds_something

if TYPE_CHECKING:
    from mmdeploy.recipe.schema import Recipe


#: What methods import, by the names they are imported under.
_OF_METHODS = {"PIL", "av", "faiss", "soundfile", "soxr", "tokenizers"}


class Preparation:
    """Makes of what a client sends what components read.

    Attributes:
        pipeline: The methods.
        sources: What components read from outside.
    """

    def __init__(self, recipe: Recipe) -> None:
        """Load the methods.

        Raises:
            DataError: If a file of theirs is not what they take.
            EnvironmentUnfitError: If a package is missing.
        """
        self.pipeline = _opened(recipe, recipe.preprocess)
        self.sources: tuple[TensorSpec, ...] = recipe.source_specs
        self._names = in_order(recipe.preprocess)
        self._root = recipe.root
        self._branches: dict[str, tuple[Branch, Detection]] = {
            name: (branch, detection(recipe, branch)) for name, branch in branches(recipe).items() if branch.steps
        }

    def __call__(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Return the sources of one sample; those of an input that is missing, or counts as it, are not there.

        Raises:
            DataError: If a method refuses the sample, as the server would, or the recipe's own code fails.
        """
        try:
            with passing_over():
                found = self.tensors(feed)
        except RefusedError as error:
            raise DataError(f"input {error}", hint="the served ensemble refuses it too: leave it out") from error
        except ImportError as error:
            raise _missing(error) from error
        return {spec.name: found[spec.name] for spec in self.sources if spec.name in found}

    def tensors(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Return all tensors before the components that can be had of a sample."""
        sent = {name: found.sent for name, (_, found) in self._branches.items()}
        found = {name: array for name, array in feed.items() if holds_something(array[None], sent.get(name, {})).all()}
        for name, one in zip(self._names, self.pipeline.methods, strict=True):
            if not all(tensor in found for tensor in one.inputs.values()):
                continue
            try:
                with _own_code(f"preprocess.{name}", one, self._root):
                    found |= one.sample(found)
            except RefusedError:
                if (missing := self._forgiven(name)) is None:
                    raise
                found = _without(found, missing)
        for branch, asked in self._branches.values():
            if asked.tensor in found and not holds_something(found[asked.tensor][None], asked.made).all():
                found = _without(found, branch)
        return found

    def _forgiven(self, step: str) -> Branch | None:
        """Return the branch whose input counts as missing where a step refuses it."""
        return next(
            (branch for branch, asked in self._branches.values() if asked.invalid and step in branch.steps), None
        )


def _without(tensors: Mapping[str, Array], branch: Branch) -> dict[str, Array]:
    return {name: array for name, array in tensors.items() if name not in (branch.input, *branch.made)}


def preparation(recipe: Recipe) -> Preparation | None:
    """Return what prepares a recipe's samples; None where clients send what components read."""
    return Preparation(recipe) if recipe.preprocess else None


def postprocessed(recipe: Recipe, tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Return columns of what components write, with what ``postprocess`` makes of them.

    Raises:
        DataError: If a method refuses a sample, or the recipe's own code fails.
    """
    found = dict(tensors)
    if not recipe.postprocess:
        return found
    pipeline = _opened(recipe, recipe.postprocess)
    for name, one in zip(in_order(recipe.postprocess), pipeline.methods, strict=True):
        rows = zip(*(found[tensor] for tensor in one.inputs.values()), strict=True)
        try:
            with passing_over(), _own_code(f"postprocess.{name}", one, recipe.root):
                answers = [_answer(one, row) for row in rows]
        except RefusedError as error:
            raise DataError(f"postprocess.{name}: {error}") from error
        for tensor in one.outputs.values():
            found[tensor] = column_of([None if answer is None else answer[tensor] for answer in answers])
    return found


def _answer(method: WiredMethod, row: Sequence[Array | None]) -> dict[str, Array] | None:
    """Return what a method makes of a sample; nothing where nothing was answered."""
    given = {tensor: array for tensor, array in zip(method.inputs.values(), row, strict=True) if array is not None}
    return method.sample(given) if len(given) == len(row) else None


@contextmanager
def _own_code(place: str, method: WiredMethod, root: Path) -> Iterator[None]:
    """Tell what a function of the recipe's own raises, or gives that is not what is declared, as its fault."""
    try:
        yield
    except (RefusedError, ImportError):
        raise
    except Exception as cause:
        if not isinstance(own := method.method, Own):
            raise
        if str(cause).startswith(own.reference):  # it gave what is not declared
            raise DataError(f"{place}: {cause}") from cause
        told = f"{own.reference}: {describe(cause, root)}"
        raise DataError(f"{place}: {told}", hint="a ValueError refuses one sample, in its words") from cause


def _opened(recipe: Recipe, steps: Mapping[str, MediaStep]) -> Pipeline:
    described = [steps[name].described() for name in in_order(steps)]
    try:
        with passing_over():
            return Pipeline.from_json(described, recipe.root)
    except ImportError as error:
        raise _missing(error) from error
    except (OSError, ValueError) as error:
        raise DataError(str(error)) from error
    except Exception as error:
        if not any(isinstance(step, OwnStep) for step in steps.values()):
            raise
        raise DataError(f"a step's own code cannot be imported: {describe(error, recipe.root)}") from error


def _missing(error: ImportError) -> EnvironmentUnfitError:
    top = (error.name or "").partition(".")[0]
    hint = "pip install 'multimodal-deploy[media]' holds what the methods need"
    if top not in _OF_METHODS:
        hint = f"install what gives {top or 'it'}, or put it beside the recipe where it is a module of your own"
    return EnvironmentUnfitError(f"a step of preprocess or postprocess: {error}", hint=hint)
