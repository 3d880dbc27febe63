"""Monitoring, generated of what a build measured: rules and alerts of Prometheus, a Grafana dashboard, a runbook."""

from __future__ import annotations

from pathlib import Path

from mmdeploy.packaging.monitoring.options import MonitoringOptions


def files_of(release: Path, options: MonitoringOptions | None = None) -> dict[str, bytes]:
    """Return the files for a release by their relative paths; the same bytes for the same release.

    Args:
        release: A published release, with its report.
        options: How alerts judge.

    Raises:
        UsageError: If the folder is no release, or its files are damaged.
    """
    from mmdeploy.packaging.monitoring.dashboard import dashboard
    from mmdeploy.packaging.monitoring.measured import measured
    from mmdeploy.packaging.monitoring.rules import groups_of, prometheus_config, rule_file
    from mmdeploy.packaging.monitoring.runbook import runbook

    options = options or MonitoringOptions()
    known = measured(release)
    groups = groups_of(known, options)
    texts = {
        "rules.yml": rule_file(known, groups),
        "prometheus.yml": prometheus_config(options, "rules.yml"),
        "dashboard.json": dashboard(known, options),
        "runbook.md": runbook(known, groups),
    }
    return {f"monitoring/{name}": text.encode() for name, text in texts.items()}
