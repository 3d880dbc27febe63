"""Static checks of the ensemble that a recipe describes: what Triton would refuse, before anything runs.

The rules on tensors and batch sizes are those of Triton's ensemble scheduler: ``ensemble_scheduling`` in
model_config.proto, and what Triton checks when it loads an ensemble.
"""

from __future__ import annotations

import graphlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from mmdeploy import engines, prune, quantize, recover
from mmdeploy.core.contracts import method_of
from mmdeploy.core.errors import did_you_mean
from mmdeploy.gates import parity
from mmdeploy.recipe import cascade_rules, cascade_stages, layout, sharing, stream_rules
from mmdeploy.recipe.declared import Dim, InputSpec, Wire
from mmdeploy.recipe.finding import Finding
from mmdeploy.recipe.media_wiring import media_findings, steps_of
from mmdeploy.recipe.schema import Component, Recipe
from mmdeploy.recipe.serving_rules import serving_findings
from mmdeploy.recipe.size_rules import size_findings
from mmdeploy.recipe.wiring_order import order_with, sources_of
from mmdeploy.recipe.yaml_tree import Keys

#: What marks a place that init could not see or choose, and begins the tensor's name there, which nothing writes.
MARK, PLACEHOLDER = "TODO(init)", "TODO_"


@dataclass(frozen=True)
class _End:
    """One end of a wire: a tensor declared or used somewhere in the recipe."""

    path: Keys
    owner: str
    dtype: str | None = None
    shape: tuple[Dim, ...] | None = None


@dataclass
class _Tensor:
    writers: list[_End] = field(default_factory=list)
    readers: list[_End] = field(default_factory=list)


def check(recipe: Recipe) -> list[Finding]:
    """Return everything wrong with how the components of a recipe fit together."""
    tensors = _tensors(recipe)
    return [
        *_empty_sections(recipe),
        *_names(recipe),
        *_one_name_at_both_ends(recipe),
        *_ends(recipe, tensors),
        *_cycles(recipe.components),
        *_unused(recipe, tensors),
        *media_findings(recipe),
        *_clashes(tensors),
        *size_findings(recipe),
        *serving_findings(recipe),
        *_data(recipe),
        *_judged_outputs(recipe),
        *_graphless_engines(recipe),
        *_shared_modules(recipe),
        *_replaced(recipe),
        *layout.findings(recipe),
        *cascade_rules.findings(recipe),
        *stream_rules.findings(recipe),
    ]


def topological_order(components: Mapping[str, Component]) -> tuple[str, ...]:
    """Return the components' names, each after all that feed it; otherwise in the recipe's order.

    Raises:
        ValueError: If the wiring has a cycle.
    """
    return order_with(sources_of(components))


def upstream(components: Mapping[str, Component], name: str) -> tuple[str, ...]:
    """Return the components that feed ``name``, directly or through others, in topological order."""
    sources = sources_of(components)
    found: set[str] = set()
    waiting = [name]
    while waiting:
        new = sources[waiting.pop()] - found
        found |= new
        waiting += new
    return tuple(component for component in topological_order(components) if component in found)


