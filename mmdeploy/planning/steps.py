"""The steps of a build: what a plan is made of, the keys of steps, and why one must run again.

A step's key is the SHA-256 of its identity; its identity names its inputs by *their* keys, so a change travels down
exactly the steps that it touches.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from mmdeploy.core.contracts import Encoding
from mmdeploy.core.errors import UsageError, did_you_mean
from mmdeploy.data.contents import DIGESTS, INDEX, content
from mmdeploy.model.reads import changes
from mmdeploy.planning.kinds import KINDS, SAMPLES, StepKind
from mmdeploy.planning.recipe_inputs import UNREAD

if TYPE_CHECKING:
    from mmdeploy.core.contracts import MethodOptions
    from mmdeploy.core.store import Store
    from mmdeploy.planning.recipe_inputs import RecipeInputs
    from mmdeploy.recipe.schema import Data

#: What is to be made of a recipe.
Goal = Literal["build", "sensitivity", "debug"]
ORIGINAL = "original/outputs"
ORIGINAL_ANSWERS = "original/answers"
#: What takes the place of the embeddings of inputs that are missing.
STAND_INS = "original/stand_ins"
#: Calibration samples that the mean of embeddings is taken over.
STAND_IN_SAMPLES = 512
#: Ids of the steps that record a set of samples, by its key under ``data`` in the recipe.
DATA_SETS: Mapping[str, str] = {key: f"data/{key}" for key in ("calibration", "evaluation", "validation")}
#: Of the samples that examples are made of, the first so many.
EXAMPLES = 16
#: Changes that are told, of a step that must run again.
_MOST_CHANGES = 6
#: Files that are told of one of them.
_MOST_FILES = 3
#: Format of the artifact that an optional step leaves when its engine refuses the graph; ``metadata`` says why.
REFUSED = "refused"


#: What a step's identity calls the processor that an engine of machine code is built for.
PROCESSOR = "processor"


@dataclass(frozen=True)
class Fingerprints:
    """What a plan must know of the world besides the recipe.

    Attributes:
        inputs: What the recipe's model and data are made of.
        code: Digests of the files of mmdeploy that run where a step starts in a module, by dotted module name; of a
            plug-in those of its own, by its name.
        versions: Version of each distribution by name; empty where it is not installed.
        unrunnable: Why a component's engine cannot run on this machine, by component.
        unavailable: Why a candidate of ``engine: auto`` cannot run on this machine, by `options_key`.
        machine: What timings depend on: processor, instruction sets, cores, GPUs.
        metrics: Digest of the code and the files of the metric that each component is scored with, by component.
        instruction_sets: Those of this machine's processor, which engines of machine code are built for.
        gpus: Names of this machine's GPUs, which TensorRT's plans are built for; empty without one.
        media: Digests of the steps of ``preprocess`` and ``postprocess``, their code, files and packages included, by
            section; none of a section that is missing.
    """

    inputs: RecipeInputs
    code: Mapping[str, Mapping[str, str]]
    versions: Mapping[str, str]
    unrunnable: Mapping[str, str]
    unavailable: Mapping[str, str] = field(default_factory=dict)
    machine: str = ""
    metrics: Mapping[str, str] = field(default_factory=dict)
    media: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    instruction_sets: str = ""
    gpus: str = ""


@dataclass(frozen=True)
class Step:
    """One step of a build.

    Attributes:
        id: ``<component>/<kind>``; with several of a kind ``<component>/<kind>.<label>``.
        component: The component, or ``original`` for the PyTorch model as a whole.
        kind: Name of the `StepKind` in `KINDS`.
        method: Which of the kind's methods does it.
        options: The method's options as JSON-able values.
        needs: Ids of the steps whose artifacts it takes.
        identity: Everything that decides the result, by a label that a person understands.
        uses: What the other artifacts are to it: role, then component, to step id. ``shipped``: what upstream
            components ship; ``original``: FP32 graphs of all; ``torch``: upstream components as their torch passes
            left them; ``made``: the step of the same component whose numbers it writes; ``graph``: the export that
            goes with an engine which is made of the PyTorch module; ``examples``: the export of the same component,
            which has what upstream answered to examples.
        encoding: How INT8 is written.
        exclusive: Whether it measures time, so that nothing may run beside it.
        optional: Whether it is one of several to choose from, so that an engine's refusal of the graph is a result.
    """

    id: str
    component: str
    kind: str
    method: str
    options: Mapping[str, Any]
    needs: tuple[str, ...]
    identity: Mapping[str, str]
    uses: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    encoding: Encoding = Encoding.INT8_SYMMETRIC
    exclusive: bool = False
    optional: bool = False

    @property
    def sort(self) -> StepKind:
        """Everything about its kind."""
        return KINDS[self.kind]

    @property
    def key(self) -> str:
        """SHA-256 of the identity."""
        return digest(self.identity)

    @property
    def source(self) -> str | None:
        """Id of the step whose artifact it transforms: of the same component. None where it starts from the recipe."""
        exports = {step_id for role in ("graph", "examples") for step_id in self.uses.get(role, {}).values()}
        beside = {*exports, *DATA_SETS.values()}  # a component may be called "data"
        first = next((need for need in self.needs if need not in beside), "")
        return first if first.startswith(f"{self.component}/") else None


@dataclass(frozen=True)
class Plan:
    """The steps of a build; each follows what it needs.

    Attributes:
        recipe: The recipe's name.
        steps: In an order in which they can be run.
        parts: What digests in the steps' identities are of: digests by name, such as those of files.
    """

    recipe: str
    steps: tuple[Step, ...]
    parts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def step(self, step_id: str) -> Step:
        """Return the step with an id."""
        return next(step for step in self.steps if step.id == step_id)

    def parts_of(self, step: Step) -> dict[str, Mapping[str, str]]:
        """Return what the digests in a step's identity are of."""
        return {value: self.parts[value] for value in step.identity.values() if value in self.parts}

    def upto(self, *step_ids: str) -> Plan:
        """Return the plan of some steps: themselves and all that they need.

        Raises:
            UsageError: If there is no step of an id.
        """
        names = [step.id for step in self.steps]
        for step_id in step_ids:
            if step_id not in names:
                raise UsageError(f"{self.recipe} has no step {step_id!r}", hint=did_you_mean(step_id, names))
        wanted = {*step_ids}
        for step in reversed(self.steps):
            if step.id in wanted:
                wanted.update(step.needs)
        return replace(self, steps=tuple(step for step in self.steps if step.id in wanted))

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON-able values, keys included."""
        return {"recipe": self.recipe, "steps": [asdict(step) | {"key": step.key} for step in self.steps]}


#: Gives the ids of the steps of a plan that are wanted.
Wanted: TypeAlias = Callable[[Plan], Iterable[str]]


def only_step(step_id: str | None) -> Wanted | None:
    """Return what wants one step; None, for all, where none is named."""
    return None if step_id is None else lambda plan: (step_id,)


@dataclass(frozen=True)
class Decision:
    """Whether a step is reused or run, and why.

    Attributes:
        step: The step.
        reuse: Whether the store has its result.
        why: What changed, for people.
        perhaps: Whether it is reused after all if the samples that are recorded anew turn out the same.
    """

    step: Step
    reuse: bool
    why: str
    perhaps: bool = False


#: Tells the digest of what a samples step recorded, by its key: of all of it, or of the inputs of the first samples;
#: None where it has not been recorded.
Contents: TypeAlias = Callable[[str, int | None], str | None]


def unrecorded(key: str, first: int | None) -> str | None:
    """Know no content: no set of samples has been recorded."""
    return None


def recorded_in(store: Store) -> Contents:
    """Return what tells the contents of the sets of samples in a store."""

    def contents(key: str, first: int | None) -> str | None:
        try:
            return content(store.folder_with(key, INDEX, DIGESTS), first)
        except (OSError, ValueError, KeyError):
            return None

    return contents


def digest(value: object) -> str:
    """Return the SHA-256 of a JSON-able value in hex; mappings in sorted order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=dict).encode()).hexdigest()


