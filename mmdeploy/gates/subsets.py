"""Judge subsets of the modalities: the same gate again, on requests that leave inputs out.

The original is asked without these inputs too, so what is judged is what compression does there, not what the missing
input costs: that is for the gate ``graceful``. A limit on the score itself is one of whole requests and is not judged
here. Parity judges requests that mix the subsets, row by row, too: an answer depends on no other row.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mmdeploy.core.contracts import Check, Evidence, EvidenceSubset, Gate, GateResult, MethodOptions, Samples
from mmdeploy.gates import accuracy, latency, parity
from mmdeploy.scoring import ask

#: Key in a gate's details: what it found in each subset, by the subset's label.
SUBSETS = "subsets"


def judged(gate: Gate, options: MethodOptions, evidence: Evidence) -> GateResult:
    """Return what a gate found on whole requests and, if it judges subsets, on each that the recipe lists."""
    result = gate.check(options, evidence)
    if not evidence.subsets or not isinstance(result, GateResult):
        return result
    asked = _in_subset(options)
    if asked is None:
        return result
    checks, details = list(result.checks), dict[str, Any]()
    mixed = evidence.mixed if isinstance(asked, parity.Options) and parity.judges_ensemble(asked, evidence) else None
    for subset in (*evidence.subsets, *([] if mixed is None else [mixed])):
        found = gate.check(asked, of_subset(evidence, subset))
        checks += [_named(check, subset.label) for check in found.checks]
        details[subset.label] = dict(found.details)
    return replace(result, checks=tuple(checks), details={**result.details, SUBSETS: details})


def of_subset(evidence: Evidence, subset: EvidenceSubset) -> Evidence:
    """Return the evidence of requests that leave out some inputs: of the components those that this changes."""
    feeds = Samples.of(evidence.feeds).without(subset.without)
    original, labels = {**evidence.original, **subset.original}, evidence.labels
    if subset.samples is not None:
        feeds, original = feeds.select(subset.samples), ask.select(original, subset.samples)
        labels = None if labels is None else labels[subset.samples]
    feeds = feeds.replaced(subset.marks)
    return replace(
        evidence,
        feeds=feeds,
        original=original,
        labels=labels,
        components=tuple(part for part in evidence.components if part.name in subset.components),
        bounds=None,
        subsets=(),
        mixed=None,
    )


def _in_subset(options: MethodOptions) -> MethodOptions | None:
    """Return the options of a gate on a subset; None where it does not judge any."""
    if isinstance(options, accuracy.Options):
        if options.max_drop is None and options.max_relative_drop is None:
            return None
        return options.model_copy(update={"min": None, "max": None})
    if isinstance(options, latency.Options):
        return options.model_copy(update={"per_component": False})
    return options if isinstance(options, parity.Options) else None


def _named(check: Check, label: str) -> Check:
    return replace(check, name=f"{check.name} ({label})")
