"""Alerts of what comes, and of the gateway: no traffic, a modality that is gone, a subset that nobody judged."""

from __future__ import annotations

from collections.abc import Iterator

from mmdeploy.packaging.monitoring.measured import Measured
from mmdeploy.packaging.monitoring.options import MonitoringOptions
from mmdeploy.packaging.monitoring.rule import Alert
from mmdeploy.packaging.monitoring.selectors import Selectors

_BUSY, _REFUSED = 0.01, 0.2
#: What the gateway may add to a request: reading files, JSON.
_GATEWAY_MS = 50.0
_GONE = 0.1
_MORE, _LEAST_SHARE = 3.0, 0.2


def alerts(known: Measured, options: MonitoringOptions) -> Iterator[Alert]:
    """Give the alerts of traffic and of the gateway."""
    yield _no_traffic(known, options)
    yield from _gateway(known, options)
    yield from _modalities(known, options)


def _no_traffic(known: Measured, options: MonitoringOptions) -> Alert:
    of, quiet = Selectors(known.ensemble), options.probes_per_minute * options.seconds("10m") / 60
    now, earlier = options.window("10m"), options.window("1h")

    def asked(window: str, later: str = "") -> str:
        metrics = ("nv_inference_request_success", "nv_inference_request_failure")
        return " + ".join(f"sum by (model) (increase({one}{{{of.whole}}}[{window}]{later}))" for one in metrics)

    return Alert(
        "MmdeployNoTraffic",
        "P2",
        f"{asked(now)} <= {quiet:g} and {asked(earlier, f' offset {now}')} > {6 * quiet + options.least_requests:g}",
        options.wait("5m"),
        "No requests reach {{ $labels.model }}",
        f"There was traffic in the hour before, and for ten minutes none but probes ({options.probes_per_minute:g} a "
        "minute are taken for that).",
        "Ask through the way that clients take: the load balancer, the gateway, the name. Ask callers what changed.",
    )


def _gateway(known: Measured, options: MonitoringOptions) -> Iterator[Alert]:
    of, fast = Selectors(known.ensemble), 14.4 * (1 - options.objective)
    enough = f"on (model) mmdeploy:gateway_requests:5m{{{of.whole}}} >= {options.least_requests}"
    yield Alert(
        "MmdeployGatewayDown",
        "P0",
        f'up{{job="{options.gateway_job}"}} == 0',
        options.wait("1m"),
        "The gateway at {{ $labels.instance }} does not answer",
        "Prometheus cannot read the metrics of a gateway: it ended, hangs, or cannot be reached.",
        "Look at its log; start it again. Triton may be well: look at MmdeployTritonDown.",
    )
    errors = [f"mmdeploy:gateway_error_ratio:{duration}{{{of.whole}}} > {fast:.4g}" for duration in ("5m", "1h")]
    dead = f"unless on () (max_over_time(mmdeploy:dead:1m{{{of.parts}}}[{options.window('10m')}]) "
    dead += f">= {options.dead_failures:g})"
    yield Alert(
        "MmdeployGatewayErrors",
        "P1",
        f"({' and '.join(errors)} and {enough}) {dead}",
        options.wait("2m"),
        "The gateway fails {{ $value | humanizePercentage }} of the requests to {{ $labels.model }}",
        f"Answers of 5xx, without those of back-pressure, burn the error budget (objective {options.objective:.4g}) in "
        "two days: over 5 minutes and over an hour.",
        "Find an id of such a request in the gateway's log, and what Triton said to it.",
    )
    yield from _gateway_refuses(of, options, enough)
    if known.allowed_ms:
        yield _gateway_slow(known, options, enough)


