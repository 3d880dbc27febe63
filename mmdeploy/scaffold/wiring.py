"""Which modules of a model can be components: those that take what clients send, or what others of them gave."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from mmdeploy.core.errors import ModelError, did_you_mean
from mmdeploy.recipe.schema import MODULE_PATTERN
from mmdeploy.scaffold.calls import ONLY, Call, Key, Record
from mmdeploy.scaffold.naming import component_names, key_names, unused

if TYPE_CHECKING:
    from torch import nn

#: An ensemble of more steps than this is the model layer by layer, which nobody wants.
MOST_PARTS = 8


@dataclass(frozen=True)
class Gap:
    """A place that could not be wired.

    Attributes:
        component: Where; empty for the answer of the whole model.
        argument: The component's input, or the model's output.
        what: What is there instead, a sentence.
        lines: The lines of the user's code that make it.
        advice: What to do about a name of the model's own; empty where it is a wire that is missing.
    """

    component: str
    argument: str
    what: str
    lines: tuple[str, ...] = ()
    advice: str = ""

    def __str__(self) -> str:
        if not self.component:
            return f"the model's answer ({self.argument}) {self.what}"
        return f"{self.component}.{self.argument} {self.what}"


@dataclass(frozen=True)
class Part:
    """A module as a component.

    Attributes:
        name: Of the component.
        path: Attribute path of the module.
        module: The module.
        inputs: The ensemble's tensor by argument; None where it could not be wired.
        outputs: The ensemble's tensor by output.
        keys: What was seen of each of the ensemble's tensors that it writes.
    """

    name: str
    path: str
    module: nn.Module
    inputs: Mapping[str, str | None]
    outputs: Mapping[str, str]
    keys: Mapping[str, Key]


@dataclass(frozen=True)
class Wiring:
    """How a model falls into components.

    Attributes:
        parts: In the order in which they are called.
        outputs: The ensemble's outputs.
        gaps: What could not be wired.
        left_out: Modules with weights that were never called, or whose answer nothing takes.
    """

    parts: tuple[Part, ...]
    outputs: tuple[str, ...]
    gaps: tuple[Gap, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def only_names(self) -> bool:
        """Whether all is wired, and the gaps are names of the model's own that no recipe takes."""
        return bool(self.gaps) and all(gap.advice for gap in self.gaps)

    @property
    def read(self) -> set[str]:
        """The ensemble's tensors that some component reads."""
        return {tensor for part in self.parts for tensor in part.inputs.values() if tensor is not None}


def wiring_of(kept: Record, sources: Mapping[Key, str], components: Sequence[str] = ()) -> Wiring:
    """Find the components of a model and what feeds each of their arguments.

    Args:
        kept: One answer of the model.
        sources: Names of the tensors that clients send.
        components: Attribute paths of the modules that shall be components; empty to have them proposed.

    Raises:
        ModelError: When a path among ``components`` is none of a module that was called.
    """
    calls = _asked_for(kept, components) if components else proposed(kept, sources)
    return _Wires(kept, sources, calls).wiring()


def every_call(call: Call) -> Iterator[Call]:
    """Give all calls inside of one."""
    for below in call.below:
        yield below
        yield from every_call(below)


def proposed(kept: Record, sources: Mapping[Key, str]) -> list[Call]:
    """Return the calls that are components unless the user says otherwise: the parts that the model's forward calls.

    A part that only holds everything, or holds encoders of several inputs, gives way to what it calls.
    """
    level = _level(kept.whole)
    while len(level) == 1 and len(below := _level(level[0])) > 1 and not unwired(below, sources, level[0].outputs):
        level = below
    opened = list[Call]()
    for call in level:
        below = _level(call)
        opened += below if _holds_encoders(call, below, sources) else [call]
    return opened


def is_plain(part: Part) -> bool:
    """Say whether a component's module is a layer of PyTorch's own."""
    return type(part.module).__module__.startswith("torch.nn.")


def is_layers(wiring: Wiring) -> bool:
    """Say whether components are a model layer by layer, not parts that anyone would serve by themselves."""
    parts = wiring.parts
    chain = all({*later.inputs.values()} <= {*part.outputs.values()} for part, later in pairwise(parts))
    plain = all(map(is_plain, parts))
    return len(parts) > MOST_PARTS or (chain and plain and len(parts) > 1)


