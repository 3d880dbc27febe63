"""Recipe → Plan: which steps, in which order, each under a key made of everything that decides its result.

`make_plan` is a pure function of the recipe and of the `Fingerprints` of the files, libraries and code around
it. A step's key is the SHA-256 of its identity; its identity names its inputs by *their* keys, so a change
travels down exactly the steps that it touches. `explain` compares with what ran last and says why a step must
run again.

The chain of a component is export → quantize → engine; ``reference`` builds the same engine in FP32 to measure
against, and ``original/outputs`` records what the PyTorch model answers on the evaluation data.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from mmdeploy import engines, export, quantize
from mmdeploy.contracts import MethodOptions, method_of
from mmdeploy.wiring import topological_order, upstream

if TYPE_CHECKING:
    from mmdeploy.recipe import Component, Recipe
    from mmdeploy.store import Store

Kind = Literal["export", "quantize", "engine", "reference", "outputs"]
ORIGINAL = "original/outputs"


@dataclass(frozen=True)
class Fingerprints:
    """What a plan must know of the world besides the recipe.

    Attributes:
        model_source: Digest of the factory's Python files.
        weights: Digest of the weights file; empty without one.
        calibration: Digest of the calibration callable's Python files and of the data files.
        evaluation: The same of the evaluation callable.
        code: Digest of the code of each pass and engine, by dotted module name.
        versions: Version of each distribution by name; empty where it is not installed.
        unrunnable: Why a component's engine cannot run on this machine, by component.
    """

    model_source: str
    weights: str
    calibration: str
    evaluation: str
    code: Mapping[str, str]
    versions: Mapping[str, str]
    unrunnable: Mapping[str, str]


@dataclass(frozen=True)
class Step:
    """One step of a build.

    Attributes:
        id: ``<component>/<kind>``.
        component: The component, or ``original`` for the PyTorch model as a whole.
        kind: What sort of step it is.
        method: Entry of the kind's literal dict.
        options: The method's options as JSON-able values.
        needs: Ids of the steps whose artifacts it takes; the first is the one it transforms.
        identity: Everything that decides the result, by a label that a person understands.
    """

    id: str
    component: str
    kind: Kind
    method: str
    options: Mapping[str, Any]
    needs: tuple[str, ...]
    identity: Mapping[str, str]

    @property
    def key(self) -> str:
        """SHA-256 of the identity."""
        return digest(self.identity)


@dataclass(frozen=True)
class Plan:
    """The steps of a build; each follows what it needs."""

    recipe: str
    steps: tuple[Step, ...]

    def step(self, step_id: str) -> Step:
        """Return the step with an id."""
        return next(step for step in self.steps if step.id == step_id)

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON-able values, keys included."""
        return {"recipe": self.recipe, "steps": [asdict(step) | {"key": step.key} for step in self.steps]}


@dataclass(frozen=True)
class Decision:
    """Whether a step is reused or run, and why."""

    step: Step
    reuse: bool
    why: str


