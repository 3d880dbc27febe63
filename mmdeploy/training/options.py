"""What a recipe says about training: fields that every pass that trains has in common."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mmdeploy.core.contracts import MethodOptions

_SGD_MOMENTUM = 0.9


class TrainingOptions(MethodOptions):
    """Options of training; a pass that trains derives its own from these and adds ``method``."""

    epochs: Annotated[int, Field(ge=1, description="Passes over the training split, at most.")] = 10
    batch_size: Annotated[
        int,
        Field(ge=1, description="Samples a step, over all processes together; each takes its share of every batch."),
    ] = 32
    optimizer: Annotated[
        Literal["adamw", "sgd"], Field(description="AdamW (Loshchilov and Hutter, 2019), or SGD with momentum.")
    ] = "adamw"
    learning_rate: Annotated[
        float, Field(gt=0, le=10, allow_inf_nan=False, description="Largest learning rate, after the warm-up.")
    ] = 1e-4
    weight_decay: Annotated[
        float,
        Field(
            ge=0,
            lt=1,
            description="Decay of weights a step, times the learning rate; biases, norms and scales, which have "
            "fewer than two dimensions, are not decayed.",
        ),
    ] = 0.01
    momentum: Annotated[float | None, Field(ge=0, lt=1, description="Of sgd, where null is 0.9; adamw takes none.")] = (
        None
    )
    warmup: Annotated[
        float, Field(ge=0, lt=1, description="Share of all steps over which the learning rate rises from zero.")
    ] = 0.05
    schedule: Annotated[
        Literal["cosine", "constant"],
        Field(description="The learning rate after the warm-up: half a cosine down to zero, or constant."),
    ] = "cosine"
    gradient_clip: Annotated[
        float | None, Field(gt=0, allow_inf_nan=False, description="Largest L2 norm of the gradient; null for any.")
    ] = 1.0
    loss: Annotated[
        Literal["task", "distill", "both"],
        Field(
            description="What is minimized: the task's own loss (needs labels), the distance to what the original "
            "model answers (needs none), or their sum."
        ),
    ] = "both"
    temperature: Annotated[
        float,
        Field(gt=0, le=100, description="Of distillation: class scores are divided by it before the softmax."),
    ] = 2.0
    logits_weight: Annotated[
        float, Field(ge=0, le=1e6, description="Of distillation: weight of the output that is scored.")
    ] = 1.0
    embedding_weight: Annotated[
        float, Field(ge=0, le=1e6, description="Of distillation: weight of what the component itself puts out.")
    ] = 1.0
    relation_weight: Annotated[
        float,
        Field(
            ge=0,
            le=1e6,
            description="Of distillation: weight of how the samples of a batch lie to each other, by the cosines "
            "between what the component puts out for them; needs batches of two and more.",
        ),
    ] = 0.0
    modality_dropout: Annotated[
        float,
        Field(
            ge=0,
            lt=1,
            description="Share of the training samples that lose the inputs of one of the recipe's subsets, drawn "
            "anew for each batch; needs optional inputs.",
        ),
    ] = 0.0
    patience: Annotated[
        int | None,
        Field(ge=1, description="Stop after so many epochs without a better validation metric; null never stops."),
    ] = 3

    @property
    def uses_task(self) -> bool:
        """Whether the task's loss, which needs labels, is part of the loss."""
        return self.loss != "distill"

    @property
    def uses_teacher(self) -> bool:
        """Whether the original model's answers are part of the loss."""
        return self.loss != "task"

    @property
    def sgd_momentum(self) -> float:
        """The momentum of sgd."""
        return _SGD_MOMENTUM if self.momentum is None else self.momentum

    @model_validator(mode="after")
    def _make_sense(self) -> Self:
        if self.momentum is not None and self.optimizer == "adamw":
            raise ValueError("adamw takes no momentum: leave it out, or use optimizer sgd")
        if self.uses_teacher and not (self.logits_weight or self.embedding_weight or self.relation_weight):
            raise ValueError(
                f"loss {self.loss} with logits_weight 0 and embedding_weight 0 compares nothing with the original: "
                "give one of them, or use loss task"
            )
        return self
