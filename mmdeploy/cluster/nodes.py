"""The nodes of a cluster: what each is, found by asking it, and whether it may take a step.

Nothing need be labelled by hand. A node is asked once what keys are made of: its processor and GPUs, the versions of
the libraries, the digests of mmdeploy's own files. Where these differ, results would not be those of their keys.
"""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmdeploy.core.target import Hardware

if TYPE_CHECKING:
    from mmdeploy.planning.steps import Fingerprints

#: Differences that are told of a node.
_MOST = 4


@dataclass(frozen=True)
class Facts:
    """What a machine is, as far as keys go.

    Attributes:
        name: Its host name.
        place: Tells the running system, its processes and its files: the same for processes that see the same of both.
        machine: What timings depend on.
        instruction_sets: What machine code may use.
        gpus: Names of its GPUs.
        capabilities: Their classes, such as ``sm89``.
        versions: Version of each distribution that matters, by name.
        code: Digest of each file of mmdeploy that matters, by its name.
        hardware: It, as reports say it; None where it could not be asked.
    """

    name: str
    place: tuple[str, ...]
    machine: str
    instruction_sets: str
    gpus: str
    capabilities: tuple[str, ...]
    versions: Mapping[str, str]
    code: Mapping[str, str]
    hardware: Hardware | None = None

    def unlike(self, other: Facts) -> str:
        """Say what of libraries and code differs on another machine; empty where nothing does."""
        told = [
            f"{name} is {there or 'not installed'} there and {here or 'not installed'} here"
            for name, here in self.versions.items()
            if (there := other.versions.get(name, "")) != here
        ]
        told += [f"{name} differs" for name, here in self.code.items() if other.code.get(name) != here]
        more = f", and {len(told) - _MOST} more" if len(told) > _MOST else ""
        return ", ".join(told[:_MOST]) + more


@dataclass(frozen=True)
class Node:
    """A node of the cluster.

    Attributes:
        id: Ray's.
        cores: Those that Ray gives away there.
        gpus: GPUs that it gives away.
        memory_bytes: Memory that it gives away.
        facts: What it is.
        refused: Why it takes no steps; empty where it does.
    """

    id: str
    cores: int
    gpus: int
    memory_bytes: int
    facts: Facts
    refused: str = ""

    def __str__(self) -> str:
        gpus = f", {self.facts.gpus}" if self.facts.gpus else ", no GPU"
        return f"{self.facts.name} ({self.cores} cores{gpus}, {self.facts.instruction_sets})"


def wanted_of(fingerprints: Fingerprints) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the distributions, and of the files of mmdeploy, that the keys of a plan are made of."""
    own = {name for files in fingerprints.code.values() for name in files if name.startswith("mmdeploy/")}
    return tuple(sorted(fingerprints.versions)), tuple(sorted(own))


def facts_here(distributions: Iterable[str], files: Iterable[str]) -> Facts:
    """Describe this machine; see `wanted_of`."""
    from mmdeploy.core.digests import FileFacts
    from mmdeploy.core.target import instruction_sets, this_hardware
    from mmdeploy.core.version import __version__
    from mmdeploy.engines.trt_run import compute_capabilities
    from mmdeploy.model.distributions import version_of
    from mmdeploy.model.imports import code_digest

    hardware, package, facts = this_hardware(), Path(__file__).parents[2], FileFacts()
    versions = {name: __version__ if name == "mmdeploy" else version_of(name) for name in distributions}
    code = {name: code_digest(package / name, facts) for name in files if (package / name).is_file()}
    return Facts(
        name=socket.gethostname(),
        place=_place(),
        machine=f"{hardware}, {' '.join(hardware.isa)}",
        instruction_sets=instruction_sets(),
        gpus=", ".join(hardware.gpus),
        capabilities=tuple(one.lower() for one in compute_capabilities()),
        versions={"python": platform.python_version(), **versions},
        code=code,
        hardware=hardware,
    )


def _place() -> tuple[str, ...]:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    return (boot, *(os.readlink(f"/proc/self/ns/{kind}") for kind in ("pid", "mnt")))  # noqa: PTH115 - no path
