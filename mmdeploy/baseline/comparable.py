"""What of two builds can be compared: each difference between them is refused for what it makes incomparable.

=============================  ==============================================================
not the same                   cannot be compared
=============================  ==============================================================
recipe (its name)              anything
evaluation samples             accuracy
arithmetic of the machine      accuracy: INT8 sums saturate on a CPU without dot products, and BF16 is FP32 there
judged by a substitute or not  accuracy
target                         sizes: engines of two targets are files of two kinds
processor, cores or GPUs       latency, where it is not measured on both repositories in turns
=============================  ==============================================================

Engines of one target, and libraries, may differ: what became of accuracy, sizes and latency by that is the question.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mmdeploy.baseline.same_samples import content_of, scored_gates
from mmdeploy.core.contracts import Verdict
from mmdeploy.core.errors import UsageError
from mmdeploy.core.target import Hardware, Target
from mmdeploy.record.build_report import BuildReport

_INT8_DOT_PRODUCTS = {"avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"}
_BFLOAT16 = {"avx512_bf16", "amx_bf16"}
_ARM = {"asimddp", "i8mm"}


@dataclass(frozen=True)
class Goals:
    """What a build must keep, against the baseline; None asks for nothing.

    Attributes:
        max_drop: Largest loss of each accuracy metric, in its unit.
        max_relative_drop: Largest loss as a share of the baseline's score.
        min_gain: Least gain of each accuracy metric, in its unit.
        max_size_ratio: Bytes of all components over the baseline's.
        max_latency_ratio: Latency over the baseline's: of both repositories in turns, or each as a ratio to the FP32
            reference of its own run.
    """

    max_drop: float | None = None
    max_relative_drop: float | None = None
    min_gain: float | None = None
    max_size_ratio: float | None = None
    max_latency_ratio: float | None = None

    @property
    def of_accuracy(self) -> bool:
        """Whether accuracy is judged."""
        return any(goal is not None for goal in (self.max_drop, self.max_relative_drop, self.min_gain))


def require_passed(report: BuildReport) -> None:
    """Do nothing where a build passed.

    Raises:
        UsageError: If it did not.
    """
    if report.verdict is not Verdict.PASS:
        raise UsageError(
            f"the build of {report.started_at:%Y-%m-%d %H:%M} UTC came to {report.verdict.value}: "
            "only one that passed can be a baseline",
            hint="accept the report of a build that was published",
        )


def require_comparable(
    report: BuildReport, baseline: BuildReport, goals: Goals, *, in_turns: bool = False, finished: bool = True
) -> None:
    """Do nothing where a build can be judged against a baseline by all of the goals.

    Args:
        report: The build's.
        baseline: What it is judged by.
        goals: What is judged.
        in_turns: Whether latency is measured on both repositories, on this machine.
        finished: Whether the build is over: else on which samples it is judged, and by which engines, may not be known.

    Raises:
        UsageError: With everything that keeps them from being compared.
    """
    require_passed(baseline)
    if report.recipe.name != baseline.recipe.name:
        raise UsageError(
            f"the baseline is of {baseline.recipe.name}, the build of {report.recipe.name}",
            hint=f"accept a build of {report.recipe.name}",
        )
    found = [*_of_accuracy(report, baseline, finished=finished)] if goals.of_accuracy else []
    if goals.max_size_ratio is not None and report.target is not baseline.target:
        found.append(
            f"the baseline was built for {baseline.target}, this for {report.target}: engines of two targets are files "
            "of two kinds, and their sizes cannot be compared"
        )
    if goals.max_latency_ratio is not None and not in_turns and _machine(report) != _machine(baseline):
        found.append(
            f"the baseline was measured on another machine ({baseline.hardware}; this is {report.hardware}): latencies "
            "of two machines cannot be compared (both releases served on one can: mmdeploy gate RELEASE --baseline "
            "RELEASE)"
        )
    if found:
        message = found[0] if len(found) == 1 else "".join(f"\n    {what}" for what in found)
        told = message if len(found) == 1 else f"the baseline cannot be compared with:{message}"
        raise UsageError(told, hint="accept a build that was made as this one was, or leave these limits out")


def _of_accuracy(report: BuildReport, baseline: BuildReport, *, finished: bool) -> Iterator[str]:
    if not scored_gates(baseline):
        yield "the baseline has no accuracy to compare with: accept one of a build with that gate"
        return
    samples = content_of(baseline), content_of(report)
    if (finished or samples[1] is not None) and (None in samples or samples[0] != samples[1]):
        yield (
            "the baseline was judged on other evaluation samples: scores on them cannot be compared (build what was "
            "accepted again on these samples, and accept that)"
        )
    kinds = arithmetic(baseline), arithmetic(report)
    if kinds[0] != kinds[1]:
        yield (
            f"the baseline was judged on {kinds[0]}, this on {kinds[1]}: the accuracy of INT8 depends on that, and "
            "cannot be compared (keep a baseline for each kind of machine)"
        )
    if finished and (report.substitute is None) != (baseline.substitute is None):
        which = "this" if report.substitute is not None else "the baseline"
        yield f"{which} was judged by a substitute of its engines: accuracy cannot be compared"


def arithmetic(report: BuildReport) -> str:
    """Return the kind of machine that answers came from, as far as numbers depend on it."""
    if report.target is not Target.CPU and report.substitute is None and report.hardware.gpus:
        return ", ".join(sorted({*report.hardware.gpus}))
    return _of_processor(report.hardware)


def _of_processor(hardware: Hardware) -> str:
    isa = {*hardware.isa}
    family = "Arm" if isa & _ARM else "x86" if any(name.startswith(("avx", "amx")) for name in isa) else hardware.cpu
    dots = "with INT8 dot products" if isa & _INT8_DOT_PRODUCTS else "without INT8 dot products"
    return f"{family} {dots}{' and with BF16' if isa & _BFLOAT16 else ''}"


def _machine(report: BuildReport) -> tuple[str, int, tuple[str, ...]]:
    """Return what decides how fast a machine is; its memory is told otherwise by each kernel."""
    hardware = report.hardware
    return hardware.cpu, hardware.cores, hardware.gpus
