"""Whether `model.weights` can take a checkpoint as it lies there, and with which `prefix`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmdeploy.model.weight_files import Prefix, files_of

_MOST_LEFT_OUT = 8


def prefix_for(folder: Path, whole: Any, served: Any, into: str) -> Prefix | None:
    """Return where the tensors of a checkpoint belong.

    Args:
        folder: The checkpoint.
        whole: The model that was saved.
        served: The part of it that is served, or all of it.
        into: Attribute path of that part in what the factory builds.

    Returns:
        What `model.prefix` says; None where the names in the files are not those of the model: then `transformers`
        renames them while it loads, and only its ``from_pretrained`` can.
    """
    names = set(_names(folder))
    own = str(getattr(whole, "base_model_prefix", ""))
    for beginning in ("", own) if own else ("",):
        given = {name for name in names if not beginning or name.startswith(f"{beginning}.")}
        short = {name[len(beginning) + 1 :] if beginning else name for name in given}
        wanted = _wanted(served, short)
        if wanted - short:
            continue
        spare = sorted((names - given) | {f"{beginning}.{one}".strip(".") for one in short - wanted})
        left_out = _left_out(spare, names - set(spare))
        if len(left_out) <= _MOST_LEFT_OUT:
            return {beginning: into} | dict.fromkeys(left_out)
    return None


def _names(folder: Path) -> list[str]:
    from safetensors import safe_open

    found: list[str] = []
    for file in files_of(folder):
        with safe_open(file, "pt") as tensors:
            found += tensors.keys()
    return found


def _wanted(module: Any, given: set[str]) -> set[str]:
    """Return the names that must be there: of weights that are tied, those that are."""
    tied: dict[int, set[str]] = {}
    for name, value in module.state_dict(keep_vars=True).items():
        tied.setdefault(id(value), set()).add(name)
    return {name for names in tied.values() for name in (names & given or names)}


def _left_out(spare: list[str], kept: set[str]) -> list[str]:
    """Return the paths that name what is left over, each as short as it can be."""
    paths: Mapping[str, None] = dict.fromkeys(_shortest(name, kept) for name in spare)
    return [*paths]


def _shortest(name: str, kept: set[str]) -> str:
    parts = name.split(".")
    for count in range(1, len(parts)):
        path = ".".join(parts[:count])
        if not any(other.startswith(f"{path}.") for other in kept):
            return path
    return name
