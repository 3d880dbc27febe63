"""The keys of an input that a request may leave out, and of the subsets of modalities that gates judge."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from mmdeploy.core.contracts import MethodOptions

Strategy = Literal["zeros", "mean", "learned", "skip"]
Threshold = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


class Detect(MethodOptions):
    """When an input that was sent counts as missing all the same, row by row; at least one key."""

    min_std: Threshold | None = Field(
        None, description="Least standard deviation of a row's values, in their own unit: a black image has 0."
    )
    min_rms: Threshold | None = Field(
        None, description="Least root of the mean square of a row's values, in their own unit: silence has 0."
    )
    empty: bool = Field(False, description="Whether an empty string, or a row without a value, counts as missing.")

    @model_validator(mode="after")
    def _detects_something(self) -> Self:
        if not self.settings:
            raise ValueError("give at least one of min_std, min_rms and empty: true")
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """What is asked for, as the served step takes it."""
        return {key: value for key, value in self.model_dump().items() if value}


class Missing(MethodOptions):
    """What the rest of the model is given for an input that is not there."""

    strategy: Strategy = Field(
        description="What stands in for the embedding: zeros; mean, that of the calibration samples; learned, a "
        "parameter of the model; skip, zeros beside a presence tensor by which the head leaves them out."
    )
    parameter: str | None = Field(
        None,
        min_length=1,
        description="Of learned: attribute path of the model's parameter, of the embedding's shape.",
        examples=["fusion.no_audio"],
    )
    presence: str | None = Field(
        None,
        min_length=1,
        description="Name of a tensor of the ensemble, BOOL [1], true where the input is there, that a component "
        "reads; skip needs it.",
        examples=["audio_is_there"],
    )
    detect: Detect | None = Field(
        None, description="What arrives and counts as missing: silence, a black image, an empty string."
    )

    @model_validator(mode="after")
    def _keys_fit(self) -> Self:
        if self.strategy == "learned" and self.parameter is None:
            raise ValueError("learned needs the model's parameter: name it under parameter")
        if self.strategy != "learned" and self.parameter is not None:
            raise ValueError(f"parameter belongs to learned, not to {self.strategy}: take it out")
        if self.strategy == "skip" and self.presence is None:
            raise ValueError("skip needs the tensor by which the head knows: name it under presence")
        return self


class Subset(MethodOptions):
    """Inputs that are left out together."""

    without: tuple[str, ...] = Field(min_length=1, description="The optional inputs that are left out.")

    @property
    def label(self) -> str:
        """The subset as reports call it."""
        return f"without {' and '.join(self.without)}"
