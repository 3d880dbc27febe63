"""A checkpoint folder as ``save_pretrained`` leaves it: opened without a network, and no code of its own is run."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmdeploy.core.errors import EnvironmentUnfitError, UsageError, did_you_mean

#: What is proposed where a checkpoint cannot be taken as it is.
BY_HAND = "write a factory that builds it, and run `mmdeploy init model.py:build`"
_CONFIG = "config.json"
_PICKLES = ("*.bin", "*.pt", "*.pth")
_SHOWN = 4


@dataclass(frozen=True)
class Checkpoint:
    """What was loaded of a folder.

    Attributes:
        folder: Where it lies.
        model: The whole model, with its weights, in FP32 and eval mode.
    """

    folder: Path
    model: Any


def open_checkpoint(folder: Path) -> Checkpoint:
    """Load a checkpoint.

    Raises:
        UsageError: If the folder holds none that can be taken.
        EnvironmentUnfitError: If `transformers` is missing.
    """
    config = _read_config(folder)
    _refuse_pickles(folder)
    with quiet():
        return Checkpoint(folder, _loaded(folder, _model_class(folder, config)))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep `transformers` from talking: of what it would warn of, we judge what matters.

    Raises:
        EnvironmentUnfitError: If it is missing.
    """
    try:
        from transformers.utils import logging
    except ImportError as cause:
        raise EnvironmentUnfitError(
            f"init --pretrained reads checkpoints with transformers, which cannot be imported: {cause}",
            hint="pip install transformers",
        ) from cause
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def _read_config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        beside = [other.parent.name for other in folder.absolute().parent.glob(f"*/{_CONFIG}")]
        others = f"{did_you_mean(folder.name, beside)}; " if beside else "expected one that holds config.json; "
        raise UsageError(
            f"--pretrained {folder}: there is no such folder",
            hint=f"{others}a name on a model hub is none: download it first, as "
            f"`hf download {folder} --local-dir {folder.name or 'FOLDER'}` does",
        )
    path = folder / _CONFIG
    if not path.is_file():
        held = sorted(other.name for other in folder.iterdir())
        shown = ", ".join(held[:_SHOWN]) + (" …" if len(held) > _SHOWN else "")
        raise UsageError(
            f"--pretrained {folder}: there is no {_CONFIG}" + (f", only {shown}" if held else ", the folder is empty"),
            hint="expected a folder as save_pretrained leaves it: config.json, model.safetensors, and the files of "
            f"its processor; of any other model: {BY_HAND}",
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as cause:
        raise UsageError(f"{path} is no JSON: {cause}", hint="copy the checkpoint once more") from cause
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise UsageError(
            f"{path} names no model_type: it is not of transformers",
            hint=f"expected what save_pretrained writes; of any other model: {BY_HAND}",
        )
    return config


def _refuse_pickles(folder: Path) -> None:
    if next(folder.glob("*.safetensors"), None) is not None:
        return
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        raise UsageError(
            f"--pretrained {folder}: its weights are a pickle ({pickles[0]}), and reading one can run any code",
            hint="where you trust it, write it as safetensors: from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)",
        )
    raise UsageError(
        f"--pretrained {folder}: the weights are missing",
        hint="expected model.safetensors, or shards of it with model.safetensors.index.json",
    )


def _model_class(folder: Path, config: dict[str, Any]) -> Any:
    """Return the class of `transformers` that the weights were saved from."""
    import transformers

    if config.get("quantization_config"):
        raise UsageError(
            f"{folder / _CONFIG}: the weights were quantized already (quantization_config)",
            hint="take the checkpoint in floating point: mmdeploy quantizes it, and compares with the original",
        )
    named = [name for name in config.get("architectures") or () if isinstance(name, str)]
    found = getattr(transformers, named[0], None) if named else None
    if found is not None and hasattr(found, "from_pretrained"):
        return found
    if config.get("auto_map"):
        raise UsageError(
            f"{folder / _CONFIG}: {named[0] if named else config['model_type']} is code that comes with the checkpoint "
            "(auto_map, trust_remote_code), and it is not run",
            hint=f"read that code; if you trust it, {BY_HAND}",
        )
    if named:
        raise UsageError(
            f"{folder / _CONFIG}: transformers {transformers.__version__} has no {named[0]}",
            hint=f"install a version that has it, or {BY_HAND}",
        )
    return transformers.AutoModel


def _loaded(folder: Path, model_class: Any) -> Any:
    model, info = _from_pretrained(folder, model_class)
    missing = sorted(info["missing_keys"])
    if missing and all(".pooler." in f".{name}" for name in missing):
        # Saved without a pooler, whose weights transformers would draw.
        with contextlib.suppress(UsageError):
            model, info = _from_pretrained(folder, model_class, add_pooling_layer=False)
            missing = sorted(info["missing_keys"])
    if missing:
        shown = ", ".join(missing[:_SHOWN]) + (f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else "")
        raise UsageError(
            f"--pretrained {folder}: weights of {type(model).__name__} are missing: {shown}",
            hint="transformers would draw them at random; was the checkpoint copied whole, with all of its shards?",
        )
    return model.float().eval()


def _from_pretrained(folder: Path, model_class: Any, **more: Any) -> tuple[Any, dict[str, Any]]:
    try:
        loaded = model_class.from_pretrained(
            folder, output_loading_info=True, local_files_only=True, use_safetensors=True, dtype="float32",
            trust_remote_code=False, **more,
        )  # fmt: skip
    except Exception as cause:
        lines = str(cause).strip().splitlines() or [type(cause).__name__]
        raise UsageError(
            f"--pretrained {folder}: transformers cannot load it: {lines[0]}",
            hint="files that are damaged or cut off, or a version of transformers that does not know it, do this",
        ) from cause
    model, info = loaded
    return model, info
