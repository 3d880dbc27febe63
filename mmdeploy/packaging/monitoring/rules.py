"""Puts the rules of a release together, and writes them as Prometheus reads them."""

from __future__ import annotations

from typing import Any

import yaml

from mmdeploy.packaging.monitoring import availability, drift, recordings, slowness, traffic
from mmdeploy.packaging.monitoring.measured import Measured
from mmdeploy.packaging.monitoring.options import MonitoringOptions
from mmdeploy.packaging.monitoring.rule import Alert, Group


def groups_of(known: Measured, options: MonitoringOptions) -> tuple[Group, ...]:
    """Return the groups of rules: what is recorded of a subject stands before its alerts."""

    def alerts(module: Any) -> tuple[Alert, ...]:
        return tuple(alert.of(known.ensemble, options.runbook_url) for alert in module.alerts(known, options))

    name = f"mmdeploy.{known.ensemble}"
    serving, gateway = recordings.of_serving(known, options), recordings.of_gateway(known, options)
    return (
        Group(f"{name}.serving", (*serving, *alerts(availability), *alerts(slowness))),
        Group(f"{name}.traffic", (*gateway, *recordings.of_traffic(known, options), *alerts(traffic))),
        Group(f"{name}.confidence", (*drift.recordings(known, options), *alerts(drift))),
    )


def rule_file(known: Measured, groups: tuple[Group, ...]) -> str:
    """Return the rule file's text."""
    head = (
        f"# Rules of Prometheus for {known.ensemble}, made of its release {known.build} by `mmdeploy package`.\n"
        f"# Thresholds come from what its gates allow and measured ({known.machine}).\n"
    )
    return head + to_yaml({"groups": [group.to_yaml() for group in groups if group.rules]})


def prometheus_config(options: MonitoringOptions, rules: str) -> str:
    """Return an example of a configuration that reads the metrics and the rules."""
    jobs = [(options.triton_job, options.triton_targets), (options.gateway_job, options.gateway_targets)]
    return to_yaml(
        {
            "global": {"scrape_interval": options.scrape, "evaluation_interval": options.scrape},
            "rule_files": [rules],
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": list(targets)}]} for job, targets in jobs if targets
            ],
        }
    )


def to_yaml(content: dict[str, Any]) -> str:
    """Return YAML in the order of its keys, a line an expression."""
    return yaml.safe_dump(content, sort_keys=False, width=10**6, allow_unicode=True)