def _gateway_refuses(of: Selectors, options: MonitoringOptions, enough: str) -> Iterator[Alert]:
    yield Alert(
        "MmdeployGatewayBusy",
        "P1",
        f'mmdeploy:gateway_refused_ratio:5m{{{of.whole},reason="busy"}} > {_BUSY} and {enough}',
        options.wait("5m"),
        "The gateway turns {{ $value | humanizePercentage }} of the requests to {{ $labels.model }} away",
        "More requests come than are answered, so the gateway says 503 with Retry-After instead of queueing.",
        "Add replicas (`mmdeploy capacity`); look for a client that retries without waiting.",
    )
    others = f'mmdeploy:gateway_refused_ratio:5m{{{of.whole},reason!="busy"}} > {_REFUSED}'
    yield Alert(
        "MmdeployGatewayRefuses",
        "P3",
        f"{others} and {enough}",
        options.wait("10m"),
        "The gateway refuses {{ $value | humanizePercentage }} of the requests ({{ $labels.reason }})",
        "A fifth of the requests or more are refused for one reason: bad_request and too_large are the clients', "
        "unauthorized a key that changed, rate_limit a client that asks too often.",
        "Find the client in the gateway's log, and tell its owner.",
    )


def _gateway_slow(known: Measured, options: MonitoringOptions, enough: str) -> Alert:
    of, limit = Selectors(known.ensemble), options.very_slow * known.allowed_ms["p95"] + _GATEWAY_MS
    return Alert(
        "MmdeployGatewaySlow",
        "P2",
        f"mmdeploy:gateway_p95_ms:5m{{{of.whole}}} > {limit:.4g} and {enough} "
        f"unless on (model) mmdeploy:slowness{{{of.whole}}} > {options.slow:g}",
        options.wait("10m"),
        "The gateway takes {{ $value | humanize }} ms for {{ $labels.model }}",
        f"A 95th percentile above {limit:.3g} ms ({options.very_slow:g} times what the gates allow, and "
        f"{_GATEWAY_MS:g} ms for files and JSON), while Triton is as fast as it should be.",
        "Look at its CPU and at the sizes that clients send; start more gateways.",
    )


def _modalities(known: Measured, options: MonitoringOptions) -> Iterator[Alert]:
    of = Selectors(known.ensemble)
    enough = f"on (model) mmdeploy:gateway_answered:30m{{{of.whole}}} >= {options.least_requests}"
    share, before = (f"mmdeploy:modality_share:{duration}{{{of.whole}}}" for duration in ("30m", "1d"))
    gone = f"({before} > 0.05 unless on (model, modality) ({share} > {_GONE} * {before})) and {enough}"
    yield Alert(
        "MmdeployModalityGone",
        "P2",
        gone,
        options.wait("15m"),
        "Requests to {{ $labels.model }} come without {{ $labels.modality }}",
        f"A modality that {{{{ $value | humanizePercentage }}}} of the requests had in the day before is in less than "
        f"{_GONE:.0%} of that share of them now.",
        "Ask the callers: a sensor, an upload or a field that is gone. Answers without it are those of the subset; see "
        "what the build's report says of it.",
    )
    if not known.optional:
        return
    share, before = (f'mmdeploy:missing_share:{duration}{{{of.whole},missing!="none"}}' for duration in ("30m", "1d"))
    yield Alert(
        "MmdeployMissingMore",
        "P3",
        f"({share} > {_LEAST_SHARE} and {share} > {_MORE:g} * ({before} or 0 * {share}) and {enough}) "
        f"unless on (model) ({gone})",
        options.wait("30m"),
        "{{ $value | humanizePercentage }} of the requests to {{ $labels.model }} lack {{ $labels.missing }}",
        f"More than {_LEAST_SHARE:.0%} of the requests lack these inputs, {_MORE:g} times more than the day before.",
        "As for MmdeployModalityGone; a subset that became usual deserves a gate of its own.",
    )
    judged = "|".join(("none", *known.judged_missing)).replace("+", "[+]")
    unjudged = f'sum by (model, missing) (increase(mmdeploy_gateway_missing_total{{{of.whole},missing!~"{judged}"}}'
    words = ", ".join(known.judged_missing) or "none"
    yield Alert(
        "MmdeploySubsetUnjudged",
        "P3",
        f"{unjudged}[{options.window('30m')}])) >= {options.least_requests}",
        options.wait("15m"),
        "Requests to {{ $labels.model }} lack {{ $labels.missing }}, which no gate judged",
        f"The build's gates judged requests that lack: {words}.",
        "Add the subset to the recipe's subsets, and build again: nobody knows how good these answers are.",
    )
