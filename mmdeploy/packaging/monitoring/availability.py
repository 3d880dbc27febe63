"""Alerts of a server that does not answer: gone, dead behind a readiness that says 200, failing, out of memory."""

from __future__ import annotations

from collections.abc import Iterator

from mmdeploy.packaging.monitoring.measured import Measured
from mmdeploy.packaging.monitoring.options import MonitoringOptions
from mmdeploy.packaging.monitoring.rule import Alert
from mmdeploy.packaging.monitoring.selectors import Selectors

_FAST, _SLOW = 14.4, 6.0  # times the error budget: of 30 days, 2 % in an hour, 5 % in six
_RESTARTS = 3
_MEMORY, _MEMORY_TRENDING = 0.95, 0.7


def alerts(known: Measured, options: MonitoringOptions) -> Iterator[Alert]:
    """Give the alerts of a server and its models."""
    yield from _gone(options)
    yield from _dead(known, options)
    yield from _failing(known, options)
    yield from _refused_or_restarted(known, options)
    yield from _memory(known, options)


def _gone(options: MonitoringOptions) -> Iterator[Alert]:
    up = f'up{{job="{options.triton_job}"}}'
    yield Alert(
        "MmdeployTritonDown",
        "P0",
        f"{up} == 0",
        options.wait("1m"),
        "Triton at {{ $labels.instance }} does not answer",
        "Prometheus cannot read the metrics of a server: it ended, hangs, or cannot be reached.",
        "Look at the server's log and at whether it was killed for memory; start it again, or roll back if it began "
        "with a release.",
    )
    yield Alert(
        "MmdeployTritonUnwatched",
        "P1",
        f"absent({up})",
        options.wait("5m"),
        "Prometheus knows no Triton server",
        f"There is no target of the job {options.triton_job}: none of the other alerts can fire.",
        "Look at the configuration of Prometheus and its service discovery.",
    )


def _dead(known: Measured, options: MonitoringOptions) -> Iterator[Alert]:
    of = Selectors(known.ensemble)
    yield Alert(
        "MmdeployModelDead",
        "P0",
        f"mmdeploy:dead:1m{{{of.parts}}} >= {options.dead_failures:g}",
        options.wait("0m"),
        "{{ $labels.model }} at {{ $labels.instance }} fails every request",
        "A model failed all its requests for a minute. Where its process was killed, Triton and the model still say "
        "that they are ready.",
        "Unload and load the model (loading alone does nothing), or restart the server; `mmdeploy serve` does so by "
        "itself. If it dies again, look for a kill for memory, else roll back.",
    )
    failed, answered = (f"mmdeploy:{what}:5m{{{of.whole}}}" for what in ("failed", "answered"))
    yield Alert(
        "MmdeployNothingAnswered",
        "P0",
        f"({failed} >= {options.dead_failures:g} unless on (model) ({answered} > 0)) "
        f"unless on () (max_over_time(mmdeploy:dead:1m{{{of.parts}}}[{options.window('10m')}]) "
        f">= {options.dead_failures:g})",
        options.wait("2m"),
        "{{ $labels.model }} answers no request",
        "Every request to the ensemble failed for five minutes, and no model of it is dead: a model is not loaded, or "
        "all clients send what is refused.",
        "Ask it yourself with sample_request.json of the release: where that works, clients send something else; where "
        "it fails, the error names the model: load it, or roll back.",
    )


