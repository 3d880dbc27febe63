"""Inputs that may be left out: where the model says so, and what stands in for them, tried on the model itself.

A forward that takes ``audio=None`` answers without audio; how, is seen from outside: the components behind the encoder
are run with a candidate in place of the embedding, and the one with which they answer as the model does without the
input is what stands in for it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mmdeploy.core.errors import ModelError
from mmdeploy.model.torch_model import TorchChain, WiredModule
from mmdeploy.scaffold.calls import record
from mmdeploy.scaffold.look import Looked, answered
from mmdeploy.scaffold.proposal import MayLack, Proposal
from mmdeploy.scaffold.wiring import Part

if TYPE_CHECKING:
    from mmdeploy.core.artifact import Array

#: How much the answers with a stand-in may differ from the model's without the input.
_RTOL, _ATOL = 1e-3, 1e-5


def optional_inputs(looked: Looked, proposal: Proposal) -> dict[str, MayLack]:
    """Find the inputs that may be left out: those with None as their default, or that samples lack.

    Args:
        looked: The model as it was before anything was added to it.
        proposal: The recipe so far.

    Returns:
        By name; without those that a component reads beside others, where nothing could stand in for them.
    """
    found = dict[str, MayLack]()
    if proposal.wiring.gaps:
        return found
    for name in looked.seen.inputs:
        lacking = looked.seen.lacking(name)
        branch = _branch(proposal, name)
        if branch is None or not (lacking or _defaults_to_none(looked, name)):
            continue
        stand_in = _stand_in(looked, proposal, name, branch) if _defaults_to_none(looked, name) else None
        tried = None if stand_in is None else MayLack(*stand_in, tried=True, lacking=lacking)
        found[name] = tried or MayLack("mean", lacking=lacking)
    return found


def _defaults_to_none(looked: Looked, name: str) -> bool:
    takes = inspect.signature(looked.call or looked.model.forward).parameters
    parameter = takes.get(looked.given.get(name, name))
    return parameter is not None and parameter.default is None


def _branch(proposal: Proposal, name: str) -> tuple[Part, ...] | None:
    """Return the components that depend on an input alone; None where others read it too, or there are no others."""
    alone, inside = {name}, list[Part]()
    for part in proposal.wiring.parts:
        read = {tensor for tensor in part.inputs.values() if tensor is not None}
        if read and read <= alone:
            inside.append(part)
            alone |= {*part.outputs.values()}
        elif name in read:
            return None
    return tuple(inside) if inside and len(inside) < len(proposal.wiring.parts) else None


def _stand_in(looked: Looked, proposal: Proposal, name: str, branch: tuple[Part, ...]) -> tuple[str, str | None] | None:
    """Return the strategy, and its parameter, with which the components answer as the model does without an input."""
    wanted = _answers_without(looked, name)
    if wanted is None:
        return None
    parts = proposal.wiring.parts
    chain = TorchChain(
        proposal.looked.model,
        [WiredModule(part.name, part.path, _wired(part), part.outputs) for part in parts],
    )
    inside = {part.name for part in branch}
    read = {tensor for part in parts if part.name not in inside for tensor in part.inputs.values()}
    embeddings = [tensor for part in branch for tensor in part.outputs.values() if tensor in read]
    names = _answer_names(proposal)
    feeds = [{key: tensor.numpy() for key, tensor in feed.items()} for feed in looked.feeds]
    whole = [chain.run(feed) for feed in feeds]
    for strategy, parameter, value in _candidates(looked, [whole[0][tensor] for tensor in embeddings]):
        for feed, full, expected in zip(feeds, whole, wanted, strict=True):
            stand_ins = {
                tensor: np.zeros_like(full[tensor]) if value is None else np.broadcast_to(value, full[tensor].shape)
                for tensor in embeddings
            }
            try:
                answers = chain.run({**feed, **stand_ins}, without=inside)
            except (ModelError, ValueError):
                break
            if not _alike([answers.get(one) for one in names], expected):
                break
        else:
            return strategy, parameter
    return None


def _wired(part: Part) -> dict[str, str]:
    return {argument: tensor for argument, tensor in part.inputs.items() if tensor is not None}


def _answers_without(looked: Looked, name: str) -> list[list[Array]] | None:
    """Return what the model answers without an input, for each of the shapes seen; None where it fails."""
    found = []
    for feed in looked.feeds:
        some = {key: tensor for key, tensor in feed.items() if key != name}
        try:
            kept = record(looked.model, answered(looked.model, some, looked.given, looked.call), some)
        except Exception:  # noqa: BLE001 - the user's code: it says that it takes None, and does not
            return None
        found.append([kept.tensors[key].numpy() for key in kept.whole.outputs.values()])
    return found


def _answer_names(proposal: Proposal) -> list[str]:
    """Return the ensemble's names of what the model returns, in its order."""
    names = {key: tensor for part in proposal.wiring.parts for tensor, key in part.keys.items()}
    return [names[key] for key in proposal.looked.records[0].whole.outputs.values() if key in names]


def _candidates(looked: Looked, embeddings: Sequence[Array]) -> Iterator[tuple[str, str | None, Array | None]]:
    """Give what may stand in for embeddings: zeros, and for a single one what the model has of its shape."""
    yield "zeros", None, None
    if len(embeddings) != 1:
        return
    shape = embeddings[0].shape[1:]
    for path, tensor in (*looked.model.named_parameters(), *looked.model.named_buffers()):
        if [dim for dim in tensor.shape if dim != 1] == [dim for dim in shape if dim != 1]:
            yield "learned", path, tensor.detach().numpy().reshape(shape)


def _alike(answers: Sequence[Array | None], expected: Sequence[Array]) -> bool:
    return len(answers) == len(expected) > 0 and all(
        one is not None and one.shape == other.shape and np.allclose(one, other, rtol=_RTOL, atol=_ATOL)
        for one, other in zip(answers, expected, strict=True)
    )
