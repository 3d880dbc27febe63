"""The ``data/…`` steps: the recipe's calibration, validation and evaluation sets, each made once a build."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mmdeploy import gates
from mmdeploy.core.artifact import Artifact, file_sha256
from mmdeploy.core.contracts import Progress, method_of
from mmdeploy.data.contents import INDEX
from mmdeploy.data.recording import Request, record
from mmdeploy.planning.steps import DATA_SETS
from mmdeploy.recipe.media import may_be_constant
from mmdeploy.recipe.modalities import left_out, optional_inputs
from mmdeploy.worker.feeds import client_inputs, sample_set
from mmdeploy.worker.library_threads import library_threads
from mmdeploy.worker.media import preparation
from mmdeploy.worker.task import Task

if TYPE_CHECKING:
    from mmdeploy.recipe.schema import Recipe

_EMPTY_HINTS = {
    "calibration": "calibration needs at least one; 100 to 500 do",
    "evaluation": "evaluation needs samples to judge on",
    "validation": "validation needs samples to choose by",
}


def record_samples(task: Task, workdir: Path, progress: Progress) -> Artifact:
    """Call one of the recipe's data callables, check what it gives, and write it down."""
    recipe = task.recipe
    key = next(key for key, step_id in DATA_SETS.items() if step_id == task.step.id)
    specs, ranges = client_inputs(recipe)
    judged_on = sample_set(task, "evaluation")
    request = Request(
        reference=str(getattr(recipe.data, key)),
        root=recipe.root,
        specs=specs,
        ranges=ranges,
        limit=task.step.options.get("samples"),
        calibration=key == "calibration",
        for_ranges=not task.step.options.get("only_examples"),
        unlike=() if judged_on is None else (judged_on.seen,),
        labels_for=_judged_by_labels(recipe) if key == "evaluation" else None,
        empty_hint=_EMPTY_HINTS[key],
        max_gib=recipe.data.max_gib,
        prepare=preparation(recipe),
        optional=_may_lack(recipe) if key == "evaluation" else (),
        constant=may_be_constant(recipe.preprocess),
    )
    with library_threads(task.threads):
        facts = record(request, workdir, progress)
    path = workdir / INDEX
    beside = tuple(sorted(file.name for file in workdir.iterdir() if file != path))
    return Artifact("samples", path, file_sha256(path), specs, (), "samples", facts, beside)


def _may_lack(recipe: Recipe) -> frozenset[str]:
    """Return what a sample for the gates may lack, before and behind steps: examples are made of whole samples."""
    return frozenset() if recipe.data.calibration is None else left_out(recipe, optional_inputs(recipe))


def _judged_by_labels(recipe: Recipe) -> str | None:
    """Name a gate that needs labels: it is said now, and not when everything has been built and is served."""
    needing = (gate for gate in recipe.gates if gates.METHODS.of(gate).NEEDS_LABELS)
    return next((f"the {method_of(gate)} gate" for gate in needing), None)
