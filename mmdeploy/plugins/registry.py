"""The methods of a section: a literal dict of modules, and what others plug in.

A registry is a mapping of the built-in methods and of the installed ones, by name. References beside a recipe
(``gates.py:calibration_error``) are no keys of it: they mean something in one folder only, and are found with `find`.
Nothing is looked up, and no method is imported, before it is asked for.
"""

from __future__ import annotations

import contextlib
import importlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, Protocol, TypeVar, cast

from mmdeploy.core.contracts import MethodOptions, method_of
from mmdeploy.core.errors import PluginError, did_you_mean
from mmdeploy.plugins.contract import Contract
from mmdeploy.plugins.installed import installed
from mmdeploy.plugins.loading import OutsideOptions, Plugin, Source, load_plugin

#: Gives the folder that a reference is relative to while a recipe is read; see `beside`.
_beside: ContextVar[Callable[[str], Path] | None] = ContextVar("_beside", default=None)


class Method(Protocol):
    """What every method has."""

    @property
    def Options(self) -> type[MethodOptions]:  # noqa: N802 - as the protocols of contracts have it
        """The class of the method's options."""


MethodT = TypeVar("MethodT", bound=Method)


@contextlib.contextmanager
def beside(folder: Path, written: Mapping[str, Path] = MappingProxyType({})) -> Iterator[None]:
    """Let references be relative to the folder of a recipe that is being read, as long as the context is open.

    Args:
        folder: The recipe's.
        written: Other folders by reference: of those that another file than the recipe's says.
    """
    token = _beside.set(lambda reference: written.get(reference, folder))
    try:
        yield
    finally:
        _beside.reset(token)


def is_reference(method: object) -> bool:
    """Say whether a method names code, as ``path.py:name``, ``path.py`` or ``package.module:name``."""
    return isinstance(method, str) and (":" in method or method.endswith(".py"))


class BuiltIn(Mapping[str, MethodT], Generic[MethodT]):
    """Modules by the names of their methods, each imported when it is asked for.

    A recipe names a few of them, and importing all of them would take a third of the time of ``mmdeploy validate``.
    """

    def __init__(self, modules: Mapping[str, str]) -> None:
        self._modules = dict(modules)

    def __getitem__(self, method: str) -> MethodT:
        return cast(MethodT, importlib.import_module(self._modules[method]))

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)

    def __contains__(self, method: object) -> bool:
        return method in self._modules


class Registry(Mapping[str, MethodT], Generic[MethodT]):
    """Methods by name, open for those of others."""

    def __init__(self, home: str, contract: Contract, modules: Mapping[str, str]) -> None:
        """Take the built-in methods.

        Args:
            home: Module whose ``METHODS`` this is: how other processes find it.
            contract: What is asked of a plug-in.
            modules: Where the built-in ones are, by name: modules of ``home``.
        """
        self.home, self.contract = home, contract
        self.built_in: BuiltIn[MethodT] = BuiltIn({name: f"{home}.{module}" for name, module in modules.items()})
        self.loaded: dict[Source, Plugin] = {}

    def __reduce__(self) -> tuple[object, ...]:
        return (_registry_of, (self.home,))

    def __getitem__(self, method: str) -> MethodT:
        if method in self.built_in:
            return self.built_in[method]
        return self._plugged(self.installed()[method])

    def __iter__(self) -> Iterator[str]:
        return iter([*self.built_in, *self.installed()])

    def __len__(self) -> int:
        return len(self.built_in) + len(self.installed())

    def __contains__(self, method: object) -> bool:
        return method in self.built_in or method in self.installed()

    def installed(self) -> Mapping[str, Source]:
        """Return what installed distributions plug in, by name; nothing of it is imported.

        Raises:
            PluginError: If one has the name of a built-in method, or two have the same name.
        """
        found = installed(self.contract)
        for name in self.built_in.keys() & found.keys():
            raise PluginError(
                f"{found[name]} calls itself {name!r}, as the built-in {self.contract.noun} {name!r} of {self.home}",
                hint="uninstall it, or ask its author for another name; by reference it can be used beside that one",
            )
        return found

    def find(self, method: str, root: Path | None = None) -> MethodT:
        """Return a method by its name or by its reference.

        Args:
            method: As a recipe writes it.
            root: Folder of the recipe, for a reference to a file; while a recipe is read that is known without.

        Raises:
            PluginError: If there is none, or it cannot be loaded.
        """
        if method in self.built_in:
            return self.built_in[method]
        if is_reference(method) and self.contract.group:
            return self._plugged(Source(method, method, _folder(method, root)))
        if method not in self.installed():
            raise PluginError(f"unknown {self.contract.noun} {method!r}; {did_you_mean(method, self)}")
        return self[method]

    def of(self, options: MethodOptions) -> MethodT:
        """Return the method that options belong to."""
        if isinstance(options, OutsideOptions):
            return cast(MethodT, options.plugin)
        return self.built_in[method_of(options)]

    def read(self, section: Mapping[str, Any], root: Path | None = None) -> MethodOptions:
        """Return options from JSON-able values with a ``method`` among them; arguments as of `find`."""
        return self.find(str(section["method"]), root).Options.model_validate_json(json.dumps(dict(section)))

    def _plugged(self, source: Source) -> MethodT:
        return cast(MethodT, load_plugin(source, self))


def _folder(reference: str, root: Path | None) -> Path:
    """Return the folder that a reference is relative to."""
    if root is not None:
        return root.absolute()
    known = _beside.get()
    if known is None:
        raise PluginError(f"{reference!r} is relative to a recipe's folder, and this recipe was not read from a file")
    return known(reference).absolute()


def _registry_of(home: str) -> Registry[Any]:
    registry: Registry[Any] = importlib.import_module(home).METHODS
    return registry
