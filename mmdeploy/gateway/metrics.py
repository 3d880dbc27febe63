"""What a gateway counts, for Prometheus. Labels are bounded: models that are served, endpoints that exist."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

_CONFIDENCES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """Counters, gauges and histograms of one gateway, in a registry of its own."""

    def __init__(self) -> None:
        """Make them."""
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry: CollectorRegistry = CollectorRegistry()
        into = self.registry
        self.requests = Counter(
            "mmdeploy_gateway_requests", "Requests answered.", ["model", "endpoint", "status"], registry=into
        )
        self.seconds = Histogram(
            "mmdeploy_gateway_request_seconds", "Time to an answer.", ["model"], buckets=_SECONDS, registry=into
        )
        self.modalities = Counter(
            "mmdeploy_gateway_modalities", "Requests that held an input.", ["model", "modality"], registry=into
        )
        self.missing = Counter(
            "mmdeploy_gateway_missing", "Requests by the inputs that they lacked.", ["model", "missing"], registry=into
        )
        self.confidence = Histogram(
            "mmdeploy_gateway_confidence",
            "Largest share of a row's classes.",
            ["model", "output"],
            buckets=_CONFIDENCES,
            registry=into,
        )
        self.in_flight = Gauge(
            "mmdeploy_gateway_in_flight", "Requests that a model is asked now.", ["model"], registry=into
        )
        self.refused = Counter(
            "mmdeploy_gateway_refused", "Requests refused, by reason.", ["model", "reason"], registry=into
        )

    def answered(
        self, model: str, rows: Sequence[Sequence[str]], inputs: Iterable[str], sure: Mapping[str, Sequence[float]]
    ) -> None:
        """Count what a request that was answered held and lacked, and how sure the model was.

        Args:
            model: Its name.
            rows: The inputs that each row has; an input counts as held where any row has it.
            inputs: All that the model has.
            sure: The largest share of each row, by output.
        """
        held = {name for row in rows for name in row}
        for name in sorted(held):
            self.modalities.labels(model, name).inc()
        lacked = "+".join(sorted(name for name in inputs if any(name not in row for row in rows)))
        self.missing.labels(model, lacked or "none").inc()
        for output, values in sure.items():
            for value in values:
                self.confidence.labels(model, output).observe(value)
