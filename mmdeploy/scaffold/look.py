"""A model looked at while it answers real samples: how it is called, and what it calls, at all lengths seen."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmdeploy.core.errors import ModelError, did_you_mean
from mmdeploy.model.sources import importing_from
from mmdeploy.scaffold.calls import Record, record
from mmdeploy.scaffold.failed import failed, shapes_text
from mmdeploy.scaffold.lookable import refuse_answer
from mmdeploy.scaffold.seen import Seen, batches

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mmdeploy.core.artifact import Array

Answer = Callable[[Mapping[str, "Tensor"]], object]


@dataclass(frozen=True)
class Looked:
    """What was seen of a model.

    Attributes:
        model: It, in eval mode.
        seen: The samples that it answered.
        records: Its answers taken apart, one a shape of samples; the first is what wiring is read from.
        feeds: What was fed for each.
        given: What the model takes each input as, by the input's name; empty where that is its own name.
        call: What answers for the model; None where its forward does.
    """

    model: nn.Module
    seen: Seen
    records: tuple[Record, ...]
    feeds: tuple[Mapping[str, Tensor], ...]
    given: Mapping[str, str]
    call: Callable[..., object] | None = None


def look(model: nn.Module, seen: Seen, *, root: Path, call: Callable[..., object] | None = None) -> Looked:
    """Let a model answer samples, and take the answers apart.

    Args:
        model: In eval mode.
        seen: Samples of its data callables.
        root: Folder of the code, for messages.
        call: Answers for the model where its forward does not: takes it, and the inputs by name.

    Raises:
        ModelError: When it cannot be called with the samples, fails, or calls other modules for other samples.
    """
    import torch

    given = {} if call is not None else called_with(model, tuple(seen.inputs))
    records: list[Record] = []
    feeds: list[Mapping[str, Tensor]] = []
    for batch in batches(seen.kept):
        feed: Mapping[str, Tensor] = {name: torch.from_numpy(array) for name, array in batch.items()}
        answer = answered(model, feed, given, call)
        try:
            with importing_from(root):
                kept = record(model, answer, feed)
        except Exception as cause:
            raise failed(model, cause, batch, lambda one: answered(model, one, given, call)(), root) from cause
        _check_rows(kept, batch)
        records.append(kept)
        feeds.append(feed)
    for kept, feed in zip(records[1:], feeds[1:], strict=True):
        if _parts(kept) != _parts(records[0]):
            first, other = (shapes_text({name: one.numpy() for name, one in each.items()}) for each in (feeds[0], feed))
            raise ModelError(
                f"the model calls other modules for {other} than for {first}: its parts depend on the sample",
                hint="an ensemble runs the same steps for every request: choose inside of a module",
            )
    return Looked(model, seen, tuple(records), tuple(feeds), given, call)


def called_with(model: nn.Module, names: Sequence[str]) -> dict[str, str]:
    """Return under which parameter of forward each input is given; empty where all go by their own names.

    Raises:
        ModelError: When the model has no forward, or it is not clear what is what.
    """
    kind = type(model).__name__
    forward = type(model).forward
    if getattr(forward, "__name__", "") == "_forward_unimplemented":
        raise ModelError(
            f"{kind} has no forward: how its parts fit together cannot be seen",
            hint="write one, or a function that answers for it and give it as --call model.py:answer:\n"
            f"  def answer(model, {', '.join(names)}): return model.{_last_child(model)}(…)",
        )
    parameters = inspect.signature(model.forward).parameters.values()
    named = [one for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    by_place = [one.name for one in parameters if one.kind in (one.VAR_POSITIONAL, one.POSITIONAL_ONLY)]
    takes = [one.name for one in named]
    needed = [one.name for one in named if one.default is one.empty]
    if {*names} <= {*takes} and {*needed} <= {*names}:
        return {}
    if by_place and not needed:
        raise ModelError(
            f"{kind}.forward takes its inputs without names ({_signature(parameters)}): which is which cannot be told",
            hint="name them, forward(self, image, text); or give a function that calls it, --call model.py:answer, with"
            f"\n  def answer(model, {', '.join(names)}): return model({', '.join(names)})",
        )
    if any(one.kind is one.VAR_KEYWORD for one in parameters) and {*needed} <= {*names}:
        return {}
    if len(needed) == len(names) == 1:
        return {names[0]: needed[0]}
    missing = [name for name in needed if name not in names]
    extra = [name for name in names if name not in takes]
    told = [f"it needs {', '.join(map(repr, missing))}"] if missing else []
    told += [f"it does not know {', '.join(map(repr, extra))}"] if extra else []
    raise ModelError(
        f"{kind}.forward takes {', '.join(takes) or 'nothing'}, the samples have {', '.join(names)}: "
        + "; ".join(told),
        hint="name a sample's arrays as forward's parameters "
        f"({did_you_mean((extra or missing)[0], missing or takes)}); a label lies beside the dict, (dict, label); "
        "or give a function that calls the model: --call model.py:answer",
    )


def rows_of_each_sample(looked: Looked) -> int | None:
    """Return how many rows each sample has, where it looks like a batch: each row is answered alone as with the others.

    None where arrays have no such axis, where it varies, or where rows answer together.
    """
    lengths = {tensor.shape[1] if tensor.dim() > 2 else 0 for feed in looked.feeds for tensor in feed.values()}
    kept, feed = looked.records[0], looked.feeds[0]
    answers = [kept.tensors[key] for key in kept.whole.outputs.values()]
    if len(lengths) != 1 or lengths == {0} or not all({*one.shape[1:2]} == lengths for one in answers):
        return None
    first = {name: tensor[:, 0] for name, tensor in feed.items()}
    try:
        again = record(looked.model, answered(looked.model, first, looked.given, looked.call), first)
    except Exception:  # noqa: BLE001 - the user's code: it needs the axis, so it is none of a batch
        return None
    alone = [again.tensors[key] for key in again.whole.outputs.values()]
    same = alike(alone, [one[:, 0] for one in answers])
    return lengths.pop() if same else None


def alike(ones: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    """Say whether answers are the same, but for the order in which they were summed up."""
    import torch

    return len(ones) == len(others) and all(
        one.shape == other.shape and torch.allclose(one.double(), other.double(), rtol=1e-3, atol=1e-5)
        for one, other in zip(ones, others, strict=True)
    )


def _parts(kept: Record) -> list[str]:
    return [below.path for below in kept.whole.below]


def _last_child(model: nn.Module) -> str:
    return next(reversed([name for name, _ in model.named_children() if name.isidentifier()]), "fusion")


def _signature(parameters: Iterable[inspect.Parameter]) -> str:
    return str(inspect.Signature(list(parameters))).removeprefix("(").removesuffix(")")


def answered(
    model: nn.Module,
    feed: Mapping[str, Tensor],
    given: Mapping[str, str],
    call: Callable[..., object] | None,
) -> Callable[[], object]:
    """Return what calls a model with samples, by its own forward or by the user's function."""
    if call is not None:
        return lambda: call(model, **feed)
    return lambda: model(**{given.get(name, name): tensor for name, tensor in feed.items()})


def _check_rows(kept: Record, batch: Mapping[str, Array]) -> None:
    refuse_answer({name: kept.tensors[key] for name, key in kept.whole.outputs.items()})
    for name, key in kept.whole.outputs.items():
        shape = list(kept.tensors[key].shape)
        if shape[:1] != [2]:
            raise ModelError(
                f"the model's output {name!r} is {shape} for a batch of 2 samples ({shapes_text(batch)}): it has no "
                "row a sample",
                hint="return what each sample has of its own, batch first; a mean over the batch is for training",
            )
        if kept.tensors[key].is_floating_point() and kept.tensors[key].isnan().any():
            raise ModelError(
                f"the model's output {name!r} is NaN for a batch of 2 samples ({shapes_text(batch)})",
                hint="give samples that it can answer, and the weights that it was trained to (--weights)",
            )
