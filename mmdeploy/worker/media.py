"""What a recipe's ``preprocess`` and ``postprocess`` make of samples, by the very code that serves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mmdeploy.core.artifact import Array, TensorSpec
from mmdeploy.core.errors import DataError, EnvironmentUnfitError
from mmdeploy.core.samples import column_of
from mmdeploy.preprocess import Pipeline, RefusedError
from mmdeploy.recipe.media import MediaStep, in_order

if TYPE_CHECKING:
    from mmdeploy.recipe.schema import Recipe


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

    def __call__(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Return the sources of one sample.

        Raises:
            DataError: If a method refuses the sample, as the server would.
        """
        try:
            found = self.pipeline.sample(feed)
        except RefusedError as error:
            raise DataError(f"input {error}", hint="the served ensemble refuses it too: leave it out") from error
        except ImportError as error:
            raise _missing(error) from error
        return {spec.name: found[spec.name] for spec in self.sources}


def preparation(recipe: Recipe) -> Preparation | None:
    """Return what prepares a recipe's samples; None where clients send what components read."""
    return Preparation(recipe) if recipe.preprocess else None


def postprocessed(recipe: Recipe, tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Return columns of what components write, with what ``postprocess`` makes of them.

    Raises:
        DataError: If a method refuses a sample.
    """
    found = dict(tensors)
    if not recipe.postprocess:
        return found
    pipeline = _opened(recipe, recipe.postprocess)
    for one in pipeline.methods:
        rows = zip(*(found[tensor] for tensor in one.inputs.values()), strict=True)
        try:
            answers = [one.sample(dict(zip(one.inputs.values(), row, strict=True))) for row in rows]
        except RefusedError as error:
            raise DataError(f"postprocess: {error}") from error
        for tensor in one.outputs.values():
            found[tensor] = column_of([answer[tensor] for answer in answers])
    return found


def _opened(recipe: Recipe, steps: Mapping[str, MediaStep]) -> Pipeline:
    described = [steps[name].described() for name in in_order(steps)]
    try:
        return Pipeline.from_json(described, recipe.root)
    except ImportError as error:
        raise _missing(error) from error
    except (OSError, ValueError) as error:
        raise DataError(str(error)) from error


def _missing(error: ImportError) -> EnvironmentUnfitError:
    return EnvironmentUnfitError(
        f"preprocess: {error}", hint="pip install 'multimodal-deploy[media]' holds what the methods need"
    )
