"""How many replicas a load needs, with how many instances of each model: reckoned from measured service times.

A *replica* is one server on as many cores as it was measured with. Callers are spread over replicas at random, so each
sees a Poisson process of its own, and one is simulated for all: a thousand machines take no longer than one. The rate
at which a replica's p99 reaches the limit is found by bisection; where more instances of the busiest model raise it,
they are taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mmdeploy.core.errors import BudgetError
from mmdeploy.core.target import this_hardware
from mmdeploy.performance.queueing import Simulated, simulate
from mmdeploy.performance.service_times import ServiceTimes

_STEPS = 8
#: What more instances must gain to be taken; where a queue is no longer in balance.
_GAIN, _FULL = 1.03, 0.98
#: Share of what a machine can take at which a p99 that is broken is broken whatever the load.
_LEAST = 0.02


@dataclass(frozen=True)
class Wanted:
    """What is asked for.

    Attributes:
        rate_per_s: Requests a second, of all replicas together.
        p99_ms: Most that the p99 of the latency may be.
        machine_cores: Of a machine; those that were measured where it is not said.
        machine_memory_bytes: Of a machine; None where it does not matter.
        machines: That there are; None for as many as it takes.
        more_instances: Whether instances may be added.
        requests: Of a simulation while searching; the one that is told has four times as many.
    """

    rate_per_s: float
    p99_ms: float
    machine_cores: int | None = None
    machine_memory_bytes: int | None = None
    machines: int | None = None
    more_instances: bool = True
    requests: int = 5_000


@dataclass(frozen=True)
class Plan:
    """What it takes.

    Attributes:
        wanted: What was asked for.
        times: What it was reckoned from.
        instances: Of each model in a replica.
        cores: Of a replica.
        replicas: How many.
        replicas_a_machine: That a machine has room for.
        most_per_s: Rate at which the p99 of one replica reaches the limit.
        at_rate: One replica at its share of the rate.
        memory_bytes: Of a replica; None where it was not measured.
        reckoned_memory: Whether that is for other numbers of instances than were measured.
    """

    wanted: Wanted
    times: ServiceTimes
    instances: Mapping[str, int]
    cores: int
    replicas: int
    replicas_a_machine: int
    most_per_s: float
    at_rate: Simulated
    memory_bytes: int | None
    reckoned_memory: bool

    @property
    def machines(self) -> int:
        """Machines that the replicas are on."""
        return math.ceil(self.replicas / self.replicas_a_machine)

    @property
    def breaks_at_per_s(self) -> float:
        """Rate of all replicas at which the p99 reaches the limit."""
        return self.replicas * self.most_per_s

    @property
    def headroom(self) -> float:
        """Share by which the rate may grow."""
        return self.breaks_at_per_s / self.wanted.rate_per_s - 1.0

    @property
    def bottleneck(self) -> str:
        """What is busiest: the cores, or a model's instances."""
        return busiest(self.at_rate)

    def notes(self) -> Iterator[str]:
        """Say what a reader of the plan must know."""
        hardware = self.times.hardware
        where = f"{hardware.get('cpu')}, {self.times.cores} cores"
        yield f"service times were measured on {where}: they hold for machines like it"
        if (this := this_hardware()).cpu != hardware.get("cpu"):
            yield f"they were measured on other hardware than this ({this.cpu})"
        if not self.times.measured.get("stable", True):
            yield "not every load was steady while they were measured: measure again on a quiet machine"
        if self.wanted.machine_memory_bytes is not None and self.memory_bytes is None:
            yield "memory was not measured, so only cores decide how many replicas a machine holds: give a release"
        if self.reckoned_memory:
            yield "memory is reckoned as if each instance had an equal share of what was measured: an upper bound"
        if short := [
            stage for stage in self.times.stages if stage.delay_s is not None and stage.largest < stage.max_batch
        ]:
            names = ", ".join(stage.name for stage in short)
            yield f"batches beyond {short[0].largest} rows were not measured, and are not reckoned with: {names}"

    def to_json(self) -> dict[str, Any]:
        """Return JSON-able fields."""
        at = self.at_rate
        return {
            "schema_version": 1,
            "model": self.times.model,
            "wanted": {"rate_per_s": self.wanted.rate_per_s, "p99_ms": self.wanted.p99_ms},
            "replicas": self.replicas,
            "replicas_per_machine": self.replicas_a_machine,
            "machines": self.machines,
            "cores_per_replica": self.cores,
            "memory_per_replica_bytes": self.memory_bytes,
            "instances": dict(self.instances),
            "p50_ms": 1e3 * at.percentile_s(50),
            "p99_ms": 1e3 * at.percentile_s(99),
            "breaks_at_per_s": self.breaks_at_per_s,
            "headroom": self.headroom,
            "bottleneck": self.bottleneck,
            "cores_busy": at.cores_busy,
            "components": {
                name: {
                    "instances": self.instances[name],
                    "utilization": stage.utilization,
                    "batch": stage.batch,
                    "queue_ms": 1e3 * stage.queue_s,
                }
                for name, stage in at.stages.items()
            },
            "hardware": dict(self.times.hardware),
            "notes": [*self.notes()],
        }


