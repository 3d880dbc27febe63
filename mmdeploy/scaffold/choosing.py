"""Which recipe is proposed: the model's own modules, with new ones for what lies between them, or the model as one."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmdeploy.core.errors import ModelError
from mmdeploy.model.sources import importing_from
from mmdeploy.scaffold import parting
from mmdeploy.scaffold.look import Looked, alike, look, rows_of_each_sample
from mmdeploy.scaffold.optional_inputs import optional_inputs
from mmdeploy.scaffold.proposal import Proposal, Told, propose
from mmdeploy.scaffold.wiring import is_layers, is_plain

logger = logging.getLogger(__name__)

#: The whole model inside the one that stands for it.
_WHOLE = "model"


@dataclass(frozen=True)
class Choice:
    """A proposal, and the code that it needs besides the user's.

    Attributes:
        proposal: The recipe.
        code: Text of `mmdeploy.scaffold.parting.FILENAME`; None where the user's code is enough.
        notes: What a person should know of it, a sentence each.
        data_code: Text of `mmdeploy.scaffold.splitting.FILENAME`; None where the user's callables serve as they are.
    """

    proposal: Proposal
    code: str | None = None
    notes: tuple[str, ...] = field(default=())
    data_code: str | None = None


def choose(
    looked: Looked, told: Told, components: Sequence[str] = (), *, root: Path, whole: bool | None = None
) -> Choice:
    """Propose a recipe.

    Args:
        looked: The model.
        told: What cannot be seen in it.
        components: Attribute paths of the modules that shall be components; empty to have them proposed.
        root: Folder of the code.
        whole: Whether the whole model shall be one component; None to have it so where its parts cannot be told apart.

    Raises:
        ModelError: When a component is none, or the whole cannot be one.
    """
    found = _chosen(looked, told, components, root=root, whole=whole)
    proposal = replace(found.proposal, optional=optional_inputs(looked, found.proposal))
    return replace(found, proposal=proposal, notes=(*found.notes, *_decided(looked), *_batched(looked)))


def _decided(looked: Looked) -> Iterator[str]:
    for line in dict.fromkeys(line for kept in looked.records for line in kept.decisions):
        place, _, text = line.partition(": ")
        yield (
            f"What a sample holds decides at {place} (`{text}`). Only what these samples led to was seen, and a graph "
            "holds one way of it: compute both and take one with torch.where, or decide before the model."
        )


def _batched(looked: Looked) -> Iterator[str]:
    if rows := rows_of_each_sample(looked):
        yield (
            f"Samples may be batches already: their arrays begin with an axis of {rows}, and so do the answers, row by "
            "row. A sample has no batch dimension: give array[0], or each row as a sample."
        )


def _chosen(looked: Looked, told: Told, components: Sequence[str], *, root: Path, whole: bool | None) -> Choice:
    if whole:
        return _whole(looked, told, root, ())
    proposal = propose(looked, told, components)
    layered = not components and is_layers(proposal.wiring)
    crowded = not components and any(map(is_plain, proposal.wiring.parts)) and looked.call is None
    if not proposal.wiring.gaps and not layered and not crowded:
        return Choice(proposal)
    advice = () if looked.call is not None else ("--whole makes a recipe with the whole model as one component.",)
    if proposal.wiring.only_names and not layered and not crowded:
        return Choice(proposal, notes=advice)
    named = [part.path for part in proposal.wiring.parts]
    if layered and looked.call is None:
        why = f"its forward calls {len(named)} modules that are single layers: {', '.join(named[:3])} …"
        return _whole(looked, told, root, (f"The whole model is one component: {why}",))
    try:
        return _parted(looked, told, proposal, root)
    except parting.CannotPart as cause:
        logger.info("no new modules: %s", cause)
        if not proposal.wiring.gaps:
            return Choice(proposal)
        return Choice(proposal, notes=advice)


def _parted(looked: Looked, told: Told, proposal: Proposal, root: Path) -> Choice:
    """Write what lies between the components as new modules, and propose a recipe of both."""
    if looked.call is not None:
        raise parting.CannotPart("a function calls it")
    followed = parting.followed(looked, proposal.wiring)
    modules = followed.modules()
    if not modules or (not proposal.wiring.gaps and all(module.attribute == "head" for module in modules)):
        raise parting.CannotPart("nothing lies between them")
    kept = {*followed.plain.values()}
    layers = all(map(is_plain, proposal.wiring.parts))
    if len(modules) == 1 and (not kept or (layers and len(looked.seen.inputs) == 1)):
        why = "its parts are single layers" if proposal.wiring.parts else "its forward calls no module"
        return _whole(looked, told, root, (f"The whole model is one component: {why}.",))
    code = parting.module_text(told.factory, modules)
    if code is None:
        raise parting.CannotPart("the factory cannot be imported from beside it")
    names = dict.fromkeys(part.path for part in proposal.wiring.parts if part.name in kept)
    model = _with_new_modules(looked, code, modules, root)
    again = look(model, looked.seen, root=root, call=followed.answer(modules))
    _hold_against(looked, again)
    new = replace(told, factory=parting.FACTORY)
    made = [module.attribute for module in modules]
    between = f": {'; '.join(map(str, proposal.wiring.gaps))}" if proposal.wiring.gaps else ""
    note = (
        f"The model's own modules alone make no components{between}. {' and '.join(made)} "
        f"{'is' if len(made) == 1 else 'are'} written out in {parting.FILENAME}, and the samples tried are answered as "
        "by the model."
    )
    try:
        parted = propose(again, new, [*names, *made])
    except ModelError as cause:  # a module that stays is called inside of a new one, too
        raise parting.CannotPart(cause.message) from cause
    if parted.wiring.gaps:
        raise parting.CannotPart(f"something is left: {parted.wiring.gaps[0]}")
    return Choice(parted, code, (note,))


def _with_new_modules(looked: Looked, code: str, modules: Sequence[parting.NewModule], root: Path) -> Any:
    place: dict[str, Any] = {"__name__": Path(parting.FILENAME).stem}
    try:
        with importing_from(root):
            exec(compile(code, parting.FILENAME, "exec"), place)
            for module in modules:
                setattr(looked.model, module.attribute, place[module.class_name](looked.model).eval())
    except Exception as cause:
        raise parting.CannotPart(f"its code does not run: {cause}") from cause
    return looked.model


def _hold_against(looked: Looked, again: Looked) -> None:
    for first, second in zip(looked.records, again.records, strict=True):
        wanted = [first.tensors[key] for key in first.whole.outputs.values()]
        got = [second.tensors[key] for key in second.whole.outputs.values()]
        if not alike(wanted, got):
            raise parting.CannotPart("the new modules answer otherwise than the model")


def _whole(looked: Looked, told: Told, root: Path, notes: tuple[str, ...]) -> Choice:
    from torch import nn

    code = parting.whole_text(told.factory)
    if looked.call is not None or code is None:
        why = "a function calls it" if looked.call is not None else f"{told.factory} cannot be imported"
        raise ModelError(f"the whole model cannot be one component: {why}")
    given = looked.given

    def call(model: Any, **inputs: Any) -> object:
        return model[_WHOLE](**{given.get(name, name): tensor for name, tensor in inputs.items()})

    wrapped = nn.ModuleDict({_WHOLE: looked.model}).eval()
    prefix = {"": _WHOLE} if told.weights else None
    again = look(wrapped, looked.seen, root=root, call=call)
    return Choice(propose(again, replace(told, factory=parting.FACTORY, prefix=prefix), [_WHOLE]), code, notes)
