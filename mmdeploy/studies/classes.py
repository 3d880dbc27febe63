"""Classes of hardware that a repository is built for, and what a recipe says for each.

A class of CPUs is told by instruction sets, one of GPUs by its compute capability. What is built for a class can be
*judged* only on a machine of it: speed, and with INT8 the numbers too, depend on the instructions that run it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from mmdeploy.core.contracts import method_of
from mmdeploy.core.errors import UsageError, did_you_mean
from mmdeploy.core.target import Hardware, Target
from mmdeploy.engines.tensorrt_rtx import ComputeCapability
from mmdeploy.engines.trt_run import compute_capabilities
from mmdeploy.recipe.schema import Recipe

_GPU = re.compile(r"sm\d{2,3}")
#: GPUs that TensorRT for RTX is made for; it builds ahead of time, on any machine.
_RTX = ("sm75", "sm86", "sm89", "sm120", "sm121")
#: Examples for messages; any compute capability is a class.
_KNOWN_GPUS = ("sm75", "sm80", "sm86", "sm89", "sm90", "sm100", "sm120")
_TARGETS_OF_GPUS = (Target.CUDA, Target.TENSORRT, Target.TENSORRT_RTX)
_FOR_GPUS = ("tensorrt", "tensorrt_rtx")
_OF_ONE_KIND = (*_FOR_GPUS, "openvino")


@dataclass(frozen=True)
class HardwareClass:
    """Machines that are served by one repository.

    Attributes:
        name: As it is asked for, and the folder of its repository.
        target: What is built.
        has: Instruction sets that a machine of it has.
        lacks: Instruction sets that it has not: with them it is of a better class.
        capability: Compute capability of its GPUs, such as ``SM89``; empty of CPUs.
    """

    name: str
    target: Target
    has: frozenset[str] = frozenset()
    lacks: frozenset[str] = frozenset()
    capability: str = ""

    def is_here(self, hardware: Hardware, capabilities: Sequence[str]) -> bool:
        """Say whether a machine is of this class.

        Args:
            hardware: The machine.
            capabilities: Of its GPUs, such as ``SM89``.
        """
        if self.capability:
            return self.capability in capabilities
        return self.has <= set(hardware.isa) and self.lacks.isdisjoint(hardware.isa)

    @property
    def ahead_of_time(self) -> bool:
        """Whether its engines can be built on any machine."""
        return not self.capability or self.target is Target.TENSORRT_RTX

    def overrides(self, recipe: Recipe) -> tuple[str, ...]:
        """Return what makes a recipe one for this class: its target, and engines that its machines can run."""
        laid = [f"target={self.target}"]
        for name, component in recipe.components.items():
            method = None if component.engine is None else method_of(component.engine)
            if self.target is Target.TENSORRT_RTX:
                laid.append(f"components.{name}.engine={json.dumps(self._rtx_section(recipe, name))}")
            elif method in (_OF_ONE_KIND if self.capability else _FOR_GPUS) and method != self.target:
                laid.append(f"components.{name}.engine=null")
        return tuple(laid)

    def _rtx_section(self, recipe: Recipe, name: str) -> dict[str, Any]:
        engine = recipe.components[name].engine
        given: dict[str, Any] = {}
        if engine is not None and method_of(engine) == "tensorrt_rtx":
            given = engine.model_dump(mode="json", exclude_unset=True)
        return {**given, "method": "tensorrt_rtx", "compute_capabilities": [self.capability]}


def _cpu(name: str, has: str, lacks: str = "") -> HardwareClass:
    return HardwareClass(name, Target.CPU, frozenset(has.split()), frozenset(lacks.split()))


#: Each class of CPUs is what the next better one is not. AVX-512 with VNNI is a part of AVX-512: INT8 pays by it.
CPUS = {
    one.name: one
    for one in (
        _cpu("cpu-avx2", "avx2", lacks="avx_vnni avx512f amx_int8"),
        _cpu("cpu-avx-vnni", "avx_vnni", lacks="avx512f amx_int8"),
        _cpu("cpu-avx512", "avx512f", lacks="amx_int8"),
        _cpu("cpu-avx512-vnni", "avx512f avx512_vnni", lacks="amx_int8"),
        _cpu("cpu-amx", "amx_int8"),
        _cpu("cpu-neon", "asimddp", lacks="i8mm"),
        _cpu("cpu-i8mm", "i8mm"),
    )
}


def read_classes(text: str) -> tuple[HardwareClass, ...]:
    """Read ``cpu-avx512,sm89,sm80:tensorrt_rtx``: names of classes, those of GPUs with a target where wanted.

    Raises:
        UsageError: If a class or its target is unknown, or is there twice.
    """
    found: list[HardwareClass] = []
    for written in (one.strip() for one in text.split(",")):
        one = _class_of(written)
        if one.name in [other.name for other in found]:
            raise UsageError(f"--targets {text}: {one.name} is there twice")
        found.append(one)
    return tuple(found)


def classes_here(hardware: Hardware) -> tuple[str, ...]:
    """Return the classes that this machine is of, its GPUs' first."""
    return classes_of(hardware, compute_capabilities())


def classes_of(hardware: Hardware, capabilities: Sequence[str]) -> tuple[str, ...]:
    """Return the classes that a machine is of, its GPUs' first; see `HardwareClass.is_here`."""
    gpus = tuple(capability.lower() for capability in dict.fromkeys(capabilities))
    return (*gpus, *(name for name, one in CPUS.items() if one.is_here(hardware, ())))


def _class_of(written: str) -> HardwareClass:
    name, colon, target = written.partition(":")
    if name in CPUS and not colon:
        return CPUS[name]
    if name in CPUS:
        raise UsageError(f"--targets {written}: a class of CPUs has the target cpu", hint=f"write {name}")
    if not _GPU.fullmatch(name):
        raise UsageError(
            f"--targets {written!r}: there is no class {name!r}; {did_you_mean(name, [*CPUS, *_KNOWN_GPUS])}"
        )
    chosen = target or (Target.TENSORRT_RTX if name in _RTX else Target.TENSORRT)
    if chosen not in _TARGETS_OF_GPUS:
        raise UsageError(f"--targets {written}: {did_you_mean(target, _TARGETS_OF_GPUS)}")
    if chosen == Target.TENSORRT_RTX and name.upper() not in get_args(ComputeCapability):
        raise UsageError(
            f"--targets {written}: TensorRT for RTX builds for {', '.join(get_args(ComputeCapability))}",
            hint=f"write {name}:tensorrt or {name}:cuda",
        )
    return HardwareClass(name, Target(chosen), capability=name.upper())
