"""Whether answers are as sure as they were in the build: the population stability index of their confidence.

PSI = sum over buckets of (live - build) ln(live / build), with half a sample added to each bucket. By custom 0.1 is a
small change and 0.25 a large one. Two samples of the same distribution differ, too: times the harmonic size of both
the index is about chi-squared with a degree of freedom less than buckets, so no threshold lies below what chance gives
once in ten thousand hours at the fewest live samples that are judged.
"""

from __future__ import annotations

from collections.abc import Iterator

from mmdeploy.packaging.monitoring.measured import Measured, Reference
from mmdeploy.packaging.monitoring.options import MonitoringOptions
from mmdeploy.packaging.monitoring.rule import Alert, Recording
from mmdeploy.packaging.monitoring.selectors import Selectors

SMALL, LARGE = 0.1, 0.25
_HALF = 0.5
#: The quantile 0.9999 of chi-squared with nine degrees of freedom.
_CHI_SQUARED = 33.72
_SHARE, _REFERENCE, _PSI = "mmdeploy:confidence_share:1h", "mmdeploy:confidence_reference", "mmdeploy:confidence_psi:1h"
_SAMPLES = "mmdeploy:confidence_samples:1h"


def chance(reference: Reference, live_samples: int) -> float:
    """Return the index that two samples of one distribution hardly ever exceed."""
    return _CHI_SQUARED * (1 / max(1, live_samples) + 1 / max(1, sum(reference.counts)))


def reference_shares(reference: Reference) -> list[float]:
    """Return the build's share of each bucket."""
    total = sum(reference.counts) + _HALF * len(reference.counts)
    return [(count + _HALF) / total for count in reference.counts]


def recordings(known: Measured, options: MonitoringOptions) -> Iterator[Recording]:
    """Give the shares of live answers, those of the build, and how far they are apart."""
    of, window = Selectors(known.ensemble), options.window("1h")
    for output, reference in sorted(known.confidence.items()):
        which = f'{of.whole},output="{output}"'

        def upto(bound: float, which: str = which) -> str:
            le = f'le=~"{bound:g}|{bound:.1f}"' if bound == int(bound) else f'le="{bound:g}"'
            return f"sum by (model, output) (increase(mmdeploy_gateway_confidence_bucket{{{which},{le}}}[{window}]))"

        yield Recording(
            _SAMPLES,
            f"sum by (model, output) (increase(mmdeploy_gateway_confidence_count{{{which}}}[{window}]))",
            "answers whose confidence was counted",
        )
        smoothed = f"({_SAMPLES}{{{which}}} + {_HALF * len(reference.bounds):g})"
        below = ""
        for bound, share in zip(reference.bounds, reference_shares(reference), strict=True):
            label = (("bucket", f"{bound:g}"),)
            yield Recording(
                _SHARE, f"({upto(bound)}{below} + {_HALF}) / {smoothed}", "share of answers in a bucket", label
            )
            names = (*label, ("model", known.ensemble), ("output", output))
            yield Recording(_REFERENCE, f"vector({share:.6g})", "the same share in the build", names)
            below = f" - {upto(bound)}"
        live, build = f"{_SHARE}{{{which}}}", f"{_REFERENCE}{{{which}}}"
        yield Recording(
            _PSI,
            f"sum by (model, output) (({live} - {build}) * ln({live} / {build}))",
            "how far the confidence of answers is from the build's (population stability index)",
        )


def alerts(known: Measured, options: MonitoringOptions) -> Iterator[Alert]:
    """Give an alert for a large change, and one for a small."""
    if not known.confidence:
        return
    of, enough = Selectors(known.ensemble), f"{_SAMPLES} >= {options.drift_samples}"
    noise = {output: chance(found, options.drift_samples) for output, found in sorted(known.confidence.items())}

    def beyond(least: float) -> str:
        return " or ".join(
            f'{_PSI}{{{of.whole},output="{output}"}} > {max(least, value):.3g}' for output, value in noise.items()
        )

    builds = ", ".join(f"{output}: {sum(found.counts)} samples" for output, found in sorted(known.confidence.items()))
    yield Alert(
        "MmdeployConfidenceDrift",
        "P2",
        f"({beyond(LARGE)}) and on (model, output) {enough}",
        options.wait("15m"),
        "{{ $labels.output }} of {{ $labels.model }} is not as sure as in the build (PSI {{ $value | humanize }})",
        f"The confidence of answers in an hour differs from that in the build ({builds}) by a PSI above {LARGE}.",
        "Compare inputs of today with the evaluation set: another source, lost preprocessing, a modality that is gone. "
        "If the world changed, label a sample of it, score it, and train again; else roll back.",
    )
    yield Alert(
        "MmdeployConfidenceShift",
        "P3",
        f"(({beyond(SMALL)}) and on (model, output) {enough}) unless on (model, output) ({beyond(LARGE)})",
        options.wait("15m"),
        "{{ $labels.output }} of {{ $labels.model }} is a little less, or more, sure (PSI {{ $value | humanize }})",
        f"The confidence of answers in an hour differs from that in the build by a PSI of {SMALL} to {LARGE}.",
        "Look at the dashboard's histogram; label some answers of the buckets that grew before the next release.",
    )
