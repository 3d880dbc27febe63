"""The towers of a pair: which children make an embedding, how it is pooled, and whether it has length 1.

Each way is tried on real weights and made-up samples, and held against the embeddings that the whole model answers.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmdeploy.core.errors import UsageError
from mmdeploy.scaffold.pretrained_checkpoint import Checkpoint
from mmdeploy.scaffold.pretrained_parts import (
    Form,
    Part,
    another_form,
    answered,
    arguments_of,
    reader_for,
)
from mmdeploy.scaffold.pretrained_readers import Reader, TextReader

_CLOSE = 1e-4
_POOLED = (".pooler_output", ".last_hidden_state[:, 0]")
_NAMES = {"image": "ImageEncoder", "audio": "AudioEncoder", "text": "TextEncoder"}
_WHAT = {"image": "pixels", "audio": "sounds", "text": "tokens"}


@dataclass(frozen=True)
class _Tower:
    """One way to an embedding."""

    encoder: str
    pooled: str
    projection: str | None
    has_length_1: bool

    def embedding(self, model: Any, reader: Reader, sample: bytes) -> Any:
        import torch

        answer = answered(getattr(model, self.encoder), reader, sample)
        pooled = answer.pooler_output if self.pooled == _POOLED[0] else answer.last_hidden_state[:, 0]
        with torch.inference_mode():
            found = getattr(model, self.projection)(pooled) if self.projection else pooled
        return found / found.norm(dim=-1, keepdim=True) if self.has_length_1 else found


def pair_form(checkpoint: Checkpoint, other: str) -> Form:
    """Return the form of a pair.

    Args:
        checkpoint: Its model has ``get_text_features`` and ``get_<other>_features``.
        other: ``image`` or ``audio``.

    Raises:
        UsageError: If its embeddings are made in another way.
    """
    model, taken = checkpoint.model, arguments_of(checkpoint.model)
    readers = {kind: reader_for(checkpoint.folder, model, kind, taken) for kind in (other, "text")}
    text = readers["text"]
    assert isinstance(text, TextReader)
    text.filled = _padding_counts(model, text)
    samples = {kind: reader.samples()[0] for kind, reader in readers.items()}
    whole = _whole_answer(model, readers, samples)
    parts, found = [], {}
    for kind, reader in readers.items():
        if (wanted := whole.get(f"{kind}_embeds")) is None:
            raise another_form(model, f"answers no {kind}_embeds")
        tower = _tower(model, reader, samples[kind], wanted)
        parts.append(_part(kind, tower, reader, int(wanted.shape[-1])))
        found[kind] = {"embedding": f"{kind}_embeds"}
    if head := _similarity(model, other, whole):
        parts.append(head)
        found[head.name] = {"similarity": f"logits_per_{other}"}
    return Form(model, tuple(parts), found)


def _whole_answer(model: Any, readers: Mapping[str, Reader], samples: Mapping[str, bytes]) -> Any:
    import torch

    feeds = {name: array for kind, reader in readers.items() for name, array in reader.feeds(samples[kind]).items()}
    try:
        with torch.inference_mode():
            return model(**{name: torch.from_numpy(array) for name, array in feeds.items()})
    except Exception as cause:
        first_line = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
        more = ", ".join(name for name in _given_too(readers) if name in arguments_of(model) and name not in feeds)
        without = f" without {more}" if more else " alone"
        raise another_form(model, f"cannot answer {', '.join(feeds)}{without}: {first_line}") from cause


def _given_too(readers: Mapping[str, Reader]) -> list[str]:
    """Return what the processors give, whether it is read or not."""
    processors = (
        getattr(reader, "extractor", None) or getattr(reader, "processor", None) for reader in readers.values()
    )
    return [name for one in processors for name in getattr(one, "model_input_names", ())]


def _called(model: Any, kind: str, reader: Reader, sample: bytes) -> list[str]:
    """Return the children that make the features of one kind, in the order in which they answer."""
    import torch

    seen: list[str] = []
    hooks = [
        child.register_forward_hook(lambda *_, name=name: seen.append(name)) for name, child in model.named_children()
    ]
    try:
        with torch.inference_mode():
            feeds = {name: torch.from_numpy(array) for name, array in reader.feeds(sample).items()}
            getattr(model, f"get_{kind}_features")(**feeds)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _tower(model: Any, reader: Reader, sample: bytes, wanted: Any) -> _Tower:
    import torch

    called = _called(model, reader.kind, reader, sample)
    if not 1 <= len(called) <= 2:
        raise another_form(model, f"makes its {reader.kind} features by {' and '.join(called) or 'no child at all'}")
    projection = called[1] if called[1:] else None
    for pooled, has_length_1 in itertools.product(_POOLED, (True, False)):
        tower = _Tower(called[0], pooled, projection, has_length_1)
        try:
            found = tower.embedding(model, reader, sample)
        except Exception:  # noqa: BLE001 - it has no such output, or another width
            continue
        if found.shape == wanted.shape and torch.allclose(found, wanted, atol=_CLOSE):
            return tower
    raise another_form(model, f"makes its {reader.kind} embedding in a way of its own")


def _part(kind: str, tower: _Tower, reader: Reader, width: int) -> Part:
    given = ", ".join(f"{name}={name}" for name in reader.arguments)
    lines = [f"embedding = self.{tower.encoder}({given}){tower.pooled}"]
    if tower.projection:
        lines.append(f"embedding = self.{tower.projection}(embedding)")
    normalized = "embedding / embedding.norm(dim=-1, keepdim=True)"
    lines.append(f"return {normalized if tower.has_length_1 else 'embedding'}")
    setup = (tower.encoder, *([tower.projection] if tower.projection else []))
    doc = f"Turn {_WHAT[kind]} into embeddings{' of length 1' if tower.has_length_1 else ''}."
    return Part(kind, _NAMES[kind], reader.arguments, {"embedding": (width,)}, setup, tuple(lines), doc, reader)


def _similarity(model: Any, other: str, whole: Any) -> Part | None:
    """Return the head that scores a pair as the whole model does, if its own parameters are all that it takes."""
    import torch

    logits, own = whole.get(f"logits_per_{other}"), dict(model.named_parameters(recurse=False))
    if logits is None:
        return None
    cosine = (whole[f"{other}_embeds"] * whole["text_embeds"]).sum(dim=-1, keepdim=True)
    scalars = [name for name, value in own.items() if value.numel() == 1]
    for scale, bias in itertools.product(scalars, (*scalars, None)):
        with torch.inference_mode():
            found = cosine * own[scale].exp() + (own[bias] if bias else 0)
        if scale != bias and torch.allclose(found, logits, atol=_CLOSE, rtol=_CLOSE):
            line = f"return ({other} * text).sum(dim=-1, keepdim=True) * self.{scale}.exp()"
            body = (line + (f" + self.{bias}" if bias else ""),)
            doc = f"Score a pair, as the diagonal of logits_per_{other} does."
            setup = (scale, *([bias] if bias else []))
            return Part("similarity", "Similarity", (other, "text"), {"similarity": (1,)}, setup, body, doc)
    return None


def _padding_counts(model: Any, reader: TextReader) -> bool:
    """Say whether padding changes the embedding: then every text is filled up as the model was trained."""
    import torch

    def features() -> Any:
        with torch.inference_mode():
            feeds = {name: torch.from_numpy(array) for name, array in reader.feeds(reader.samples()[0]).items()}
            found = model.get_text_features(**feeds)
        return found if isinstance(found, torch.Tensor) else found.pooler_output

    try:
        short = features()
        reader.filled = True
        return not torch.allclose(short, features(), atol=_CLOSE)
    except UsageError:
        raise
    except Exception:  # noqa: BLE001 - it cannot be filled up: there is nothing to fill up with
        return False
    finally:
        reader.filled = False
