"""What several gates advise: on answers that differ too much, and on measurements that do not settle.

Advice is about what was done: a gate notes the passes of the components in its details, and what was not done is not
blamed.
"""

from __future__ import annotations

import glob
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmdeploy.core.contracts import Evidence, GateResult, Verdict

MORE_SAMPLES = "the interval straddles the limit; give more evaluation samples"
MEASURE_AGAIN = "run again on a quiet machine, or measure longer"
#: Keys in details: the passes of each component as it ships, what INT8 leaves of it, and of its worst nodes alone.
PASSES, INT8_DB, WORST_NODES = "passes", "int8_sqnr_db", "worst_nodes"
#: Key in details: how many samples the ranges of each component come from.
CALIBRATED_ON = "calibrated_on"
#: Of fewer samples, ranges are too narrow for more than 2 % of all requests: see `_few`.
_FEW_SAMPLES = 100
#: So much below the others a component is the first suspect: ten times their noise.
_FAR_DB = 20.0


def done(evidence: Evidence) -> dict[str, Any]:
    """Return what was done to each component, and what INT8 took, as details hold it."""
    return {
        PASSES: {one.name: list(one.passes) for one in evidence.components},
        INT8_DB: {one.name: one.sqnr_db for one in evidence.components if one.sqnr_db is not None},
        CALIBRATED_ON: {one.name: one.calibrated_on for one in evidence.components if one.calibrated_on is not None},
        WORST_NODES: {one.name: dict(one.worst_nodes) for one in evidence.components if one.worst_nodes},
    }


def far_below(noise: Mapping[str, float | None]) -> dict[str, str]:
    """Return the components from which INT8 takes far more than from the others, with the figures in words.

    Args:
        noise: SQNR in dB that INT8 leaves of each component; None where it has no INT8.
    """
    known, found = {name: left for name, left in noise.items() if left is not None}, {}
    for name, left in known.items():
        others = [other for sibling, other in known.items() if sibling != name]
        middle = statistics.median(others) if others else left
        if left <= middle - _FAR_DB:
            found[name] = f"INT8 leaves {left:.1f} dB of it, and {middle:.1f} dB of the other components"
    return found


def advised(result: GateResult, *, failed: str, undecided: str | None = None) -> str | None:
    """Return the advice for a verdict; None where a failed check has no figure, since its note says why."""
    if result.verdict is Verdict.INCONCLUSIVE:
        return undecided
    missed = [check for check in result.checks if check.verdict is Verdict.FAIL]
    return failed if any(check.measured is not None for check in missed) else None


def lose_less(result: GateResult, components: Sequence[str] = ()) -> str:
    """Say what loses less, and which command finds it.

    Args:
        result: Its details hold the passes of the components.
        components: Those that are at fault; all when empty.
    """
    done: Mapping[str, Sequence[str]] = result.details.get(PASSES, {})
    blamed = {name: found for name, found in done.items() if found and (not components or name in components)}
    if not blamed:
        named = f" ({', '.join(components)})" if components else ""
        return (
            f"nothing here was pruned or quantized{named}: the graph as it was exported, or its engine, differs from "
            "PyTorch; `mmdeploy debug RECIPE COMPONENT` names the first tensor that does"
        )
    few = {name: count for name, count in result.details.get(CALIBRATED_ON, {}).items() if name in blamed}
    return "; ".join([*_few(few), *_suspects(blamed, result.details), *_by_pass(blamed)])


def _few(counts: Mapping[str, int]) -> Iterator[str]:
    """Say whose ranges rest on few samples, and how many requests are beyond these.

    Of n + 1 samples like each other the last has the largest value of a tensor with a chance of 1 in n + 1, and as much
    for the smallest. What is beyond a range, and the room that the calibrator leaves, is clipped by as much.
    """
    for count in sorted({*counts.values()}):
        if count < _FEW_SAMPLES:
            names = ", ".join(name for name, found in counts.items() if found == count)
            yield (
                f"ranges in {names} come from {count} samples, and what lies far beyond them is clipped: up to 1 "
                f"request in {(count + 1) // 2} is beyond them in any given tensor; give `calibration` more, 100 to 500"
            )


def _suspects(blamed: Mapping[str, Sequence[str]], details: Mapping[str, Any]) -> Iterator[str]:
    """Say which component to look at first, and which node of each loses most by itself."""
    for name, told in far_below(details.get(INT8_DB, {})).items():
        if name in blamed:
            yield f"look at {name} first: {told}"
    nodes: Mapping[str, Mapping[str, float]] = details.get(WORST_NODES, {})
    for name in blamed:
        if nodes.get(name):
            node, left = min(nodes[name].items(), key=lambda one: one[1])
            yield (
                f"the node of {name} that loses most by itself is {node} ({left:.1f} dB): "
                f'`exclude: ["{glob.escape(node)}"]` leaves it in float'
            )


def _by_pass(blamed: Mapping[str, Sequence[str]]) -> Iterator[str]:
    def with_any(*starts: str) -> str:
        return ", ".join(name for name, found in blamed.items() if any(one.startswith(starts) for one in found))

    ranged, quantized = with_any("quantize static", "quantize auto"), with_any("quantize")
    if quantized:
        searches = "" if quantized == with_any("quantize auto") else ", or let `quantize: {method: auto}` find them"
        yield (
            f"INT8 in {quantized}: `mmdeploy sensitivity RECIPE --component NAME` ranks the nodes by what they cost: "
            f"name the first in `exclude`{searches}; `mmdeploy debug RECIPE NAME` names the first tensor that is off"
        )
    if ranged:
        yield f"ranges in {ranged}: try `equalize`, another `calibrator`, or more `samples`"
    if trained := with_any("quantize qat"):
        yield f"trained INT8 in {trained}: more `epochs`, or another `learning_rate`"
    if pruned := with_any("prune"):
        yield f"pruned {pruned}: a smaller `ratio`, or more `epochs` of `recover`"
    if lower := with_any("precision"):
        yield f"engine of {lower}: `precision: fp32`"


def be_faster(result: GateResult) -> str:
    """Say what is faster."""
    done: Mapping[str, Sequence[str]] = result.details.get(PASSES, {})
    changed = [name for name, found in done.items() if found]
    if done and not changed:
        return (
            "nothing was compressed: candidate and reference run the same graphs, and neither can be much faster; "
            "`quantize`, `prune` or `engine: auto` give it something to be faster by"
        )
    of = f" of {', '.join(changed)}" if changed else ""
    return f"leave what does not pay{of} uncompressed (`keep: if_it_pays` measures it), or let `engine: auto` choose"
