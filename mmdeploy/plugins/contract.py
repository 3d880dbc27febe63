"""What a pass, an engine or a gate must offer, as a record: the protocols of `mmdeploy.core.contracts` for loading.

A member that a protocol names and a plug-in leaves out gets its default here; one that has none must be there.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mmdeploy.core import contracts
from mmdeploy.core.contracts import Encoding, MethodOptions
from mmdeploy.core.errors import nearest

#: Any format, of what an engine produces: a name of its own.
ANY = "anything"


@dataclass(frozen=True)
class Contract:
    """What is asked of a kind of plug-in.

    Attributes:
        noun: Such as ``gate``.
        group: Its entry points' group; empty where nothing can be plugged in.
        attributes: Strings that must be there.
        functions: Parameters by the name of a function that must be there.
        defaults: What a member is that is left out.
        optional: Parameters by the name of a function that may be there; those without a default are simply missing.
        formats: Formats that it may consume and produce, `ANY` among them; empty where that is not asked.
        section: Section of the recipe, which starts an entry point's name (``quantize.log2``); empty where the group
            has one section only.
    """

    noun: str
    group: str
    attributes: tuple[str, ...] = ()
    functions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    optional: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    formats: frozenset[tuple[str, str]] = frozenset()
    section: str = ""

    @property
    def members(self) -> str:
        """Everything that it may have, in words."""
        needed = ["Options", *self.attributes, *map(self.written, self.functions)]
        extra = [*self.defaults, *(name for name in self.optional if name not in self.defaults)]
        return f"{', '.join(needed)}; may have {', '.join(map(self.written, extra))}"

    def written(self, member: str) -> str:
        """Return a member as it is written: a function with its parameters."""
        parameters = self.functions.get(member, self.optional.get(member))
        return member if parameters is None else f"{member}({', '.join(parameters)})"

    def problems(self, found: object) -> Iterator[str]:
        """Say everything that an object lacks to be one, a sentence each."""
        options = getattr(found, "Options", None)
        if options is None:
            yield f"it has no Options{_misspelt('Options', found)}"
        elif not (inspect.isclass(options) and issubclass(options, MethodOptions)):
            yield "its Options is no subclass of mmdeploy.core.contracts.MethodOptions"
        for name in self.attributes:
            value = getattr(found, name, None)
            if value is None:
                yield f"it has no {name}{_misspelt(name, found)}"
            elif not isinstance(value, str):
                yield f"its {name} is {value!r}, and must be a string"
        for name in (*self.functions, *self.optional):
            yield from self._function_problems(name, getattr(found, name, None), found)
        requires = getattr(found, "REQUIRES", ())
        if not isinstance(requires, tuple | list) or not all(isinstance(name, str) for name in requires):
            yield f"its REQUIRES is {requires!r}, and must be a tuple of imports, such as ('torch',)"
        consumes, produces = getattr(found, "CONSUMES", None), getattr(found, "PRODUCES", None)
        if self.formats and isinstance(consumes, str) and isinstance(produces, str):
            yield from self._format_problems(consumes, produces, found)

    def _function_problems(self, name: str, function: object, found: object) -> Iterator[str]:
        if function is None:
            if name in self.functions:
                yield f"it has no {name}{_misspelt(name, found)}"
            return
        if not callable(function):
            yield f"its {name} is no function"
            return
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):
            return  # built in: there is no knowing
        *positional, last = (*self.functions.get(name, ()), *self.optional.get(name, ()))
        try:
            if last.startswith("*"):
                signature.bind(*positional, **{last.rpartition(" ")[2].partition("=")[0]: 1})
            else:
                signature.bind(*positional, last)
        except TypeError:
            hint = ""
            if inspect.isclass(found) and next(iter(signature.parameters), "") == "self":
                hint = ": make it a @staticmethod, or name an instance of the class"
            yield f"its {name}{signature} must take {self.written(name).removeprefix(name)}{hint}"

    def _format_problems(self, consumes: str, produces: str, found: object) -> Iterator[str]:
        if not self.formats & {(consumes, produces), (consumes, ANY)}:
            accepted = " or ".join(f"{one} into {two}" for one, two in sorted(self.formats))
            yield f"it turns {consumes} into {produces}; {self.where} takes what turns {accepted}"
        elif self.section == "quantize" and consumes == "torch" and not callable(getattr(found, "write", None)):
            yield f"it trains (it consumes torch) and has no {self.written('write')}, which writes the INT8 graph"

    @property
    def where(self) -> str:
        """The part of a recipe that takes it."""
        return self.section or self.noun


def _misspelt(name: str, found: object) -> str:
    there = [other for other in dir(found) if not other.startswith("_") and not hasattr(contracts, other)]
    guess = nearest(name, there) or next((other for other in there if other.lower() == name.lower()), None)
    return f" (it has {guess})" if guess else ""


def none_needed(options: Any) -> frozenset[str]:
    """Return the recipe's data sets that it reads: none."""
    return frozenset()


def _symmetric(options: Any) -> Encoding:
    return Encoding.INT8_SYMMETRIC


def _nothing(*arguments: Any) -> None:
    return None


def _no_parameters(options: Any) -> Mapping[str, str]:
    return {}


def _no_candidates(target: Any, *, threads: int = 1) -> Sequence[Any]:
    return ()


GATE = Contract(
    "gate",
    "mmdeploy.gates",
    functions={"check": ("options", "evidence")},
    defaults={"REQUIRES": (), "NEEDS_LABELS": False, "advice": _nothing},
    optional={"advice": ("options", "result")},
)
_PASS = Contract(
    "pass",
    "mmdeploy.passes",
    attributes=("CONSUMES", "PRODUCES"),
    functions={"run": ("artifact", "options", "context")},
    defaults={"REQUIRES": (), "MEASURES": False, "data_needs": none_needed},
    optional={"data_needs": ("options",)},
)
ENGINE = Contract(
    "engine",
    "mmdeploy.engines",
    attributes=("CONSUMES", "PRODUCES", "BACKEND", "FILENAME"),
    functions={**_PASS.functions, "load": ("artifact", "options")},
    defaults={
        **_PASS.defaults,
        "STAND_IN": None,
        "NATIVE": False,
        "encoding": _symmetric,
        "unavailable": _nothing,
        "unbuildable": _nothing,
        "serving": _no_parameters,
        "candidates": _no_candidates,
    },
    optional={
        **_PASS.optional,
        "encoding": ("options",),
        "unavailable": ("options",),
        "unbuildable": ("options",),
        "serving": ("options",),
        "candidates": ("target", "*, threads=1"),
    },
    formats=frozenset({("onnx", ANY), ("torch", ANY)}),
)


def pass_of(section: str, *formats: tuple[str, str]) -> Contract:
    """Return what a section of the recipe asks of a pass: which formats it turns into which."""
    optional = dict(_PASS.optional)
    if section == "quantize":
        optional["write"] = ("artifact", "made", "options", "context")
    return replace(_PASS, section=section, formats=frozenset(formats), optional=optional)


PRUNE = pass_of("prune", ("torch", "torch"))
RECOVER = pass_of("recover", ("torch", "torch"))
EXPORT = pass_of("export", ("torch", "onnx"))
QUANTIZE = pass_of("quantize", ("onnx", "onnx"), ("torch", "torch"))
SECTIONS = ("prune", "recover", "export", "quantize")
GROUPS = ("mmdeploy.gates", "mmdeploy.passes", "mmdeploy.engines")
