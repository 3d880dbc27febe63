"""What ``bucket`` wins, or costs: the candidate against itself without buckets, and padded to the maximum.

Padding costs arithmetic and wins batches; which is more depends on the model, the machine and the lengths that clients
send. So it is measured when the gates have run: clients of a closed loop send the evaluation samples at their true
lengths to the candidate and to one of the others in turns, as the throughput gate does. A ratio whose interval lies
below 1 is a warning; it fails no build, since buckets may be meant for another machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mmdeploy.building.gain import MOST_SECONDS, Gain, measured_gain
from mmdeploy.building.judge import ServedDeployment
from mmdeploy.building.served_ensemble import candidate_ensemble, stand_ins
from mmdeploy.building.staged import staged
from mmdeploy.core.artifact import Artifact
from mmdeploy.core.contracts import Evidence
from mmdeploy.core.errors import MmdeployError
from mmdeploy.record.observer import Observer
from mmdeploy.scoring.load import LoadOptions
from mmdeploy.triton import server as triton_server

if TYPE_CHECKING:
    from mmdeploy.recipe.schema import Recipe

#: What the display calls it.
STEP = "buckets"
#: As many as make batches, and are few enough to be Python threads beside the servers.
_CLIENTS = 8


@dataclass(frozen=True)
class BucketGain:
    """Measures what a recipe's buckets win.

    Attributes:
        recipe: With buckets or without.
        artifacts: By step, of the whole build.
        folder: Of the run; what is staged there is removed by whoever removes the run's other stages.
        observer: Who watches.
    """

    recipe: Recipe
    artifacts: Mapping[str, Artifact]
    folder: Path
    observer: Observer

    def __call__(self, evidence: Evidence) -> tuple[str, ...]:
        """Return what was found, a sentence each; nothing where nothing is padded to buckets.

        Args:
            evidence: The candidate, up and ready, with the samples.
        """
        others = dict(_others(self.recipe))
        if not others:
            return ()
        self.observer.step_started(STEP)
        try:
            with ExitStack() as stack:
                found = {name: self._measured(stack, evidence, name, recipe) for name, recipe in others.items()}
        except MmdeployError as error:
            notes: tuple[str, ...] = (f"What `bucket` wins was not measured: {error.message}.",)
        else:
            notes = told(self.recipe, found)
        self.observer.work_finished(STEP, notes[0])
        return notes

    def _measured(self, stack: ExitStack, evidence: Evidence, name: str, recipe: Recipe) -> Gain:
        made = staged(self.folder / STEP / name, candidate_ensemble(recipe, self.artifacts))
        log = self.folder / "logs" / f"triton-{STEP}-{name}.log"
        server = stack.enter_context(
            triton_server.start(
                [made.repository.path], log=log, response_cache_bytes=0, stand_ins=stand_ins(recipe)
            )
        )  # fmt: skip
        beside = replace(evidence, reference=ServedDeployment(server, made.ensemble))
        options = LoadOptions(concurrency=_CLIENTS, max_seconds=MOST_SECONDS)
        told = f"requests, beside {_WORDS[name]}"
        return measured_gain(
            beside,
            evidence.feeds,
            options,
            progress=lambda done: self.observer.progress(STEP, done, None, told),
            again=name == _NONE,  # which is judged
        )


_NONE, _PADDED = "no-bucket", "padded"
_WORDS = {_NONE: "no bucket", _PADDED: "padding all to the maximum"}


def _others(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Give what a recipe with buckets is measured against: itself without, and with the last of each alone."""
    buckets = {name: size.bucket for name, size in recipe.sizes.items() if size.bucket is not None}
    lengths: dict[str, dict[str, tuple[int, ...] | None]] = {
        _NONE: dict.fromkeys(buckets),
        _PADDED: {name: some[-1:] for name, some in buckets.items()},
    }
    for other, by_size in lengths.items():
        if any(by_size[name] != some for name, some in buckets.items()):
            changed = {name: recipe.sizes[name].model_copy(update={"bucket": some}) for name, some in by_size.items()}
            yield other, recipe.model_copy(update={"sizes": {**recipe.sizes, **changed}})


def told(recipe: Recipe, found: Mapping[str, Gain]) -> tuple[str, ...]:
    """Say what was found, and warn where buckets are slower than none."""
    buckets = ", ".join(f"{name} {list(size.bucket)}" for name, size in recipe.sizes.items() if size.bucket is not None)
    words = [f"{_times(gain)} {_WORDS[name]}" for name, gain in found.items()]
    requests = min((gain.requests for gain in found.values()), default=0)
    under = f"{_CLIENTS} clients, {requests} requests each way, evaluation samples at their true lengths"
    notes = [f"Buckets ({buckets}): {', '.join(words)}; {under}."]
    ratio = found[_NONE].ratio if _NONE in found else None
    if ratio is not None and ratio.interval[1] < 1.0:
        batching = any(part.serving.dynamic_batching is not None for part in recipe.components.values())
        advice = "" if batching else "; no component has `dynamic_batching`, so no requests are joined"
        notes.append(
            f"Warning: `bucket` costs more than it wins on this machine, {ratio.value:.2f} × the samples a second of "
            f"no bucket{advice}. Take it out, unless clients would pad to the maximum otherwise."
        )
    return tuple(notes)


def _times(gain: Gain) -> str:
    return f"not measured ({gain.why}) against" if gain.ratio is None else f"{gain.times} the samples a second of"
