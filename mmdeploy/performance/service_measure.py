"""Measures the service times of a served ensemble, in a minute at most.

1. One client, requests of 1, 2, 4, … rows: what each model takes for each batch, and what is left of the latency.
2. Several clients at once, until the server has all it can take: how much of what is left keeps a core busy.
3. Shares of that, at random times: how much longer all takes on a machine that is not kept warm, and how far
   executions of the same batch are from each other.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmdeploy.core.errors import UsageError
from mmdeploy.core.target import this_hardware, usable_cores
from mmdeploy.engines.threads import threads_told
from mmdeploy.performance.bench import try_once
from mmdeploy.performance.generator import Loop
from mmdeploy.performance.measure import Limits, measure
from mmdeploy.performance.point import Point
from mmdeploy.performance.queueing import simulate
from mmdeploy.performance.samples import find
from mmdeploy.performance.service_times import ServiceTimes, StageTimes
from mmdeploy.performance.target import Target
from mmdeploy.triton.served_step import OPTIONS_PARAMETER

#: Shares of what the server can take at which it is measured at random times, and the clients that give it all.
LOADS, CLIENTS_A_CORE = (0.3, 0.6), 4
_MOST_ROWS, _MOST_CLIENTS = 32, 256
_KEPT = 400
_REQUESTS = 2000
#: Bounds of how much longer all may take at random times, and of how far executions may be from each other.
_SCALES, _SPREADS = (0.5, 3.0), (0.0, 1.5)
#: Simulated requests that tell a 99th percentile, and how often it and the median, which feels it too, are found.
_TAIL_REQUESTS, _ROUNDS = 6000, 2
#: Each load at random times is put so often, in turns, so that what else a machine does is in few of them; the requests
#: that each is to hold, and its least and most seconds.
_BLOCKS, _BLOCK_REQUESTS, _BLOCK_S = 5, 1000, (3.0, 5.0)


def measure_service_times(
    target: Target,
    limits: Limits,
    *,
    data: Path | None = None,
    release: Path | None = None,
    cores: int | None = None,
    progress: Callable[[str], None] = lambda what: None,
) -> ServiceTimes:
    """Measure an ensemble.

    Args:
        target: The served ensemble.
        limits: Of each load.
        data: Samples, as `mmdeploy.performance.samples.find` takes them.
        release: Likewise.
        cores: Of the server's machine; those of this one where it is not said.
        progress: Told what is being done.

    Raises:
        UsageError: If it is no ensemble of plain models, or a cache answers.
        ServerError: If the server does not answer.
    """
    cores, asking = cores or usable_cores(), _Asking(target, limits, data, release)
    stages = _stages(target)
    alone: dict[int, Point] = {}
    for rows in _sizes(target, stages):
        progress(f"one client, {rows} rows a request")
        alone[rows] = asking.ask(Loop(concurrency=1), rows)
    timed = tuple(replace(stage, seconds=_seconds(stage, alone)) for stage in stages)
    for stage in timed:
        if not stage.seconds:
            raise UsageError(
                f"{target.model}: nothing was counted of {stage.name}, its times are not known",
                hint="does a response cache answer for it? measure without",
            )
    clients = min(CLIENTS_A_CORE * cores, _MOST_CLIENTS)
    progress(f"{clients} clients at once")
    full = asking.ask(Loop(concurrency=clients))
    rates = [share * full.throughput_per_s for share in LOADS]
    progress(f"{' and '.join(f'{rate:.0f}' for rate in rates)} requests a second at random times")
    opened = asking.in_turns(rates)
    times = ServiceTimes(
        model=target.model,
        rows=1,
        stages=timed,
        cores=cores,
        around_s=_around(alone[1], timed),
        work_s=0.0,
        hardware=this_hardware().to_json(),
        measured={
            "samples": find(target, data=data, release=release).source,
            "stable": all(point.stable for point in (*alone.values(), full))
            and all(_agree(blocks, limits) for blocks in opened.values()),
            "alone_mean_ms": {rows: point.mean_ms for rows, point in alone.items()},
            "full": {"clients": clients, "throughput_per_s": full.throughput_per_s},
            "open": [
                {"rate_per_s": rate, **{f"p{p}_ms": _median(one.percentile_ms(p) for one in blocks) for p in (50, 99)}}
                for rate, blocks in opened.items()
            ],
        },
    )
    progress("fitting")
    return fitted(times)


@dataclass(frozen=True)
class _Asking:
    """Loads on one server."""

    target: Target
    limits: Limits
    data: Path | None
    release: Path | None

    def ask(self, loop: Loop, rows: int = 1, limits: Limits | None = None) -> Point:
        """Put a load; nothing answered is an error."""
        asked = find(self.target, batch=rows, data=self.data, release=self.release)
        prepared = [self.target.prepared(feed) for feed in asked.feeds]
        try_once(self.target, prepared, asked)
        point = measure(self.target, prepared, loop, limits or self.limits)
        if point.interrupted:
            raise KeyboardInterrupt
        if not len(point.latencies_ms):
            reason = "; ".join(point.reasons) or "in the time that it had"
            raise UsageError(f"{self.target.model} answered nothing: {reason}")
        return point

    def in_turns(self, rates: Sequence[float]) -> dict[float, list[Point]]:
        """Put loads at random times in turns, in blocks that are all counted: also those that were not calm."""
        import numpy as np

        found: dict[float, list[Point]] = {rate: [] for rate in rates}
        for number in range(_BLOCKS):
            for rate, blocks in found.items():
                seconds = float(np.clip(_BLOCK_REQUESTS / rate, *_BLOCK_S))
                whole = Limits(window_s=seconds / 3, max_seconds=seconds, stability=math.inf)
                blocks.append(self.ask(Loop(rate_per_s=rate, seed=number), limits=whole))
        return found


def _median(values: Iterable[float | None]) -> float:
    return statistics.median(value for value in values if value is not None)


def _agree(blocks: Sequence[Point], limits: Limits) -> bool:
    """Say whether most blocks are near the usual one; they are shorter than what a single load is watched for."""
    usual = _median(one.percentile_ms(50) for one in blocks)
    near = sum(abs((one.percentile_ms(50) or 0.0) - usual) <= 2 * limits.stability * usual for one in blocks)
    return near > len(blocks) / 2


def fitted(times: ServiceTimes) -> ServiceTimes:
    """Find the work around the models, how much longer all takes when the machine is not kept warm, and its spread.

    The work is that at which the simulation answers as many requests as the server did when it had all it could take.
    The models take as much longer as gives the median of the lesser load at random times, where requests hardly meet;
    they are as far from each other as gives the 99th percentiles of both loads, as a mean. Means of requests are not
    looked at: what else a machine does makes a few very slow.
    """
    for _ in range(_ROUNDS):
        times = _with_spread(_with_scale(_with_work(times)))
    return _with_scale(times)


def _with_work(times: ServiceTimes) -> ServiceTimes:
    clients, most = times.measured["full"]["clients"], times.measured["full"]["throughput_per_s"]

    def is_less(work_s: float) -> bool:
        network = replace(times, work_s=work_s).network(warm=True)
        return bool(simulate(network, clients=clients, requests=_REQUESTS).throughput_per_s > most)

    slow = times.around_s[round(0.99 * (len(times.around_s) - 1))]  # it cannot be more than what it is part of
    return replace(times, work_s=_found(is_less, 0.0, min(times.cores / most, slow)))


def _with_scale(times: ServiceTimes) -> ServiceTimes:
    lesser = times.measured["open"][:1]
    return times.scaled(_found(lambda scale: _too_fast(times.scaled(scale), 50, lesser) > 0, *_SCALES))


def _with_spread(times: ServiceTimes) -> ServiceTimes:
    def lacks(spread: float) -> float:
        return _too_fast(replace(times, spread=spread), 99, times.measured["open"])

    alike = lacks(0.0)
    if alike <= 0 or lacks(_SPREADS[1]) >= alike:  # the p99 is right, or something else makes it
        return replace(times, spread=0.0)
    return replace(times, spread=_found(lambda spread: lacks(spread) > 0, *_SPREADS))


def _too_fast(times: ServiceTimes, percent: int, loads: Sequence[Mapping[str, float]]) -> float:
    """Return by how much a percentile of the simulation is less than that of the server: sum of logarithms."""
    network, by = times.network(), 0.0
    for load in loads:
        found = simulate(network, rate_per_s=load["rate_per_s"], requests=_TAIL_REQUESTS)
        by += math.log(load[f"p{percent}_ms"] / (1e3 * found.percentile_s(percent)))
    return by


def _found(is_less: Callable[[float], bool], low: float, high: float) -> float:
    """Return a number, by whether another one is less."""
    for _ in range(8):
        middle = (low + high) / 2
        low, high = (middle, high) if is_less(middle) else (low, middle)
    return (low + high) / 2


def _stages(target: Target) -> tuple[StageTimes, ...]:
    """Read the models of an ensemble and who reads from whom; a model that is none is its only stage."""
    steps: Sequence[Mapping[str, Any]] = target.config.get("ensemble_scheduling", {}).get("step", [])
    if not steps:
        return (_stage(target.config, ()),)
    makers = {tensor: step["model_name"] for step in steps for tensor in step["output_map"].values()}
    found = []
    for step in steps:
        config = target.config_of(step["model_name"])
        if config.get("ensemble_scheduling", {}).get("step"):
            inner = f"the ensemble {step['model_name']} is in it"
            raise UsageError(f"{target.model}: {inner}, and only plain models are reckoned")
        if _decides_whom_to_ask(config):
            raise UsageError(
                f"{target.model}: {step['model_name']} asks the rest of a cascade for some rows only, and that is not "
                "reckoned",
                hint="measure it with `mmdeploy bench --rate`",
            )
        after = {makers[tensor] for tensor in step["input_map"].values() if tensor in makers}
        found.append(_stage(config, tuple(sorted(after))))
    if len({stage.name for stage in found}) != len(found):
        raise UsageError(f"{target.model} asks a model at two places, which is not reckoned")
    return tuple(found)


def _decides_whom_to_ask(config: Mapping[str, Any]) -> bool:
    """Say whether a model is the step of a cascade."""
    told = config.get("parameters", {}).get(OPTIONS_PARAMETER, {}).get("string_value", "{}")
    return "left_early" in json.loads(told)


def _stage(config: Mapping[str, Any], after: tuple[str, ...]) -> StageTimes:
    batching = config.get("dynamic_batching")
    parameters = {key: str(value.get("string_value", "")) for key, value in config.get("parameters", {}).items()}
    return StageTimes(
        name=config["name"],
        after=after,
        instances=sum(int(group.get("count", 1)) for group in config.get("instance_group", [])) or 1,
        max_batch=max(1, int(config.get("max_batch_size", 0))),
        delay_s=None if batching is None else int(batching.get("max_queue_delay_microseconds", 0)) / 1e6,
        preferred=tuple(int(size) for size in (batching or {}).get("preferred_batch_size", [])),
        threads=threads_told(parameters),
        seconds={},
    )


def _sizes(target: Target, stages: Sequence[StageTimes]) -> list[int]:
    """Return the batch sizes to measure: powers of two up to what is batched, and that itself."""
    batched = max((stage.max_batch for stage in stages if stage.delay_s is not None), default=1)
    most = min(batched, max(1, target.max_batch_size), _MOST_ROWS)
    return sorted({2**power for power in range(most.bit_length())} | {most})


def _seconds(stage: StageTimes, alone: Mapping[int, Point]) -> dict[int, float]:
    """Return the time of each batch size, never less than that of a smaller one: what is measured has noise."""
    found, least = dict[int, float](), 0.0
    for rows, point in sorted(alone.items()):
        one = point.components.get(stage.name)
        for batch in one.batches if one else ():
            if batch.size == rows:
                least = max(least, batch.compute_ms / 1e3)
                found[rows] = least
    return found


def _around(point: Point, stages: Sequence[StageTimes]) -> tuple[float, ...]:
    """Return what is left of latencies of one client when the longest way through the models is taken off."""
    import numpy as np

    ends = dict[str, float]()
    for stage in _in_order(stages):
        began = max((ends[name] for name in stage.after), default=0.0)
        waits = stage.delay_s or 0.0
        ends[stage.name] = began + (0.0 if stage.largest == 1 or 1 in stage.preferred else waits) + stage.seconds[1]
    left = np.maximum(point.latencies_ms / 1e3 - max(ends.values()), 0.0)
    chosen = np.linspace(0, len(left) - 1, min(len(left), _KEPT)).round().astype(int)
    return tuple(float(one) for one in left[chosen])


def _in_order(stages: Sequence[StageTimes]) -> list[StageTimes]:
    import graphlib

    by_name = {stage.name: stage for stage in stages}
    return [by_name[name] for name in graphlib.TopologicalSorter({s.name: s.after for s in stages}).static_order()]
