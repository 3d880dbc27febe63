"""Latency of two repositories measured in turns: each served by a Triton of its own, both under the same load.

The samples are the real ones that lie beside a release (``perf_analyzer.json``). Loads are those of the latency gates
of the build that is judged, or one request at a time where it has none. Figures and verdicts are those of the gate
``latency``, with the baseline in the place of the FP32 reference: by the whole interval, which allows for what starting
a server anew changes, and open where the time is over before noise lets it decide.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdeploy.core.artifact import NUMPY_BY_DTYPE
from mmdeploy.core.contracts import Array, Check, Evidence, Progress, Samples, Verdict, no_progress
from mmdeploy.core.errors import UsageError
from mmdeploy.core.strings import BYTES, unpacked
from mmdeploy.core.target import this_hardware, usable_cores
from mmdeploy.gates import latency
from mmdeploy.record.build_report import FILENAME
from mmdeploy.triton.client import GrpcRunner
from mmdeploy.triton.known_samples import PERF_SAMPLES
from mmdeploy.triton.outer_ensembles import outer_ensembles
from mmdeploy.triton.repository import in_use, is_repository, require_intact
from mmdeploy.triton.several import start_all

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    from mmdeploy.record.build_report import BuildReport
    from mmdeploy.triton.server import Server

_STAGED = "staged"
_NOTE = "both repositories served on this machine, asked in turns"


@dataclass(frozen=True)
class AtHand:
    """A build whose repository is at hand.

    Attributes:
        repository: The model repository.
        samples: Samples of its ensemble's inputs, as `perf_analyzer` reads them.
    """

    repository: Path
    samples: Path


@dataclass(frozen=True)
class HowLong:
    """How to measure.

    Attributes:
        max_seconds: When to stop, for each load, and leave it open.
        logs: Folder of the servers' logs.
        progress: Told the seconds.
    """

    max_seconds: float
    logs: Path
    progress: Progress = no_progress


def at_hand(place: Path) -> AtHand | None:
    """Return the repository of the build that a report is of; None where it is not there.

    Args:
        place: A release, a run's folder, or the report in one.
    """
    folder = place.parent if place.name == FILENAME else place
    for repository in (folder, folder / _STAGED):
        if (folder / PERF_SAMPLES).is_file() and repository.is_dir() and is_repository(repository):
            return AtHand(repository.resolve(), folder.resolve() / PERF_SAMPLES)
    return None


def loads(report: BuildReport) -> tuple[latency.Options, ...]:
    """Return the loads that a build's latency gates measured, without limits that are theirs alone."""
    found = {
        (str(gate.details["percentile"]), int(str(gate.details["batch"])), int(str(gate.details["concurrency"])))
        for gate in report.gates
        if gate.gate == "latency" and {"percentile", "batch", "concurrency"} <= gate.details.keys()
    }
    return tuple(
        latency.Options.model_validate(
            {
                "percentile": percentile,
                "batch": batch,
                "concurrency": concurrency,
                "max_ratio_to_reference": 1.0,
                "per_component": False,
            }
        )
        for percentile, batch, concurrency in sorted(found or {("p50", 1, 1)})
    )


def measured(
    build: AtHand, baseline: AtHand, limit: float, asked: tuple[latency.Options, ...], how: HowLong
) -> tuple[Check, ...]:
    """Serve both repositories and judge the latency of one over that of the other.

    Args:
        build: What is judged.
        baseline: What it is judged by.
        limit: Largest ratio of each percentile.
        asked: Under which loads.
        how: For how long.

    Raises:
        UsageError: If they do not take the same inputs, or hold no one ensemble.
        StoreError: If one is not what was published.
        ServerError: If Triton refuses one.
        EnvironmentUnfitError: If there is no Triton.
    """
    sides = {"candidate": build.repository, "baseline": baseline.repository}
    ours, theirs = (_ensemble(path) for path in sides.values())
    if _inputs(ours) != _inputs(theirs):
        raise UsageError(
            f"{ours.name} takes {_told(ours)}, and the baseline {_told(theirs)}: they cannot be asked the same",
            hint="leave --max-latency-ratio out, or compare a release that takes the same inputs",
        )
    feeds = samples_of(build.samples, ours)
    with ExitStack() as stack:
        stack.enter_context(in_use(sides.values()))
        require_intact(sides.values())
        servers = start_all(stack, sides, how.logs)
        evidence = Evidence(
            candidate=_Served(servers["candidate"], ours.name),
            reference=_Served(servers["baseline"], theirs.name),
            components=(),
            ensemble_outputs=(),
            feeds=feeds,
            labels=None,
            original={},
            hardware=this_hardware(),
            max_batch_size=int(ours.max_batch_size),
            cores=usable_cores(),
            progress=how.progress,
        )
        return tuple(_judged(options, limit, evidence, how.max_seconds) for options in asked)