def _tensors(recipe: Recipe) -> dict[str, _Tensor]:
    tensors: dict[str, _Tensor] = {}
    for name, spec in recipe.inputs.items():
        end = _End(("inputs", name), f"input {name!r} of the ensemble", spec.dtype, spec.shape)
        tensors.setdefault(name, _Tensor()).writers.append(end)
        presence = spec.missing.presence if spec.missing is not None else None
        if presence is not None and presence not in recipe.inputs:  # which is told at its place
            end = _End(("inputs", name, "missing", "presence"), f"presence of {name!r}", "BOOL", (1,))
            tensors.setdefault(presence, _Tensor()).writers.append(end)
    for name, component in recipe.components.items():
        for key, wire in component.outputs.items():
            tensors.setdefault(wire.tensor, _Tensor()).writers.append(_end(name, "outputs", key, wire))
        for key, wire in component.inputs.items():
            tensors.setdefault(wire.tensor, _Tensor()).readers.append(_end(name, "inputs", key, wire))
    sources = recipe.sources() if recipe.preprocess else {}
    for section, name, step in steps_of(recipe):
        for own, tensor in step.tensors.items():
            made = sources.get(tensor) if section == "preprocess" else None
            end = _End((section, name, "outputs", own), f"{section}.{name}.outputs.{own}", *_held(made))
            tensors.setdefault(tensor, _Tensor()).writers.append(end)
        for own, tensor in step.inputs.items():
            end = _End((section, name, "inputs", own), f"{section}.{name}.inputs.{own}")
            tensors.setdefault(tensor, _Tensor()).readers.append(end)
    for place, tensor in cascade_stages.reads(recipe):
        if tensor in tensors:  # others are told with what there is
            tensors[tensor].readers.append(_End(place, "the cascade"))
    return tensors


def _held(spec: InputSpec | None) -> tuple[str, tuple[Dim, ...]] | tuple[None, None]:
    return (None, None) if spec is None else (spec.dtype, spec.shape)


def _end(component: str, side: str, key: str, wire: Wire) -> _End:
    return _End(("components", component, side, key), f"{component}.{side}.{key}", wire.dtype, wire.shape)


def _empty_sections(recipe: Recipe) -> Iterator[Finding]:
    for section in ("inputs", "components", "outputs"):
        if not getattr(recipe, section):
            yield Finding((section,), f"is empty: an ensemble has at least one of its {section}", needs_all=True)


def _names(recipe: Recipe) -> Iterator[Finding]:
    if recipe.name in recipe.components:
        message = f"the ensemble is named {recipe.name!r} as well: in Triton both would be one model; rename one"
        yield Finding(("components", recipe.name), message, involves=(("name",),))
    by_folded: dict[str, str] = {}
    for name in recipe.components:
        other = by_folded.setdefault(name.casefold(), name)
        if other != name:
            message = f"differs from the component {other!r} only in case: one folder on some file systems"
            yield Finding(("components", name), message)


def _one_name_at_both_ends(recipe: Recipe) -> Iterator[Finding]:
    """Find outputs with the name of an input of their component: a graph has one tensor of a name."""
    for name, component in recipe.components.items():
        for key in component.outputs:
            if key in component.inputs:
                message = (
                    f"{key!r} is an input of the component as well, and its graph has one tensor of a name: name the "
                    "output otherwise, in forward too where that returns a dict"
                )
                path = ("components", name)
                yield Finding((*path, "outputs", key), message, involves=((*path, "inputs", key),))


def _ends(recipe: Recipe, tensors: Mapping[str, _Tensor]) -> Iterator[Finding]:
    """Find tensors with no writer, several writers, or no reader."""
    written = [name for name, tensor in tensors.items() if tensor.writers]
    presence = tuple(("inputs", name, "missing") for name, spec in recipe.inputs.items() if spec.optional)
    for name, tensor in tensors.items():
        if not tensor.writers:
            for reader in tensor.readers:
                unseen = name.startswith(PLACEHOLDER)
                left = f": init could not see what it is, look at the mark # {MARK}" if unseen else ""
                message = f"nothing writes the tensor {name!r}{left}; {did_you_mean(name, written)}"
                yield Finding(reader.path, message, involves=presence, needs_all=True)
        for writer in tensor.writers[1:]:
            message = f"the tensor {name!r} is already written by {tensor.writers[0].owner}; give it another name"
            yield Finding(writer.path, message, involves=(tensor.writers[0].path,))
    for name in recipe.inputs:
        if not tensors[name].readers:
            read = [tensor for tensor, ends in tensors.items() if ends.readers]
            message = f"no component reads the input {name!r}: Triton refuses it; wire it, or take it out"
            if not recipe.components or name in read:
                continue
            yield Finding(("inputs", name), message, needs_all=True)
    produced = {wire.tensor for component in recipe.components.values() for wire in component.outputs.values()}
    produced |= {tensor for step in recipe.postprocess.values() for tensor in step.tensors.values()}
    for name in recipe.outputs:
        if name in recipe.inputs:
            message = f"{name!r} is an input of the ensemble; an output must be written by a component"
            yield Finding(("outputs", name), message, involves=(("inputs", name),))
        elif name not in produced:
            message = f"no component writes the output {name!r}; {did_you_mean(name, produced)}"
            yield Finding(("outputs", name), message, needs_all=True)