def _failing(known: Measured, options: MonitoringOptions) -> Iterator[Alert]:
    of, budget = Selectors(known.ensemble), 1 - options.objective
    ratio = "mmdeploy:error_ratio"
    fast = f"{ratio}:5m{{{of.parts}}} > {_FAST * budget:.4g} and {ratio}:1h{{{of.parts}}} > {_FAST * budget:.4g}"
    died = {
        duration: f"unless on (model) "
        f"(max_over_time(mmdeploy:dead:1m{{{of.parts}}}[{options.window(duration)}]) >= {options.dead_failures:g})"
        for duration in ("10m", "1h")
    }
    enough = f"on (model) mmdeploy:failed:5m{{{of.parts}}} + mmdeploy:answered:5m{{{of.parts}}}"
    yield Alert(
        "MmdeployErrorsFast",
        "P1",
        f"({fast} and {enough} >= {options.least_requests}) {died['10m']}",
        options.wait("2m"),
        "{{ $labels.model }} fails {{ $value | humanizePercentage }} of its requests",
        f"At this rate the error budget of a month (objective {options.objective:.4g}) is gone in two days: over 5 "
        "minutes and over an hour. Requests that a step refuses as bad do not count as the model's failures.",
        "Read the errors in the server's log; compare with the last release and with the load; roll back where it "
        "began with a release.",
    )
    slow = f"{ratio}:30m{{{of.parts}}} > {_SLOW * budget:.4g} and {ratio}:6h{{{of.parts}}} > {_SLOW * budget:.4g}"
    many = f"on (model) mmdeploy:failed:30m{{{of.parts}}} + mmdeploy:answered:30m{{{of.parts}}}"
    yield Alert(
        "MmdeployErrorsSlow",
        "P2",
        f"(({slow} and {many} >= {options.least_requests}) unless on (model) ({fast})) {died['1h']}",
        options.wait("15m"),
        "{{ $labels.model }} fails {{ $value | humanizePercentage }} of its requests, for hours",
        f"At this rate the error budget of a month (objective {options.objective:.4g}) is gone in five days: over 30 "
        "minutes and over six hours.",
        "Read the errors in the server's log: which requests fail, and since when.",
    )


def _refused_or_restarted(known: Measured, options: MonitoringOptions) -> Iterator[Alert]:
    of = Selectors(known.ensemble)
    failed, answered = (f"mmdeploy:{what}:5m" for what in ("failed", "answered"))
    refused = f"{failed}{{{of.whole}}} > 0.2 * ({failed}{{{of.whole}}} + {answered}{{{of.whole}}})"
    yield Alert(
        "MmdeployRequestsRefused",
        "P3",
        f"({refused} and {failed}{{{of.whole}}} >= 10 and on (model) {answered}{{{of.whole}}} > 0) "
        f"unless on () (sum({failed}{{{of.parts}}} + mmdeploy:rejected:5m{{{of.parts}}}) > 0)",
        options.wait("10m"),
        "Many requests to {{ $labels.model }} are refused",
        "A fifth of the requests to the ensemble fail while no model of it fails: their values, lengths or inputs are "
        "refused. Native backends of Triton count what they refuse as failures of the model instead.",
        "Find the client in the gateway's log; the error tells it what is wrong. A change of the recipe's ranges or "
        "lengths with the last release is the usual reason.",
    )
    restarts = f"max by (instance) (resets(nv_inference_request_success{{{of.whole}}}[{options.window('1h')}]))"
    yield Alert(
        "MmdeployTritonRestarts",
        "P1",
        f"{restarts} >= {_RESTARTS}",
        options.wait("0m"),
        "Triton at {{ $labels.instance }} restarted {{ $value }} times in an hour",
        "A server that comes up again and again is killed, or crashes on something that clients send.",
        "Look at why it ended: memory (its limit against what the build measured), or the last requests in its log.",
    )


def _memory(known: Measured, options: MonitoringOptions) -> Iterator[Alert]:
    built = "" if known.memory_bytes is None else f" The build's server took {known.memory_bytes / 2**20:.0f} MiB."
    for alert, kind, what in (("Memory", "cpu_memory", "Memory"), ("GpuMemory", "gpu_memory", "Memory of the GPU")):
        used, total = f"nv_{kind}_used_bytes", f"nv_{kind}_total_bytes"
        share = f"{used} / ({total} > 0)"
        yield Alert(
            f"Mmdeploy{alert}High",
            "P1",
            f"{share} > {_MEMORY}",
            options.wait("5m"),
            f"{what} at {{{{ $labels.instance }}}} is full ({{{{ $value | humanizePercentage }}}})",
            f"More than {_MEMORY:.0%} of what Triton sees is used; it is killed soon.{built}",
            "Move traffic away and restart the server; then fewer instances, smaller batches or a smaller cache.",
        )
    used, total = "nv_cpu_memory_used_bytes", "nv_cpu_memory_total_bytes"
    ahead = options.seconds("4h")
    yield Alert(
        "MmdeployMemoryGrowing",
        "P2",
        f"predict_linear({used}[{options.window('1h')}], {ahead:g}) > {total} "
        f"and {used} / ({total} > 0) > {_MEMORY_TRENDING} and {used} / ({total} > 0) <= {_MEMORY}",
        options.wait("30m"),
        "Memory at {{ $labels.instance }} will be full in four hours",
        f"As it grew in the last hour, it is full in four; more than {_MEMORY_TRENDING:.0%} is used.{built}",
        "See which process grows; restart the server before it is killed, and keep its log.",
    )
