"""What a recipe asks of a component, in order: passes on its module, its graphs, the engines that may run it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from mmdeploy import engines, prune, quantize, recover
from mmdeploy.choice.candidates import GraphKind, label
from mmdeploy.choice.options import MustPay
from mmdeploy.core.contracts import Encoding, Engine, MethodOptions, Pass, Variant
from mmdeploy.gates import accuracy
from mmdeploy.planning.kinds import EXPORT, PRUNE, RECOVER, TRAIN, StepKind
from mmdeploy.planning.steps import options_key
from mmdeploy.recipe.cascade_stages import scored_in
from mmdeploy.recipe.serving_rules import serves_guards
from mmdeploy.recipe.wiring import upstream
from mmdeploy.scoring.evaluations import DEFAULT_MAX_DROP
from mmdeploy.scoring.metric_spec import MetricSpec, spec_of

if TYPE_CHECKING:
    from mmdeploy.recipe.schema import Component, Recipe

OptionsT = TypeVar("OptionsT", bound=MethodOptions)


def candidates(recipe: Recipe, component: str) -> Iterator[Variant]:
    """Give the engines that ``engine: auto`` may measure for a component, whether they run here or not.

    A component that checks requests in its graph is served as that graph, so only by what can do so.
    """
    auto = recipe.automatic_engine(component)
    if auto is None:
        return
    guarded = recipe.components[component].serving.guard == "graph"
    for method in auto.in_order():
        for variant in engines.METHODS.find(method, recipe.root).candidates(recipe.target, threads=auto.threads):
            if not guarded or serves_guards(variant.options):
                yield variant


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


def made_by(component: Component) -> str:
    """Return what a component's float graph is called that is not the original."""
    if component.prune is not None:
        return "pruned"
    return "student" if getattr(component.recover, "student", None) is not None else "trained"


def encoding_of(engine: MethodOptions) -> Encoding:
    """Return how an engine wants INT8 written."""
    return engines.METHODS.of(engine).encoding(engine)


def lowers_precision(engine: MethodOptions) -> bool:
    """Say whether an engine computes in less than FP32 what the graph leaves in floating point."""
    return str(getattr(engine, "precision", "fp32")) != "fp32"


def full_precision(engine: MethodOptions) -> MethodOptions:
    """Return an engine's options with FP32 for its precision."""
    return engine.model_copy(update={"precision": "fp32"} if "precision" in type(engine).model_fields else {})


@dataclass(frozen=True)
class Yardstick:
    """What a component is scored by where a search or training decides: one metric, with its own gate's budget.

    Attributes:
        metric: What is scored.
        max_drop: The loss that the gate allows; None where it names none.
    """

    metric: MetricSpec
    max_drop: float | None = None


def yardstick(recipe: Recipe, component: str) -> Yardstick:
    """Return the metric and the budget of one accuracy gate.

    It is the first with a ``max_drop`` of those whose metric sees an output that the component feeds; else the first
    of these; else the first with a ``max_drop``, or the first of all. Without an accuracy gate it is ``top1`` of the
    first output, without a budget. A component that only answers early is scored as if it answered everybody.
    """
    recipe = scored_in(recipe, component)
    found = [
        Yardstick(gate.spec(recipe.model_outputs), gate.max_drop)
        for gate in recipe.gates
        if isinstance(gate, accuracy.Options)
    ]
    made = {tensor for step in recipe.postprocess.values() for tensor in step.tensors.values()}
    found = [one for one in found if not made & {*one.metric.outputs}]  # components alone are scored here
    fed = fed_outputs(recipe, component)
    ranked = sorted(found, key=lambda one: (not fed & {*one.metric.outputs}, one.max_drop is None))
    return ranked[0] if ranked else Yardstick(spec_of("top1", recipe.model_outputs))


