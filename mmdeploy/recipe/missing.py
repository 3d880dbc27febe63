"""The keys of an input that a request may leave out, and of the subsets of modalities that gates judge."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mmdeploy.core.contracts import MethodOptions

Strategy = Literal["zeros", "mean", "learned", "skip"]
Threshold = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


class Detect(MethodOptions):
    """When an input that was sent counts as missing all the same, row by row; at least one key but tensor."""

    tensor: str | None = Field(
        None,
        min_length=1,
        description="What min_std and min_rms look at: the input, or a tensor that steps of preprocess make of it "
        "alone. The input itself where it holds numbers, else what components read of it where that is one tensor.",
        examples=["pixels"],
    )
    min_std: Threshold | None = Field(
        None, description="Least standard deviation of a row's values, in the tensor's unit: a black image has 0."
    )
    min_rms: Threshold | None = Field(
        None, description="Least root of the mean square of a row's values, in the tensor's unit: silence has 0."
    )
    empty: bool = Field(
        False, description="Whether an empty string that was sent, or a row without a value, counts as missing."
    )
    invalid: bool = Field(
        False,
        description="Whether a file or text that a step of preprocess refuses (damaged, beyond a limit) counts as "
        "missing, and its request is answered all the same.",
    )

    @model_validator(mode="after")
    def _detects_something(self) -> Self:
        if not (self.thresholds or self.empty or self.invalid):
            raise ValueError("give at least one of min_std, min_rms, empty: true and invalid: true")
        if self.tensor is not None and not self.thresholds:
            raise ValueError("tensor is what min_std and min_rms look at: give one of them, or take tensor out")
        return self

    @property
    def thresholds(self) -> dict[str, float]:
        """What is asked of the values of the tensor, as the served step takes it."""
        return {key: value for key in ("min_std", "min_rms") if (value := getattr(self, key)) is not None}


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
