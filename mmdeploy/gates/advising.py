"""What several gates advise: on answers that differ too much, and on measurements that do not settle.

Advice is about what was done: a gate notes the passes of the components in its details, and what was not done is not
blamed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from mmdeploy.core.contracts import Evidence, GateResult, Verdict

MORE_SAMPLES = "the interval straddles the limit; give more evaluation samples"
MEASURE_AGAIN = "run again on a quiet machine, or measure longer"
#: Key in details: the passes of each component as it ships.
PASSES = "passes"


def passes(evidence: Evidence) -> dict[str, list[str]]:
    """Return the passes of each component as details hold them."""
    return {component.name: list(component.passes) for component in evidence.components}


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
    return "; ".join(_by_pass(blamed))


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
