"""What a checkpoint's model is cut into, and how its parts are asked."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmdeploy.core.errors import UsageError
from mmdeploy.scaffold.pretrained_checkpoint import BY_HAND
from mmdeploy.scaffold.pretrained_readers import Reader, audio_reader, image_reader, text_reader

KINDS = {"pixel_values": "image", "input_values": "audio", "input_features": "audio", "input_ids": "text"}
_KNOWN = (
    "an encoder of one text, picture or sound (as BERT, ViT, Wav2Vec2), or a pair with get_text_features and "
    "get_image_features or get_audio_features (as CLIP, SigLIP, CLAP)"
)
#: Shape of one row of an output: a number, the name of a size, or None where it is left to the build.
Shape = tuple[int | str, ...] | None


@dataclass(frozen=True)
class Part:
    """One component.

    Attributes:
        name: Of the component, and of the attribute in what the factory builds.
        class_name: Of its class in the factory's file.
        reads: Arguments of its forward.
        writes: Shape of each output, in the order in which forward returns them.
        setup: Attributes that it takes of the whole model, by name.
        body: Lines of its forward.
        doc: What it does, in a line.
        reader: Of what clients send; None of one that reads what others write.
    """

    name: str
    class_name: str
    reads: tuple[str, ...]
    writes: Mapping[str, Shape]
    setup: tuple[str, ...]
    body: tuple[str, ...]
    doc: str
    reader: Reader | None = None


@dataclass(frozen=True)
class Form:
    """What is to be served of a checkpoint.

    Attributes:
        served: The part of the whole model that the factory builds.
        parts: Its components.
        asked: Names of what the original answers, by component and output.
        notes: What a person should know of what was chosen.
    """

    served: Any
    parts: tuple[Part, ...]
    asked: Mapping[str, Mapping[str, str]]
    notes: tuple[str, ...] = field(default=())


def another_form(model: Any, why: str) -> UsageError:
    """Return the error of a model that none of the known forms fits."""
    return UsageError(
        f"{type(model).__name__} {why}; init --pretrained takes {_KNOWN}", hint=f"of any other: {BY_HAND}"
    )


def arguments_of(module: Any) -> tuple[str, ...]:
    """Return the names of what a module's forward takes."""
    return tuple(inspect.signature(module.forward).parameters)


def reader_for(folder: Path, model: Any, kind: str, taken: Sequence[str]) -> Reader:
    """Return the reader of one kind of what clients send."""
    if kind == "text":
        return text_reader(folder, model, taken)
    if kind == "image":
        return image_reader(folder)
    return audio_reader(folder, next(name for name in taken if KINDS.get(name) == "audio"))


def answered(module: Any, reader: Reader, sample: bytes) -> Any:
    """Ask a module of `transformers` for one sample."""
    import torch

    with torch.inference_mode():
        return module(**{name: torch.from_numpy(array) for name, array in reader.feeds(sample).items()})


def shape_of(first: Any, second: Any, reader: Reader) -> Shape:
    """Return the shape of an output's row, of what was answered to the first two of the made-up samples."""
    if first.shape == second.shape:
        return tuple(int(size) for size in first.shape[1:])
    if reader.kind != "text":
        return None
    counts = [reader.feeds(sample)["input_ids"].shape[1] for sample in reader.samples()[:2]]
    varies = [one != other for one, other in zip(first.shape, second.shape, strict=True)]
    if varies != [False, True, *[False] * (first.ndim - 2)] or [first.shape[1], second.shape[1]] != counts:
        return None
    return ("tokens", *(int(size) for size in first.shape[2:]))


def generates(model: Any) -> bool:
    """Say whether a model answers token by token."""
    return bool(getattr(model.config, "is_encoder_decoder", False)) or bool(model.can_generate())
