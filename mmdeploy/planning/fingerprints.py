"""Take the fingerprints that a plan's keys are made of: the recipe's inputs, our own code, libraries, this machine.

Nothing is executed and no model is loaded: libraries are asked for their version by their metadata. Files are digested
by content, so a copied recipe builds nothing anew; one whose times and size did not change is not read again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mmdeploy import engines, export, preprocess, prune, quantize, recover
from mmdeploy.core.contracts import MethodOptions, Pass
from mmdeploy.core.digests import FileFacts
from mmdeploy.core.store import Store
from mmdeploy.core.target import instruction_sets, this_hardware
from mmdeploy.core.version import __version__
from mmdeploy.model.distributions import requirement_of, version_of
from mmdeploy.model.imports import Code, code_behind, code_digest
from mmdeploy.planning.chains import candidates, yardstick
from mmdeploy.planning.kinds import COMPOSE, STARTING_MODULES
from mmdeploy.planning.own_code import own_code
from mmdeploy.planning.recipe_inputs import digest_of, digests_of, matching, source_of, take_inputs
from mmdeploy.planning.steps import Fingerprints, digest, options_key
from mmdeploy.plugins.loading import Plugin
from mmdeploy.recipe.layout import may_be_single
from mmdeploy.recipe.media import MediaStep, OwnStep

if TYPE_CHECKING:
    from mmdeploy.recipe.schema import Recipe
    from mmdeploy.scoring.metric_spec import MetricSpec

_ALWAYS = ("torch", "numpy")


def take_fingerprints(recipe: Recipe, store: Store | None = None) -> Fingerprints:
    """Digest everything that decides what the steps of a recipe give.

    Args:
        recipe: The recipe.
        store: Keeps digests of files, and what the recipe's callables were seen to read. Without it nothing is known of
            what they read.

    Raises:
        UsageError: If a file cannot be read.
    """
    root = recipe.root.resolve()
    used = _used_methods(recipe)
    facts = store.facts if store else FileFacts()
    distributions = {name for module in used for name in module.REQUIRES}
    distributions |= {*(COMPOSE.requires if may_be_single(recipe) else ())}
    return Fingerprints(
        inputs=take_inputs(recipe, store),
        code={name: own_code([name], facts) for name in STARTING_MODULES}
        | {module.__name__: _code_of(module, facts) for module in used},
        versions={name: version_of(name) for name in {*distributions, *_ALWAYS}} | {"mmdeploy": __version__},
        unrunnable=unrunnable(recipe),
        unavailable=_unavailable(recipe),
        machine=_machine(),
        metrics={name: _metric_digest(yardstick(recipe, name).metric, root, facts) for name in recipe.components},
        instruction_sets=instruction_sets(),
        gpus=", ".join(this_hardware().gpus),
        media={section: _media(getattr(recipe, section), root, facts) for section in ("preprocess", "postprocess")},
    )


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
    """Say why candidates of ``engine: auto`` cannot be built or run on this machine, by their `options_key`."""
    variants = [variant.options for name in recipe.components for variant in candidates(recipe, name)]
    reasons = {options_key(options): _unfit(options) for options in variants}
    return {key: reason for key, reason in reasons.items() if reason}


def _unfit(options: MethodOptions) -> str | None:
    engine = engines.METHODS.of(options)
    return engine.unavailable(options) or engine.unbuildable(options)


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


def _metric_digest(metric: MetricSpec, root: Path, facts: FileFacts) -> str:
    """Digest our own code behind a metric, and the files that its arguments name; the recipe's is an input of it."""
    if metric.is_built_in:
        code = [digest_of(own_code(["mmdeploy.scoring.builtin"], facts)), version_of("torchmetrics")]
    elif metric.metric.startswith("torchmetrics."):
        code = [digest_of(own_code(["mmdeploy.scoring.torchmetrics_class"], facts)), version_of("torchmetrics")]
    else:
        code = [digest_of(own_code(["mmdeploy.scoring.task_metric"], facts))]
    return digest([*code, digests_of([root / file for file in metric.files], root, facts)])


def _media(steps: Mapping[str, MediaStep], root: Path, facts: FileFacts) -> dict[str, str]:
    """Digest steps by name: what they are told, their files and code, the packages that they import; and our code."""
    if not steps:
        return {}
    own = sorted(Path(preprocess.__file__).parent.glob("*.py"))
    found = {f"mmdeploy/preprocess/{path.name}": code_digest(path, facts) for path in own}
    for name, step in steps.items():
        paths = [root / path for path in step.paths.values()]
        code, packages = Code({}), {*step.requires}
        if isinstance(step, OwnStep):
            paths += matching(step.files, root)
            code = code_behind(step.method, root, facts)
            packages |= {*code.libraries}
        versions = {one: requirement_of(one) for one in sorted(packages)}
        found[name] = digest([step.described(), digests_of(paths, root, facts), source_of(code, facts), versions])
    return found


def _code_of(module: Pass, facts: FileFacts) -> dict[str, str]:
    return module.files(facts) if isinstance(module, Plugin) else own_code([module.__name__], facts)