def _judged(options: latency.Options, limit: float, evidence: Evidence, max_seconds: float) -> Check:
    asked = options.model_copy(update={"max_ratio_to_reference": limit, "max_seconds": max_seconds})
    (check,) = latency.check(asked, evidence).checks
    if check.verdict is Verdict.INCONCLUSIVE and check.measured is None:
        check = replace(check, limit=f"<= {limit:.10g}")
    note = "; ".join(part for part in (_NOTE, check.note.replace("the reference", "the baseline")) if part)
    return replace(check, note=note)


class _Served:
    """The ensemble of a release on a running Triton; a `contracts.Deployment`."""

    def __init__(self, server: Server, ensemble: str) -> None:
        self._server, self._ensemble = server, ensemble

    def runner(self, model: str | None = None) -> GrpcRunner:
        return self._server.runner(model or self._ensemble)

    def memory_bytes(self) -> int:
        return self._server.memory_bytes()

    def size_bytes(self) -> dict[str, int]:
        return {}


def samples_of(file: Path, ensemble: ModelConfig) -> Samples:
    """Read the samples that lie beside a release.

    Raises:
        UsageError: If they cannot be read.
    """
    try:
        rows = [_sample(row, ensemble) for row in json.loads(file.read_text(encoding="utf-8"))["data"]]
    except (OSError, ValueError, KeyError, TypeError) as cause:
        hint = "build again: a build writes samples beside its report"
        raise UsageError(f"{file}: no samples that can be sent: {cause}", hint=hint) from cause
    if not rows:
        raise UsageError(f"{file} holds no sample", hint="build with evaluation data")
    return Samples({name: _column([row.get(name) for row in rows]) for name in dict.fromkeys(_names(rows))})


def _names(rows: list[dict[str, Array]]) -> Iterator[str]:
    for row in rows:
        yield from row


def _sample(row: dict[str, Any], ensemble: ModelConfig) -> dict[str, Array]:
    """Return a sample as arrays without a batch axis."""
    import numpy as np

    types, found = {one.name: _dtype(one.data_type) for one in ensemble.input}, {}
    for name, tensor in row.items():
        raw, shape = base64.b64decode(tensor["b64"], validate=True), tuple(map(int, tensor["shape"]))
        if types[name] == BYTES:
            array = unpacked(raw, shape)
        else:
            array = np.frombuffer(raw, NUMPY_BY_DTYPE[types[name]]).reshape(shape)
        found[name] = array if ensemble.max_batch_size else array[0]
    return found


def _column(arrays: list[Array | None]) -> Array:
    """Return a column: an array where samples are alike, else one of objects."""
    import numpy as np

    shapes = {None if array is None else array.shape for array in arrays}
    if len(shapes) == 1 and None not in shapes:
        return np.stack([array for array in arrays if array is not None])
    column = np.empty(len(arrays), dtype=object)
    for row, array in enumerate(arrays):
        column[row] = array
    return column


def _ensemble(repository: Path) -> ModelConfig:
    found = outer_ensembles([repository])
    if len(found) != 1:
        raise UsageError(
            f"{repository} holds {len(found)} ensembles; one release holds one",
            hint="name the folder of a release, such as model_repository/spoken_digits",
        )
    return found[0]


def _inputs(ensemble: ModelConfig) -> dict[str, tuple[int, tuple[int, ...]]]:
    return {one.name: (one.data_type, tuple(one.dims)) for one in ensemble.input}


def _told(ensemble: ModelConfig) -> str:
    return ", ".join(f"{one.name} {_dtype(one.data_type)} {list(one.dims)}" for one in ensemble.input)


def _dtype(number: int) -> str:
    from tritonclient.grpc.model_config_pb2 import DataType

    name = DataType.Name(number).removeprefix("TYPE_")
    return BYTES if name == "STRING" else name
