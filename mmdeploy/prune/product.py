"""What every pruning pass ends with: the smaller or sparser module as an artifact, with its costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmdeploy.core.artifact import Artifact
from mmdeploy.core.contracts import StepContext
from mmdeploy.core.facts import as_metadata
from mmdeploy.model import costs
from mmdeploy.model.torch_component import component_facts, save_component
from mmdeploy.prune.weights import Weight

if TYPE_CHECKING:
    from torch import Tensor, nn


#: Name in the metadata of what a pruning pass says.
PRUNING = "pruning"


@dataclass(frozen=True)
class PruningFacts:
    """What was pruned, as others read it.

    Attributes:
        method: Name of the pass.
        note: What a reader of the costs must know, such as that nothing gets faster by it; empty where nothing.
    """

    method: str
    note: str = ""


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
    facts: PruningFacts,
    details: Mapping[str, Any],
    zeroed: Sequence[Weight] = (),
) -> Artifact:
    """Write the pruned module.

    Args:
        module: As it is now.
        artifact: What the pass took.
        context: Of the step.
        before: Costs before the pass.
        facts: The pass, and what readers of its costs must know.
        details: What else stands in the metadata under `PRUNING`.
        zeroed: Weights whose zeros later training has to keep.
    """
    after = costs.measure(module, examples(artifact, context, 1))
    return save_component(
        module,
        before=artifact,
        folder=context.workdir,
        produced_by=facts.method,
        zeroed=[weight.name for weight in zeroed],
        metadata={
            costs.COSTS: as_metadata(costs.CostChange(before, after)),
            PRUNING: {**details, **as_metadata(facts)},
        },
    )
