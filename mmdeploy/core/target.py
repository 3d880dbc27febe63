"""What a recipe builds for (`Target`) and what machine this is (`Hardware`).

INT8 results depend on the instruction set as well as on the engine, so every verdict records the hardware
that it was reached on.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import platform
import subprocess
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

_ISA_FLAGS = (
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimddp",
    "i8mm",
)


class Target(StrEnum):
    """The engine family and hardware that a recipe is compiled for."""

    CPU = "cpu"
    CUDA = "cuda"
    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt_rtx"


@dataclass(frozen=True)
class Hardware:
    """The machine that figures were measured on.

    Attributes:
        cpu: Model name of the processor.
        cores: Logical cores that this process may use.
        isa: Instruction sets that decide INT8 speed and accuracy, sorted.
        memory_bytes: Physical memory.
        gpus: Names of the NVIDIA GPUs with a working driver.
    """

    cpu: str
    cores: int
    isa: tuple[str, ...]
    memory_bytes: int
    gpus: tuple[str, ...]

    def __str__(self) -> str:
        gpus = f", {', '.join(self.gpus)}" if self.gpus else ", no GPU"
        return f"{self.cpu}, {self.cores} cores, {self.memory_bytes / 2**30:.0f} GiB{gpus}"

    def to_json(self) -> dict[str, object]:
        """Return the fields as JSON-able values."""
        return asdict(self)


def usable_cores() -> int:
    """Return the number of logical cores that this process may use: those of its affinity, or its quota if less.

    Containers get a quota of processor time (``docker run --cpus 2``) that the affinity does not show.
    """
    cores, quota = len(os.sched_getaffinity(0)), _cgroup_quota(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"))
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def usable_threads() -> int:
    """Return the threads that work may take which no time is measured of: a core each, or ``OMP_NUM_THREADS`` if less.

    That variable is how people tell programs that others work on the machine, too; of nested levels the first counts.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return min(usable_cores(), int(asked)) if asked.isdecimal() and int(asked) else usable_cores()


def _cgroup_quota(root: Path, membership: Path) -> float | None:
    """Return the cores' worth of time that the control groups of this process allow, None for any (cgroups(7))."""
    quotas = []
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "cpu", "cpu,cpuacct", "cpuacct,cpu"):
            continue
        top = root / controllers if controllers else root
        place = top / path.lstrip("/")
        for folder in (place, *place.parents):  # a group is bound by those around it, too
            quotas += _quota_of(folder)
            if folder == top:
                break
    return min(quotas, default=None)


def _quota_of(folder: Path) -> list[float]:
    """Read one group's quota, of version 2 or 1; none where it has none."""
    with contextlib.suppress(OSError, ValueError):
        if (folder / "cpu.max").exists():
            given, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        else:
            given, period = (
                (folder / f"cpu.cfs_{what}_us").read_text(encoding="utf-8") for what in ("quota", "period")
            )
        if given.strip() not in ("max", "-1"):
            return [int(given) / int(period)]
    return []


@functools.cache
def gpus(fact: str) -> tuple[str, ...]:
    """Return a fact of each GPU, as nvidia-smi tells it: ``name``, ``compute_cap``; empty without a driver."""
    try:
        listed = subprocess.run(
            ["nvidia-smi", f"--query-gpu={fact}", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(line.strip() for line in listed.stdout.splitlines() if line.strip())


def gpu_names() -> tuple[str, ...]:
    """Return the names of the GPUs that nvidia-smi lists; empty without a driver."""
    return gpus("name")


def instruction_sets() -> str:
    """Name what machine code that is built here may use: the architecture, and the processor's instruction sets."""
    return " ".join((platform.machine(), *this_hardware().isa))


@functools.cache
def this_hardware() -> Hardware:
    """Describe the machine that this process runs on (Linux)."""
    model, flags = platform.processor() or platform.machine(), set[str]()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            model = value.strip()
        elif key.strip() in ("flags", "Features"):
            flags = set(value.split())
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    isa = tuple(sorted(flags.intersection(_ISA_FLAGS)))
    return Hardware(model, usable_cores(), isa, memory_bytes, gpu_names())