def digest(value: object) -> str:
    """Return the SHA-256 of a JSON-able value in hex; mappings in sorted order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=dict).encode()).hexdigest()


def make_plan(recipe: Recipe, fingerprints: Fingerprints) -> Plan:
    """Turn a recipe into its steps."""
    planner = _Planner(recipe, fingerprints)
    for name in topological_order(recipe.components):
        planner.add_component(name)
    if recipe.gates:
        planner.add_original()
    return Plan(recipe.name, tuple(planner.steps.values()))


def shipped_graph(recipe: Recipe, component: str) -> str:
    """Return the id of the step whose ONNX graph a component ships."""
    return f"{component}/quantize" if recipe.components[component].quantize else f"{component}/export"


def explain(plan: Plan, store: Store) -> tuple[Decision, ...]:
    """Say for each step whether the store has its result, and what changed where it has not."""
    reused: dict[str, bool] = {}
    decisions = []
    for step in plan.steps:
        reuse = reused[step.id] = store.has(step.key)
        why = "nothing changed" if reuse else _why(step, store.latest_identity(plan.recipe, step.id))
        decisions.append(Decision(step, reuse, why))
    return tuple(decisions)


def _why(step: Step, latest: Mapping[str, str] | None) -> str:
    if latest is None:
        return "never built"
    changes = []
    for label in sorted({*latest, *step.identity}, key=lambda label: label.startswith("input ")):
        before, after = latest.get(label), step.identity.get(label)
        if before == after:
            continue
        if label.startswith("input "):
            changes.append(f"{label.removeprefix('input ')} changed")
        elif max(len(before or ""), len(after or "")) > 60 or _is_digest(after):
            changes.append(f"{label} changed")
        else:
            changes.append(f"{label}: {before or 'none'} → {after or 'none'}")
    return "; ".join(changes) or "its artifact is gone from the store"


def _is_digest(text: str | None) -> bool:
    return text is not None and len(text) == 64 and not text.strip("0123456789abcdef")


class _Planner:
    """Collects the steps of one recipe."""

    def __init__(self, recipe: Recipe, fingerprints: Fingerprints) -> None:
        self.recipe = recipe
        self.fingerprints = fingerprints
        self.steps: dict[str, Step] = {}

    def add_component(self, name: str) -> None:
        component = self.recipe.components[name]
        self._add_export(name, component)
        if component.quantize is not None:
            self._add_quantize(name, component)
        engine = self.recipe.engine_options(name)
        self._add_engine(name, "engine", engine, shipped_graph(self.recipe, name))
        if self.recipe.gates and name not in self.fingerprints.unrunnable:
            full_precision = engine.model_copy(
                update={"precision": "fp32"} if "precision" in type(engine).model_fields else {}
            )
            self._add_engine(name, "reference", full_precision, f"{name}/export")

    def add_original(self) -> None:
        prints = self.fingerprints
        identity = {
            "model source": prints.model_source,
            "weights": prints.weights,
            "evaluation data": prints.evaluation,
            "evaluation callable": str(self.recipe.data.evaluation),
            "wiring": digest(self._wiring(*self.recipe.components)),
            "inputs": digest({name: spec.model_dump(mode="json") for name, spec in self.recipe.inputs.items()}),
            **self._made_by("mmdeploy.torch_model", ("torch", "numpy")),
        }
        self._add(Step(ORIGINAL, "original", "outputs", "torch", {}, (), identity))

    def _add_export(self, name: str, component: Component) -> None:
        options, module = component.export, export.METHODS[method_of(component.export)]
        prints = self.fingerprints
        identity = {
            "factory": self.recipe.model.factory,
            "model source": prints.model_source,
            "weights": prints.weights,
            "wiring": digest(self._wiring(*upstream(self.recipe.components, name), name)),
            "inputs": digest({key: spec.model_dump(mode="json") for key, spec in self.recipe.inputs.items()}),
            "max_batch_size": str(component.serving.max_batch_size),
            "seed": str(self.recipe.seed),
            **_labelled(options),
            **self._made_by(module.__name__, module.REQUIRES),
        }
        self._add(Step(f"{name}/export", name, "export", method_of(options), _json(options), (), identity))

    def _add_quantize(self, name: str, component: Component) -> None:
        options = component.quantize
        assert options is not None
        module = quantize.METHODS[method_of(options)]
        before = [shipped_graph(self.recipe, other) for other in upstream(self.recipe.components, name)]
        engine = self.recipe.engine_options(name)
        needs = (f"{name}/export", *before)
        identity = {
            "encoding": str(engines.METHODS[method_of(engine)].encoding(engine)),
            "calibration data": self.fingerprints.calibration,
            "calibration callable": str(self.recipe.data.calibration),
            "inputs": digest({key: spec.model_dump(mode="json") for key, spec in self.recipe.inputs.items()}),
            "seed": str(self.recipe.seed),
            **_labelled(options),
            **self._inputs(needs),
            **self._made_by(module.__name__, module.REQUIRES),
        }
        self._add(Step(f"{name}/quantize", name, "quantize", method_of(options), _json(options), needs, identity))

    def _add_engine(self, name: str, kind: Literal["engine", "reference"], options: Any, graph: str) -> None:
        module = engines.METHODS[method_of(options)]
        identity = {
            "target": str(self.recipe.target),
            "max_batch_size": str(self.recipe.components[name].serving.max_batch_size),
            **_labelled(options),
            **self._inputs((graph,)),
            **self._made_by(module.__name__, module.REQUIRES),
        }
        self._add(Step(f"{name}/{kind}", name, kind, method_of(options), _json(options), (graph,), identity))

    def _add(self, step: Step) -> None:
        self.steps[step.id] = step

    def _inputs(self, needs: tuple[str, ...]) -> dict[str, str]:
        return {f"input {step_id}": self.steps[step_id].key for step_id in needs}

    def _made_by(self, module: str, distributions: tuple[str, ...]) -> dict[str, str]:
        versions = {f"library {name}": self.fingerprints.versions.get(name, "") for name in distributions}
        return {"mmdeploy's own code": self.fingerprints.code[module], **versions}

    def _wiring(self, *names: str) -> dict[str, Any]:
        parts = {name: self.recipe.components[name] for name in names}
        return {
            name: part.model_dump(mode="json", include={"module", "inputs", "outputs"}) for name, part in parts.items()
        }


def _json(options: MethodOptions) -> dict[str, Any]:
    return options.model_dump(mode="json")


def _labelled(options: MethodOptions) -> dict[str, str]:
    return {f"option {name}": json.dumps(value, sort_keys=True) for name, value in _json(options).items()}
