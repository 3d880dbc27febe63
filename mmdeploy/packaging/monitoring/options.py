"""What can be chosen of the monitoring that is generated."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields

from mmdeploy.core.errors import UsageError

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
#: Prometheus needs two scrapes for a rate; with four a lost one does no harm.
_LEAST_SCRAPES = 4


@dataclass(frozen=True)
class MonitoringOptions:
    """How alerts judge; the defaults are for servers of real traffic.

    Attributes:
        objective: Share of the requests that a model must answer; alerts burn through what it leaves.
        slow: An answer takes this many times of what the gates allow: a ticket.
        very_slow: Likewise, a page.
        component_slow: A component computes this many times longer than it did in the build.
        least_requests: In five minutes, before a share or a mean of them is judged.
        dead_failures: Failures in a minute without an answer that tell a dead model from a request that was cut off; a
            killed model fails about one a second, whatever the load.
        drift_samples: Answers in an hour, before their confidence is compared.
        probes_per_minute: Requests of readiness probes, which are no traffic.
        scrape_interval_s: How often Prometheus reads the metrics, and judges.
        scale: Of all windows and waiting times: less than 1 for a rehearsal.
        triton_job: The job of the servers in Prometheus.
        gateway_job: The job of the gateways in Prometheus.
        triton_targets: Addresses of the servers' metrics, for the example of a configuration.
        gateway_targets: Likewise of gateways; none where there are none.
        runbook_url: What links to the runbook start with.
    """

    objective: float = 0.999
    slow: float = 2.0
    very_slow: float = 5.0
    component_slow: float = 3.0
    least_requests: int = 100
    dead_failures: float = 3.0
    drift_samples: int = 500
    probes_per_minute: float = 12.0
    scrape_interval_s: float = 15.0
    scale: float = 1.0
    triton_job: str = "triton"
    gateway_job: str = "mmdeploy-gateway"
    triton_targets: tuple[str, ...] = ("triton:8002",)
    gateway_targets: tuple[str, ...] = ("gateway:8080",)
    runbook_url: str = ""

    def __post_init__(self) -> None:
        """Refuse what no rule can be made of."""
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, (int, float)) and not (0 <= value < float("inf")):
                raise UsageError(f"monitoring: {one.name} is {value}, expected a number of 0 or more")
        if not 0 < self.objective < 1:
            raise UsageError(f"monitoring: objective is {self.objective}, expected a share between 0 and 1")
        if not self.scale or not self.scrape_interval_s:
            raise UsageError("monitoring: scale and scrape_interval_s must be above 0")
        if not 1 <= self.slow < self.very_slow:
            raise UsageError("monitoring: slow must be 1 or more, and less than very_slow")
        for job in (self.triton_job, self.gateway_job):
            if not re.fullmatch(r"[A-Za-z0-9_./:-]+", job):
                raise UsageError(
                    f"monitoring: {job!r} is no name of a job", hint="accepted: letters, digits, _ . / : -"
                )

    def seconds(self, duration: str) -> float:
        """Return a duration such as ``5m`` in seconds, to scale."""
        return float(duration[:-1]) * _UNITS_S[duration[-1]] * self.scale

    def window(self, duration: str) -> str:
        """Return a range such as ``5m`` to scale, wide enough for a rate."""
        return _written(duration, self.scale, max(self.seconds(duration), _LEAST_SCRAPES * self.scrape_interval_s))

    def wait(self, duration: str) -> str:
        """Return a waiting time such as ``2m``, to scale."""
        return _written(duration, self.scale, self.seconds(duration))

    @property
    def scrape(self) -> str:
        """How often Prometheus reads, as it is written."""
        return f"{round(self.scrape_interval_s * 1000)}ms"


def _written(duration: str, scale: float, seconds: float) -> str:
    return (
        duration
        if scale == 1 and seconds == float(duration[:-1]) * _UNITS_S[duration[-1]]
        else f"{round(seconds * 1000)}ms"
    )
