"""What torch's ahead-of-time compiler leaves, a package of machine code (``.pt2``): read, held against here, run."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmdeploy.core.artifact import Array, TensorSpec
from mmdeploy.core.contracts import FeedDict
from mmdeploy.core.errors import EngineError, EnvironmentUnfitError, InferenceError
from mmdeploy.core.sessions import misfit
from mmdeploy.core.target import this_hardware

BACKEND, FILENAME = "aot_inductor", "model.pt2"
#: What our builds write into a package: the instruction sets of the processor, and the torch, that it was built with.
ISA, TORCH = "mmdeploy_isa", "mmdeploy_torch"
#: The same: the names of its inputs and outputs, in the order in which its code takes and gives them.
INPUTS, OUTPUTS = "mmdeploy_inputs", "mmdeploy_outputs"
_METADATA = "_metadata.json"


def built_with(path: Path) -> dict[str, str]:
    """Read what a package says of itself; torch is not asked, and nothing in it is run.

    Raises:
        EngineError: If the file is no such package.
    """
    try:
        with zipfile.ZipFile(path) as package:
            notes = [name for name in package.namelist() if name.endswith(_METADATA)]
            found = [json.loads(package.read(name)) for name in notes]
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise EngineError(f"{path.name} is no package of torch's ahead-of-time compiler: {error}") from error
    if not found:
        raise EngineError(f"{path.name} is no package of torch's ahead-of-time compiler: it has no metadata")
    return {key: str(value) for one in found for key, value in one.items()}


def lacking(path: Path, isa: Sequence[str]) -> tuple[str, ...]:
    """Return the instruction sets that a package needs and are not among ``isa``.

    Raises:
        EngineError: If the file is no such package.
    """
    return tuple(one for one in built_with(path).get(ISA, "").split() if one not in isa)


def open_package(
    path: Path, *, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], threads: int
) -> PackageRunner:
    """Load a package. It is machine code: load your own only.

    Args:
        path: The file.
        inputs: Its inputs, in any order.
        outputs: Its outputs, in any order.
        threads: Threads of an inference; those that it was compiled for.

    Raises:
        EngineError: If the file is no package, or torch refuses it.
        EnvironmentUnfitError: If it was built for a processor or a torch that is not here.
    """
    if missing := lacking(path, this_hardware().isa):
        raise EnvironmentUnfitError(
            f"{path.name} is machine code for a processor with {', '.join(missing)}, and this one has not",
            hint="build the release on a machine of the kind that serves it",
        )
    torch, notes = _torch(), built_with(path)
    wanted, here = notes.get(TORCH, ""), str(torch.__version__)
    if _minor(wanted) != _minor(here):
        raise EnvironmentUnfitError(
            f"{path.name} was built with torch {wanted}, and torch {here} is installed",
            hint=f"pip install torch=={wanted.partition('+')[0]}, or build the release again",
        )
    sides = (
        _in_its_order(notes.get(INPUTS, ""), inputs, "inputs"),
        _in_its_order(notes.get(OUTPUTS, ""), outputs, "outputs"),
    )
    torch.set_num_threads(threads)
    try:
        return PackageRunner(torch._inductor.aoti_load_package(str(path)), *sides, threads)
    except (RuntimeError, OSError) as error:
        raise EngineError(f"torch {here} cannot load {path}: {_first_line(error)}") from error


class PackageRunner:
    """A `Runner` over a loaded package."""

    def __init__(self, package: Any, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], threads: int) -> None:
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        self._package: Any = package
        self._threads = threads

    def infer(self, feed_dict: FeedDict) -> dict[str, Array]:
        """Answer one request; every array has the batch as axis 0.

        Raises:
            InferenceError: If a tensor is missing, unknown or does not fit, or the package fails on it.
        """
        if self._package is None:
            raise InferenceError("the model is closed")
        if problem := misfit(self.inputs, feed_dict):  # the compiled code looks at nothing
            raise InferenceError(problem)
        torch = _torch()
        if torch.get_num_threads() != self._threads:  # another model of this process may have set it
            torch.set_num_threads(self._threads)
        try:
            with torch.inference_mode():
                found = self._package(*(_tensor(feed_dict[spec.name]) for spec in self.inputs))
        except RuntimeError as error:
            raise InferenceError(f"aot_inductor: {_first_line(error)}") from error
        return {spec.name: tensor.numpy() for spec, tensor in zip(self.outputs, found, strict=True)}

    def close(self) -> None:
        """Drop the package; calling it twice is fine."""
        self._package = None


def names_of(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> dict[str, str]:
    """Return what a build writes into a package of its tensors."""
    return {key: json.dumps([one.name for one in specs]) for key, specs in ((INPUTS, inputs), (OUTPUTS, outputs))}


def _in_its_order(names: str, specs: Sequence[TensorSpec], side: str) -> tuple[TensorSpec, ...]:
    order, known = json.loads(names or "[]"), {spec.name: spec for spec in specs}
    if sorted(order) != sorted(known):
        raise EngineError(f"the package has the {side} {order}, and {sorted(known)} are asked for")
    return tuple(known[name] for name in order)


def _tensor(array: Array) -> Any:
    """Return an array as a tensor: contiguous, which the compiled code takes for granted, and not written to."""
    import numpy as np

    torch = _torch()
    whole = np.ascontiguousarray(array)
    return torch.from_numpy(whole if whole.flags.writeable else whole.copy())


def _torch() -> Any:
    try:
        import torch
        import torch._inductor
    except ImportError as error:
        raise EnvironmentUnfitError(
            f"the distribution torch is missing or broken: {error}", hint="pip install 'multimodal-deploy[cpu]'"
        ) from error
    return torch


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:500]


def metadata_of_build() -> Mapping[str, str]:
    """Return what a build writes into a package."""
    return {ISA: " ".join(this_hardware().isa), TORCH: str(_torch().__version__)}
