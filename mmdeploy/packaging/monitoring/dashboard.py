"""A Grafana dashboard of an ensemble: whether it is well, what it answers, what comes, and the machine."""

from __future__ import annotations

import hashlib
import json

from mmdeploy.packaging.monitoring.drift import LARGE, SMALL
from mmdeploy.packaging.monitoring.measured import Measured
from mmdeploy.packaging.monitoring.options import MonitoringOptions
from mmdeploy.packaging.monitoring.panels import Panel, Row, laid_out
from mmdeploy.packaging.monitoring.selectors import Selectors
from mmdeploy.packaging.monitoring.slowness import queue_limit_ms

#: Of Grafana 10.4; later ones read it and bring it up to date.
_SCHEMA_VERSION = 39
_NOW = "$__rate_interval"


def dashboard(known: Measured, options: MonitoringOptions) -> str:
    """Return the dashboard as JSON, to be imported or provisioned."""
    content = {
        "uid": hashlib.sha256(f"mmdeploy/{known.ensemble}".encode()).hexdigest()[:16],
        "title": f"{known.ensemble} (mmdeploy)",
        "description": f"Made of the release {known.build} by `mmdeploy package`. {known.allowed_by}".strip(),
        "tags": ["mmdeploy", "triton"],
        "schemaVersion": _SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "",
        "templating": {
            "list": [
                {
                    "name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus",
                    "current": {}, "hide": 0, "refresh": 1, "regex": "", "multi": False, "includeAll": False,
                }
            ]
        },
        "annotations": {
            "list": [
                {
                    "name": "alerts", "enable": True, "iconColor": "red",
                    "datasource": {"type": "prometheus", "uid": "${datasource}"},
                    "expr": f'ALERTS{{ensemble="{known.ensemble}",alertstate="firing"}}',
                    "titleFormat": "{{alertname}}", "textFormat": "{{severity}}", "step": "60s",
                }
            ]
        },
        "panels": list(laid_out(rows(known, options))),
    }  # fmt: skip
    return json.dumps(content, indent=1, sort_keys=True) + "\n"


def rows(known: Measured, options: MonitoringOptions) -> tuple[Row, ...]:
    """Return the rows of the dashboard."""
    return (
        Row("Is it well?", _well(known, options)),
        Row("How long it takes", _times(known, options)),
        Row("What fails", _failures(known, options)),
        Row("What comes", _traffic(known)),
        Row("How sure it is", _confidence(known)),
        Row("The machine", _machine(known)),
    )


def _well(known: Measured, options: MonitoringOptions) -> tuple[Panel, ...]:
    of, budget = Selectors(known.ensemble), 1 - options.objective
    found = [
        Panel("Alerts", "Alerts of this ensemble that fire now; the runbook says what to do.", "none",
              (("firing", f'count(ALERTS{{ensemble="{known.ensemble}",alertstate="firing"}}) or vector(0)'),),
              (("red", 1),), "stat", 4),
        Panel("Servers", "Triton servers that Prometheus can read.", "none",
              (("up", f'sum(up{{job="{options.triton_job}"}})'),), (), "stat", 4),
        Panel("Answers", "Requests to the ensemble that were answered, a second.", "reqps",
              (("answered", f"sum(rate(nv_inference_request_success{{{of.whole}}}[{_NOW}]))"),), (), "stat", 4),
        Panel("Errors", "The worst model's share of failed requests in five minutes, against the error budget.",
              "percentunit", (("worst model", f"max(mmdeploy:error_ratio:5m{{{of.parts}}})"),),
              (("yellow", budget), ("red", min(1.0, 14.4 * budget))), "stat", 4, 1.0),
    ]  # fmt: skip
    if known.allowed_ms:
        found.append(
            Panel("Slowness", f"Time of a request over what was allowed. {known.allowed_by}.", "none",
                  (("times", f"mmdeploy:slowness{{{of.whole}}}"),),
                  (("yellow", options.slow), ("red", options.very_slow)), "stat", 4)
        )  # fmt: skip
    if known.confidence:
        found.append(
            Panel("Drift", "Population stability index of the confidence against the build, the worst output.",
                  "none", (("PSI", f"max(mmdeploy:confidence_psi:1h{{{of.whole}}})"),),
                  (("yellow", SMALL), ("red", LARGE)), "stat", 4)
        )  # fmt: skip
    return tuple(found)


def _times(known: Measured, options: MonitoringOptions) -> tuple[Panel, ...]:
    of = Selectors(known.ensemble)
    allowed = known.allowed_ms.get("p95")
    limits = () if allowed is None else (("yellow", options.slow * allowed), ("red", options.very_slow * allowed))
    queue = max((queue_limit_ms(part) for part in known.parts if part.mean_ms), default=None)
    return (
        Panel("Request time", "What a client waits for the ensemble, without the network. Percentiles are of the last "
              "minute, and need --metrics-config=summary_latencies=true.", "ms",
              (("p95", f"mmdeploy:p95_ms{{{of.whole}}}"), ("mean", f"mmdeploy:request_ms:5m{{{of.whole}}}"),
               ("p95 at the gateway", f"mmdeploy:gateway_p95_ms:5m{{{of.whole}}}")),
              limits),  # type: ignore[arg-type]
        Panel("Time to compute a sample", "By model; what grows here is slow by itself, and not for a queue.", "ms",
              (("{{model}}", f"mmdeploy:sample_ms:5m{{{of.parts}}}"),)),
        Panel("Queue", "What a request waits for its model; the line is where an alert begins for the slowest.", "ms",
              (("{{model}}", f"mmdeploy:queue_ms:5m{{{of.parts}}}"),), () if queue is None else (("yellow", queue),)),
        Panel("Batches", "Mean samples of a batch; larger ones under load are what batching is for.", "none",
              (("{{model}}", f"mmdeploy:batch:5m{{{of.parts}}}"),), width=12),
        Panel("Waiting", "Requests in the queues now: a queue that only grows wants replicas.", "none",
              (("{{model}} {{instance}}", f"nv_inference_pending_request_count{{{of.all}}}"),), width=12),
    )  # fmt: skip


