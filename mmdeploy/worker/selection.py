"""The ``select`` step: what a component ships, chosen by measuring."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmdeploy import engines
from mmdeploy.choice import choose
from mmdeploy.choice.candidates import Candidate
from mmdeploy.choice.options import AutoEngine, MustPay
from mmdeploy.core.artifact import Artifact
from mmdeploy.core.contracts import MethodOptions, Progress
from mmdeploy.engines import onnxruntime
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
        _candidate(one, built[one["label"]], engines.METHODS.read(one["engine"], task.recipe.root), rank)
        for rank, one in enumerate(options["candidates"])
        if one["label"] not in refused
    ]
    recipe = task.recipe
    needs = {key for key in ("calibration", "validation") if getattr(recipe.data, key) is not None}
    context = step_context(task, workdir, progress, needs=frozenset(needs))
    return choose.run(found, rules, context, left_out={**options["left_out"], **refused})


def _candidate(planned: Mapping[str, Any], built: Artifact, engine: MethodOptions, rank: int) -> Candidate:
    as_judged = isinstance(engine, onnxruntime.Options) and engine.provider == "cpu" and engine.graph_level == "all"
    return Candidate(
        label=planned["label"],
        artifact=built,
        engine=engine,
        graph=planned["graph"],
        compressed=planned["compressed"],
        simplicity=rank,
        original=as_judged and planned["graph"] == "float" and not planned["compressed"],
    )