def _cycles(components: Mapping[str, Component]) -> Iterator[Finding]:
    """Find one cycle in each group of components that feed each other."""
    sources = sources_of(components)
    while True:
        try:
            graphlib.TopologicalSorter(sources).prepare()
        except graphlib.CycleError as error:
            cycle = [str(name) for name in error.args[1]]
            shown = " -> ".join(cycle)
            message = f"the components feed each other in a cycle: {shown}; an ensemble runs each step once"
            yield Finding(("components", cycle[0]), message)
            sources = {name: feeds - set(cycle) for name, feeds in sources.items() if name not in cycle}
        else:
            return


def _unused(recipe: Recipe, tensors: Mapping[str, _Tensor]) -> Iterator[Finding]:
    """Find components that run for nothing, and tensors that nothing takes."""
    needed, sources = set[str](), sources_of(recipe.components)
    wanted = {*recipe.outputs, *(tensor for step in recipe.postprocess.values() for tensor in step.inputs.values())}
    wanted |= {tensor for _, tensor in cascade_stages.reads(recipe)}
    waiting = [
        name
        for name, component in recipe.components.items()
        if any(wire.tensor in wanted for wire in component.outputs.values())
    ]
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            waiting += sources[name]
    for name, component in recipe.components.items():
        if name not in needed:
            written = ", ".join(repr(wire.tensor) for wire in component.outputs.values())
            message = (
                f"no output of the ensemble depends on this component (it writes {written}); wire it, or take it out"
            )
            yield Finding(("components", name), message, needs_all=True)
            continue
        for key, wire in component.outputs.items():
            if not tensors[wire.tensor].readers and wire.tensor not in recipe.outputs:
                message = f"nothing takes the tensor {wire.tensor!r}: Triton refuses it; wire it, or make it an output"
                yield Finding(("components", name, "outputs", key), message, needs_all=True)


def _clashes(tensors: Mapping[str, _Tensor]) -> Iterator[Finding]:
    """Find readers declared with another dtype or shape than the writer, and readers that disagree."""
    for name, tensor in tensors.items():
        for field_name in ("dtype", "shape"):
            declared = [end for end in (*tensor.writers, *tensor.readers) if getattr(end, field_name) is not None]
            for end in declared[1:]:
                first, second = getattr(declared[0], field_name), getattr(end, field_name)
                if _differ(first, second):
                    message = (
                        f"{field_name} {_shown(second)} here, but {declared[0].owner} says {_shown(first)}"
                        f" for the same tensor {name!r}"
                    )
                    yield Finding(end.path, message, involves=(declared[0].path,))


def _differ(first: object, second: object) -> bool:
    if isinstance(first, tuple) and isinstance(second, tuple):
        return len(first) != len(second) or any(
            one != two and -1 not in (one, two) for one, two in zip(first, second, strict=True)
        )
    return first != second


def _shown(declared: object) -> str:
    return f"[{', '.join(map(str, declared))}]" if isinstance(declared, tuple) else str(declared)


