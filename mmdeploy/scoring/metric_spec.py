"""Which metric a recipe asks for: plain data, checked as far as it can be without running code."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mmdeploy.core.errors import did_you_mean
from mmdeploy.scoring.arguments import Arguments
from mmdeploy.scoring.builtin import METRICS

#: What names a metric that is not built in.
REFERENCE = r"^([^:]+\.py|[A-Za-z_][A-Za-z0-9_.]*):[A-Za-z_][A-Za-z0-9_]*$"


@dataclass(frozen=True)
class MetricSpec:
    """A metric by name, with all that the recipe says of it.

    Attributes:
        metric: A built-in metric's name; or a reference: ``metrics.py:wer``, ``package.module:name``.
        outputs: The ensemble's outputs that it sees; the first is the one that answers are compared by elsewhere.
        arguments: For the metric, as JSON values.
        larger_is_better: What the recipe says of the direction; None leaves it to the metric.
        named: Whether the recipe names the outputs: then they are part of the metric's name.
    """

    metric: str
    outputs: tuple[str, ...]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    larger_is_better: bool | None = None
    named: bool = False

    @property
    def is_built_in(self) -> bool:
        """Whether mmdeploy brings it."""
        return self.metric in METRICS

    @property
    def is_own(self) -> bool:
        """Whether it is code of the recipe or of a package of its own: neither ours nor one of torchmetrics."""
        return not self.is_built_in and not self.metric.startswith("torchmetrics.")

    @property
    def files(self) -> tuple[Path, ...]:
        """Files that the arguments name, relative to the recipe's folder."""
        return arguments_of(self.metric, self.arguments).files if self.is_built_in else ()

    @property
    def compares(self) -> str:
        """What its outputs are to distillation: class ``scores``, or ``values`` such as embeddings; empty: unknown."""
        return METRICS[self.metric].compares if self.is_built_in else ""

    def identity(self) -> dict[str, str]:
        """Return what decides its scores, by labels that a person understands; the code behind it excepted."""
        said = {
            "metric": self.metric,
            "metric arguments": json.dumps(self.arguments, sort_keys=True) if self.arguments else "",
            "metric direction": "" if self.larger_is_better is None else str(self.larger_is_better),
            "scored output": ", ".join(self.outputs),
        }
        return {label: text for label, text in said.items() if text}


def spec_of(
    metric: str,
    ensemble_outputs: Sequence[str],
    *,
    outputs: Sequence[str] | None = None,
    arguments: Mapping[str, Any] | None = None,
    larger_is_better: bool | None = None,
) -> MetricSpec:
    """Return the metric that a recipe asks for.

    Where it names no outputs, a metric from a file or package sees all of the ensemble's, a built-in one and one of
    torchmetrics the first.
    """
    first_only = metric in METRICS or metric.startswith("torchmetrics.")
    seen = tuple(outputs) if outputs else tuple(ensemble_outputs[:1] if first_only else ensemble_outputs)
    return MetricSpec(metric, seen, dict(arguments or {}), larger_is_better, named=outputs is not None)


def check_metric(metric: str) -> str:
    """Check that a metric's name is a built-in's, or a reference.

    Raises:
        ValueError: If it is neither.
    """
    if metric in METRICS or re.match(REFERENCE, metric):
        return metric
    raise ValueError(
        f"no metric is called {metric!r}; {did_you_mean(metric, METRICS)}; or name one of your own as "
        "path.py:callable (beside the recipe) or package.module:callable, such as "
        "torchmetrics.retrieval:RetrievalRecall"
    )


def arguments_of(metric: str, arguments: Mapping[str, Any]) -> Arguments:
    """Return a built-in metric's arguments.

    Raises:
        ValueError: If it does not take them; naming the first that is wrong.
    """
    accepted = METRICS[metric].arguments
    try:
        return accepted.model_validate_json(json.dumps(dict(arguments)))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        if first["type"] == "extra_forbidden":
            raise ValueError(
                f"{metric} has no argument {name!r}; {did_you_mean(name, accepted.model_fields)}"
            ) from None
        raise ValueError(f"argument {name} of {metric}: {first['msg']}, got {first['input']!r}") from None
