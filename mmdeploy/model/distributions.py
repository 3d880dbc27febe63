"""Installed distributions: which one gives an import, and what tells one installation of it from another.

A version alone is not enough: a package in development is installed again and again under the same one. The list of
files that the installer wrote (``RECORD``) holds a digest of each, so the digest of that list is part of the answer,
without what differs between two environments that hold the same: scripts, notes of the installer, bytecode.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.machinery
import importlib.metadata
import re
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path

from mmdeploy.core.digests import FileFacts

#: By the name that they are imported under, where the two differ in more than - and _, or where several claim it.
DISTRIBUTIONS = {"modelopt": "nvidia-modelopt", "torch_pruning": "torch-pruning"}
#: The extras whose packages every build loads, so that its steps' keys hold their versions in any case.
_LOADED_BY_EACH_BUILD = ("build", "cpu", "gpu")
_VERSION = re.compile(r"^Version:\s*(\S+)", re.MULTILINE)
_NAME = re.compile(r"^Name:[ \t]*(\S+)", re.MULTILINE)
#: What is told of content beside the version: enough to tell two apart.
_SHOWN = 12


def installed_as(name: str, facts: FileFacts) -> str:
    """Return the version of what is imported as ``name``, and a digest of its files; empty when not installed.

    Args:
        name: Top-level name of an import.
        facts: Keeps the digests of lists of files that did not change.
    """
    distribution = _distribution(name, facts)
    if distribution is None:
        return ""
    record = _record(distribution)
    try:
        content = facts.of(record, "record", _digest_of_record)[:_SHOWN] if record else ""
    except OSError:
        content = ""
    return f"{_version(distribution)} {content}".strip()


def version_of(name: str) -> str:
    """Return the installed version of what is imported as ``name``; empty when it is not installed."""
    try:
        return _version(importlib.metadata.distribution(distribution_of(name)))
    except PackageNotFoundError:
        return ""


def requirement_of(name: str) -> str:
    """Return the line of ``requirements.txt`` for a distribution, or for what is imported as ``name``.

    Returns:
        Such as ``faiss-cpu==1.9.0``; empty when it is not installed.
    """
    if found := version_of(name):
        return f"{distribution_of(name)}=={found}"
    owner = next(iter(importlib.metadata.packages_distributions().get(name, ())), "")  # looks at all that is installed
    return f"{owner}=={version_of(owner)}" if owner else ""


def _version(distribution: Distribution) -> str:
    """Return the version that its metadata says, without parsing them whole, which takes milliseconds."""
    told = _VERSION.search(_header(distribution))
    return told[1] if told else distribution.version


def _name(distribution: Distribution) -> str:
    """Return the name that its metadata says, in normal form."""
    told = _NAME.search(_header(distribution))
    return _normal(told[1] if told else distribution.name)


def _header(distribution: Distribution) -> str:
    return (distribution.read_text("METADATA") or "").partition("\n\n")[0]


def distribution_of(name: str) -> str:
    """Return the name of the distribution that gives an import, as far as names tell."""
    return DISTRIBUTIONS.get(name, name)


def gives(top: str, facts: FileFacts) -> str:
    """Return the name of the distribution that a top-level import comes from, in normal form; empty if none."""
    distribution = _distribution(top, facts)
    return _name(distribution) if distribution is not None else ""


def required_by(name: str, facts: FileFacts) -> frozenset[str]:
    """Return a distribution and all that its builds require, in normal form.

    What an extra brings that only some builds load (adapters, media, Ray) is not among it: a factory that loads
    transformers depends on its installation, whether or not mmdeploy could use it too.

    Args:
        name: Of the distribution.
        facts: Keeps the answer as long as nothing is installed beside it.
    """
    distribution = _named(name)
    if distribution is None:
        return frozenset({_normal(name)})
    site = Path(str(distribution.locate_file("")))
    return frozenset(facts.of(site, f"required by {name}", lambda _: " ".join(sorted(_required(name)))).split())


def _required(name: str) -> frozenset[str]:
    found = {_normal(name)}
    waiting = [_normal(line) for line in _requirements(name, _LOADED_BY_EACH_BUILD)]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(_normal(line) for line in _requirements(name))
    return frozenset(found)


def _requirements(name: str, extras: tuple[str, ...] = ()) -> list[str]:
    try:
        lines = importlib.metadata.requires(name) or []
    except PackageNotFoundError:
        return []
    kept = [f'extra == "{extra}"' for extra in extras]
    return [line for line in lines if "extra ==" not in line or any(extra in line for extra in kept)]


def _distribution(top: str, facts: FileFacts) -> Distribution | None:
    """Find the distribution of an import: by its name where it has a file of that name, or else by looking at all."""
    guess = _named(distribution_of(top))
    if guess is not None and (top in DISTRIBUTIONS or _holds(guess, top)):
        return guess
    spec = importlib.machinery.PathFinder.find_spec(top)
    places = [spec.origin] if spec and spec.origin else [*((spec and spec.submodule_search_locations) or ())]
    if spec is None or not places:
        return guess
    site = Path(places[0]).parents[1 if spec.origin and spec.submodule_search_locations is not None else 0]

    def look(_: Path) -> str:
        return next((str(one.name) for one in importlib.metadata.distributions() if _lists(one, top)), "")

    return _named(facts.of(site, f"distribution of {top}", look)) or guess  # an install changes the folder's times


def _named(name: str) -> Distribution | None:
    try:
        return importlib.metadata.distribution(name)
    except (PackageNotFoundError, ValueError):
        return None


def _holds(distribution: Distribution, top: str) -> bool:
    return any(Path(str(distribution.locate_file(name))).exists() for name in (top, f"{top}.py"))


def _lists(distribution: Distribution, top: str) -> bool:
    if top in (distribution.read_text("top_level.txt") or "").split():
        return True
    record = "\n" + (distribution.read_text("RECORD") or "")
    return any(f"\n{top}{after}" in record for after in ("/", ".py,", ".cpython", ".abi3"))


def _record(distribution: Distribution) -> Path | None:
    folder = getattr(distribution, "_path", None)  # asking for its files would parse the whole list
    return folder / "RECORD" if isinstance(folder, Path) and (folder / "RECORD").is_file() else None


def _digest_of_record(path: Path) -> str:
    rows = []
    with path.open(newline="", encoding="utf-8") as stream:
        for row in csv.reader(stream):
            name, content = row[0], row[1] if len(row) > 1 else ""
            if content and not name.startswith("..") and ".dist-info/" not in name and not name.endswith(".pyc"):
                rows.append(f"{name} {content}")
    return hashlib.sha256("\n".join(sorted(rows)).encode()).hexdigest()


def _normal(name: str) -> str:
    """Return the name in a requirement's line, as PEP 503 writes it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", name, maxsplit=1)[0]).lower()