def _data(recipe: Recipe) -> Iterator[Finding]:
    """Find passes and gates whose samples the recipe does not name, and splits that would leak."""
    for path, needed, what in _data_wanted(recipe):
        for key in sorted(needed):
            if getattr(recipe.data, key) is None:
                message = f"{what} {_DATA_USES[key]}: name them in data.{key}"
                yield Finding(path, message, involves=(("data", key),))
    if recipe.gates and recipe.data.evaluation is None:
        message = "gates judge on held-out samples: name them in data.evaluation"
        yield Finding(("gates",), message, involves=(("data", "evaluation"),))
    for key in ("training", "validation"):
        if getattr(recipe.data, key) is not None and getattr(recipe.data, key) == recipe.data.evaluation:
            message = (
                f"{recipe.data.evaluation!r} is what the gates judge on: {_LEAKS[key]} it, the verdict would say "
                "nothing about samples that the model has not seen; name another split"
            )
            yield Finding(("data", key), message, involves=(("data", "evaluation"),))


def _judged_outputs(recipe: Recipe) -> Iterator[Finding]:
    """Find outputs that a gate names and that there are not."""
    written = {wire.tensor for part in recipe.components.values() for wire in part.outputs.values()} | {*recipe.outputs}
    for index, gate in enumerate(recipe.gates):
        inner = isinstance(gate, parity.Options)
        accepted = written if inner else set(recipe.outputs)
        for place, name in enumerate(getattr(gate, "outputs", None) or ()):
            if name not in accepted:
                what = "no component writes the tensor" if inner else "the ensemble has no output"
                message = f"{what} {name!r}; {did_you_mean(name, accepted)}"
                yield Finding(("gates", index, "outputs", place), message, needs_all=True)


def _graphless_engines(recipe: Recipe) -> Iterator[Finding]:
    """Find components whose INT8 graph nothing would take: their engine is made of the PyTorch module."""
    for name, component in recipe.components.items():
        if component.quantize is None or recipe.automatic_engine(name) is not None:
            continue
        engine = recipe.engine_options(name)
        if engines.METHODS.of(engine).CONSUMES != "onnx":
            takers = [method for method, module in engines.METHODS.built_in.items() if module.CONSUMES == "onnx"]
            message = (
                f"the engine {method_of(engine)} is made of the PyTorch module, not of the graph that quantize writes: "
                f"take quantize out, or name an engine that takes the graph ({', '.join(takers)})"
            )
            yield Finding(("components", name, "quantize"), message, involves=(("components", name, "engine"),))


def _shared_modules(recipe: Recipe) -> Iterator[Finding]:
    """Find components that would make several modules of one."""
    for first, second, difference in sharing.differences(recipe):
        message = (
            f"{recipe.components[second].module!r} is the module of {first!r} too, so both have the same weights, and"
            f" compressed they must stay one; but {difference}: make them alike, or give each a module of its own in"
            " the factory (copy.deepcopy)"
        )
        yield Finding(("components", second, "module"), message, involves=(("components", first, "module"),))


def _replaced(recipe: Recipe) -> Iterator[Finding]:
    """Find components that are pruned and then replaced by another module."""
    for name, component in recipe.components.items():
        if component.prune is not None and getattr(component.recover, "student", None) is not None:
            message = "the student takes the place of the module that this prunes: take prune, or recover, out"
            yield Finding(("components", name, "prune"), message, involves=(("components", name, "recover"),))


_DATA_USES = {
    "calibration": "takes its ranges from samples",
    "training": "trains on labelled samples",
    "validation": "decides by labelled samples that are neither trained on nor judged on",
}
_LEAKS = {"training": "trained on", "validation": "chosen by"}


def _data_wanted(recipe: Recipe) -> Iterator[tuple[tuple[str, ...], frozenset[str], str]]:
    """Give the place, the data sets and the name of what reads them."""
    for name, component in recipe.components.items():
        for key, methods in (("prune", prune.METHODS), ("recover", recover.METHODS), ("quantize", quantize.METHODS)):
            options = getattr(component, key)
            if options is not None:
                yield ("components", name, key), methods.of(options).data_needs(options), f"{key} {method_of(options)}"
        if recipe.automatic_engine(name) is not None:
            yield ("components", name, "engine"), frozenset({"validation"}), "engine auto"
