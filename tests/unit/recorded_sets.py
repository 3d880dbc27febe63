"""A recipe's sets of samples, recorded as its build would record them."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from mmdeploy.core.artifact import Artifact
from mmdeploy.data.sample_sets import SampleSet
from mmdeploy.planning.kinds import SAMPLES
from mmdeploy.planning.steps import DATA_SETS, Step
from mmdeploy.recipe.schema import Recipe
from mmdeploy.worker.sample_steps import record_samples
from mmdeploy.worker.task import Task
from mmdeploy.worker.training_setup import HeldOut, RecipeTrainingSetup


def set_artifact(recipe: Recipe, key: str, folder: Path, samples: int | None = None) -> Artifact:
    """Record one of a recipe's sets below a folder; the validation set is held against the evaluation set."""
    judged = key == "validation" and recipe.data.evaluation is not None
    needs = {DATA_SETS["evaluation"]: set_artifact(recipe, "evaluation", folder)} if judged else {}
    place = folder / f"{key}-{samples}"
    place.mkdir(parents=True, exist_ok=True)
    step = Step(DATA_SETS[key], "data", SAMPLES.name, SAMPLES.name, {"samples": samples}, (), {})
    return record_samples(Task(step, recipe, folder, needs, 1), place, lambda *_: None)


def recorded_set(recipe: Recipe, key: str, folder: Path) -> SampleSet:
    """Record one of a recipe's sets below a folder and open it."""
    artifact = set_artifact(recipe, key, folder)
    return SampleSet.open(artifact.path.parent, str(getattr(recipe.data, key)))


def held_out(recipe: Recipe) -> HeldOut:
    """Record the sets that training is judged by."""
    with tempfile.TemporaryDirectory() as folder:  # the mapping keeps the files after they are gone
        validation = recorded_set(recipe, "validation", Path(folder))
        judged = recipe.data.evaluation is not None
        return HeldOut(validation, recorded_set(recipe, "evaluation", Path(folder)) if judged else None)


def training_setup(
    recipe: Recipe, component: str, torch_artifacts: Mapping[str, Artifact] = MappingProxyType({})
) -> RecipeTrainingSetup:
    """Set the model up around a component, with the recipe's own splits."""
    return RecipeTrainingSetup(recipe, component, held_out(recipe), torch_artifacts)
