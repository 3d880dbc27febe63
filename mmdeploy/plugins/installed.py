"""Plug-ins that installed distributions bring: their entry points, looked up when a recipe is read.

A gate and an engine are named as a recipe calls them, in the groups ``mmdeploy.gates`` and ``mmdeploy.engines``. A
pass is named with its section, such as ``quantize.log2``, in ``mmdeploy.passes``. Looking them up imports none.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mmdeploy.core.errors import PluginError
from mmdeploy.plugins.contract import GROUPS, SECTIONS, Contract
from mmdeploy.plugins.loading import Source

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


def installed(contract: Contract) -> Mapping[str, Source]:
    """Return the installed plug-ins of a kind by the name that a recipe calls them.

    Raises:
        PluginError: If a name cannot be one, or two distributions bring the same.
    """
    return _installed(contract.group, contract.section, tuple(sys.path)) if contract.group else {}


@functools.lru_cache(maxsize=64)
def _installed(group: str, section: str, path: tuple[str, ...]) -> Mapping[str, Source]:
    found: dict[str, Source] = {}
    for point in (one for one in _entry_points(path) if one.group == group):
        distribution = f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown distribution"
        where, method = _split(point.name, f"entry point {group} {point.name!r} of {distribution}", section)
        if where != section:
            continue
        source = Source(method, point.value.replace(" ", ""), distribution=distribution)
        other = found.setdefault(method, source)
        if other != source and other.reference != source.reference:
            raise PluginError(
                f"two installed plug-ins are called {point.name!r} in {group}: {other} and {source}",
                hint="uninstall one of them, or name it by reference in the recipe: package.module:name",
            )
    return found


@functools.lru_cache(maxsize=4)
def _entry_points(path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """Look all three groups up in one reading of what is installed; again where the path has changed."""
    from importlib.metadata import entry_points

    everything = entry_points()
    return tuple(point for group in GROUPS for point in everything.select(group=group))


def _split(name: str, told: str, section: str) -> tuple[str, str]:
    """Split an entry point's name into the section that it is of and the method."""
    where, dot, method = name.rpartition(".")
    if section and (not dot or where not in SECTIONS):
        raise PluginError(
            f"the {told} does not say which section it is for",
            hint=f"name it SECTION.{method}, with SECTION one of {', '.join(SECTIONS)}",
        )
    if not _NAME.fullmatch(method) or (dot and not section):
        raise PluginError(f"the {told} has a name that no recipe can write: letters, digits, '_' and '-'")
    return where, method
