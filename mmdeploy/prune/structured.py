"""Take whole channels, attention heads and MLP units out: the graph gets smaller and faster on every engine.

What it does to the numbers: units that matter least are removed from all layers that share them, found by
torch-pruning's dependency graph (Fang et al., 2023, "DepGraph"): the hidden widths of MLPs, whole attention heads
(the width of a head stays), the channels between convolutions. The rest answers exactly as if those units gave
nothing, which is checked for every group before anything is decided; a group that fails the check is left alone.

When to choose it: for speed on any engine. A ratio of 0.3 to 0.5 needs recovery by training afterwards; what remains
can be quantized as any other component.

What it needs: ``importance: magnitude`` needs nothing; ``taylor`` training data with labels, and judges by the loss
where the sizes of weights mislead. Neither is better everywhere: try ``magnitude`` first. On 512 validation samples of
spoken_digits (99.0 % right), one component pruned at 0.4 and not trained since, ``magnitude`` kept 98.0, 96.9 and
99.0 % for image, audio and fusion, ``taylor`` 98.0, 95.5 and 97.7. Widths are kept in multiples of ``round_to``: other
widths can be slower than before.

Limits: the widths of the component's inputs and outputs never change, nor does the residual stream of a transformer.
``nn.MultiheadAttention`` keeps its heads, because it ties them to the width of its input; MLPs around it are pruned.
Attention written with linear layers loses heads when it counts them in an attribute (``heads``, ``num_heads``, ...; for
other names see ``heads``). Recurrent layers (`nn.LSTM`, `nn.GRU`, cells) keep their widths. Grouped convolutions and
group norms keep their number of groups. A layer that multiplies by
a buffer as wide as its channels stays as it is, and so does one whose channels are picked by an index (weights of
experts in one parameter).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from mmdeploy.core.artifact import Artifact
from mmdeploy.core.contracts import MethodOptions, StepContext
from mmdeploy.core.errors import PruneError
from mmdeploy.model import costs
from mmdeploy.model.torch_component import component_facts, load_component
from mmdeploy.model.torch_model import torch_threads
from mmdeploy.prune import attention, groups, importance, product, shares, surgery, tracing, weights
from mmdeploy.prune.groups import Group, Refused
from mmdeploy.prune.surgery import Removal
from mmdeploy.training.processes import labels_on

if TYPE_CHECKING:
    from torch import Tensor, nn

logger = logging.getLogger(__name__)

CONSUMES = "torch"
PRODUCES = "torch"
REQUIRES: tuple[str, ...] = ("torch", "torch_pruning", "safetensors")
MEASURES = False

#: Not 1: a batch of 1 hides mistakes between the batch and other axes.
_BATCH = 2
_SHOWN = 5


class Cut(MethodOptions):
    """How units are chosen, whatever share of them goes: what structured pruning and a search over it share.

    Attributes:
        round_to: Channels and MLP units are kept in multiples of this.
        importance: ``magnitude`` (size of the weights) or ``taylor`` (first-order change of the task loss).
        taylor_batches: Batches of training data that ``taylor`` averages over.
        taylor_batch_size: Samples in each.
        scope: ``local``: every layer loses the same share. ``global``: importance is compared across layers.
        exclude: Globs on module paths that keep their shape, with the widths around them.
        prune_heads: Whether attention heads go too.
        heads: Name of the attribute that counts heads, by path of an attention that does not use a usual one.
    """

    round_to: Annotated[int, Field(ge=1)] = 8
    importance: Literal["magnitude", "taylor"] = "magnitude"
    taylor_batches: Annotated[int, Field(ge=1)] = 8
    taylor_batch_size: Annotated[int, Field(ge=1)] = 32
    scope: Literal["local", "global"] = "local"
    exclude: tuple[str, ...] = ()
    prune_heads: bool = True
    heads: Mapping[str, str] = Field(default_factory=dict)


class Options(Cut):
    """Options of structured pruning.

    Attributes:
        method: ``structured``.
        ratio: Share of the channels, MLP units and heads that goes, above 0 and below 1.
    """

    method: Literal["structured"] = "structured"
    ratio: Annotated[float, Field(gt=0, lt=1)]


def data_needs(options: Options) -> frozenset[str]:
    """Return the recipe's data sets that are read."""
    return frozenset({"training", "validation"} if options.importance == "taylor" else ())


def run(artifact: Artifact, options: Options, context: StepContext) -> Artifact:
    """Make one component smaller.

    Returns:
        The module; metadata: ``costs``, and ``pruning`` with what was cut from which layers, what stayed and why.

    Raises:
        ModelError: When the module cannot be loaded or called.
        PruneError: When it cannot be traced, nothing can be pruned, a layer would be left with too little, or
            ``taylor`` lacks training data.
        DataError: When the training data is bad.
    """
    if options.importance == "taylor" and context.training is None:
        raise PruneError(
            f"{context.component}: importance: taylor needs training data",
            hint="name callables under `data.training` and `data.validation`, or choose `importance: magnitude`",
        )
    with torch_threads(context.threads):
        module = load_component(artifact)
        before = costs.measure(module, product.examples(artifact, context, 1))
        weights.check_globs(module, exclude=options.exclude)
        of = component_facts(artifact)
        subject = tracing.Subject(
            context.component, module, product.examples(artifact, context, _BATCH),
            of.outputs, of.root, options.exclude,
        )  # fmt: skip
        chosen, refused = _prunable(subject, options, context)
        scores = _scores(chosen, module, options, context)
        removals = shares.choose(
            chosen, scores, ratio=options.ratio, round_to=options.round_to, scope=options.scope
        )  # fmt: skip
        if not removals:
            raise _nothing(context.component, [*refused, *(Refused(group.name, _small(options)) for group in chosen)])
        _cut(subject, removals)
        facts, details = product.PruningFacts("structured"), _details(chosen, refused, removals, options)
        return product.finish(module, artifact, context, before=before, facts=facts, details=details)