def _failures(known: Measured, options: MonitoringOptions) -> tuple[Panel, ...]:
    of, budget = Selectors(known.ensemble), 1 - options.objective
    failures = f"sum by (model, reason) (rate(nv_inference_request_failure{{{of.all}}}[{_NOW}]))"
    return (
        Panel("Failures", "Failed requests a second. A model that fails everything is dead, whatever readiness says; "
              "the ensemble alone: what clients sent was refused (Triton 2.51 counts each of these twice).", "reqps",
              (("{{model}} {{reason}}", failures),), width=12),
        Panel("Error budget", "Share of failed requests; the lines are the budget and its fast burn.", "percentunit",
              (("{{model}} 5 min", f"mmdeploy:error_ratio:5m{{{of.parts}}}"),
               ("{{model}} 1 h", f"mmdeploy:error_ratio:1h{{{of.parts}}}")),
              (("yellow", budget), ("red", min(1.0, 14.4 * budget))), width=12, most=1.0),
    )  # fmt: skip


def _traffic(known: Measured) -> tuple[Panel, ...]:
    of = Selectors(known.ensemble)
    count = f"rate(nv_inference_count{{{of.all}}}[{_NOW}])"
    requests = f"sum by (status) (rate(mmdeploy_gateway_requests_total{{{of.whole}}}[{_NOW}]))"
    return (
        Panel("Samples by model", "Samples a second that each model computed, not those of the cache. The encoder "
              "of a modality that a request lacks is not asked.", "short",
              (("{{model}}", f"sum by (model) ({count})"),)),
        Panel("Gateway", "Requests a second by HTTP status.", "reqps", (("{{status}}", requests),)),
        Panel("Turned away", "Share of the gateway's requests that it refused, by reason.", "percentunit",
              (("{{reason}}", f"mmdeploy:gateway_refused_ratio:5m{{{of.whole}}}"),), most=1.0),
        Panel("Modalities", "Share of the requests that hold each.", "percentunit",
              (("{{modality}}", f"mmdeploy:modality_share:30m{{{of.whole}}}"),), most=1.0),
        Panel("What is missing", "Share of the requests by the inputs that they lack.", "percentunit",
              (("{{missing}}", f"mmdeploy:missing_share:30m{{{of.whole}}}"),), most=1.0),
        Panel("In flight", "Requests that the gateway asks Triton now.", "none",
              (("{{instance}}", f"mmdeploy_gateway_in_flight{{{of.whole}}}"),)),
    )  # fmt: skip


def _confidence(known: Measured) -> tuple[Panel, ...]:
    if not known.confidence:
        return ()
    of = Selectors(known.ensemble)
    return (
        Panel("Confidence", "Share of the answers in each bucket of confidence, in the last hour.", "percentunit",
              (("{{output}} {{bucket}}", f"mmdeploy:confidence_share:1h{{{of.whole}}}"),), (), "bargauge", 8, 1.0),
        Panel("Confidence in the build", "The same, of the evaluation samples.", "percentunit",
              (("{{output}} {{bucket}}", f"mmdeploy:confidence_reference{{{of.whole}}}"),), (), "bargauge", 8, 1.0),
        Panel("Drift", f"Population stability index of both: {SMALL} is a small change, {LARGE} a large one.", "none",
              (("{{output}}", f"mmdeploy:confidence_psi:1h{{{of.whole}}}"),), (("yellow", SMALL), ("red", LARGE))),
    )  # fmt: skip


def _machine(known: Measured) -> tuple[Panel, ...]:
    of = Selectors(known.ensemble)
    found = [
        Panel("CPU", "Share of the machine's cores that are busy.", "percentunit",
              (("{{instance}}", "nv_cpu_utilization"),), (("yellow", 0.9),), most=1.0),
        Panel("Memory", "Used of what Triton sees.", "bytes",
              (("{{instance}} used", "nv_cpu_memory_used_bytes"), ("{{instance}} total", "nv_cpu_memory_total_bytes"))),
        Panel("GPU", "Utilization and memory of each GPU, where there is one.", "percentunit",
              (("{{gpu_uuid}} busy", "nv_gpu_utilization"),
               ("{{gpu_uuid}} memory", "nv_gpu_memory_used_bytes / nv_gpu_memory_total_bytes")),
              (("red", 0.95),), most=1.0),
    ]  # fmt: skip
    if any(part.cached for part in known.parts):
        found.append(
            Panel("Response cache", "Share of the requests that the cache answered.", "percentunit",
                  (("{{model}}", f"mmdeploy:cache_hit_ratio:1h{{{of.parts}}}"),), most=1.0)
        )  # fmt: skip
    return tuple(found)
