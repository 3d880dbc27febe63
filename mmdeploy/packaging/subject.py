"""What is packaged: one intact release, and what of it decides how it is run."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmdeploy.core.artifact import NUMPY_BY_DTYPE, file_sha256
from mmdeploy.core.errors import UsageError
from mmdeploy.engines.threads import threads_told
from mmdeploy.record.build_report import FILENAME, BuildReport
from mmdeploy.record.report_file import read_report
from mmdeploy.triton.config import parse
from mmdeploy.triton.repository import is_model, require_intact, resolve
from mmdeploy.triton.response_cache import settings_of
from mmdeploy.triton.sequences import STREAM_PARAMETER
from mmdeploy.triton.staging import MANIFEST, SIGNATURE, check_name, read_manifest

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

#: Bytes of a value as text in JSON, at most, for each byte that it takes: UINT8 is the worst.
_TEXT_BYTES = 8
_LEAST_BODY, _MOST_BODY = 2**20, 64 * 2**20
_MIB = 2**20


@dataclass(frozen=True)
class Subject:
    """A release, as its packaging needs it.

    Attributes:
        path: Its folder.
        name: Name of the ensemble.
        release_id: Id of the release.
        manifest_sha256: Digest of its manifest.
        signed: Whether a signature lies in it.
        models: Names of all models, the ensemble's own included.
        steps: Names of those that compute: no ensembles.
        instances: How many of each of those run at once.
        batching_ms: How long a request may wait in all of them for others to join its batch.
        gpu: Whether something in it runs on a GPU.
        threads: Most threads that one model of it computes with.
        cache_option: The option that gives Triton the release's response cache; empty where nothing is cached.
        cache_bytes: Size of that cache.
        requirements: Packages of its steps in Python, a line each.
        has_sample: Whether a real request lies in it, to probe with.
        probe_cached: Whether a probe could be answered from the cache.
        model_bytes: Size of what Triton loads.
        peak_bytes: Memory of the server under load, as the build measured it; None where no gate did.
        latency_ms: 95th percentile of one request at a time, as the build measured it; None where no gate did.
        body_bytes: Largest body of a request that makes sense.
        stream: Whether it takes samples in chunks, as sequences.
    """

    path: Path
    name: str
    release_id: str
    manifest_sha256: str
    signed: bool
    models: tuple[str, ...]
    steps: tuple[str, ...]
    instances: Mapping[str, int]
    batching_ms: float
    gpu: bool
    threads: int
    cache_option: str
    cache_bytes: int
    requirements: tuple[str, ...]
    has_sample: bool
    probe_cached: bool
    model_bytes: int
    peak_bytes: int | None
    latency_ms: float | None
    body_bytes: int
    stream: bool = False

    @property
    def slug(self) -> str:
        """The name as Kubernetes (DNS labels) and registries take it."""
        name = re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")[:40].strip("-")
        return name if name[:1].isalpha() else f"m-{name}".strip("-")

    @property
    def tag(self) -> str:
        """The release's id as labels of Kubernetes and tags of images take it."""
        return re.sub(r"[^A-Za-z0-9_.-]", "-", self.release_id)[:63].strip("-._") or "release"

    @property
    def image(self) -> str:
        """What the image is called where nothing else is asked for."""
        return f"{self.slug}:{self.tag}"

    @property
    def memory_request_mib(self) -> int:
        """Memory to ask for: a quarter above what was measured; a guess where nothing was."""
        measured = None if self.peak_bytes is None else 1.25 * self.peak_bytes
        return _up(self.cache_bytes + (2**30 + 3 * self.model_bytes if measured is None else measured))

    @property
    def memory_limit_mib(self) -> int:
        """Memory at which it is ended."""
        return _up(1.6 * self.memory_request_mib * _MIB)


