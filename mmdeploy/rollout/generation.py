"""A release as models that can stand beside those of another release: each part under a name made of its content."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdeploy.core.errors import StoreError, UsageError
from mmdeploy.triton.config import parse, to_text
from mmdeploy.triton.served_step import OPTIONS_PARAMETER
from mmdeploy.triton.staging import read_manifest

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

CONFIG = "config.pbtxt"
_DIGITS = 12
_HASHED = re.compile(rf"(?P<plain>.+)\.[0-9a-f]{{{_DIGITS}}}")
# Whole numbers that JSON, a float and Triton's 64 bits all hold exactly; 0 is no version, 1 is that of other models.
_VERSION_DIGITS = 13


@dataclass(frozen=True)
class File:
    """A file of a model: where it lies in the release, and the digest that the manifest has of it."""

    source: str
    sha256: str


@dataclass(frozen=True)
class Part:
    """A model as the server is to find it.

    Attributes:
        name: Its name on the server.
        plain: Its name in the release.
        config: Text of its config.pbtxt.
        files: Its other files, by their path in the model's folder.
        folders: Paths of its empty folders.
    """

    name: str
    plain: str
    config: str
    files: Mapping[str, File]
    folders: tuple[str, ...] = ()

    @property
    def versions(self) -> frozenset[str]:
        """Names of its version folders."""
        tops = (path.partition("/")[0] for path in (*self.files, *self.folders))
        return frozenset(top for top in tops if top.isdecimal())


@dataclass(frozen=True)
class Generation:
    """A release on its way into a server.

    Attributes:
        release: Its folder.
        parts: All its models but the ensemble, each behind those that it asks for.
        front: The ensemble, under the name that clients know.
        candidate: The same under a name of its own.
    """

    release: Path
    parts: tuple[Part, ...]
    front: Part
    candidate: Part

    @property
    def release_id(self) -> str:
        """Id of the release."""
        return self.release.name

    @property
    def ensemble(self) -> str:
        """Name of the ensemble."""
        return self.front.name

    @property
    def names(self) -> frozenset[str]:
        """What the parts are called on the server."""
        return frozenset(part.name for part in self.parts)


def generation_of(release: Path) -> Generation:
    """Read a release.

    Raises:
        StoreError: If it has no manifest, or lacks the ensemble that this names.
        UsageError: If a config.pbtxt cannot be read.
    """
    release = release.resolve()
    manifest = read_manifest(release)
    ensemble = str(manifest["name"])
    plain = {path.parent.name: path for path in sorted(release.glob(f"*/{CONFIG}"))}
    if ensemble not in plain:
        raise StoreError(f"{release} has no ensemble {ensemble!r}, which its manifest names", hint="build it again")
    configs = {name: parse(path.read_text("utf-8"), str(path)) for name, path in plain.items()}
    reading = _Reading(manifest, configs, ensemble)
    for name in sorted(configs):
        reading.named(name)
    candidate = reading.parts.pop(ensemble)
    return Generation(release, tuple(reading.parts.values()), reading.front(candidate), candidate)


def plain_name(model: str) -> str:
    """Return what a model of a server is called in its release."""
    found = _HASHED.fullmatch(model)
    return model if found is None else found["plain"]


def belongs(model: str, ensemble: str) -> bool:
    """Say whether a model has a name that a promotion of an ensemble gave it."""
    plain = plain_name(model)
    return plain != model and (plain in (ensemble, _modalities(ensemble)) or plain.startswith(f"{ensemble}."))


def asked_models(config: Mapping[str, Any]) -> Iterator[str]:
    """Give the models that a model asks for, from its config as Triton's HTTP endpoint gives it."""
    for step in config.get("ensemble_scheduling", {}).get("step", []):
        yield step["model_name"]
    yield from _asked_by_options(config.get("parameters", {}).get(OPTIONS_PARAMETER, {}).get("string_value", ""))


def _asked_by_options(text: str) -> Iterator[str]:
    """Give the models that the step of optional inputs, or of a cascade, asks for."""
    try:
        branches = json.loads(text)["inputs"].values()
        yield from (asked["model"] for branch in branches for asked in (branch, branch.get("steps")) if asked)
    except (ValueError, KeyError, TypeError, AttributeError):
        return  # options of another step


def _modalities(ensemble: str) -> str:
    return f"{ensemble}_modalities"


class _Reading:
    """Names the models of a release, each behind those that it asks for."""

    def __init__(self, manifest: Mapping[str, Any], configs: Mapping[str, ModelConfig], ensemble: str) -> None:
        self._files: Mapping[str, str] = manifest["files"]
        self._folders: list[str] = manifest["empty_folders"]
        self._configs, self._ensemble = configs, ensemble
        self._under_way: list[str] = []
        self.parts: dict[str, Part] = {}

    def named(self, plain: str) -> str:
        """Return the name of a model on the server."""
        if plain not in self._configs:
            raise StoreError(f"the release asks for a model {plain!r} that it does not have", hint="build it again")
        if plain in self._under_way:
            raise UsageError(f"the models {', '.join(self._under_way)} ask for each other")
        if plain not in self.parts:
            self._under_way.append(plain)
            self.parts[plain] = self._part(plain)
            self._under_way.remove(plain)
        return self.parts[plain].name

    def front(self, candidate: Part) -> Part:
        """Return the ensemble as clients know it: one version, by its number, and another one for another content."""
        config = parse(candidate.config, candidate.plain)
        config.name = candidate.plain
        version = min(map(int, candidate.versions), default=1)
        files, folders = candidate.files, candidate.folders
        if config.response_cache.enable:
            new = 2 + int(hashlib.sha256(candidate.config.encode()).hexdigest()[:_VERSION_DIGITS], 16)
            files = {path.replace(f"{version}/", f"{new}/", 1): file for path, file in files.items()}
            folders, version = tuple(str(new) if one == str(version) else one for one in folders), new
        config.ClearField("version_policy")
        config.version_policy.specific.versions.append(version)
        return replace(candidate, name=candidate.plain, config=to_text(config), files=files, folders=folders)

    def _part(self, plain: str) -> Part:
        from tritonclient.grpc.model_config_pb2 import ModelConfig

        config = ModelConfig()
        config.CopyFrom(self._configs[plain])
        for step in config.ensemble_scheduling.step:
            step.model_name = self.named(step.model_name)
        told = config.parameters[OPTIONS_PARAMETER].string_value if OPTIONS_PARAMETER in config.parameters else ""
        if any(_asked_by_options(told)):
            options = json.loads(told)
            for branch in options["inputs"].values():
                for asked in (branch, branch.get("steps")):
                    if asked:
                        asked["model"] = self.named(asked["model"])
            config.parameters[OPTIONS_PARAMETER].string_value = json.dumps(options, sort_keys=True)
        files = {path: File(f"{plain}/{path}", sha256) for path, sha256 in self._within(plain, self._files)}
        files.pop(CONFIG, None)
        folders = tuple(path for path, _ in self._within(plain, dict.fromkeys(self._folders, "")))
        config.name = plain
        content = json.dumps([to_text(config), sorted((path, one.sha256) for path, one in files.items()), folders])
        config.name = f"{plain}.{hashlib.sha256(content.encode()).hexdigest()[:_DIGITS]}"
        return Part(config.name, plain, to_text(config), files, folders)

    @staticmethod
    def _within(model: str, paths: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        for path, value in paths.items():
            if path.startswith(f"{model}/"):
                yield path.removeprefix(f"{model}/"), value
