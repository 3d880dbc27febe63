"""The ``select`` step: what a component ships, chosen by measuring."""

from __future__ import annotations

import json
from pathlib import Path

from mmdeploy import engines
from mmdeploy.choice import choose
from mmdeploy.choice.candidates import Candidate
from mmdeploy.choice.options import AutoEngine, MustPay
from mmdeploy.core.artifact import Artifact
from mmdeploy.core.contracts import Progress
from mmdeploy.plugins.registry import beside
from mmdeploy.worker.context import step_context
from mmdeploy.worker.refusal import reason
from mmdeploy.worker.task import Task


def select(task: Task, workdir: Path, progress: Progress) -> Artifact:
    """Measure the candidates and take the winner."""
    options = task.step.options
    rules_class = AutoEngine if task.step.method == "auto" else MustPay
    with beside(task.recipe.root):
        rules = rules_class.model_validate_json(json.dumps(options["rules"]))
    built = {one["label"]: task.artifacts[one["step"]] for one in options["candidates"]}
    refused = {label: why for label, one in built.items() if (why := reason(one)) is not None}
    found = [
        Candidate(
            label=one["label"],
            artifact=built[one["label"]],
            engine=engines.METHODS.read(one["engine"], task.recipe.root),
            graph=one["graph"],
            compressed=one["compressed"],
            simplicity=rank,
        )
        for rank, one in enumerate(options["candidates"])
        if one["label"] not in refused
    ]
    recipe = task.recipe
    needs = {key for key in ("calibration", "validation") if getattr(recipe.data, key) is not None}
    context = step_context(task, workdir, progress, needs=frozenset(needs))
    return choose.run(found, rules, context, left_out={**options["left_out"], **refused})