def read_subject(path: Path) -> Subject:
    """Read a release: its folder, the link to what is live, or a folder in which one ensemble is published.

    Raises:
        UsageError: If that is not one release, or not one of a build.
        StoreError: If it is not what was published.
    """
    found = resolve(path)
    if len(found) != 1:
        names = ", ".join(sorted(one.parent.name for one in found))
        raise UsageError(f"{path} holds {len(found)} ensembles: {names}", hint="name one of them, such as FOLDER/NAME")
    release = found[0]
    if not (release / MANIFEST).is_file():
        raise UsageError(
            f"{release} is no release: it has no {MANIFEST}", hint="build a recipe first: mmdeploy build RECIPE"
        )
    require_intact([release])
    name = str(read_manifest(release)["name"])
    configs = _configs(release)
    for one in (name, *configs):
        check_name(one, "packaged")
    steps = {key: config for key, config in configs.items() if not config.HasField("ensemble_scheduling")}
    cache = settings_of([release])
    report = read_report(release / FILENAME) if (release / FILENAME).is_file() else None
    requirements = release / "requirements.txt"
    lines = requirements.read_text(encoding="utf-8").splitlines() if requirements.is_file() else []
    return Subject(
        path=release,
        name=name,
        release_id=release.name,
        manifest_sha256=file_sha256(release / MANIFEST),
        signed=(release / SIGNATURE).is_file(),
        models=tuple(sorted(configs)),
        steps=tuple(sorted(steps)),
        instances={key: sum(group.count or 1 for group in one.instance_group) or 1 for key, one in steps.items()},
        batching_ms=sum(one.dynamic_batching.max_queue_delay_microseconds for one in steps.values()) / 1000,
        gpu=any(_on_gpu(config) for config in configs.values()),
        threads=max((threads_told(_told(config)) for config in configs.values()), default=1),
        cache_option=cache.option if cache.models else "",
        cache_bytes=cache.bytes if cache.models else 0,
        requirements=tuple(line.strip() for line in lines if line.strip() and not line.startswith("#")),
        has_sample=(release / "sample_request.headers").is_file(),
        probe_cached=bool(cache.models) and not (release / "sample_request.json").is_file(),
        model_bytes=sum(size for name, size in _sizes(release) if name in configs),
        peak_bytes=_peak_bytes(report),
        latency_ms=_latency_ms(report),
        body_bytes=_body_bytes(configs.get(name)),
        stream=name in configs and STREAM_PARAMETER in configs[name].parameters,
    )


def _configs(release: Path) -> dict[str, ModelConfig]:
    """Return the configuration of each model, by its name."""
    folders = [folder for folder in sorted(release.iterdir()) if folder.is_dir() and is_model(folder)]
    files = [folder / "config.pbtxt" for folder in folders]
    return {file.parent.name: parse(file.read_text(encoding="utf-8"), str(file)) for file in files if file.is_file()}


def _sizes(release: Path) -> list[tuple[str, int]]:
    """Return the first folder and the size of each file."""
    files = [path for path in release.rglob("*") if path.is_file()]
    return [(path.relative_to(release).parts[0], path.stat().st_size) for path in files]


def _on_gpu(config: ModelConfig) -> bool:
    kinds = {group.Kind.Name(group.kind) for group in config.instance_group}
    return bool(config.backend.startswith("tensorrt")) or "KIND_GPU" in kinds


def _told(config: ModelConfig) -> dict[str, str]:
    return {key: value.string_value for key, value in config.parameters.items()}


def _peak_bytes(report: BuildReport | None) -> int | None:
    found = [gate.details.get("candidate_bytes") for gate in report.gates if gate.gate == "memory"] if report else []
    known = [int(one) for one in found if isinstance(one, int | float) and one > 0]
    return max(known, default=None)


def _latency_ms(report: BuildReport | None) -> float | None:
    for row in report.latencies if report else ():
        alone = row.component is None and row.batch_size == 1 and row.concurrency == 1
        if alone and row.statistic == "p95" and row.candidate_ms:
            return float(row.candidate_ms)
    return None


def _body_bytes(config: ModelConfig | None) -> int:
    """Return what the largest request of an ensemble takes as JSON; the most where its inputs have no fixed size."""
    from tritonclient.grpc.model_config_pb2 import DataType

    total = 0
    for tensor in config.input if config else ():
        dtype = NUMPY_BY_DTYPE.get(DataType.Name(tensor.data_type).removeprefix("TYPE_"), "object")
        if dtype == "object" or min(tensor.dims) < 1:
            return _MOST_BODY
        total += math.prod(tensor.dims) * int("".join(filter(str.isdigit, dtype)) or 8) // 8
    largest = max(1, config.max_batch_size) if config else 1
    return min(_MOST_BODY, max(_LEAST_BODY, _TEXT_BYTES * total * largest)) if total else _MOST_BODY


def _up(size: float) -> int:
    """Return MiB, rounded up to 64."""
    return math.ceil(size / _MIB / 64) * 64
