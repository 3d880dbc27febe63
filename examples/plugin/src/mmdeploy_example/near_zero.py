"""Set weights that are close to zero, measured by their matrix, to zero.

What it does to the numbers: in every matrix, weights below ``share`` of its standard deviation become 0.
When to choose it: before something that makes use of zeros, such as a compressed download. What it needs: nothing; no
data is read. Limits: nothing gets faster by it, and no shape changes.
"""

from __future__ import annotations

from pydantic import Field

from mmdeploy.core.artifact import Artifact
from mmdeploy.core.contracts import MethodOptions, StepContext

CONSUMES, PRODUCES = "torch", "torch"
REQUIRES = ("torch", "safetensors")


class Options(MethodOptions):
    """Options of the pass.

    Attributes:
        share: Weights below this share of their matrix's standard deviation become 0.
    """

    share: float = Field(0.05, gt=0, lt=1)


def run(artifact: Artifact, options: Options, context: StepContext) -> Artifact:
    """Set the weights of a component and write it."""
    import torch

    from mmdeploy.model.torch_component import load_component, save_component

    component, zeros, total = load_component(artifact), 0, 0
    with torch.no_grad():
        for weight in (parameter for parameter in component.parameters() if parameter.dim() > 1):
            small = weight.abs() < options.share * weight.std()
            weight.masked_fill_(small, 0.0)
            zeros, total = zeros + int(small.sum()), total + weight.numel()
    context.progress(total, total, "weights")
    return save_component(
        component,
        before=artifact,
        folder=context.workdir,
        produced_by="near_zero",
        metadata={"zeros": zeros, "weights_in_all": total},
    )
