"""Read the state dict of a checkpoint safely.

Weights are read from ``.safetensors``, or from ``.pt``/``.pth``/``.bin`` with ``torch.load(weights_only=True)``. A
pickle that needs more than that can run any code when it is read, so it is refused unless the recipe says
``model.allow_pickle: true``.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdeploy.core.errors import ModelError, kind_of
from mmdeploy.model.weight_files import files_of

if TYPE_CHECKING:
    from torch import Tensor

_SHOWN = 5


def read_state_dict(path: Path, *, allow_pickle: bool = False) -> dict[str, Tensor]:
    """Read the state dict of a checkpoint onto the CPU, of all its shards together.

    Raises:
        ModelError: When a file is missing, of an unknown kind, damaged, unsafe, or no state dict; when two hold a
            tensor of one name.
    """
    found: dict[str, Tensor] = {}
    for file in files_of(path):
        state = _read_file(file, allow_pickle)
        twice = next((name for name in state if name in found), None)
        if twice is not None:
            raise ModelError(f"weights {path.name}: {file.name} holds the tensor {twice!r} of another shard once more")
        found |= state
    return found


def listing(what: str, names: Sequence[str]) -> str:
    """Return how many tensors of a checkpoint are ``what``, and the first of them; empty for none."""
    if not names:
        return ""
    rest = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} {what}: {', '.join(names[:_SHOWN])}{rest}"


def _read_file(path: Path, allow_pickle: bool) -> dict[str, Tensor]:
    import torch

    state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path, allow_pickle)
    if isinstance(state, torch.nn.Module):
        state = state.state_dict()
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ModelError(
            f"weights {path.name} hold {kind_of(state)}, expected a state dict (tensor by name)",
            hint="save with safetensors.torch.save_file(model.state_dict(), path)",
        )
    return dict(state)


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as cause:
        raise ModelError(
            f"weights {path.name} cannot be read as safetensors: {' '.join(str(cause).split())}",
            hint="the file is damaged or of another kind; a Git LFS pointer looks like this too",
        ) from cause


def _read_torch(path: Path, allow_pickle: bool) -> Any:
    import pickle

    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=not allow_pickle)
    except pickle.UnpicklingError as cause:
        if allow_pickle or not _is_torch_file(path):
            raise _unreadable(path, cause) from cause
        raise ModelError(
            f"weights {path.name} hold more than tensors: reading them would run pickled code, refused",
            hint="save the state dict as safetensors, or, if you trust the file, write "
            "`allow_pickle: true` under `model:` in the recipe",
        ) from cause
    except Exception as cause:
        raise _unreadable(path, cause) from cause


def _is_torch_file(path: Path) -> bool:
    """Say whether a file is what torch.save writes: a zip archive, or a pickle before torch 1.6."""
    with path.open("rb") as stream:
        return stream.read(1) == b"\x80" or zipfile.is_zipfile(path)


def _unreadable(path: Path, cause: Exception) -> ModelError:
    first = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
    return ModelError(
        f"weights {path.name} cannot be read by torch.load: {first}",
        hint="the file is damaged or of another kind; a Git LFS pointer looks like this too",
    )
