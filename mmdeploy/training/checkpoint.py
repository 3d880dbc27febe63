"""Checkpoints of training: written atomically, read without unpickling code, ignored where they do not fit."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

logger = logging.getLogger(__name__)

FILENAME = "training.pt"
_Content = dict[str, Any]


def write(folder: Path, content: Mapping[str, Any]) -> None:
    """Replace the checkpoint of a folder; a kill at any moment leaves the old one or the new one.

    Args:
        folder: Made where it is missing.
        content: Tensors, numbers, strings and containers of them.
    """
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    staging = folder / f"{FILENAME}.partial"
    with staging.open("wb") as stream:
        torch.save(dict(content), stream)
        stream.flush()
        os.fsync(stream.fileno())
    staging.replace(folder / FILENAME)


def read(folder: Path, identity: str) -> _Content | None:
    """Read the checkpoint of a folder; None when there is none, it is damaged, or of another training.

    Args:
        folder: Where `write` wrote.
        identity: What `identify` gives for the training that wants to go on.
    """
    import pickle

    import torch

    path = folder / FILENAME
    if not path.exists():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as cause:
        logger.warning("the checkpoint %s cannot be read, training starts over: %s", path, cause)
        return None
    if not isinstance(content, dict) or content.get("identity") != identity:
        logger.warning("the checkpoint %s is of another training, which starts over", path)
        return None
    return content


def identify(facts: Mapping[str, Any], module: nn.Module) -> str:
    """Return what must be equal for a checkpoint to be taken up: the facts, and the module's tensors by shape."""
    shapes = {name: [str(tensor.dtype), *tensor.shape] for name, tensor in tensors(module).items()}
    return json.dumps({**facts, "tensors": shapes}, sort_keys=True)


def tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and all buffers of a module by name, those outside its state dict too; shared memory."""
    return {name: tensor.detach() for name, tensor in (*module.named_parameters(), *module.named_buffers())}


def copied(module: nn.Module) -> dict[str, Tensor]:
    """Return a copy of `tensors` on the CPU."""
    return {name: tensor.cpu().clone() for name, tensor in tensors(module).items()}


def restore(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Write what `copied` gave back into a module, in place."""
    for name, tensor in tensors(module).items():
        tensor.copy_(state[name])
