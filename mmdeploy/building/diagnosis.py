"""What this machine can build, run and serve, and what is missing; nothing is started, and little is imported."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mmdeploy import engines
from mmdeploy.choice.options import default_engine
from mmdeploy.core.contracts import method_of
from mmdeploy.core.errors import EnvironmentUnfitError, MmdeployError
from mmdeploy.core.open_files import require_open_files
from mmdeploy.core.room import LEAST_BYTES, free_bytes
from mmdeploy.core.target import Target, this_hardware
from mmdeploy.model.distributions import distribution_of
from mmdeploy.preprocess import METHODS as MEDIA
from mmdeploy.triton.install import find_installation

if TYPE_CHECKING:
    from mmdeploy.recipe.schema import Recipe

State = Literal["ok", "limited", "missing"]
#: A build of a CLIP pair wants a few GB; below this most models do not build.
_LEAST_MEMORY_BYTES = 4 * 2**30
_BUILD_IMPORTS = ("torch", "onnx", "onnxscript", "onnx_ir", "modelopt", "matplotlib", "scipy", "torchmetrics")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        topic: ``machine``, ``build``, ``engine``, ``serve``, ``media`` or ``recipe``.
        name: Of what, such as ``openvino``.
        state: ``limited`` where something is possible and something is not.
        what: What was found.
        remedy: What to do; empty where there is nothing to do.
    """

    topic: str
    name: str
    state: State
    what: str
    remedy: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


def diagnose(workdir: Path, recipe: Recipe | None = None) -> tuple[Finding, ...]:
    """Look at the machine and this Python environment; with a recipe also at what it asks for.

    Args:
        workdir: Where a build would keep its results.
        recipe: The recipe, or None.
    """
    found = [*_machine(workdir), *_build(), *_engines(), *_serve(), *_media()]
    return tuple(found if recipe is None else [*found, *_of_recipe(recipe)])


def _machine(workdir: Path) -> Iterator[Finding]:
    here = this_hardware()
    yield Finding("machine", "processor", "ok", f"{here.cpu}, {here.cores} cores, {', '.join(here.isa) or 'no AVX2'}")
    memory = f"{here.memory_bytes / 2**30:.0f} GiB"
    small = here.memory_bytes < _LEAST_MEMORY_BYTES
    yield Finding("machine", "memory", "limited" if small else "ok", memory, "build with --jobs 1" if small else "")
    gpus = ", ".join(here.gpus)
    yield Finding("machine", "GPU", "ok" if gpus else "limited", gpus or "no NVIDIA GPU with a working driver")
    for name, folder, option in (
        ("work folder", workdir, "--workdir"),
        ("temporary files", Path(tempfile.gettempdir()), "TMPDIR"),
    ):
        yield _disk(name, folder, option)
    try:
        require_open_files()
    except EnvironmentUnfitError as error:
        yield Finding("machine", "open files", "missing", error.message, error.hint or "")


def _disk(name: str, folder: Path, option: str) -> Finding:
    there = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())
    free, remedy = free_bytes(folder), f"name another folder with {option}"
    if not os.access(there, os.W_OK | os.X_OK):
        return Finding("machine", name, "missing", f"{folder} cannot be written", remedy)
    told = f"{folder}: {free / 2**30:.1f} GiB free"
    return (
        Finding("machine", name, "missing", told, remedy)
        if free < LEAST_BYTES
        else Finding("machine", name, "ok", told)
    )


def _build() -> Iterator[Finding]:
    missing = [distribution_of(name) for name in _BUILD_IMPORTS if find_spec(name) is None]
    if missing:
        remedy = "pip install 'multimodal-deploy[cpu]', or [gpu] where there is a GPU"
        yield Finding("build", "passes", "missing", f"not installed: {', '.join(missing)}", remedy)
    else:
        yield Finding("build", "passes", "ok", _versions(("torch", "onnx", "onnxscript", "nvidia-modelopt")))


def _engines() -> Iterator[Finding]:
    targets = {method_of(default_engine(target)): target for target in Target if target is not Target.CUDA}
    for method in engines.METHODS:
        try:
            engine = engines.METHODS[method]
        except MmdeployError as error:
            yield Finding("engine", method, "missing", error.message, error.hint or "")
            continue
        absent = [distribution_of(name) for name in engine.REQUIRES if find_spec(name) is None]
        target = f", target: {targets[method]}" if method in targets else ""
        if absent:
            yield Finding(
                "engine", method, "missing", f"not installed: {', '.join(absent)}", f"pip install {' '.join(absent)}"
            )
        elif why := engine.unbuildable(engine.Options()):
            yield Finding("engine", method, "missing", f"cannot be built here: {why}")
        elif why := engine.unavailable(engine.Options()):
            yield Finding("engine", method, "limited", f"builds here{target}, and does not run here: {why}")
        else:
            yield Finding("engine", method, "ok", f"builds and runs here{target}")


def _serve() -> Iterator[Finding]:
    try:
        found = find_installation()
    except EnvironmentUnfitError as error:
        yield Finding("serve", "Triton", "missing", error.message, error.hint or "")
        return
    kind = "of the wheel nvidia-pytriton, with mmdeploy's backends" if found.embedded else "with its own backends"
    yield Finding("serve", "Triton", "ok", f"{found.binary} ({kind})")


def _media() -> Iterator[Finding]:
    for name, method in MEDIA.items():
        absent = [one for one in method.REQUIRES if not _is_installed(one)]
        if absent:
            remedy = "pip install 'multimodal-deploy[media]'"
            yield Finding("media", name, "missing", f"not installed: {', '.join(absent)}", remedy)
    if all(_is_installed(one) for method in MEDIA.values() for one in method.REQUIRES):
        yield Finding("media", "preprocess", "ok", "all methods")


def _of_recipe(recipe: Recipe) -> Iterator[Finding]:
    """Say whether a recipe builds here, and whether what it makes can be judged by its own engines."""
    from mmdeploy.building.environment import require_environment
    from mmdeploy.planning.fingerprints import take_fingerprints, unrunnable
    from mmdeploy.planning.planner import make_plan

    try:
        require_environment(recipe, make_plan(recipe, take_fingerprints(recipe)).steps)
    except MmdeployError as error:
        yield Finding("recipe", recipe.name, "missing", error.message, error.hint or "")
        return
    if reasons := unrunnable(recipe):
        listed = "; ".join(f"{component}: {reason}" for component, reason in reasons.items())
        remedy = "build it on such a machine, or publish what a substitute judged with --publish-unverified"
        yield Finding("recipe", recipe.name, "limited", f"builds here, and cannot be judged here: {listed}", remedy)
    else:
        yield Finding("recipe", recipe.name, "ok", "can be built, judged and served here")


def _versions(names: Iterable[str]) -> str:
    return ", ".join(f"{name} {metadata.version(name)}" for name in names if _is_installed(name))


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
