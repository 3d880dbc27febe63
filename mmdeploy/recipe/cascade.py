"""A recipe's section for a cascade: cheap components answer first, the rest is asked where they are unsure."""

from __future__ import annotations

from pydantic import Field

from mmdeploy.recipe.declared import Section, TensorName

#: What the step that decides, and the model of the rest, are called where components have their names.
STEP, REST = "cascade", "rest"


class Cascade(Section):
    """Cheap components answer first; the rest of the model is asked only for rows in which they are unsure."""

    when: str = Field(
        min_length=1,
        description="The rows for which the rest is asked, as a condition on tensors that components write: max, min, "
        "sum, mean, entropy and margin (the largest less the second) of the last axis, softmax, sigmoid, comparisons, "
        "and, or, not, numbers. A row with a value that is not finite is asked further, too.",
        examples=["max(softmax(quick_logits)) < 0.9"],
    )
    answers: dict[TensorName, TensorName] = Field(
        min_length=1,
        description="By output that the rest writes: the tensor of the same shape that answers in its place for rows "
        "that leave early.",
        examples=[{"logits": "quick_logits"}],
    )
    left_early: TensorName = Field(
        "left_early",
        description="Name of one more output of the ensemble, BOOL [1]: whether the row left early.",
    )
    instances: int = Field(
        1,
        ge=1,
        le=64,
        description="Processes of the step that decides. While one waits for the rest of the model, another may let "
        "rows leave early.",
    )
