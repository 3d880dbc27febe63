"""The sections ``preprocess`` and ``postprocess``: their schema, made of the methods, and what their tensors hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field, model_validator

from mmdeploy.recipe.declared import Dtype, InputSpec, Section, TensorName, Wire, plain_shape

if TYPE_CHECKING:
    from mmdeploy.preprocess import Spec

FILE_PATTERN = r"^[^:]+\.py:[A-Za-z_][A-Za-z0-9_.]*$"
PACKAGE_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
#: What each pattern asks for, in words.
OWN_PATTERNS: Mapping[str, str] = {
    FILE_PATTERN: "a callable beside the recipe, as path.py:callable",
    PACKAGE_PATTERN: "the name of a distribution, such as scipy; its version is the one that is installed",
}
_WIRES = ("method", "inputs", "outputs", "instances")


class MediaStep(Section):
    """A step between what clients send and what components read, or between those and the answer."""

    inputs: dict[TensorName, TensorName] = Field(
        min_length=1, description="The ensemble's tensor by the method's own input.", examples=[{"data": "photo"}]
    )
    outputs: dict[TensorName, Any] = Field(
        min_length=1, description="The ensemble's tensor by the method's own output.", examples=[{"pixels": "image"}]
    )
    instances: int = Field(1, ge=1, description="Processes that run it side by side.")

    @property
    def tensors(self) -> dict[str, str]:
        """The ensemble's tensor by the method's own output."""
        return {own: wire if isinstance(wire, str) else wire.tensor for own, wire in self.outputs.items()}

    @property
    def paths(self) -> dict[str, Path]:
        """The files that options name, by option."""
        return {name: value for name, value in self.options.items() if isinstance(value, Path)}

    @property
    def options(self) -> dict[str, Any]:
        """The method's own options, those that are set."""
        given = {name: getattr(self, name) for name in type(self).model_fields if name not in _WIRES}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def accepts(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The method's own inputs and outputs."""
        from mmdeploy.preprocess import METHODS

        method = METHODS[self.name_of_method]
        return method.INPUTS, method.OUTPUTS

    @property
    def name_of_method(self) -> str:
        """The method, as the recipe names it."""
        return str(self.method)  # type: ignore[attr-defined]

    @property
    def told(self) -> Mapping[str, InputSpec]:
        """What tensors that it writes hold, where more is known than type and shape."""
        return {}

    @property
    def made_masks(self) -> frozenset[str]:
        """Tensors that it writes which may be 1 everywhere."""
        return frozenset()

    @property
    def requires(self) -> tuple[str, ...]:
        """What it imports: distributions, or packages by the names they are imported under."""
        from mmdeploy.preprocess import METHODS, WiredMethod

        found = getattr(WiredMethod.from_json(self.described()).method, "requires", tuple)
        return ("numpy", *METHODS[self.name_of_method].REQUIRES, *found())

    def described(self, files: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Return what `WiredMethod.from_json` takes; ``files`` says what options that name files become."""
        dumped = self.model_dump(mode="json", include=set(self.options))
        return {
            "method": self.method,  # type: ignore[attr-defined]
            "options": dumped | dict(files or {}),
            "inputs": dict(self.inputs),
            "outputs": self.tensors,
        }

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        """Let the method check its options together."""
        from mmdeploy.preprocess import WiredMethod

        WiredMethod.from_json(self.described())
        return self


class DeclaredOutput(Section):
    """An output of the recipe's own function."""

    tensor: TensorName = Field(description="The ensemble's tensor.")
    dtype: Dtype = Field(description="Element type of what the function gives.")
    shape: tuple[Annotated[int, Field(ge=-1)], ...] = Field(
        min_length=1, description="Shape of one sample; -1 where a size varies."
    )


class OwnStep(MediaStep):
    """The recipe's own function of one sample: an argument for each input, an array or a dict of arrays back."""

    method: str = Field(
        pattern=FILE_PATTERN,
        description="path.py:callable beside the recipe.",
        examples=["preprocess.py:spectrum"],
    )
    outputs: dict[TensorName, DeclaredOutput] = Field(
        min_length=1, description="By name in the dict that it returns; of one output the name is free."
    )
    arguments: dict[str, Any] = Field(default_factory=dict, description="Further arguments, JSON values.")
    requires_packages: tuple[Annotated[str, Field(pattern=PACKAGE_PATTERN)], ...] = Field(
        (),
        description="Distributions that it needs and that its imports do not tell; the versions are those installed.",
    )
    files: tuple[Annotated[str, "glob"], ...] = Field((), description="Globs of files that it reads, beside it.")

    @staticmethod
    def is_meant(method: object) -> bool:
        """Say whether a value of ``method`` is a reference, right or wrong, and no method's name."""
        return isinstance(method, str) and ":" in method

    @property
    def options(self) -> dict[str, Any]:
        """What `WiredMethod.from_json` takes of it."""
        return {"arguments": self.arguments}

    @property
    def accepts(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Whatever is wired."""
        return tuple(self.inputs), tuple(self.outputs)

    @property
    def requires(self) -> tuple[str, ...]:
        """What it imports, as far as the recipe says."""
        return ("numpy", *(name for name in self.requires_packages if name != "numpy"))

    def described(self, files: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Return what `WiredMethod.from_json` takes."""
        outputs = {own: [wire.dtype, list(wire.shape)] for own, wire in self.outputs.items()}
        options = {"arguments": self.arguments, "outputs": outputs}
        return {"method": self.method, "options": options, "inputs": dict(self.inputs), "outputs": self.tensors}


def in_order(steps: Mapping[str, MediaStep]) -> tuple[str, ...]:
    """Return the names of steps, each after those whose tensors it reads; those of a cycle last."""
    order: list[str] = []
    while len(order) < len(steps):
        written = {tensor for name, step in steps.items() if name not in order for tensor in step.tensors.values()}
        ready = [name for name, step in steps.items() if name not in order and not written & {*step.inputs.values()}]
        order += ready[:1] or [name for name in steps if name not in order]
    return tuple(order)


def model_outputs(outputs: tuple[str, ...], postprocess: Mapping[str, MediaStep]) -> tuple[str, ...]:
    """Return outputs with what steps make of tensors replaced by those tensors, each once."""
    writers = {tensor: step for step in postprocess.values() for tensor in step.tensors.values()}
    found, waiting = list[str](), list(outputs)
    while waiting:
        tensor = waiting.pop(0)
        if tensor in writers:
            waiting = [*writers.pop(tensor).inputs.values(), *waiting]
        elif tensor not in found:
            found.append(tensor)
    made = {tensor for step in postprocess.values() for tensor in step.tensors.values()}
    return tuple(tensor for tensor in found if tensor not in made)


def prepared(steps: Mapping[str, MediaStep], inputs: Mapping[str, InputSpec]) -> dict[str, InputSpec]:
    """Return what the tensors hold that steps write; those that cannot be known are left out."""
    if not steps:
        return {}
    from mmdeploy.preprocess import Spec

    sent = {name: Spec(spec.dtype, plain_shape(spec.shape)) for name, spec in inputs.items()}
    found = written_specs(steps, sent)
    told = {tensor: spec for step in steps.values() for tensor, spec in step.told.items()}
    return {
        name: told.get(name) or InputSpec.model_validate({"dtype": spec.dtype, "shape": spec.shape})
        for name, spec in found.items()
    }


def may_be_constant(steps: Mapping[str, MediaStep]) -> frozenset[str]:
    """Return the tensors that steps write and that may have one value in a whole set, such as masks."""
    if not steps:
        return frozenset()
    from mmdeploy.preprocess import METHODS

    written = ((getattr(METHODS.get(step.name_of_method), "MAY_BE_CONSTANT", ()), step) for step in steps.values())
    found = {tensor for names, step in written for own, tensor in step.tensors.items() if own in names}
    return frozenset(found.union(*(step.made_masks for step in steps.values())))


def with_sizes(spec: InputSpec, wires: Iterable[Wire], tensor: str) -> InputSpec:
    """Return what a tensor holds with the names of its sizes, where a component that reads it declares them."""
    for wire in wires:
        if wire.tensor == tensor and wire.shape is not None and len(wire.shape) == len(spec.shape):
            pairs = zip(spec.shape, wire.shape, strict=True)
            shape = tuple(other if own == -1 and isinstance(other, str) else own for own, other in pairs)
            spec = spec.model_copy(update={"shape": shape})
    return spec


def written_specs(steps: Mapping[str, MediaStep], given: Mapping[str, Spec]) -> dict[str, Spec]:
    """Return what the tensors hold that steps write; those that cannot be known are left out."""
    known = dict(given)
    list(_specified(steps, known))
    return {tensor: spec for tensor, spec in known.items() if tensor not in given}


def spec_problems(steps: Mapping[str, MediaStep], given: Mapping[str, Spec]) -> Iterator[tuple[str, str]]:
    """Give the steps that do not take what they are given, and why."""
    for name, problem in _specified(steps, dict(given)):
        if problem:
            yield name, problem


def _specified(steps: Mapping[str, MediaStep], known: dict[str, Spec]) -> Iterator[tuple[str, str]]:
    """Give each step with what is wrong with its inputs; add what it writes to what is known."""
    if not steps:
        return
    from mmdeploy.preprocess import ANY_ROW, WiredMethod

    for name in in_order(steps):
        step, problem = steps[name], ""
        own_inputs, own_outputs = step.accepts
        if {*step.inputs} == {*own_inputs} and {*step.outputs} <= {*own_outputs}:
            wired = WiredMethod.from_json(step.described())
            unknown = {tensor: ANY_ROW for tensor in step.inputs.values() if tensor not in known}
            try:
                found = wired.specs({**known, **unknown})
                known |= {} if unknown else found
            except KeyError as error:
                problem = f"gives no {error.args[0]} with these options"
            except ValueError as error:
                problem = "" if unknown else str(error)
        yield name, problem


def file_misfit(step: MediaStep, root: Path, known: Mapping[str, Spec]) -> str:
    """Say why a step's file is not what it takes, or does not fit what it is given; empty where it does.

    Args:
        step: With one file; what is wrong without looking into it is told elsewhere.
        root: The folder that it is relative to.
        known: What tensors hold, as far as that is known.
    """
    from mmdeploy.preprocess import ANY_ROW, WiredMethod

    own_inputs, own_outputs = step.accepts
    if {*step.inputs} != {*own_inputs} or not {*step.outputs} <= {*own_outputs}:
        return ""
    wired = WiredMethod.from_json(step.described())
    given = {tensor: known.get(tensor, ANY_ROW) for tensor in step.inputs.values()}
    try:
        wired.specs(given)
    except (KeyError, ValueError):
        return ""
    try:
        if wired.look_at(root):
            wired.specs(given)
    except KeyError as error:
        (file,) = step.paths.values()
        return f"{file} holds no {error.args[0]}, and that output is wired: add them there, or take the output out"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except ValueError as error:
        return str(error)
    return ""