def budgeted(options: OptionsT, recipe: Recipe, component: str) -> OptionsT:
    """Fill in what a search may lose, where its section leaves it open: the budget of the gate whose metric it is.

    Without one a search has a default, and what only must pay leaves accuracy to the gates.
    """
    if getattr(options, "max_drop", 0.0) is not None:
        return options
    drop = yardstick(recipe, component).max_drop
    if drop is None and not isinstance(options, MustPay):
        drop = DEFAULT_MAX_DROP
    return options.model_copy(update={"max_drop": drop})


def fed_outputs(recipe: Recipe, component: str) -> frozenset[str]:
    """Return the ensemble's outputs that depend on a component."""
    recipe = scored_in(recipe, component)
    reached = {
        name for name in recipe.components if name == component or component in upstream(recipe.components, name)
    }
    written = {wire.tensor for name in reached for wire in recipe.components[name].outputs.values()}
    return frozenset(written & set(recipe.model_outputs))


def left_out(recipe: Recipe, component: str, unavailable: Mapping[str, str]) -> dict[str, str]:
    """Return the variants of ``engine: auto`` that cannot run here, and why.

    Args:
        recipe: The recipe.
        component: The component.
        unavailable: Of `Fingerprints`.
    """
    found = {label(one): unavailable.get(options_key(one.options)) for one in candidates(recipe, component)}
    return {called: reason for called, reason in found.items() if reason}


def engines_of(found: Iterable[PlannedCandidate], recipe: Recipe) -> list[Engine]:
    """Return the engines of candidates, each once."""
    methods = sorted({str(one.engine["method"]) for one in found})
    return [engines.METHODS.find(method, recipe.root) for method in methods]


def encodings(recipe: Recipe, component: str, unavailable: Mapping[str, str]) -> list[Encoding]:
    """Return how the component's engines want INT8 written; the first is what a search works with."""
    own = encoding_of(recipe.engine_options(component))
    wanted = [
        encoding_of(variant.options)
        for variant in candidates(recipe, component)
        if variant.graph == "quantized" and options_key(variant.options) not in unavailable
    ]
    return list(dict.fromkeys(sorted(wanted, key=lambda encoding: encoding != own))) or [own]


def variants(
    recipe: Recipe, component: str, quantized: Mapping[Encoding, str], unavailable: Mapping[str, str]
) -> Iterator[tuple[Variant, str]]:
    """Give engine options and graph's step of each candidate but the reference, the simplest first.

    Args:
        recipe: The recipe.
        component: The component.
        quantized: Ids of the steps that write its INT8 graphs, by encoding.
        unavailable: Of `Fingerprints`.
    """
    floats = float_graphs(recipe, component)
    if recipe.automatic_engine(component) is None:
        engine = recipe.engine_options(component)
        yield from ((Variant(engine, "float"), graph) for graph in floats)
        yield from ((Variant(engine, "quantized"), graph) for graph in quantized.values())
        return
    for variant in candidates(recipe, component):
        if options_key(variant.options) in unavailable:
            continue
        if variant.graph == "float":
            yield from ((variant, graph) for graph in floats)
        elif (encoding := encoding_of(variant.options)) in quantized:
            yield variant, quantized[encoding]


def trained_encoding(recipe: Recipe, component: str, unavailable: Mapping[str, str]) -> Encoding:
    """Return what training under quantization rounds to: one training serves every encoding that is written."""
    wanted = encodings(recipe, component, unavailable)
    return wanted[0] if len(wanted) == 1 else Encoding.INT8_SYMMETRIC


@dataclass(frozen=True)
class PlannedCandidate:
    """An engine to choose from, as the select step is told of it.

    Attributes:
        label: For people.
        step: Id of the step that builds it.
        graph: What it is made of.
        engine: The engine's options as JSON-able values.
        compressed: Whether the graph was pruned or quantized.
    """

    label: str
    step: str
    graph: GraphKind
    engine: Mapping[str, Any]
    compressed: bool
