"""Recipe → Plan: which steps, in which order, each under a key made of everything that decides its result.

`make_plan` is a pure function of the recipe and of the `Fingerprints` of the files, libraries and code around it.

The chain of a component is prune → recover → train (quantization-aware) → export → quantize → engine, each only
if the recipe asks for it. ``reference`` builds the same engine from the FP32 original to measure against, and
``original/outputs`` records what the PyTorch model answers on the evaluation data; ``original/answers`` what the FP32
graphs do on the validation data, for all that is judged by it.

Where it has to be measured what ships (``engine: auto``, or a compressed component that is not to be kept whatever
it costs), the engines are ``<component>/candidate.<label>`` and ``<component>/engine`` is the choice between them. What
lies downstream then waits for the choice: it is calibrated on what really ships.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from mmdeploy import engines, export, quantize
from mmdeploy.choice.candidates import label, slug
from mmdeploy.choice.options import REQUESTS, MustPay
from mmdeploy.core.contracts import Encoding, MethodOptions, Rewriter, Variant, method_of
from mmdeploy.core.errors import EnvironmentUnfitError
from mmdeploy.planning.chains import (
    PlannedCandidate,
    TorchSection,
    budgeted,
    encodings,
    engines_of,
    full_precision,
    left_out,
    lowers_precision,
    made_by,
    original_graph,
    torch_sections,
    trained_encoding,
    variants,
)
from mmdeploy.planning.identities import Identities
from mmdeploy.planning.kinds import ENGINE, EXPORT, QUANTIZE, REFERENCE, SAMPLES, SELECT, SENSITIVITY, TRAIN
from mmdeploy.planning.planned_layout import add_single
from mmdeploy.planning.planned_originals import PlannedOriginals
from mmdeploy.planning.planned_sets import Extent, PlannedSets
from mmdeploy.planning.planned_stand_ins import PlannedStandIns
from mmdeploy.planning.steps import (
    PROCESSOR,
    Contents,
    Fingerprints,
    Goal,
    Plan,
    Step,
    digest,
    in_order,
    options_identity,
    options_json,
    unrecorded,
    used_by,
)
from mmdeploy.recipe.sharing import above, building_order, callers

if TYPE_CHECKING:
    from mmdeploy.recipe.schema import Recipe


def make_plan(
    recipe: Recipe, fingerprints: Fingerprints, goal: Goal = "build", *, contents: Contents = unrecorded
) -> Plan:
    """Turn a recipe into its steps.

    Args:
        recipe: What to build.
        fingerprints: What surrounds it.
        goal: What the plan is for.
        contents: Tells what the sets of samples hold that have been recorded already. Steps that read one that has
            not been have keys of no use: the plan is to be made again when it has.

    Raises:
        EnvironmentUnfitError: If engines are to be measured and none of them runs on this machine.
    """
    planner = _Planner(recipe, fingerprints, unrecorded, {})  # finds out what is read of each set
    _plan(planner, goal)
    return _plan(_Planner(recipe, fingerprints, contents, planner.sets.wanted()), goal)


def _plan(planner: _Planner, goal: Goal) -> Plan:
    recipe = planner.recipe
    names = building_order(recipe.components)
    for name in names:
        if not planner.copied(name):
            planner.add_graphs(name)
    for name in names:
        if planner.copied(name):
            continue
        if goal == "sensitivity":
            planner.add_sensitivity(name)
        else:
            planner.add_quantize(name)
            planner.add_engines(name)
    if goal == "build":
        add_single(recipe, planner.identities, planner.sets, planner.steps)
        planner.add_original()
    kept = [one for one in planner.steps.values() if goal != "sensitivity" or one.kind == goal or one.sort is SAMPLES]
    return Plan(recipe.name, tuple(in_order(planner.steps, names, [one.id for one in kept])), planner.identities.parts)


class _Planner:
    """Collects the steps of one recipe; of its sets of samples that is recorded which is ``wanted``."""

    def __init__(
        self, recipe: Recipe, fingerprints: Fingerprints, contents: Contents, wanted: Mapping[str, Extent]
    ) -> None:
        self.recipe = recipe
        self.fingerprints = fingerprints
        self.steps: dict[str, Step] = {}
        self.shipped: dict[str, str] = {}
        self.identities = Identities(recipe, fingerprints)
        self.sets = PlannedSets(recipe, self.identities, self.steps, contents, wanted)
        self.stand_ins = PlannedStandIns(recipe, self.identities, self.sets, self.steps)
        self.originals = PlannedOriginals(recipe, self.identities, self.sets, self.stand_ins, self.steps)

    def copied(self, name: str) -> bool:
        """Give a component that is one with an earlier one the steps of that one, as far as there are any."""
        first = callers(self.recipe.components, name)[0]
        if first == name:
            return False
        for step in [step for step in self.steps.values() if step.component == first]:
            own = f"{name}{step.id.removeprefix(first)}"
            self._add(replace(step, id=own, component=name, needs=(step.id,), uses={}))
        if first in self.shipped:
            self.shipped[name] = f"{name}{self.shipped[first].removeprefix(first)}"
        return True

    def add_graphs(self, name: str) -> None:
        """Add a component's torch passes and exports."""
        component = self.recipe.components[name]
        before: tuple[str, ...] = ()
        for section in torch_sections(component):
            self._add_torch(name, section, before)
            before = (f"{name}/{section.kind.name}",)
        self._add_export(f"{name}/export", name, before)
        if before:
            self._add_export(f"{name}/original", name, ())

    def add_quantize(self, name: str) -> None:
        """Add the steps that write a component's INT8 graphs, one an encoding that an engine wants."""
        self.shipped[name] = f"{name}/export"
        section = self.recipe.components[name].quantize
        if section is None:
            return
        options = budgeted(section, self.recipe, name)
        for index, encoding in enumerate(encodings(self.recipe, name, self.fingerprints.unavailable)):
            step_id = f"{name}/quantize" if index == 0 else f"{name}/quantize.{encoding}"
            self._add_quantize(step_id, name, options, encoding)
        self.shipped[name] = f"{name}/quantize"

    def add_engines(self, name: str) -> None:
        """Add a component's engine, or its candidates and the choice between them."""
        engine = self.recipe.engine_options(name)
        measured = self._measured(name)
        if name not in self.fingerprints.unrunnable and (self.recipe.gates or measured):
            self._add_engine(f"{name}/reference", name, full_precision(engine), original_graph(self.recipe, name))
        if not measured:
            self._add_engine(f"{name}/engine", name, engine, self.shipped[name])
            return
        found = list(self._candidates(name))
        if not found:
            reasons = sorted(set(self.fingerprints.unavailable.values()))
            raise EnvironmentUnfitError(
                f"components.{name}.engine: auto measures engines, and none runs on this machine: {'; '.join(reasons)}",
                hint="name an engine, or build where they run",
            )
        self._add_select(name, found)
        self.shipped[name] = f"{name}/engine"

    def add_sensitivity(self, name: str) -> None:
        """Add the measurement of what quantizing each layer group alone does: upstream stays in FP32."""
        self.shipped[name] = f"{name}/export"
        from mmdeploy.quantize import sensitivity

        options = sensitivity.options_for(self.recipe.components[name].quantize)
        uses, encoding = self._around(name), encodings(self.recipe, name, self.fingerprints.unavailable)[0]
        reads = {"calibration", "validation"}
        needs = (f"{name}/export", *used_by(uses), *self.sets.read(reads), *self.stand_ins.read(name, reads))
        identity = {
            **self.identities.inputs(),
            **self.identities.judging(name),
            "encoding": str(encoding),
            **options_identity(options),
            **self.sets.inputs(needs, reads, options_json(options)),
            **self.stand_ins.identity(name, reads),
            **self.identities.made_by(SENSITIVITY, sensitivity, ("calibration", "validation")),
        }
        step = Step(
            f"{name}/sensitivity", name, SENSITIVITY.name, SENSITIVITY.name, options_json(options), needs, identity
        )
        self._add(replace(step, uses=uses, encoding=encoding))

    def add_original(self) -> None:
        """Add the record of what the PyTorch model answers, for gates, and the stand-ins that are served."""
        self.stand_ins.add()
        if self.recipe.gates:
            self.originals.add_outputs()

    def _add_torch(self, name: str, section: TorchSection, before: tuple[str, ...]) -> None:
        kind, module = section.kind, section.module
        options = budgeted(section.options, self.recipe, name)
        uses: dict[str, dict[str, str]] = {}
        wanted = module.data_needs(options)
        if wanted:
            before_it = above(self.recipe.components, name)
            uses["torch"] = {other: last for other in before_it if (last := self._last_torch(other))}
        # no sample of the gates' split may be among those that are trained on
        held_out = {"validation", "evaluation"} if wanted - {"calibration"} else set[str]()
        reads = held_out | (wanted & {"calibration"})
        needs = (*before, *used_by(uses), *self.sets.read(reads), *self.stand_ins.read(name, wanted))
        around = tuple(self.recipe.components) if wanted else callers(self.recipe.components, name)
        identity = {
            **self.identities.model(*around),
            **self.identities.students(*around),
            "wiring": self.identities.wiring(*around),
            "seed": str(self.recipe.seed),
            **(self.identities.data("training") | self.identities.data("loss") if "training" in wanted else {}),
            **(self.identities.judging(name) if "validation" in wanted else {}),
            **options_identity(options),
            **self.sets.inputs(needs, reads, options_json(options)),
            **self.stand_ins.identity(name, reads),
            **self.identities.made_by(kind, module, wanted, times=name if module.MEASURES else ""),
        }
        if module.MEASURES:
            identity |= self.identities.timing(name)
        step = Step(f"{name}/{kind.name}", name, kind.name, method_of(options), options_json(options), needs, identity)
        if kind is TRAIN:
            encoding = trained_encoding(self.recipe, name, self.fingerprints.unavailable)
            step = replace(step, encoding=encoding, identity=identity | {"encoding": str(encoding)})
        self._add(replace(step, uses=uses, exclusive=module.MEASURES))

    def _add_export(self, step_id: str, name: str, before: tuple[str, ...]) -> None:
        component, around = self.recipe.components[name], self._fed_and_called(name)
        options, needs = component.export, (*before, *self.sets.read())
        identity = {
            **self.identities.model(*around),
            **(self.identities.students(*around) if before else {}),
            "wiring": self.identities.wiring(*around),
            "max_batch_size": str(component.serving.max_batch_size),
            "seed": str(self.recipe.seed),
            **options_identity(options),
            **self.sets.inputs(needs),
            **self.identities.made_by(EXPORT, export.METHODS.of(options)),
        }
        self._add(Step(step_id, name, EXPORT.name, method_of(options), options_json(options), needs, identity))

    def _add_quantize(self, step_id: str, name: str, options: MethodOptions, encoding: Encoding) -> None:
        module = quantize.METHODS.of(options)
        wanted = module.data_needs(options)
        uses = self._around(name) if "validation" in wanted else {"shipped": self._upstream_shipped(name)}
        made = f"{name}/train" if module.CONSUMES == "torch" else f"{name}/quantize"
        writes = made in self.steps and isinstance(module, Rewriter)
        if writes:
            uses["made"] = {name: made}
        needs = (f"{name}/export", *used_by(uses), *self.sets.read(wanted), *self.stand_ins.read(name, wanted))
        identity = {
            "encoding": str(encoding),
            **self.identities.inputs(),
            "seed": str(self.recipe.seed),
            **(self.identities.judging(name) if "validation" in wanted else {}),
            **options_identity(options),
            **self.sets.inputs(needs, wanted, options_json(options)),
            **self.stand_ins.identity(name, wanted),
            **self.identities.made_by(QUANTIZE, module, wanted, times=name if module.MEASURES else ""),
        }
        exclusive = not writes and module.MEASURES
        if exclusive:
            identity |= self.identities.timing(name)
        step = Step(step_id, name, QUANTIZE.name, method_of(options), options_json(options), needs, identity)
        self._add(replace(step, uses=uses, encoding=encoding, exclusive=exclusive))

    def _add_engine(self, step_id: str, name: str, options: MethodOptions, graph: str) -> None:
        kind = REFERENCE if step_id == f"{name}/{REFERENCE.name}" else ENGINE
        module = engines.METHODS.of(options)
        needs: tuple[str, ...] = (graph,)
        uses: dict[str, dict[str, str]] = {}
        if module.CONSUMES == "torch":
            last = self._last_torch(name) if graph != original_graph(self.recipe, name) else None
            needs, uses = (*([last] if last else []), graph), {"graph": {name: graph}}
        if above(self.recipe.components, name) and self.steps[graph].sort is not EXPORT:
            uses["examples"] = {name: f"{name}/{EXPORT.name}"}
        needs = (*dict.fromkeys((*needs, *used_by(uses))), *self.sets.read())
        identity = {
            **(self.identities.students(name) if uses and graph != original_graph(self.recipe, name) else {}),
            "target": str(self.recipe.target),
            "max_batch_size": str(self.recipe.components[name].serving.max_batch_size),
            **options_identity(options),
            **self.sets.inputs(needs),
            **self.identities.made_by(kind, module),
            **({PROCESSOR: self.fingerprints.instruction_sets} if module.NATIVE else {}),
            **({"GPU": self.fingerprints.gpus} if method_of(options) == "tensorrt" and self.fingerprints.gpus else {}),
        }
        step = Step(step_id, name, kind.name, method_of(options), options_json(options), needs, identity)
        self._add(replace(step, uses=uses))

    def _add_select(self, name: str, found: list[PlannedCandidate]) -> None:
        rules = budgeted(self.recipe.automatic_engine(name) or MustPay(), self.recipe, name)
        around = self.recipe.data.validation is not None
        scored = rules.max_drop is not None
        uses = self._around(name, scored=scored) if around else {"shipped": self._upstream_shipped(name)}
        reads = {"calibration", "validation"}
        needs = (
            *(one.step for one in found), *used_by(uses), *self.sets.read(reads), *self.stand_ins.read(name, reads),
        )  # fmt: skip
        batch = min(rules.batch_size, max(1, self.recipe.components[name].serving.max_batch_size))
        options = {
            "rules": options_json(rules),
            "candidates": [asdict(one) for one in found],
            "left_out": left_out(self.recipe, name, self.fingerprints.unavailable),
            "batch_size": batch,
            "samples": REQUESTS * batch,
        }
        identity = {
            "machine": self.fingerprints.machine,
            **options_identity(rules),
            "candidates": digest([(one.label, one.compressed) for one in found]),
            **self.identities.inputs(),
            **self.identities.judging(name),
            "seed": str(self.recipe.seed),
            **self.sets.inputs(needs, reads, options),
            **self.stand_ins.identity(name, reads),
            **self.identities.made_by(SELECT, needs=("validation",), also=engines_of(found, self.recipe)),
        }
        step = Step(f"{name}/engine", name, SELECT.name, method_of(rules), options, needs, identity)
        self._add(replace(step, uses=uses, exclusive=True))

    def _measured(self, name: str) -> bool:
        """Say whether it is measured what a component ships."""
        if self.recipe.automatic_engine(name):
            return True
        component, runnable = self.recipe.components[name], name not in self.fingerprints.unrunnable
        reduced = component.compressed or lowers_precision(self.recipe.engine_options(name))
        return reduced and component.keep != "always" and runnable

    def _candidates(self, name: str) -> Iterator[PlannedCandidate]:
        """Add the engines to choose from and give them: the FP32 original first, unless its compression is kept."""
        component, original = self.recipe.components[name], original_graph(self.recipe, name)
        kept = component.compressed and component.keep == "always"
        seen: set[str] = set()
        if name not in self.fingerprints.unrunnable and not kept:
            reference = self.steps[f"{name}/reference"]
            seen.add(reference.key)
            default = Variant(full_precision(self.recipe.engine_options(name)))
            yield PlannedCandidate(
                label(default), reference.id, "float", options_json(default.options), compressed=False
            )
        own = [step for step in self.steps.values() if step.component == name]
        quantized = {step.encoding: step.id for step in own if step.kind == QUANTIZE.name}
        for variant, graph in variants(self.recipe, name, quantized, self.fingerprints.unavailable):
            compressed = graph != original
            if kept and not compressed:
                continue
            called = label(variant, made_by(component) if compressed and variant.graph == "float" else None)
            step_id = f"{name}/candidate.{slug(called)}"
            self._add_engine(step_id, name, variant.options, graph)
            self._add(replace(self.steps[step_id], optional=self.recipe.automatic_engine(name) is not None))
            if self.steps[step_id].key in seen:
                del self.steps[step_id]
                continue
            seen.add(self.steps[step_id].key)
            yield PlannedCandidate(called, step_id, variant.graph, options_json(variant.options), compressed=compressed)

    def _around(self, name: str, *, scored: bool = True) -> dict[str, dict[str, str]]:
        """Return what judging a component at the fused output takes, by role and component."""
        return {
            "shipped": self._upstream_shipped(name),
            "original": self.originals.graphs(),
            **(self.originals.answers() if scored else {}),
        }

    def _upstream_shipped(self, name: str) -> dict[str, str]:
        return {other: self.shipped[other] for other in above(self.recipe.components, name)}

    def _fed_and_called(self, name: str) -> tuple[str, ...]:
        return (*above(self.recipe.components, name), *callers(self.recipe.components, name))

    def _last_torch(self, name: str) -> str | None:
        sections = torch_sections(self.recipe.components[name])
        return f"{name}/{sections[-1].kind.name}" if sections else None

    def _add(self, step: Step) -> None:
        self.steps[step.id] = step
