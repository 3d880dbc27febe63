"""What an ensemble's models take, as it was measured on a server: what the simulation is fed with.

Nothing in it is assumed: the times of each batch size are Triton's own, from requests of that size sent one at a time;
what a request costs outside of the models is what is left of the latencies; how much of that keeps a core busy is what
makes the simulation answer as many requests as the server did when it had all it could take; how far executions of the
same batch are from each other while all cores are busy is what makes the 99th percentiles at random times those of the
server.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdeploy.core.errors import UsageError
from mmdeploy.performance.queueing import Network, ServiceTime, Stage

if TYPE_CHECKING:
    import numpy as np

SCHEMA = "mmdeploy-service-times-1"


@dataclass(frozen=True)
class StageTimes:
    """One model of an ensemble.

    Attributes:
        name: Of the model.
        after: Models that it reads from.
        instances: Executions that run side by side.
        max_batch: Most rows of an execution.
        delay_s: How long a request waits for others; None without dynamic batching.
        preferred: Batch sizes that are run at once.
        threads: Cores that an execution keeps busy.
        seconds: Of an execution, by its rows, one at a time.
        scale: How much longer it takes at the rate that was measured, where the machine is not warm from it alone.
    """

    name: str
    after: tuple[str, ...]
    instances: int
    max_batch: int
    delay_s: float | None
    preferred: tuple[int, ...]
    threads: int
    seconds: Mapping[int, float]
    scale: float = 1.0

    @property
    def largest(self) -> int:
        """Largest batch that is run and was measured."""
        return max(1, min(self.max_batch, max(self.seconds)))

    def service_time(self, rows: int) -> float:
        """Return the seconds of an execution: measured sizes, and on the line between two of them."""
        import numpy as np

        sizes = sorted(self.seconds)
        return self.scale * float(np.interp(rows, sizes, [self.seconds[size] for size in sizes]))

    def stage(self, instances: int, spread: float = 0.0) -> Stage:
        """Return it as the simulation takes it."""
        times = {rows: self.service_time(rows) for rows in range(self.largest + 1)}
        return Stage(
            self.name,
            _looked_up(times, self.largest),
            after=self.after,
            instances=instances,
            max_batch=self.largest,
            delay_s=self.delay_s,
            preferred=tuple(size for size in self.preferred if size <= self.largest),
            threads=self.threads,
            spread=spread,
        )


@dataclass(frozen=True)
class ServiceTimes:
    """All of an ensemble.

    Attributes:
        model: Its name.
        rows: Of a request.
        stages: Its models.
        cores: Of the machine.
        around_s: Seconds that requests took outside of the models, one at a time; ascending.
        work_s: Of these, how many keep a core busy.
        spread: Standard deviation of the logarithm of what executions of the same batch take while all cores are busy.
        hardware: The machine that it was measured from.
        memory_bytes: Of the server; None where it was not started for this.
        measured: What the server was asked, and how it bore that, for the record.
    """

    model: str
    rows: int
    stages: tuple[StageTimes, ...]
    cores: int
    around_s: tuple[float, ...]
    work_s: float
    hardware: Mapping[str, Any]
    spread: float = 0.0
    memory_bytes: int | None = None
    measured: Mapping[str, Any] = field(default_factory=dict)

    def instances(self) -> dict[str, int]:
        """Return the instances of each model as they are configured."""
        return {stage.name: stage.instances for stage in self.stages}

    def network(
        self, instances: Mapping[str, int] | None = None, *, cores: float | None = None, warm: bool = False
    ) -> Network:
        """Return it as the simulation takes it.

        Args:
            instances: Of each model, where not as configured.
            cores: That they share, where not as measured.
            warm: As when the server had all that it can take.
        """
        wanted = dict(self.instances()) | dict(instances or {})
        stages = [replace(stage, scale=1.0) for stage in self.stages] if warm else self.stages
        return Network(
            tuple(stage.stage(wanted[stage.name], self.spread) for stage in stages),
            cores=self.cores if cores is None else cores,
            around=_around(self.around_s, self.work_s),
            rows=self.rows,
        )

    def scaled(self, scale: float) -> ServiceTimes:
        """Return it with models that take so much longer."""
        return replace(self, stages=tuple(replace(stage, scale=scale) for stage in self.stages))

    def most_per_s(self, instances: Mapping[str, int], cores: float) -> float:
        """Return a rate that cannot be exceeded: by the instances, and by the cores."""
        rates, work = [], self.work_s
        for stage in self.stages:
            each = min(stage.service_time(size) / max(1, size // self.rows) for size in self._sizes(stage))
            rates.append(instances[stage.name] / each if each > 0 else math.inf)
            work += each * stage.threads
        return min(*rates, cores / work if work > 0 else math.inf)

    def _sizes(self, stage: StageTimes) -> list[int]:
        """Return the sizes that may be run: multiples of a request."""
        if stage.delay_s is None:
            return [self.rows]
        return list(range(self.rows, max(stage.largest, self.rows) + 1, self.rows))

    def to_json(self) -> dict[str, Any]:
        """Return JSON-able fields."""
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any], where: str) -> ServiceTimes:
        """Read what `to_json` wrote.

        Raises:
            UsageError: If it is something else.
        """
        try:
            if fields.get("schema") != SCHEMA:
                raise ValueError(f"its schema is {fields.get('schema')!r} and not {SCHEMA!r}")
            stages = tuple(
                StageTimes(
                    **{
                        **one,
                        "after": tuple(one["after"]),
                        "preferred": tuple(one["preferred"]),
                        "seconds": {int(size): float(seconds) for size, seconds in one["seconds"].items()},
                    }
                )
                for one in fields["stages"]
            )
            if not stages or any(not stage.seconds for stage in stages) or not fields["around_s"]:
                raise ValueError("it holds no times")
            others = {name: value for name, value in fields.items() if name not in ("schema", "stages", "around_s")}
            return cls(stages=stages, around_s=tuple(map(float, fields["around_s"])), **others)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UsageError(
                f"{where} holds no service times: {error}",
                hint="measure them with mmdeploy capacity RELEASE --write FILE, or --url URL --write FILE",
            ) from error

    @classmethod
    def read(cls, path: Path) -> ServiceTimes:
        """Read a file.

        Raises:
            UsageError: If it cannot be read, or is something else.
        """
        try:
            fields = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise UsageError(f"{path} cannot be read: {reason}") from error
        return cls.from_json(fields if isinstance(fields, dict) else {}, str(path))


def _looked_up(times: Mapping[int, float], largest: int) -> ServiceTime:
    def seconds(rows: int, random: np.random.Generator) -> float:
        return times[min(rows, largest)]

    return seconds


def _around(seconds: tuple[float, ...], work_s: float) -> Any:
    def drawn(random: np.random.Generator) -> tuple[float, float]:
        return work_s, max(0.0, seconds[int(random.random() * len(seconds))] - work_s)

    return drawn
