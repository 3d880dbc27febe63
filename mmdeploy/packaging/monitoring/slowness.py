"""Alerts of answers that take too long, and of what is in the way: a queue, a slow model, a cache that misses."""

from __future__ import annotations

from collections.abc import Iterator

from mmdeploy.packaging.monitoring.measured import Measured, Part
from mmdeploy.packaging.monitoring.options import MonitoringOptions
from mmdeploy.packaging.monitoring.rule import Alert
from mmdeploy.packaging.monitoring.selectors import Selectors, one_part

#: A queue is long when a request waits for so many others.
_QUEUED = 2.0
_REJECTED = 0.01
_CACHE_LOSS = 0.5


def alerts(known: Measured, options: MonitoringOptions) -> Iterator[Alert]:
    """Give the alerts of latency and of its reasons."""
    if known.allowed_ms:
        yield from _latency(known, options)
    timed = [part for part in known.parts if part.mean_ms]
    if timed:
        yield _component(timed, options)
        yield _queue(timed, options)
    yield _rejected(known, options)
    if any(part.cached for part in known.parts):
        yield _cache(known, options)


def queue_limit_ms(part: Part) -> float:
    """Return how long a request may wait for a model: the batcher's delay, and the time of some others."""
    return part.queue_delay_ms + _QUEUED * (part.mean_ms or 0.0)


def _latency(known: Measured, options: MonitoringOptions) -> Iterator[Alert]:
    of = Selectors(known.ensemble)
    slowness = f"mmdeploy:slowness{{{of.whole}}}"
    enough = f"on (model) mmdeploy:answered:5m{{{of.whole}}} >= {options.least_requests}"
    allowed = (
        f"The gates allow a 95th percentile of {known.allowed_ms['p95']:.3g} ms and a mean of "
        f"{known.allowed_ms['mean']:.3g} ms ({known.allowed_by}; on {known.machine})."
    )
    yield Alert(
        "MmdeployLatencyVeryHigh",
        "P1",
        f"{slowness} > {options.very_slow:g} and {enough}",
        options.wait("5m"),
        "{{ $labels.model }} takes {{ $value | humanize }} times what the build's gates allow",
        f"Requests take more than {options.very_slow:g} times what was allowed. {allowed}",
        "Look at the queue and at each model's time on the dashboard: a queue wants replicas, a slow model a look at "
        "its machine; roll back where it began with a release.",
    )
    yield Alert(
        "MmdeployLatencyHigh",
        "P2",
        f"{slowness} > {options.slow:g} and {slowness} <= {options.very_slow:g} and {enough}",
        options.wait("15m"),
        "{{ $labels.model }} takes {{ $value | humanize }} times what the build's gates allow",
        f"Requests take more than {options.slow:g} times what was allowed. {allowed}",
        "As for MmdeployLatencyVeryHigh, without haste: `mmdeploy capacity` says how many replicas the load needs.",
    )


def _component(timed: list[Part], options: MonitoringOptions) -> Alert:
    slow = " or ".join(
        f"mmdeploy:sample_ms:5m{{{one_part(part.model)}}} > {options.component_slow * (part.mean_ms or 0):.4g}"
        for part in timed
    )
    built = ", ".join(f"{part.model} {part.mean_ms:.3g} ms" for part in timed)
    return Alert(
        "MmdeployComponentSlow",
        "P2",
        f"({slow}) and on (model) mmdeploy:answered:5m >= {options.least_requests}",
        options.wait("10m"),
        "{{ $labels.model }} computes {{ $value | humanize }} ms a sample",
        f"A model computes more than {options.component_slow:g} times longer than a whole request took in the build "
        f"({built}).",
        "Compare the machine with the one of the build: another CPU or GPU, neighbours, throttled cores, threads that "
        "do not fit the container's limit.",
    )


def _queue(timed: list[Part], options: MonitoringOptions) -> Alert:
    long = " or ".join(f"mmdeploy:queue_ms:5m{{{one_part(part.model)}}} > {queue_limit_ms(part):.4g}" for part in timed)
    return Alert(
        "MmdeployQueueLong",
        "P2",
        f"({long}) and on (model) mmdeploy:answered:5m >= {options.least_requests}",
        options.wait("5m"),
        "Requests wait {{ $value | humanize }} ms for {{ $labels.model }}",
        f"A request waits for its batcher's delay and the time of {_QUEUED:g} others: more comes than is answered.",
        "Add replicas or instances (`mmdeploy capacity`), or have the gateway refuse sooner.",
    )


def _rejected(known: Measured, options: MonitoringOptions) -> Alert:
    of = Selectors(known.ensemble)
    rejected = f"mmdeploy:rejected:5m{{{of.parts}}}"
    asked = f"({rejected} + mmdeploy:failed:5m{{{of.parts}}} + mmdeploy:answered:5m{{{of.parts}}})"
    return Alert(
        "MmdeployRejected",
        "P1",
        f"{rejected} / {asked} > {_REJECTED} and on (model) {asked} >= {options.least_requests}",
        options.wait("2m"),
        "{{ $labels.model }} rejects {{ $value | humanizePercentage }} of its requests",
        "The queue of a model is full, or requests waited longer than its time limit.",
        "Add replicas or instances (`mmdeploy capacity`); a longer queue only makes them wait.",
    )


def _cache(known: Measured, options: MonitoringOptions) -> Alert:
    of = Selectors(known.ensemble)
    ratio, before = (f"mmdeploy:cache_hit_ratio:{duration}{{{of.parts}}}" for duration in ("1h", "1d"))
    return Alert(
        "MmdeployCacheHitsLow",
        "P3",
        f"{ratio} < {_CACHE_LOSS} * {before} and on (model) mmdeploy:cache_lookups:1h >= {options.least_requests} "
        f"and {before} > 0.05",
        options.wait("30m"),
        "The response cache of {{ $labels.model }} answers {{ $value | humanizePercentage }}",
        "Less than half the share of the day before: other requests come, or the cache became too small.",
        "Look at whether requests repeat less (`mmdeploy cache-plan` on a trace), or are spread over more servers.",
    )