def options_json(options: MethodOptions) -> dict[str, Any]:
    """Return options as JSON-able values."""
    return options.model_dump(mode="json")


def options_identity(options: MethodOptions) -> dict[str, str]:
    """Return options as part of an identity: one label an option."""
    return {f"option {name}": json.dumps(value, sort_keys=True) for name, value in options_json(options).items()}


def samples_taken(options: Mapping[str, Any]) -> int | None:
    """Return how many calibration samples a step takes, from the first; None for all."""
    count = options.get("samples")
    return count if isinstance(count, int) and not isinstance(count, bool) else None


def examples_from(data: Data) -> str | None:
    """Return the key of the set that examples are made of: calibration, else evaluation; None without either."""
    return next((key for key in ("calibration", "evaluation") if getattr(data, key) is not None), None)


def used_by(uses: Mapping[str, Mapping[str, str]]) -> tuple[str, ...]:
    """Return the ids of the steps in a `Step`'s ``uses``, each once."""
    return tuple(dict.fromkeys(step_id for role in uses.values() for step_id in role.values()))


def options_key(options: MethodOptions) -> str:
    """Return the digest of an engine's options: what `Fingerprints.unavailable` names a candidate by."""
    return digest(options_json(options))


def in_order(steps: Mapping[str, Step], components: Iterable[str], wanted: Sequence[str]) -> Iterator[Step]:
    """Give the wanted steps and what they need, component by component, each after its needs; sets of samples first."""
    given: set[str] = set()

    def with_needs(step_id: str) -> Iterator[Step]:
        if step_id not in given:
            given.add(step_id)
            for need in steps[step_id].needs:
                yield from with_needs(need)
            yield steps[step_id]

    sets = [step_id for step_id in wanted if steps[step_id].sort is SAMPLES]
    rank = {name: index for index, name in enumerate(components)}
    chains = sorted(wanted, key=lambda step_id: rank.get(steps[step_id].component, len(rank)))
    for step_id in (*sets, *chains):
        yield from with_needs(step_id)