def _prunable(subject: tracing.Subject, options: Options, context: StepContext) -> tuple[list[Group], list[Refused]]:
    """Find the groups that can lose units, each tried on its own."""
    graph = tracing.trace(subject)
    attentions = attention.find(subject.module, options.heads)
    found = list(attention.head_groups(groups.channel_groups(graph, subject.module), attentions))
    refused = [group for group in found if isinstance(group, Refused)]
    refused += [Refused(path, reason) for path, reason in attention.fixed(subject.module)]
    left: dict[str, Group] = {}
    for done, group in enumerate(found):
        context.progress(done, len(found), "checking groups")
        if isinstance(group, Refused) or group.name in left:  # of two guesses at one attention, the first that is right
            continue
        if (reason := _unwanted(group, options) or _unsound(subject, group, options)) is not None:
            refused.append(Refused(group.name, reason))
        else:
            left[group.name] = group
    refused = [group for group in refused if group.name not in left]
    if not left:
        raise _nothing(subject.name, refused)
    order = {path: place for place, (path, _) in enumerate(subject.module.named_modules())}
    return sorted(left.values(), key=lambda group: order.get(group.name, 0)), refused


def _unwanted(group: Group, options: Options) -> str | None:
    for part in group.slices:
        if (pattern := weights.matching(part.layer, options.exclude)) is not None:
            return f"excluded by {pattern!r}"
    if group.kind == "heads" and not options.prune_heads:
        return "prune_heads is false"
    return shares.too_narrow(group, options.round_to)


def _unsound(subject: tracing.Subject, group: Group, options: Options) -> str | None:
    """Take every second unit out on trial."""
    every = shares.step(group, options.round_to)
    units = tuple(unit for unit in range(group.units - every) if unit // every % 2 == 0)
    return surgery.difference(subject, [Removal(group, units)])


def _scores(chosen: Sequence[Group], module: nn.Module, options: Options, context: StepContext) -> Mapping[str, Tensor]:
    if options.importance == "magnitude":
        return {group.name: importance.magnitudes(group) for group in chosen}
    with tracing.differentiable(module):
        return importance.taylor(chosen, _losses(module, options, context))


def _losses(module: nn.Module, options: Options, context: StepContext) -> Iterator[tuple[Tensor, int]]:
    import torch

    setup = context.training
    assert setup is not None
    network = setup.network(module)
    for done, (feeds, labels) in enumerate(setup.training(0, options.taylor_batch_size)):
        if done == options.taylor_batches:
            return
        if labels is None:
            raise PruneError(
                f"{context.component}: importance: taylor needs labels, the training data has none",
                hint="give labels beside the feeds, or choose `importance: magnitude`",
            )
        context.progress(done, options.taylor_batches, "importance on training batches")
        given = {name: torch.from_numpy(value) for name, value in feeds.items()}
        with torch.enable_grad():
            yield setup.task_loss(network(given), labels_on(labels, torch.device("cpu"))), len(labels)


def _cut(subject: tracing.Subject, removals: Sequence[Removal]) -> None:
    if (reason := surgery.difference(subject, removals)) is not None:
        raise PruneError(
            f"{subject.name}: the groups can be pruned one by one, but not together: {reason}",
            hint=f"exclude some of {', '.join(removal.group.name for removal in removals[:_SHOWN])}",
        )
    surgery.cut(removals)


def _nothing(component: str, refused: Sequence[Refused]) -> PruneError:
    reasons = [f"{group.name}: {group.reason}" for group in refused]
    rest = f"; and {len(reasons) - _SHOWN} more" if len(reasons) > _SHOWN else ""
    found = "; ".join(reasons[-_SHOWN:]) or "it has no linear layers and no convolutions"
    return PruneError(
        f"{component}: structured pruning finds nothing to cut: {found}{rest}",
        hint="see `round_to`, `exclude` and `heads`, or drop `prune`",
    )


def _small(options: Options) -> str:
    return f"a ratio of {options.ratio:g} rounds to nothing at round_to {options.round_to}"


def _details(
    chosen: Sequence[Group], refused: Sequence[Refused], removals: Sequence[Removal], options: Options
) -> dict[str, Any]:
    cut = {removal.group.name for removal in removals}
    return {
        "ratio": options.ratio,
        "scope": options.scope,
        "importance": options.importance,
        "pruned": surgery.removed(removals),
        "not_pruned": {
            **{group.name: group.reason for group in refused},
            **{group.name: _small(options) for group in chosen if group.name not in cut},
        },
    }
