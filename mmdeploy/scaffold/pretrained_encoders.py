"""The one component of a model that reads one text, picture or sound: what of its answer is served."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmdeploy.scaffold.pretrained_checkpoint import Checkpoint
from mmdeploy.scaffold.pretrained_parts import (
    KINDS,
    Form,
    Part,
    Shape,
    another_form,
    answered,
    arguments_of,
    generates,
    reader_for,
    shape_of,
)
from mmdeploy.scaffold.pretrained_readers import AudioReader, Reader


def encoder_form(checkpoint: Checkpoint) -> Form:
    """Return the form of an encoder.

    Raises:
        UsageError: If it is none.
    """
    whole = checkpoint.model
    if generates(whole):
        raise another_form(whole, "generates token by token")
    taken = arguments_of(whole)
    read = [name for name in KINDS if name in taken]
    if len(read) != 1:
        raise another_form(whole, f"reads {' and '.join(read) or ', '.join(taken[:3])}")
    reader = reader_for(checkpoint.folder, whole, KINDS[read[0]], taken)
    served, outputs, notes = whole, _outputs(whole, _tried(whole, reader), reader), tuple[str, ...]()
    if not outputs and whole.base_model is not whole:
        served = whole.base_model
        outputs = _outputs(served, _tried(served, reader), reader)
        notes = (f"the head of {type(whole).__name__} is left out: {type(served).__name__} is what is served",)
    if not outputs:
        raise another_form(whole, "answers neither logits, nor an embedding, nor hidden states")
    _refuse_varying(whole, reader)
    body = (f"answer = self.model({', '.join(f'{name}={name}' for name in reader.arguments)})", _returned(outputs))
    doc = f"Turn {' and '.join(reader.arguments)} into {' and '.join(outputs)}."
    part = Part("encoder", "Encoder", reader.arguments, outputs, ("model",), body, doc, reader)
    return Form(served, (part,), {"encoder": {name: name for name in outputs}}, notes)


def _tried(module: Any, reader: Reader) -> tuple[Any, Any]:
    try:
        first, second = (answered(module, reader, sample) for sample in reader.samples()[:2])
    except Exception as cause:
        first_line = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
        given = ", ".join(reader.arguments)
        raise another_form(module, f"cannot answer what its own processor gives ({given}): {first_line}") from cause
    again = answered(module, reader, reader.samples()[0])
    if any(not _same(first[name], value) for name, value in again.items()):
        raise another_form(module, "answers differently each time that it is asked: it draws at random")
    return first, second


def _same(one: Any, other: Any) -> bool:
    import torch

    return not isinstance(one, torch.Tensor) or (one.shape == other.shape and torch.allclose(one, other, atol=1e-4))


def _outputs(module: Any, answers: tuple[Any, Any], reader: Reader) -> dict[str, Shape]:
    """Return what is served of an answer: logits, or an embedding, or hidden states.

    Nothing of a head that was for training alone, such as one that guesses words.
    """
    import torch

    first, second = answers
    tensors = {name: value for name, value in first.items() if isinstance(value, torch.Tensor)}
    embeddings = [name for name in tensors if name.endswith("_embeds") or name == "embeddings"]
    hidden = [name for name in ("last_hidden_state", "pooler_output") if name in tensors]
    if "logits" in tensors:
        predicted = [name for name in tensors if name in ("logits", "embeddings") or name.startswith("pred_")]
        names = predicted if _is_served(tensors["logits"], module, reader) else []
    else:
        names = embeddings or (hidden if "last_hidden_state" in hidden else [])
    return {name: shape_of(first[name], second[name], reader) for name in names}


def _is_served(logits: Any, module: Any, reader: Reader) -> bool:
    """Say whether logits are of something that is asked for: no words that a text could have at each place."""
    words = getattr(module.config, "vocab_size", None) if reader.kind == "text" else None
    return bool(logits.shape[-1] != words)


def _refuse_varying(model: Any, reader: Reader) -> None:
    if not isinstance(reader, AudioReader) or reader.is_raw:
        return
    shapes = {reader.feeds(sample)[reader.arguments[0]].shape for sample in reader.samples()}
    if len(shapes) > 1:
        raise another_form(model, "reads spectrograms of varying length")


def _returned(outputs: Mapping[str, Shape]) -> str:
    if len(outputs) == 1:
        return f"return answer.{next(iter(outputs))}"
    named = ", ".join(f'"{name}": answer.{name}' for name in outputs)
    return f"return {{{named}}}"