def explain(plan: Plan, store: Store, *, fresh: bool = False) -> tuple[Decision, ...]:
    """Say for each step whether the store has its result, and what changed where it has not.

    Args:
        plan: The steps.
        store: Where results are kept.
        fresh: Whether to run every step, whatever the store has.
    """
    if fresh:
        return tuple(Decision(step, False, "asked for: no result is reused") for step in plan.steps)
    store.expect(step.key for step in plan.steps)
    open_ends: set[str] = set()
    decisions = []
    for step in plan.steps:
        latest = store.latest_identity(plan.recipe, step.id)
        if store.has(step.key):
            why = "nothing changed" if store.is_here(step.key) else f"in {store.shared}"
            decisions.append(Decision(step, True, why))
            continue
        perhaps = step.sort is not SAMPLES and latest is not None and _only_inputs(step, latest, open_ends)
        if perhaps or step.sort is SAMPLES:
            open_ends.add(step.id)
        decisions.append(Decision(step, False, _Reasons(plan, store, open_ends).why(step, latest), perhaps))
    return tuple(decisions)


def _only_inputs(step: Step, latest: Mapping[str, str], among: Container[str]) -> bool:
    """Say whether a step differs from its latest run by nothing but the results of certain steps."""
    changed = [label for label in {*latest, *step.identity} if latest.get(label) != step.identity.get(label)]
    return bool(changed) and all(label.removeprefix("input ") in among for label in changed)


@dataclass(frozen=True)
class _Reasons:
    """Says why steps of a plan run: what changed since they ran last, and which files are behind that."""

    plan: Plan
    store: Store
    open_ends: Container[str]

    def why(self, step: Step, latest: Mapping[str, str] | None) -> str:
        if latest is None:
            return "never built"
        methods = [identity.get("option method", "none").strip('"') for identity in (latest, step.identity)]
        if methods[0] != methods[1]:  # its options, code and libraries are others, too
            return f"method: {methods[0]} → {methods[1]}"
        changed = [label for label in {*latest, *step.identity} if latest.get(label) != step.identity.get(label)]
        known = [label for label in changed if step.identity.get(label) != UNREAD]
        told = [  # what is read is not known *because* something else changed
            self._change(label, latest.get(label), step.identity.get(label))
            for label in sorted(known or changed, key=lambda label: (label.startswith("input "), label))
        ]
        more = f"; and {len(told) - _MOST_CHANGES} more" if len(told) > _MOST_CHANGES else ""
        return "; ".join(told[:_MOST_CHANGES]) + more or "its artifact is gone from the store"

    def _change(self, label: str, before: str | None, after: str | None) -> str:
        if label.startswith("input "):
            source = label.removeprefix("input ")
            return f"{source} {'may change' if source in self.open_ends else 'changed'}"
        if after == UNREAD:
            return f"what is {label} is not known yet"
        old, new = self.store.parts(before or ""), self.plan.parts.get(after or "", {})
        if told := changes(old, new) if old and new else []:
            more = f" and {len(told) - _MOST_FILES} more" if len(told) > _MOST_FILES else ""
            return f"{', '.join(told[:_MOST_FILES])}{more} ({label})"
        if max(len(before or ""), len(after or "")) > 60 or _is_digest(after):
            return f"{label} changed"
        return f"{label}: {before or 'none'} → {after or 'none'}"


def _is_digest(text: str | None) -> bool:
    return text is not None and len(text) == 64 and not text.strip("0123456789abcdef")
