"""What a recipe asks of a component, in order: passes on its module, its graphs, the engines that may run it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmdeploy import engines, prune, quantize, recover
from mmdeploy.core.contracts import Encoding, MethodOptions, Pass, Variant, method_of
from mmdeploy.planning.kinds import EXPORT, PRUNE, RECOVER, TRAIN, StepKind

if TYPE_CHECKING:
    from mmdeploy.recipe.schema import Component, Recipe


def candidates(recipe: Recipe, component: str) -> Iterator[Variant]:
    """Give the engines that ``engine: auto`` may measure for a component, whether they run here or not."""
    auto = recipe.automatic_engine(component)
    if auto is None:
        return
    for method in auto.in_order():
        yield from engines.METHODS.find(method, recipe.root).candidates(recipe.target, threads=auto.threads)


def original_graph(recipe: Recipe, component: str) -> str:
    """Return the id of the step that exports a component as the recipe's factory and weights give it."""
    return f"{component}/original" if torch_sections(recipe.components[component]) else f"{component}/export"


@dataclass(frozen=True)
class TorchSection:
    """A pass on a component's PyTorch module: its kind of step, its module, its options."""

    kind: StepKind
    module: Pass
    options: MethodOptions


def torch_sections(component: Component) -> list[TorchSection]:
    """Return the passes on a component's PyTorch module, in their order."""
    found = []
    if component.prune is not None:
        found.append(TorchSection(PRUNE, prune.METHODS.of(component.prune), component.prune))
    if component.recover is not None:
        found.append(TorchSection(RECOVER, recover.METHODS.of(component.recover), component.recover))
    if component.quantize is not None:
        module = quantize.METHODS.of(component.quantize)
        if module.CONSUMES == "torch":
            found.append(TorchSection(TRAIN, module, component.quantize))
    return found


def float_graphs(recipe: Recipe, component: str) -> tuple[str, ...]:
    """Return the ids of the steps whose float graphs may ship, the original's first.

    Weights that were trained for INT8 are not among them.
    """
    kinds = [section.kind for section in torch_sections(recipe.components[component])]
    original = original_graph(recipe, component)
    return (original, f"{component}/{EXPORT.name}") if kinds and TRAIN not in kinds else (original,)


def encoding_of(engine: MethodOptions) -> Encoding:
    """Return how an engine wants INT8 written."""
    return engines.METHODS.of(engine).encoding(engine)


def lowers_precision(engine: MethodOptions) -> bool:
    """Say whether an engine computes in less than FP32 what the graph leaves in floating point."""
    return str(getattr(engine, "precision", "fp32")) != "fp32"


def full_precision(engine: MethodOptions) -> MethodOptions:
    """Return an engine's options with FP32 for its precision."""
    return engine.model_copy(update={"precision": "fp32"} if "precision" in type(engine).model_fields else {})


def budget(recipe: Recipe) -> float | None:
    """Return the drop of the metric that the recipe's accuracy gate allows; None without such a limit."""
    drops = [getattr(gate, "max_drop", None) for gate in recipe.gates if method_of(gate) == "accuracy"]
    return next((drop for drop in drops if drop is not None), None)


def metric(recipe: Recipe) -> str:
    """Return the metric of the recipe's accuracy gate, or ``top1``."""
    named = [str(getattr(gate, "metric", "top1")) for gate in recipe.gates if method_of(gate) == "accuracy"]
    return named[0] if named else "top1"
