"""From an object that somebody else wrote to a pass, an engine or a gate: members checked, defaults filled in.

What such an object offers is called through a guard: its own siblings can be imported while it runs, and an error
that it raises is told as its own, with the place, and not as a bug of mmdeploy.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import logging
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, cast

from pydantic import create_model

from mmdeploy.core.contracts import MethodOptions, Variant
from mmdeploy.core.digests import FileFacts
from mmdeploy.core.errors import MmdeployError, PluginError, StepError, did_you_mean
from mmdeploy.model.distributions import installed_as
from mmdeploy.model.imports import code_behind, code_digest
from mmdeploy.model.sources import describe, import_place, importing_from

if TYPE_CHECKING:
    from types import ModuleType

    from mmdeploy.core.target import Target
    from mmdeploy.plugins.contract import Contract

logger = logging.getLogger(__name__)

#: What takes a second or more to import, and that nobody needs to know an object's options.
_HEAVY = ("torch", "onnxruntime", "openvino", "tensorrt", "tensorflow", "transformers")


@dataclass(frozen=True)
class Source:
    """Where a plug-in comes from.

    Attributes:
        method: What a recipe calls it: a reference, or the name of an entry point.
        reference: ``path.py:name``, ``path.py`` for the file as a whole, ``package.module:name`` or
            ``package.module``.
        root: Folder that a path is relative to; None for an installed one.
        distribution: Name and version of what installed it; empty for what lies beside a recipe.
    """

    method: str
    reference: str
    root: Path | None = None
    distribution: str = ""

    def __str__(self) -> str:
        return f"{self.reference} of {self.distribution}" if self.distribution else self.reference


class LoadedFor(Protocol):
    """What a plug-in is loaded for: a `mmdeploy.plugins.registry.Registry`.

    Attributes:
        contract: What is asked of a plug-in.
        loaded: Those that were loaded already.
    """

    contract: Contract
    loaded: dict[Source, Plugin]

    def find(self, method: str, root: Path | None = None) -> Any:
        """Return a method by its name or by its reference."""


class OutsideOptions(MethodOptions):
    """Options of a plug-in: a subclass of those that its author wrote, which knows where it comes from."""

    plugin: ClassVar[Plugin]

    def __reduce__(self) -> tuple[object, ...]:
        """Cross process boundaries by name: the class is found again where the plug-in is loaded again."""
        source = self.plugin.source
        return (_rebuilt, (self.plugin.registry, source.method, source.root, self.__getstate__()))


def _rebuilt(registry: LoadedFor, method: str, root: Path | None, state: dict[Any, Any]) -> MethodOptions:
    kind = registry.find(method, root).Options
    options: MethodOptions = kind.__new__(kind)
    options.__setstate__(state)
    return options


class Plugin:
    """A pass, an engine or a gate from outside, with every member that its protocol names.

    Attributes:
        source: Where it comes from.
        registry: What it was loaded for.
        Options: Class of its options, with ``method`` as the recipe writes it.
    """

    source: Source
    registry: LoadedFor
    Options: type[MethodOptions]

    def __init__(self, found: object, source: Source, registry: LoadedFor) -> None:
        contract = registry.contract
        self.__dict__.update(_members(found, contract, source))
        self.__doc__ = inspect.getdoc(found) or ""
        self.__name__ = source.method
        self.found, self.source, self.registry = found, source, registry
        self.Options = _bound(found, self)
        if "candidates" in contract.defaults:
            self.candidates = functools.partial(self._own_candidates, self.__dict__["candidates"])

    def _own_candidates(self, asked: Callable[..., Sequence[Variant]], target: Target, *, threads: int = 1) -> Any:
        """Return the candidates that an author names, with options that know whose they are."""
        found = []
        for variant in asked(target, threads=threads):
            fields = variant.options.model_dump_json(exclude={"method"}, exclude_unset=True)
            found.append(replace(variant, options=self.Options.model_validate_json(fields)))
        return tuple(found)

    def files(self, facts: FileFacts) -> dict[str, str]:
        """Return what its results depend on: digests of its Python files, and what tells its installation.

        Raises:
            PluginError: If its files are not there.
        """
        source = self.source
        reference = source.reference if ":" in source.reference else f"{source.reference}:_"
        try:
            code = code_behind(reference, source.root or Path(sys.prefix), facts)
        except StepError as error:
            raise PluginError(f"{source}: {error.message}", hint=error.hint) from error
        installed = {f"package {name}": installed_as(name, facts) for name in code.libraries}
        files = {name: code_digest(path, facts) for path, name in code.files.items()}
        return files | installed | {"distribution": source.distribution}


def load_plugin(source: Source, registry: LoadedFor) -> Plugin:
    """Import a plug-in and check it against its contract.

    Raises:
        PluginError: If importing it fails, or it lacks what its contract asks for.
    """
    contract = registry.contract
    found = imported(source)
    before = registry.loaded.get(source)
    if before is not None and before.found is found:
        return before
    if problems := list(contract.problems(found)):
        raise PluginError(f"{source} is no {contract.noun}: {'; '.join(problems)}", hint=f"it needs {contract.members}")
    registry.loaded[source] = plugin = Plugin(found, source, registry)
    return plugin


def imported(source: Source) -> object:
    """Import the object that a source names.

    Raises:
        PluginError: If its module cannot be imported, or lacks the name.
    """
    place, colon, name = source.reference.partition(":")
    heavy = {module for module in _HEAVY if module in sys.modules}
    module = _imported_module(place, source)
    for library in _HEAVY:
        if library in sys.modules and library not in heavy:
            logger.warning("%s imports %s when it is loaded, also to plan: import it inside functions", source, library)
    if not colon:
        return module
    found = getattr(module, name, None)
    if found is None:
        raise PluginError(f"{source} cannot be loaded: {place} has no {name!r}", hint=_defined(module, name))
    return found


def _imported_module(place: str, source: Source) -> ModuleType:
    try:
        if source.root is not None:
            return import_place(place, source.root, error=StepError)
        return importlib.import_module(place)
    except StepError as error:
        raise PluginError(f"{source} cannot be loaded: {error.message}", hint=error.hint) from error
    except SystemExit as error:
        raise PluginError(f"{source} cannot be loaded: importing {place} ends the program (SystemExit)") from error
    except Exception as error:
        raise PluginError(f"{source} cannot be loaded: importing {place} failed: {_told(error, source)}") from error


def _told(error: Exception, source: Source) -> str:
    """Describe what a plug-in raised, with the place in its own code; that of an installed one lies in a library."""
    text = describe(error, source.root)
    if source.root is not None or " at " in text.partition(":")[0]:
        return text
    top = source.reference.partition(":")[0].partition(".")[0]
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if top in Path(frame.filename).parts]
    place = f" at {own[-1].filename}:{own[-1].lineno} ({own[-1].name})" if own else ""
    return text.replace(type(error).__name__, f"{type(error).__name__}{place}", 1)


def _defined(module: ModuleType, name: str) -> str:
    own = [key for key, value in vars(module).items() if not key.startswith("_") and hasattr(value, "Options")]
    return did_you_mean(name, own)


def _members(found: object, contract: Contract, source: Source) -> dict[str, Any]:
    members: dict[str, Any] = dict(contract.defaults)
    for name in (*contract.attributes, *contract.functions, *contract.optional, *contract.defaults):
        value = getattr(found, name, None)
        if value is not None:
            members[name] = value
    guarded = {
        name: _guarded(value, f"{source}: {name}", source)
        for name, value in members.items()
        if callable(value) and value is not contract.defaults.get(name)
    }
    return members | guarded | {"REQUIRES": tuple(members["REQUIRES"])}


def _guarded(function: Callable[..., Any], what: str, source: Source) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        with told_as_its_own(what, source):
            return function(*arguments, **named)

    return call


@contextmanager
def told_as_its_own(what: str, source: Source) -> Iterator[None]:
    """Let a plug-in's code import its siblings, and turn what it raises into an error that names it.

    Raises:
        StepError: For anything that is no `MmdeployError`.
    """
    with importing_from(source.root) if source.root is not None else nullcontext():
        try:
            yield
        except MmdeployError:
            raise
        except Exception as error:
            raise StepError(f"{what} failed: {_told(error, source)}") from error


def _bound(found: object, plugin: Plugin) -> type[MethodOptions]:
    """Return the author's options with ``method`` as the recipe writes it, and with the plug-in that they belong to."""
    author: type[MethodOptions] = found.Options  # type: ignore[attr-defined]
    method = plugin.source.method
    bases: Any = (author, OutsideOptions)
    fields: Mapping[str, Any] = {"method": (Literal[method], method)}
    bound = cast(  # mypy's plug-in for pydantic takes what create_model gives for a class of its own
        Any,
        create_model(author.__name__, __base__=bases, __module__=author.__module__, __doc__=author.__doc__, **fields),
    )
    bound.plugin = plugin
    return cast(type[MethodOptions], bound)
