"""The accepted build that a build is judged by besides its own gates, and what of it can be checked without building.

What else makes both incomparable, the machine and the samples, is known where it is built.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from mmdeploy.recipe.declared import Section
from mmdeploy.recipe.finding import Finding

LIMITS = ("max_drop", "max_relative_drop", "min_gain", "max_size_ratio", "max_latency_ratio")
_OF_ACCURACY = LIMITS[:3]


class Baseline(Section):
    """An accepted build, and what must be kept against it; at least one limit."""

    file: Path = Field(
        description="What mmdeploy baseline accept wrote, or the report.json of a build that passed.",
        examples=["baseline.json"],
    )
    max_drop: float | None = Field(None, ge=0.0, description="Largest loss of each accuracy metric, in its unit.")
    max_relative_drop: float | None = Field(
        None, ge=0.0, description="Largest loss of each accuracy metric, as a share of the baseline's score."
    )
    min_gain: float | None = Field(None, ge=0.0, description="Least gain of each accuracy metric, in its unit.")
    max_size_ratio: float | None = Field(None, gt=0.0, description="Bytes of all components over the baseline's.")
    max_latency_ratio: float | None = Field(
        None,
        gt=0.0,
        description="Latencies over the baseline's, each as a ratio to the FP32 reference of its own run; on the same "
        "hardware.",
    )

    @model_validator(mode="after")
    def _has_a_limit(self) -> Self:
        if not self.limits:
            raise ValueError(f"give at least one limit: {', '.join(LIMITS)}")
        return self

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are given, by name."""
        return {name: value for name in LIMITS if (value := getattr(self, name)) is not None}

    def __str__(self) -> str:
        return f"{self.file}, {', '.join(f'{name} {limit:g}' for name, limit in self.limits.items())}"


def findings(baseline: Baseline, name: str, gates: Iterable[str]) -> Iterator[Finding]:
    """Find limits that no gate measures anything for.

    Args:
        baseline: The section.
        name: The recipe's.
        gates: Methods of its gates.
    """
    methods = set(gates)
    for limit in baseline.limits:
        needed = "accuracy" if limit in _OF_ACCURACY else "latency" if limit == "max_latency_ratio" else ""
        if not methods:
            yield Finding(("baseline", limit), f"{name} has no gates: nothing of it is measured that could be compared")
        elif needed and needed not in methods:
            yield Finding(("baseline", limit), f"no gate measures it: add one with `method: {needed}` to gates")


def file_misfit(file: Path, name: str) -> str | None:
    """Say why a file that can be read is no baseline of a recipe; None where it may be one.

    Args:
        file: The file.
        name: The recipe's.
    """
    try:
        content = json.loads(file.read_bytes())
        version, built = content["schema_version"], content["recipe"]["name"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        version, built = None, None
    if not isinstance(version, int) or not isinstance(built, str):
        return f"{file.name!r} is no report of a build; `mmdeploy baseline accept --to {file.name}` writes one"
    if built != name:
        return f"{file.name!r} is the baseline of {built!r}, and this recipe is {name!r}; accept a build of it"
    return None