def unwired(calls: Sequence[Call], sources: Mapping[Key, str], outputs: Mapping[str, Key]) -> bool:
    """Say whether something that calls take, or the answer, is made by none of them."""
    known = {*sources}
    for call in calls:
        if call.unnamed or not call.inputs or not known.issuperset(call.inputs.values()) or not _is_served(call):
            return True
        known |= {*call.outputs.values()}
    return not known.issuperset(outputs.values())


def _is_served(call: Call) -> bool:
    return call.returned in ("tensor", "tuple", "mapping") and bool(call.outputs)


def _level(call: Call) -> list[Call]:
    """Return what a call calls, without modules that hand on what they are given."""
    return [
        below for below in call.below if not below.outputs or not {*below.outputs.values()} <= {*below.inputs.values()}
    ]


def _holds_encoders(call: Call, below: Sequence[Call], sources: Mapping[Key, str]) -> bool:
    """Say whether a part holds encoders of several inputs, each by itself."""
    pure = [one for one in below if one.inputs and {*sources}.issuperset(one.inputs.values()) and one.below]
    apart = len({key for one in pure for key in one.inputs.values()}) == sum(len(one.inputs) for one in pure)
    return len(pure) > 1 and apart and not unwired(below, sources, call.outputs)


def _asked_for(kept: Record, components: Sequence[str]) -> list[Call]:
    calls = [call for call in every_call(kept.whole) if call.path in components]
    called = {call.path for call in every_call(kept.whole)}
    for path in components:
        if path in called:
            continue
        if path in dict(kept.whole.module.named_modules(remove_duplicate=False)):
            raise ModelError(f"the module {path!r} is there, but was not called while the model answered the samples")
        raise ModelError(f"the model calls no module {path!r}", hint=did_you_mean(path, called))
    for call in calls:
        above = call.parent
        while above is not None:
            if above in calls:
                raise ModelError(
                    f"{call.path!r} is called inside of {above.path!r}: of the two only one can be a component"
                )
            above = above.parent
    return calls


