"""The steps that record what the original answers: the PyTorch model for the gates, the FP32 graphs for what is judged.

Both are steps of no component, which are added to a plan as others ask for them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mmdeploy.planning.chains import original_graph
from mmdeploy.planning.kinds import ANSWERS, OUTPUTS
from mmdeploy.planning.steps import ORIGINAL, ORIGINAL_ANSWERS, Step, used_by
from mmdeploy.recipe.modalities import optional_inputs

if TYPE_CHECKING:
    from mmdeploy.planning.identities import Identities
    from mmdeploy.planning.planned_sets import PlannedSets
    from mmdeploy.planning.planned_stand_ins import PlannedStandIns
    from mmdeploy.recipe.schema import Recipe


class PlannedOriginals:
    """Adds the steps to those of a plan."""

    def __init__(
        self,
        recipe: Recipe,
        identities: Identities,
        sets: PlannedSets,
        stand_ins: PlannedStandIns,
        steps: dict[str, Step],
    ) -> None:
        """Take what the steps are added to."""
        self._recipe, self._identities, self._steps = recipe, identities, steps
        self._sets, self._stand_ins = sets, stand_ins

    def graphs(self) -> dict[str, str]:
        """Return the step of the FP32 export of every component."""
        return {name: original_graph(self._recipe, name) for name in self._recipe.components}

    def add_outputs(self) -> None:
        """Add the record of what the PyTorch model answers on the evaluation data."""
        needs = (*self._sets.add({"evaluation"}), *self._stand_ins.add())
        identity = {
            **self._identities.model(*self._recipe.components),
            "wiring": self._identities.wiring(*self._recipe.components),
            **self._identities.subsets(),
            **self._identities.cascade(),
            **self._sets.inputs(needs, {"evaluation"}),
            **self._identities.media("postprocess"),
            **self._identities.made_by(OUTPUTS),
        }
        self._steps[ORIGINAL] = Step(ORIGINAL, "original", OUTPUTS.name, "torch", {}, needs, identity)

    def answers(self) -> dict[str, dict[str, str]]:
        """Add the record of what the FP32 graphs answer on the validation data, unless it is there.

        Returns:
            It, as a role among what a step uses; nothing where what they answer depends on who is judged: where inputs
            may be missing, or samples are answered early.
        """
        if optional_inputs(self._recipe) or self._recipe.cascade is not None:
            return {}
        if ORIGINAL_ANSWERS not in self._steps:
            uses = {"original": self.graphs()}
            needs = (*used_by(uses), *self._sets.add({"validation"}))
            identity = {
                **self._identities.inputs(),
                "wiring": self._identities.wiring(*self._recipe.components),
                **self._sets.inputs(needs, {"validation"}),
                **self._identities.made_by(ANSWERS),
            }
            step = Step(ORIGINAL_ANSWERS, "original", ANSWERS.name, "onnxruntime", {}, needs, identity)
            self._steps[ORIGINAL_ANSWERS] = replace(step, uses=uses)
        return {"answers": {"original": ORIGINAL_ANSWERS}}
