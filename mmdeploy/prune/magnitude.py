"""Set the smallest weights of linear layers and convolutions to zero, one by one (unstructured).

What it does to the numbers: the share ``sparsity`` of the weights, those of the smallest magnitude, becomes exactly
zero; biases, norms and embeddings stay. With ``scope: local`` each layer loses that share of its own weights; with
``global`` one threshold holds for the whole component, so layers of small weights lose more (Han et al., 2015,
"Learning both Weights and Connections for Efficient Neural Networks").

When to choose it: to learn how much a component can lose, before fine-tuning or where a file is compressed. Choose
``n_m`` for sparse kernels, and ``structured`` for speed everywhere.

What it needs: nothing but the weights. Above a sparsity of about 0.5, recovery by training, which keeps the zeros.

Limits: **it changes no cost on a dense engine.** ONNX Runtime, OpenVINO and TensorRT multiply by these zeros as by
any number: time, memory and file size stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from mmdeploy.core.artifact import Artifact
from mmdeploy.core.contracts import MethodOptions, StepContext
from mmdeploy.core.errors import PruneError
from mmdeploy.model import costs
from mmdeploy.model.torch_component import load_component
from mmdeploy.model.torch_model import torch_threads
from mmdeploy.prune import product, weights
from mmdeploy.prune.weights import Weight

if TYPE_CHECKING:
    from torch import Tensor

CONSUMES = "torch"
PRODUCES = "torch"
REQUIRES: tuple[str, ...] = ("torch", "safetensors")
MEASURES = False

NOTE = (
    "unstructured zeros change no cost on a dense engine: time, memory and file size are as before; "
    "use `structured`, or `n_m` with sparse kernels, for speed"
)


class Options(MethodOptions):
    """Options of unstructured pruning by magnitude.

    Attributes:
        method: ``magnitude``.
        sparsity: Share of the weights that becomes zero, above 0 and below 1.
        scope: Rank weights in each layer (``local``) or over the component (``global``).
        include: Globs on module paths; layers that match, or are inside a module that does, are pruned.
        exclude: Globs on module paths that are left as they are.
    """

    method: Literal["magnitude"] = "magnitude"
    sparsity: Annotated[float, Field(gt=0, lt=1)]
    scope: Literal["local", "global"] = "local"
    include: Annotated[tuple[str, ...], Field(min_length=1)] = ("*",)
    exclude: tuple[str, ...] = ()


def data_needs(options: Options) -> frozenset[str]:
    """Return the recipe's data sets that it reads: none."""
    return frozenset()


def run(artifact: Artifact, options: Options, context: StepContext) -> Artifact:
    """Zero the smallest weights of one component.

    Returns:
        The module; metadata: ``costs``, ``sparse_parameters``, and ``pruning`` with the share of zeros by weight,
        what was left out and why, and a note on what it does not change.

    Raises:
        ModelError: When the module cannot be loaded or called.
        PruneError: When a glob matches nothing, nothing can be pruned, or a layer would be left without weights.
    """
    with torch_threads(context.threads):
        module = load_component(artifact)
        before = costs.measure(module, product.examples(artifact, context, 1))
        chosen = weights.choose(module, options.include, options.exclude)
        masks = _masks(chosen.weights, options)
        _check(chosen.weights, masks, options)
        details: dict[str, Any] = {
            "sparsity": options.sparsity,
            "scope": options.scope,
            "pruned": [_apply(weight, mask) for weight, mask in zip(chosen.weights, masks, strict=True)],
            "not_pruned": dict(chosen.left_out),
        }
        return product.finish(
            module,
            artifact,
            context,
            before=before,
            facts=product.PruningFacts("magnitude", NOTE),
            details=details,
            zeroed=chosen.weights,
        )


def _masks(chosen: Sequence[Weight], options: Options) -> list[Tensor]:
    """Return ones where weights stay, in the shapes of the weights."""
    import torch
    from torch.nn.utils import prune

    smallest: Any = prune.L1Unstructured(amount=options.sparsity)
    with torch.no_grad():
        if options.scope == "local":
            return [smallest.compute_mask(weight.tensor, torch.ones_like(weight.tensor)) for weight in chosen]
        flat = torch.cat([weight.tensor.flatten() for weight in chosen])
        parts = smallest.compute_mask(flat, torch.ones_like(flat)).split([weight.tensor.numel() for weight in chosen])
        return [part.view_as(weight.tensor) for part, weight in zip(parts, chosen, strict=True)]


def _check(chosen: Sequence[Weight], masks: Sequence[Tensor], options: Options) -> None:
    for weight, mask in zip(chosen, masks, strict=True):
        if not mask.any():
            largest = _largest_sparsity(chosen, options)
            raise PruneError(
                f"sparsity {options.sparsity:g} leaves {weight.name} without a single weight",
                hint=f"at most {largest:.4g} is possible here, or exclude {weight.layer!r}",
            )
    if all(bool(mask.all()) for mask in masks):
        raise PruneError(
            f"sparsity {options.sparsity:g} of {sum(mask.numel() for mask in masks)} weights is less than one weight",
            hint="raise `sparsity`, or drop `prune`",
        )


def _largest_sparsity(chosen: Sequence[Weight], options: Options) -> float:
    """Return the largest sparsity at which each layer keeps a weight, rounded down to four digits."""
    import torch

    if options.scope == "local":
        share = min(1.0 - 1.0 / weight.tensor.numel() for weight in chosen)
    else:
        magnitudes = torch.cat([weight.tensor.detach().abs().flatten() for weight in chosen])
        largest = min(float(weight.tensor.detach().abs().max()) for weight in chosen)
        share = int((magnitudes < largest).sum()) / magnitudes.numel()
    return int(share * 10_000) / 10_000


def _apply(weight: Weight, mask: Tensor) -> dict[str, Any]:
    import torch

    with torch.no_grad():
        weight.tensor.mul_(mask)
    zeros = int((mask == 0).sum())
    return {"weight": weight.name, "zeros": zeros, "of": mask.numel(), "share": zeros / mask.numel()}
