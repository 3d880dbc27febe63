"""Static checks of how components are served: batches, versions, checks in graphs, warm-ups."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mmdeploy.core.contracts import MethodOptions, method_of
from mmdeploy.core.target import Target
from mmdeploy.recipe.finding import Finding
from mmdeploy.triton.config import PUBLISHED_VERSION
from mmdeploy.triton.options import SAMPLE_HINT, SpecificVersions, unfit_warmup

if TYPE_CHECKING:
    from mmdeploy.recipe.schema import Recipe


def serving_findings(recipe: Recipe) -> Iterator[Finding]:
    """Find what Triton, or a component, would refuse of the ``serving`` sections."""
    yield from _batch_sizes(recipe)
    yield from _versions(recipe)
    yield from _guards(recipe)
    yield from _warmups(recipe)


def _batch_sizes(recipe: Recipe) -> Iterator[Finding]:
    sizes = {name: component.serving.max_batch_size for name, component in recipe.components.items()}
    places = {name: ("components", name, "serving", "max_batch_size") for name in sizes}
    batching = [name for name, size in sizes.items() if size > 0]
    single = [name for name, size in sizes.items() if size == 0]
    if batching and single:
        for name in single:
            message = (
                f"0 here, but {batching[0]!r} has {sizes[batching[0]]}: an ensemble batches in all of its "
                "steps or in none; give every component a max_batch_size above 0, or 0"
            )
            yield Finding(places[name], message, involves=(places[batching[0]],))


def _versions(recipe: Recipe) -> Iterator[Finding]:
    """Find version policies that leave out the version that a build publishes."""
    for name, component in recipe.components.items():
        policy = component.serving.version_policy
        if isinstance(policy, SpecificVersions) and PUBLISHED_VERSION not in policy.specific:
            message = (
                f"{list(policy.specific)} leaves out version {PUBLISHED_VERSION}, the one that a build publishes: "
                f"Triton would serve nothing; add {PUBLISHED_VERSION}, or take version_policy out"
            )
            yield Finding(("components", name, "serving", "version_policy"), message)


def _guards(recipe: Recipe) -> Iterator[Finding]:
    """Find checks that are to be written into graphs which are not served as graphs, or not on a CPU."""
    for name, component in recipe.components.items():
        if component.serving.guard != "graph":
            continue
        auto, options = recipe.automatic_engine(name), recipe.engine_options(name)
        if auto is not None:  # chooses among onnxruntime's variants, if it may
            if recipe.target is Target.CPU and "onnxruntime" in auto.in_order():
                continue
            found = f"chosen among {', '.join(auto.engines)}" if auto.engines else f"chosen for target {recipe.target}"
        elif serves_guards(options):
            continue
        else:
            found = method_of(options) + (f" on {options.provider}" if hasattr(options, "provider") else "")
        message = (
            f"graph holds for the engine onnxruntime on a CPU, this component's is {found}: name that engine, or "
            "take guard out"
        )
        yield Finding(("components", name, "serving", "guard"), message, (("components", name, "engine"),))


def serves_guards(engine: MethodOptions) -> bool:
    """Return whether what is written into a component's graph holds when an engine serves it."""
    return method_of(engine) == "onnxruntime" and getattr(engine, "provider", None) == "cpu"


def _warmups(recipe: Recipe) -> Iterator[Finding]:
    """Find warm-ups by made-up data that the component would refuse: that can end the server."""
    for name, component in recipe.components.items():
        for key, wire in component.inputs.items():
            source = recipe.sources().get(wire.tensor)
            dtype = wire.dtype or (source.dtype if source else None)
            wrong = unfit_warmup(component.serving.warmup, dtype, source.range if source else None)
            if wrong is not None:
                message = f"{wrong} of the input {key!r}; {SAMPLE_HINT}"
                involves = (("inputs", wire.tensor),) if source else ()
                yield Finding(("components", name, "serving", "warmup", "data"), message, involves=involves)
                break
