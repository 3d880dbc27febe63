"""Puts several loads on a server, one after the other, and reports how it bore them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mmdeploy.core.errors import InferenceError, ServerError, UsageError
from mmdeploy.core.target import Hardware, this_hardware
from mmdeploy.performance.generator import Loop
from mmdeploy.performance.measure import Limits, measure
from mmdeploy.performance.point import Point
from mmdeploy.performance.prepared import InChunks, Prepared
from mmdeploy.performance.samples import Asked
from mmdeploy.performance.target import Target


@dataclass(frozen=True)
class Bench:
    """What several loads came to.

    Attributes:
        target: What was asked.
        asked: What it was asked.
        batch: Rows of a request.
        hardware: The machine that the load came from.
        points: One a load that was put.
        left: Loads that were not, since it was interrupted.
    """

    target: Target
    asked: Asked
    batch: int
    hardware: Hardware
    points: tuple[Point, ...]
    left: int = 0

    @property
    def stable(self) -> bool:
        """Whether every load was watched until it was steady."""
        return all(point.stable for point in self.points)

    @property
    def interrupted(self) -> bool:
        """Whether it was ended before all loads were measured."""
        return self.left > 0 or any(point.interrupted for point in self.points)

    def notes(self) -> Iterator[str]:
        """Say what a reader of the figures must know."""
        if self.target.cut is not None:
            yield (
                f"a request is a chunk of a sample, {self.target.cut.chunk} long where it has that much left; each "
                "client sends all chunks of one, each behind the answer to the one before, then those of the next"
            )
        if self.asked.source == "made-up values":
            yield "asked made-up values: give --release or --data for real samples"
        elif self.asked.samples == 1:
            yield "asked one and the same sample: a cache would know it, and what depends on the data does not show"
        for point in self.points:
            yield from point.notes()
        if self.left:
            yield f"interrupted: {self.left} of {self.left + len(self.points)} loads were not put"

    def to_json(self) -> dict[str, Any]:
        """Return JSON-able fields."""
        return {
            "schema_version": 1,
            "url": self.target.url,
            "protocol": self.target.protocol,
            "model": self.target.model,
            "batch": self.batch,
            **({} if self.target.cut is None else {"chunk": self.target.cut.chunk}),
            "samples": {"different": self.asked.samples, "from": self.asked.source},
            "hardware": self.hardware.to_json(),
            "closed": [point.to_json() for point in self.points if not point.loop.is_open],
            "open": [point.to_json() for point in self.points if point.loop.is_open],
            "notes": [*self.notes()],
        }


def run(
    target: Target,
    asked: Asked,
    loops: Sequence[Loop],
    limits: Limits,
    *,
    batch: int = 1,
    progress: Callable[[Loop, int], None] = lambda loop, windows: None,
) -> Bench:
    """Ask every sample once, then put the loads.

    Args:
        target: The served model.
        asked: What it is asked.
        loops: The loads.
        limits: When to stop each.
        batch: Rows of a request.
        progress: Called at the end of each window, with the load and the number of its windows.

    Raises:
        InferenceError: If the server refuses a sample.
        ServerError: If it does not answer.
        UsageError: If what takes samples in chunks is to be asked at random times, or for several rows.
    """
    require_sequences(target, loops, batch)
    prepared = [target.prepared(feed) if target.cut is None else target.in_chunks(feed) for feed in asked.feeds]
    try_once(target, prepared, asked)
    points: list[Point] = []
    for loop in loops:
        point = measure(target, prepared, loop, limits, progress=progress)
        points.append(point)
        if point.interrupted:
            break
    return Bench(target, asked, batch, this_hardware(), tuple(points), left=len(loops) - len(points))


def require_sequences(target: Target, loops: Sequence[Loop], batch: int) -> None:
    """Do nothing where loads are such that what takes samples in chunks can be asked, or it takes whole ones.

    Raises:
        UsageError: If requests are to come at random times, or to hold several rows.
    """
    if target.cut is None:
        return
    if any(loop.is_open for loop in loops):
        raise UsageError(
            f"{target.model} takes samples in chunks, each behind the answer to the one before, so none is due at a "
            "time of its own: --rate does not go",
            hint="say how many sequences are open at a time with --concurrency",
        )
    if batch != 1:
        raise UsageError(f"{target.model} takes samples in chunks of one row each: --batch {batch} does not go")


def try_once(target: Target, prepared: Sequence[Prepared | InChunks], asked: Asked) -> None:
    """Ask each request once: the server is warm then, and a sample that it refuses is named.

    Raises:
        InferenceError: If the server refuses one.
        ServerError: If it does not answer.
    """
    with target.connect(1) as connections:
        for number, request in enumerate(prepared):
            try:
                for part in request.numbered() if isinstance(request, InChunks) else [request]:
                    connections[0].ask(part)
            except (InferenceError, ServerError) as error:
                which = f"request {number + 1} of {len(prepared)} from {asked.source}"
                raise type(error)(f"{target.model} at {target.url} refuses {which}: {error.message}") from error