@dataclass
class _Wires:
    kept: Record
    sources: Mapping[Key, str]
    calls: Sequence[Call]
    tensors: dict[Key, str] = field(default_factory=dict)
    gaps: list[Gap] = field(default_factory=list)

    def wiring(self) -> Wiring:
        self.tensors.update(self.sources)
        answers, parts = self._answers(), list[Part]()
        for call, name in zip(self.calls, component_names(self.calls, self.sources), strict=True):
            inputs = {argument: self._source(key, name, argument) for argument, key in call.inputs.items()}
            self._unsaid(call, name, inputs)
            written, keys = dict[str, str](), dict[str, Key]()
            outputs = self._kept_outputs(call, answers)
            self._unnameable(call, name, outputs)
            for output, key in outputs.items():
                self._rows(name, output, key)
                tensor = self._tensor_name(output, key, name, answers)
                written[output], keys[tensor], self.tensors[key] = tensor, key, tensor
            parts.append(Part(name, call.path, call.module, inputs, written, keys))
        return Wiring(tuple(parts), self._outputs(parts), tuple(self.gaps), self._left_out())

    def _answers(self) -> dict[Key, str]:
        """Return the names of what the model returns."""
        whole = self.kept.whole
        names = key_names(whole)
        return {seen: names.get(key, key) for key, seen in whole.outputs.items()}

    def _tensor_name(self, output: str, key: Key, component: str, answers: Mapping[Key, str]) -> str:
        taken = {*self.tensors.values()}
        if key in answers:
            return unused(answers[key] or ONLY, taken)
        rank = self.kept.tensors[key].dim()
        what = output if output != ONLY else "embedding" if rank == 2 else "features"
        return unused(f"{component.removesuffix('_encoder')}_{what}", taken)

    def _kept_outputs(self, call: Call, answers: Mapping[Key, str]) -> dict[str, Key]:
        """Return the outputs of a call that a recipe must name, under their names: of a mapping those that are used."""
        names = key_names(call)
        used = {key for other in self.calls for key in other.inputs.values()} | {*answers}
        needed = {key: seen for key, seen in call.outputs.items() if call.returned != "mapping" or seen in used}
        if call.returned == "mapping":
            return needed
        return {unused(names.get(key, key), call.inputs): seen for key, seen in needed.items()}

    def _source(self, key: Key, component: str, argument: str) -> str | None:
        if key in self.tensors:
            return self.tensors[key]
        self.gaps.append(Gap(component, argument, *self._origin(key)))
        return None

    def _origin(self, key: Key) -> tuple[str, tuple[str, ...]]:
        """Say where a tensor comes from that is no component's output."""
        for kind, named in (
            ("parameter", self.kept.whole.module.named_parameters()),
            ("buffer", self.kept.whole.module.named_buffers()),
        ):
            own = next((name for name, tensor in named if id(tensor) == key[0]), None)
            if own is not None:
                return f"is the model's {kind} {own!r}, which no module gives", ()
        made = [call for call in every_call(self.kept.whole) if key not in call.inputs.values()]
        inside = next((call for call in made if key in call.outputs.values()), None)
        if inside is not None:
            return (
                f"is made by {inside.path!r}, inside of {inside.parent.path!r}"
                if inside.parent is not None and inside.parent.path
                else f"is made by {inside.path!r}, which is no component",
                (),
            )
        found = [*self.kept.made_by(key)]
        ends = dict.fromkeys(tensor for one in reversed(found) for tensor in one.inputs)
        origins = list(dict.fromkeys(self.tensors[end] for end in ends if end in self.tensors))
        lines = tuple(dict.fromkeys(one.line for one in reversed(found) if one.line))
        what = f"made of {' and '.join(origins)}" if origins else "made of nothing that a component gives"
        how = ", ".join(dict.fromkeys(one.name for one in reversed(found)))
        return f"is {what}" + (f" by {how}, outside of all modules" if how else ""), lines

    def _unsaid(self, call: Call, name: str, inputs: Mapping[str, str | None]) -> None:
        for one in call.unnamed:
            argument = re.split(r"[= ]", one)[0]
            self.gaps.append(Gap(name, argument, f"is no tensor with a name: called with {one}"))
        if not inputs and not call.unnamed:
            self.gaps.append(Gap(name, "forward", "takes no tensor"))
        if not _is_served(call):
            told = f"is {call.returned or 'nothing'}, not a tensor, a tuple or a dict of tensors"
            self.gaps.append(Gap(name, "return", told))

    def _unnameable(self, call: Call, name: str, outputs: Collection[str]) -> None:
        """Find names of the model's own that no recipe takes, and that a recipe cannot choose."""
        if not re.fullmatch(MODULE_PATTERN, call.path):
            self.gaps.append(
                Gap(
                    name,
                    "module",
                    f"is {call.path!r}, and a recipe takes paths of ASCII's letters, digits and '_' alone",
                    advice="Rename it in the model, and in the names of its weights; then run init again.",
                )
            )
        told = [f"has {key!r} as a key, which is no name" for key in outputs if not key]
        told += [
            f"has {key!r} as a key, and its forward takes an argument of that name"
            for key in outputs
            if key in call.inputs
        ]
        advice = "Call the key otherwise in its forward, and where it is read; then run init again."
        self.gaps += [Gap(name, "return", what, advice=advice) for what in told]

    def _rows(self, name: str, output: str, key: Key) -> None:
        """Find an answer that has no row for each sample, such as the last state of an RNN [layers, batch, width]."""
        shape, batch = list(self.kept.tensors[key].shape), self.kept.tensors[next(iter(self.sources))].shape[0]
        if shape[:1] != [batch]:
            self.gaps.append(Gap(name, output, f"is {shape} for a batch of {batch}: it has no row for each sample"))

    def _outputs(self, parts: Sequence[Part]) -> tuple[str, ...]:
        """Return the ensemble's outputs: what the model returns, and of tuples what nothing else takes."""
        found = list[str]()
        for key, seen in self._answers_by_name().items():
            if seen in self.sources:
                self.gaps.append(Gap("", key, f"is the input {self.sources[seen]!r}: clients have it already"))
            elif seen in self.tensors:
                found.append(self.tensors[seen])
            else:
                self.gaps.append(Gap("", key, *self._origin(seen)))
        if not self.kept.whole.outputs:
            told = f"is {self.kept.whole.returned}, not a tensor, a tuple or a dict of tensors"
            self.gaps.append(Gap("", "what forward returns", told))
        read = {tensor for part in parts for tensor in part.inputs.values()}
        found += [tensor for part in parts for tensor in part.outputs.values() if tensor not in read]
        return tuple(dict.fromkeys(found))

    def _answers_by_name(self) -> dict[str, Key]:
        names = key_names(self.kept.whole)
        return {names.get(key, key): seen for key, seen in self.kept.whole.outputs.items()}

    def _left_out(self) -> tuple[str, ...]:
        called = {part for call in self.calls for part in call.module.modules()}
        children = self.kept.whole.module.named_children()
        return tuple(
            name
            for name, child in children
            if any(True for _ in child.parameters()) and called.isdisjoint(child.modules())
        )
