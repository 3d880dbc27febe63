"""The files of a checkpoint, and where its tensors belong in the model.

``model.weights`` may name a file, a folder in the layout of Hugging Face (``model.safetensors``, or shards with an
``.index.json``), or such an index. ``model.prefix`` says where the tensors of a part that was trained by itself belong,
and which parts of the checkpoint are left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TypeAlias, TypeVar

from mmdeploy.core.errors import ModelError, did_you_mean

T = TypeVar("T")
#: Where the tensors of a checkpoint belong, see `place`.
Prefix: TypeAlias = Mapping[str, str | None]

#: What a state dict may be in.
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
INDEX = ".index.json"
#: What a folder's checkpoint is called, the safer first; of a pattern there may be one file.
_IN_FOLDER = (
    "model.safetensors.index.json", "model.safetensors", "*.safetensors.index.json", "*.safetensors",
    "pytorch_model.bin.index.json", "pytorch_model.bin", "*.bin.index.json", "*.bin", "*.pt", "*.pth",
)  # fmt: skip
_SHOWN = 3


def files_of(weights: Path) -> tuple[Path, ...]:
    """Return the files that hold a checkpoint's tensors: one, or its shards in the order of their names.

    Args:
        weights: A file with a state dict, a folder with one, or the index of its shards.

    Raises:
        ModelError: If there is no such checkpoint, it is of an unknown kind, or a shard is missing.
    """
    if weights.is_dir():
        return files_of(_in_folder(weights))
    if weights.name.endswith(INDEX) and weights.is_file():
        return _shards(weights)
    if weights.suffix not in SUFFIXES:
        hint = did_you_mean(weights.suffix, SUFFIXES)
        raise ModelError(f"weights {weights.name}: unknown file type", hint=f"{hint}; or a folder, or an {INDEX} file")
    if not weights.is_file():
        beside = (other.name for other in weights.parent.glob("*") if other.suffix in SUFFIXES)
        raise ModelError(f"there is no weights file {weights}", hint=did_you_mean(weights.name, beside))
    return (weights,)


def place(name: str, prefix: Prefix) -> str | None:
    """Return the name in the model of a tensor of the checkpoint; None where it is left out.

    Args:
        name: As the checkpoint has it.
        prefix: Attribute path in the model by attribute path in the checkpoint, empty for all of it; None leaves the
            part out. The longest that fits counts; a tensor that none fits keeps its name.
    """
    paths = {path.strip("."): into for path, into in prefix.items()}
    fitting = [path for path in paths if not path or name == path or name.startswith(f"{path}.")]
    if not fitting:
        return name
    longest = max(fitting, key=len)
    into = paths[longest]
    if into is None:
        return None
    rest = name[len(longest) :].strip(".")
    return ".".join(part for part in (into.strip("."), rest) if part)


def placed(tensors: Mapping[str, T], prefix: Prefix) -> dict[str, T]:
    """Return what belongs to the tensors of a checkpoint, by their names in the model."""
    names = ((place(name, prefix), one) for name, one in tensors.items())
    return {name: one for name, one in names if name is not None}


def is_covered(name: str, prefix: Prefix) -> bool:
    """Say whether the checkpoint must hold a tensor of the model.

    It must hold all of them, unless the whole of it is one part of the model: what lies elsewhere is the factory's.
    """
    if not any(not path.strip(".") for path in prefix):
        return True
    targets = [into.strip(".") for into in prefix.values() if into is not None]
    return any(not into or name == into or name.startswith(f"{into}.") for into in targets)


def _in_folder(folder: Path) -> Path:
    for pattern in _IN_FOLDER:
        found = sorted(path for path in folder.glob(pattern) if path.is_file())
        if len(found) > 1:
            shown = ", ".join(path.name for path in found[:_SHOWN])
            more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            raise ModelError(
                f"weights {folder.name}: which file is meant? There are {shown}{more}",
                hint=f"name the file, or the {INDEX} file of shards",
            )
        if found:
            return found[0]
    raise ModelError(
        f"weights {folder.name}: the folder holds no checkpoint",
        hint=f"expected model.safetensors, shards with model.safetensors{INDEX}, or one of {', '.join(SUFFIXES)}",
    )


def _shards(index: Path) -> tuple[Path, ...]:
    try:
        names = sorted({*json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as cause:
        raise ModelError(
            f"weights {index.name} is no index of shards: {cause!r}",
            hint='expected JSON with "weight_map": the file of each tensor',
        ) from cause
    if not names:
        raise ModelError(f"weights {index.name} name no shard")
    for name in names:
        if not isinstance(name, str) or PurePosixPath(name).name != name or Path(name).suffix not in SUFFIXES:
            raise ModelError(f"weights {index.name}: {name!r} is no file of tensors beside it")
        if not (index.parent / name).is_file():
            raise ModelError(
                f"weights {index.name}: the shard {name} is missing", hint="copy all files of the checkpoint"
            )
    return tuple(index.parent / name for name in names)
