"""What every pruning pass ends with: the smaller or sparser module as an artifact, with its costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mmdeploy.core.artifact import Artifact
from mmdeploy.core.contracts import StepContext
from mmdeploy.model import costs
from mmdeploy.model.torch_component import component_facts, save_component
from mmdeploy.prune.weights import Weight

if TYPE_CHECKING:
    from torch import Tensor, nn


def examples(artifact: Artifact, context: StepContext, batch: int) -> dict[str, Tensor]:
    """Return example inputs of the component as tensors, batch on axis 0."""
    import numpy as np
    import torch

    feed = context.examples(batch)
    return {name: torch.from_numpy(np.array(feed[name])) for name in component_facts(artifact).inputs}


def finish(
    module: nn.Module,
    artifact: Artifact,
    context: StepContext,
    *,
    before: costs.Costs,
    facts: Mapping[str, Any],
    zeroed: Sequence[Weight] = (),
) -> Artifact:
    """Write the pruned module.

    Args:
        module: As it is now.
        artifact: What the pass took.
        context: Of the step.
        before: Costs before the pass.
        facts: What becomes the metadata ``pruning``; ``method`` in it is the name of the pass.
        zeroed: Weights whose zeros later training has to keep.
    """
    after = costs.measure(module, examples(artifact, context, 1))
    compared = {"before": before.to_metadata(), "after": after.to_metadata()}
    return save_component(
        module,
        before=artifact,
        folder=context.workdir,
        produced_by=facts["method"],
        zeroed=[weight.name for weight in zeroed],
        metadata={"costs": compared, "pruning": dict(facts)},
    )
