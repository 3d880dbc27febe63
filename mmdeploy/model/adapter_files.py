"""The files of LoRA adapters in PEFT's format, looked at without importing PEFT.

An adapter is a folder as ``save_pretrained`` of PEFT leaves it: ``adapter_config.json``, which says what is adapted and
how, and the tensors in ``adapter_model.safetensors``, or in ``adapter_model.bin``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from mmdeploy.core.errors import ModelError

#: Folder of an adapter by the attribute path of the module that it was trained on; an empty path is the whole model.
Adapters: TypeAlias = Mapping[str, Path]

#: What PEFT is imported and installed as.
PEFT = "peft"
EXTRA = "'multimodal-deploy[adapters]'"
CONFIG = "adapter_config.json"
#: What the tensors are in, the safer first.
_TENSORS = ("adapter_model.safetensors", "adapter_model.bin")
_LORA = "LORA"


def files_of_adapter(folder: Path) -> tuple[Path, Path]:
    """Return the configuration and the tensors of an adapter.

    Raises:
        ModelError: If there is no such folder, it lacks one of them, or it is no LoRA adapter.
    """
    if not folder.is_dir():
        what = "is a file: name the folder that it is in" if folder.is_file() else "is not there"
        raise ModelError(f"adapter {folder.name}: {folder} {what}", hint=f"a folder with {CONFIG} and {_TENSORS[0]}")
    read_config(folder)
    found = [folder / name for name in _TENSORS if (folder / name).is_file()]
    if not found:
        raise ModelError(
            f"adapter {folder.name}: there is neither {' nor '.join(_TENSORS)} in {folder}",
            hint="copy all that save_pretrained of PEFT wrote",
        )
    return folder / CONFIG, found[0]


def read_config(folder: Path) -> dict[str, Any]:
    """Return what the configuration of an adapter says.

    Raises:
        ModelError: If there is none, it cannot be read, or it is not that of a LoRA adapter that can be merged.
    """
    file = folder / CONFIG
    if not file.is_file():
        raise ModelError(
            f"adapter {folder.name}: there is no {CONFIG} in {folder}",
            hint="name the folder that save_pretrained of PEFT wrote, not that of the whole checkpoint",
        )
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        kind = config["peft_type"]
    except (OSError, ValueError, KeyError, TypeError) as cause:
        raise ModelError(
            f"adapter {folder.name}: {CONFIG} is not a configuration of PEFT: {cause!r}",
            hint='expected a JSON object with "peft_type": "LORA"',
        ) from cause
    if kind != _LORA:
        raise ModelError(
            f"adapter {folder.name} is of the kind {kind}, and only {_LORA} is merged into the model",
            hint="where PEFT can merge it, save what merge_and_unload() gives as the model's weights",
        )
    if config.get("layer_replication"):
        raise ModelError(
            f"adapter {folder.name} replicates layers: copies of the same weights, each with a LoRA of its own, cannot "
            "be merged",
            hint="build the model with all its layers in the factory, and save the merged model as its weights",
        )
    return dict(config)
