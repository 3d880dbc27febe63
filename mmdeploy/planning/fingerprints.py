"""Take the fingerprints that a plan's keys are made of: files, code, library versions.

Nothing is executed and no model is loaded: Python sources are followed by their import statements, libraries
are asked for their version by their metadata. Files are digested by content, so a copied recipe builds nothing
anew.

The data of a recipe is what its callables read. Without ``data.files`` that is every file beside the recipe
that is neither Python, nor YAML, nor the weights; files elsewhere must be named in ``data.files``.
"""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from mmdeploy import engines, export, prune, quantize, recover
from mmdeploy.core.artifact import file_sha256
from mmdeploy.core.contracts import Pass
from mmdeploy.core.errors import UsageError
from mmdeploy.core.target import this_hardware
from mmdeploy.model.sources import source_files
from mmdeploy.planning.chains import candidates, yardstick
from mmdeploy.planning.steps import Fingerprints, digest, options_key
from mmdeploy.plugins.loading import Plugin

if TYPE_CHECKING:
    from mmdeploy.recipe.schema import Recipe
    from mmdeploy.scoring.metric_spec import MetricSpec

_NOT_DATA = {".py", ".pyc", ".yaml", ".yml", ".md"}
_ALWAYS = ("torch", "numpy")
#: Distributions by the name that they are imported under, where the two differ in more than - and _.
_DISTRIBUTIONS = {"modelopt": "nvidia-modelopt", "torch_pruning": "torch-pruning"}
#: Data callables of a recipe.
_DATA = ("calibration", "evaluation", "training", "validation", "loss")
#: Code that is no entry of a registry, by dotted module name.
_OWN = (
    "mmdeploy.data.recording",
    "mmdeploy.model.torch_model",
    "mmdeploy.choice.choose",
    "mmdeploy.quantize.sensitivity",
)


def take_fingerprints(recipe: Recipe) -> Fingerprints:
    """Digest everything that decides what the steps of a recipe give."""
    root = recipe.root
    used = _used_methods(recipe)
    distributions = {name for module in used for name in module.REQUIRES}
    data_files = _digest_files(_data_files(recipe, root), root)
    weights = root / recipe.model.weights if recipe.model.weights else None
    return Fingerprints(
        model_source=_source(recipe.model.factory, root),
        weights=file_sha256(weights) if weights else "",
        data={
            key: _data_digest(reference, root, data_files) for key in _DATA if (reference := getattr(recipe.data, key))
        },
        code={name: _own_code(name) for name in _OWN} | {module.__name__: _code_of(module) for module in used},
        versions={name: version_of(name) for name in {*distributions, *_ALWAYS}},
        unrunnable=unrunnable(recipe),
        unavailable=_unavailable(recipe),
        machine=_machine(),
        metrics={name: _metric_digest(yardstick(recipe, name).metric, root) for name in recipe.components},
    )


def distribution_of(name: str) -> str:
    """Return the name of the distribution that gives an import."""
    return _DISTRIBUTIONS.get(name, name)


def version_of(name: str) -> str:
    """Return the installed version of what is imported as ``name``; empty when it is not installed."""
    try:
        return importlib.metadata.version(distribution_of(name))
    except importlib.metadata.PackageNotFoundError:
        return ""


def unrunnable(recipe: Recipe) -> dict[str, str]:
    """Say why the engine of a component cannot run on this machine, by component; without those that can."""
    reasons = {}
    for name in recipe.components:
        options = recipe.engine_options(name)
        reason = engines.METHODS.of(options).unavailable(options)
        if reason:
            reasons[name] = reason
    return reasons


def _unavailable(recipe: Recipe) -> dict[str, str]:
    """Say why candidates of ``engine: auto`` cannot run on this machine, by their `options_key`."""
    variants = [variant.options for name in recipe.components for variant in candidates(recipe, name)]
    reasons = {options_key(options): engines.METHODS.of(options).unavailable(options) for options in variants}
    return {key: reason for key, reason in reasons.items() if reason}


def _machine() -> str:
    """Name what timings depend on."""
    hardware = this_hardware()
    return f"{hardware}, {' '.join(hardware.isa)}"


def _used_methods(recipe: Recipe) -> list[Pass]:
    used: list[Pass] = []
    for name, component in recipe.components.items():
        used.append(export.METHODS.of(component.export))
        used.append(engines.METHODS.of(recipe.engine_options(name)))
        used.extend(engines.METHODS.of(variant.options) for variant in candidates(recipe, name))
        if component.prune is not None:
            used.append(prune.METHODS.of(component.prune))
        if component.recover is not None:
            used.append(recover.METHODS.of(component.recover))
        if component.quantize is not None:
            used.append(quantize.METHODS.of(component.quantize))
    return used


def _source(reference: str, root: Path) -> str:
    return _digest_files(source_files(reference, root), root)


def _data_digest(reference: str | None, root: Path, data_files: str) -> str:
    return digest([_source(reference, root), data_files]) if reference else ""


def _metric_digest(metric: MetricSpec, root: Path) -> str:
    """Digest the code behind a metric and the files that its arguments name."""
    if metric.is_built_in:
        code = [_own_code("mmdeploy.scoring.builtin"), version_of("torchmetrics")]
    elif metric.metric.startswith("torchmetrics."):
        code = [_own_code("mmdeploy.scoring.torchmetrics_class"), version_of("torchmetrics")]
    else:
        code = [_own_code("mmdeploy.scoring.task_metric"), _source(metric.metric, root)]
    return digest([*code, _digest_files([root / file for file in metric.files], root)])


def _code_of(module: Pass) -> str:
    return module.digest() if isinstance(module, Plugin) else _own_code(module.__name__)


@functools.cache
def _own_code(module: str) -> str:
    package = Path(__file__).parents[1]
    return _digest_files(source_files(f"{module}:run", package.parent), package)


def _data_files(recipe: Recipe, root: Path) -> Iterable[Path]:
    if recipe.data.files is not None:
        from glob import glob

        # Path.glob refuses absolute patterns
        found = (name for pattern in recipe.data.files for name in glob(pattern, root_dir=root, recursive=True))  # noqa: PTH207
        return (root / name for name in found if (root / name).is_file())
    weights = root / recipe.model.weights if recipe.model.weights else None
    return (
        path
        for path in root.rglob("*")
        if path.suffix not in _NOT_DATA
        and path != weights
        and not any(part.startswith((".", "__pycache__")) for part in path.relative_to(root).parts)
        and path.is_file()
    )


def _digest_files(paths: Iterable[Path], root: Path) -> str:
    """Digest names and contents; names relative to ``root``, so that a moved folder keeps its digest."""
    named = {}
    for path in paths:
        name = path.relative_to(root) if path.is_relative_to(root) else path
        try:
            named[str(name)] = file_sha256(path)
        except OSError as error:
            raise UsageError(
                f"{path} cannot be read: {error.strerror}; whether it changed decides what must run again",
                hint="make it readable, or name the files that the data callables read in data.files",
            ) from error
    return digest(named)