def make_plan(times: ServiceTimes, wanted: Wanted) -> Plan:
    """Find out what a load needs.

    Raises:
        BudgetError: With the reason, where it cannot be met.
    """
    machine_cores = wanted.machine_cores or times.cores
    cores = min(times.cores, machine_cores)
    instances, most = _best(times, wanted, cores)
    replicas = math.ceil(wanted.rate_per_s / most)
    memory, reckoned = _memory(times, instances)
    on_a_machine = machine_cores // cores
    if wanted.machine_memory_bytes is not None and memory is not None:
        if memory > wanted.machine_memory_bytes:
            raise BudgetError(
                f"one replica of {times.model} takes {memory / 2**30:.2f} GiB, and a machine has "
                f"{wanted.machine_memory_bytes / 2**30:.2f}",
                hint="take machines with more memory, or fewer instances",
            )
        on_a_machine = min(on_a_machine, wanted.machine_memory_bytes // memory)
    network = times.network(instances, cores=cores)
    while True:  # the search is short, and may have been lucky: what is told is what was held against the limit
        share = wanted.rate_per_s / replicas
        at_rate = simulate(network, rate_per_s=share, requests=4 * wanted.requests, seed=1)
        if keeps(at_rate, wanted.p99_ms) or share < _LEAST * most:
            break
        replicas, most = max(replicas + 1, math.ceil(1.02 * replicas)), min(most, share)
    plan = Plan(wanted, times, instances, cores, replicas, on_a_machine, most, at_rate, memory, reckoned)
    if wanted.machines is not None and plan.machines > wanted.machines:
        room = wanted.machines * on_a_machine * most
        raise BudgetError(
            f"{wanted.rate_per_s:g} requests a second with a p99 of {wanted.p99_ms:g} ms take {plan.machines} machines "
            f"({replicas} replicas, {on_a_machine} a machine), and there are {wanted.machines}",
            hint=f"these keep the p99 up to {room:.0f} requests a second; {plan.bottleneck} are what is busiest",
            best=plan.to_json(),
        )
    return plan


def busiest(found: Simulated) -> str:
    """Name what is busiest: the cores, or a model's instances."""
    shares = {f"the instances of {name}": stage.utilization for name, stage in found.stages.items()}
    shares["the cores"] = found.cores_busy
    return max(shares, key=lambda name: shares[name])


def keeps(found: Simulated, p99_ms: float) -> bool:
    """Say whether a p99 is kept by a server that keeps up."""
    full = max([found.cores_busy, *(stage.utilization for stage in found.stages.values())])
    return full < _FULL and 1e3 * found.percentile_s(99) <= p99_ms


def _best(times: ServiceTimes, wanted: Wanted, cores: int) -> tuple[dict[str, int], float]:
    """Return the instances that keep the highest rate, and that rate."""
    instances = times.instances()
    most = most_per_s(times, instances, wanted, cores)
    if most <= 0:
        alone = simulate(times.network(instances, cores=cores), clients=1, requests=1_000)
        raise BudgetError(
            f"no number of replicas has a p99 of {wanted.p99_ms:g} ms: a request that meets no other has "
            f"{1e3 * alone.percentile_s(99):.1f} ms",
            hint="compress the slowest model further, shorten max_queue_delay_us, or take faster machines",
        )
    while wanted.more_instances:
        found = simulate(times.network(instances, cores=cores), rate_per_s=most, requests=wanted.requests)
        name = max(found.stages, key=lambda one: found.stages[one].utilization)
        if instances[name] >= cores:
            break
        more = instances | {name: instances[name] + 1}
        reached = most_per_s(times, more, wanted, cores)
        if reached < _GAIN * most:
            break
        instances, most = more, reached
    return instances, most


def most_per_s(times: ServiceTimes, instances: Mapping[str, int], wanted: Wanted, cores: int) -> float:
    """Return the highest rate at which one replica keeps the p99; 0 where it keeps it at none."""
    network = times.network(instances, cores=cores)
    high = times.most_per_s(instances, cores)
    first = _LEAST * high
    if not keeps(simulate(network, rate_per_s=first, requests=wanted.requests), wanted.p99_ms):
        return 0.0
    low = first
    for _ in range(_STEPS):
        middle = (low + high) / 2
        kept = keeps(simulate(network, rate_per_s=middle, requests=wanted.requests), wanted.p99_ms)
        low, high = (middle, high) if kept else (low, middle)
    return low


def _memory(times: ServiceTimes, instances: Mapping[str, int]) -> tuple[int | None, bool]:
    """Return the memory of a replica, and whether it is for other instances than were measured."""
    if times.memory_bytes is None:
        return None, False
    before, after = sum(times.instances().values()), sum(instances.values())
    return math.ceil(times.memory_bytes * after / before), after != before
