"""Keep the ``n`` largest of every ``m`` neighbouring weights and set the others to zero: 2:4 by default.

What it does to the numbers: along the input channels of each linear layer and convolution, in every group of ``m``
weights all but the ``n`` of the largest magnitude become exactly zero; half of the weights at 2:4. This is the layout
that NVIDIA's sparse Tensor Cores take (Mishra et al., 2021, "Accelerating Sparse Deep Neural Networks"; the same
groups as in NVIDIA's ASP): for a convolution [K, C, R, S], each kernel position of each output channel on its own.

When to choose it: for TensorRT on Ampere or later, with ``sparsity`` allowed in the engine. It takes less accuracy
than removing half of the channels.

What it needs: nothing but the weights; training afterwards (recovery or QAT), which keeps the zeros, brings most of
the accuracy back.

Limits: only sparse kernels gain; ONNX Runtime and OpenVINO run as before. Layers whose input channels are no
multiple of ``m`` stay dense and are listed with the reason. TensorRT takes 2:4 only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

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


class Options(MethodOptions):
    """Options of n:m pruning.

    Attributes:
        method: ``n_m``.
        n: Weights kept in each group, below ``m``.
        m: Neighbouring input channels in a group.
        include: Globs on module paths; layers that match, or are inside a module that does, are pruned.
        exclude: Globs on module paths that are left as they are.
    """

    method: Literal["n_m"] = "n_m"
    n: Annotated[int, Field(ge=1)] = 2
    m: Annotated[int, Field(ge=2, le=64)] = 4
    include: Annotated[tuple[str, ...], Field(min_length=1)] = ("*",)
    exclude: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _keeps_fewer_than_all(self) -> Options:
        if self.n >= self.m:
            raise ValueError(f"n: {self.n} of m: {self.m} prunes nothing; n must be below m")
        return self


def data_needs(options: Options) -> frozenset[str]:
    """Return the recipe's data sets that it reads: none."""
    return frozenset()


def run(artifact: Artifact, options: Options, context: StepContext) -> Artifact:
    """Make the weights of one component n:m sparse.

    Returns:
        The module; metadata: ``costs``, ``sparse_parameters``, and ``pruning`` with the pattern, the weights pruned,
        those left dense and why.

    Raises:
        ModelError: When the module cannot be loaded or called.
        PruneError: When a glob matches nothing or no layer can be pruned.
    """
    with torch_threads(context.threads):
        module = load_component(artifact)
        before = costs.measure(module, product.examples(artifact, context, 1))
        chosen = weights.choose(module, options.include, options.exclude)
        unfit = {weight.name: reason for weight in chosen.weights if (reason := _unfit(weight, options.m))}
        fit = [weight for weight in chosen.weights if weight.name not in unfit]
        if not fit:
            raise PruneError(
                f"no layer can be made {options.n}:{options.m} sparse: "
                + "; ".join(f"{name}: {reason}" for name, reason in sorted(unfit.items())[:5])
            )
        details: dict[str, Any] = {
            "pattern": f"{options.n}:{options.m}",
            "pruned": [_prune(weight, options) for weight in fit],
            "not_pruned": {**chosen.left_out, **unfit},
        }
        note = (
            f"{options.n}:{options.m} zeros change time and memory only on an engine with sparse kernels "
            "(TensorRT, 2:4, Ampere or later); a dense engine runs as before"
        )
        return product.finish(
            module,
            artifact,
            context,
            before=before,
            facts=product.PruningFacts("n_m", note),
            details=details,
            zeroed=fit,
        )


def mask(weight: Tensor, n: int, m: int) -> Tensor:
    """Return where weights stay.

    Args:
        weight: [out, in, ...]; ``in`` is a multiple of ``m``.
        n: Weights kept in a group.
        m: Size of a group along axis 1.

    Returns:
        Booleans in the shape of the weight, ``n`` of every ``m`` along axis 1 true; of equal magnitudes the first.
    """
    import torch

    last = weight.detach().abs().movedim(1, -1)
    groups = last.reshape(*last.shape[:-1], -1, m)
    order = torch.sort(groups, dim=-1, descending=True, stable=True).indices
    kept = torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, order[..., :n], True)
    return kept.reshape(last.shape).movedim(-1, 1)


def _unfit(weight: Weight, m: int) -> str | None:
    """Say why a weight stays dense."""
    if getattr(weight.owner, "transposed", False):
        return "a transposed convolution: sparse kernels do not take it"
    channels = weight.tensor.shape[1]
    grouped = getattr(weight.owner, "groups", 1) > 1
    return f"{channels} input channels{' a group' if grouped else ''} are no multiple of {m}" if channels % m else None


def _prune(weight: Weight, options: Options) -> dict[str, Any]:
    import torch

    kept = mask(weight.tensor, options.n, options.m)
    with torch.no_grad():
        weight.tensor.mul_(kept)
    return {"weight": weight.name, "zeros": int((~kept).sum()), "of": kept.numel()}
