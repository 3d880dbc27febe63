"""The tensors that a recipe declares: their types and shapes, and the sizes in these that vary."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag

from mmdeploy.core.sizes import Size
from mmdeploy.recipe.missing import Missing

SIZE_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]*$"

Dtype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES"
]
TensorName = Annotated[str, Field(min_length=1)]
SizeName = Annotated[str, Field(pattern=SIZE_PATTERN, max_length=100)]


class Section(BaseModel):
    """A part of a recipe: frozen, and any key that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class SizeSpec(Section):
    """A size that varies from sample to sample, and its bounds."""

    min: int | None = Field(
        None, ge=1, lt=2**31, description="Smallest length; without it the smallest that multiple_of allows."
    )
    max: int = Field(ge=1, lt=2**31, description="Largest length.")
    multiple_of: int = Field(1, ge=1, lt=2**31, description="Every length is a multiple of it.")
    bucket: tuple[Annotated[int, Field(ge=1, lt=2**31)], ...] | None = Field(
        None,
        min_length=1,
        description="Lengths that requests are padded to inside the ensemble, ascending, the last of them max: "
        "requests of one bucket are batched together. Padding is 0, or what the input's range has nearest to it.",
        examples=[[16, 32, 77]],
    )
    pad_to: int | None = Field(
        None,
        ge=1,
        lt=2**31,
        description="Every request is padded to this length inside the ensemble, and components see no other: for "
        "modules that work at one length only. Padding is 0, or what the input's range has nearest to it.",
    )
    mask: TensorName | None = Field(
        None,
        description="The mask of what is padded by pad_to or bucket, 1 where a value is real: an input, or a name of "
        "your own for one that the ensemble makes.",
    )

    def named(self, name: str) -> Size:
        """Return the size under its name."""
        return Size(name, self.min or self.multiple_of, self.max, self.multiple_of)


if TYPE_CHECKING:
    Dim = int | str
else:
    Dim = Annotated[
        Annotated[int, Field(ge=-1), Tag("size")] | Annotated[SizeName, Tag("name")],
        Discriminator(lambda value: "name" if isinstance(value, str) else "size"),
    ]
Shape = Annotated[tuple[Dim, ...], Field(min_length=1)]


def plain_shape(shape: tuple[Dim, ...]) -> tuple[int, ...]:
    """Return a shape with -1 in the place of sizes' names."""
    return tuple(-1 if isinstance(dim, str) else dim for dim in shape)


class InputSpec(Section):
    """A tensor that clients send."""

    dtype: Dtype = Field(description="Triton's name of the element type.")
    shape: Shape = Field(
        description="Shape of one sample, the batch dimension left out; a name from sizes, or -1, where a size "
        "varies. Axes of one name have one length in a sample.",
        examples=[[3, 224, 224], ["tokens"]],
    )
    range: tuple[float, float] | None = Field(
        None,
        description="Lowest and highest value that makes sense, such as [0, 49407] for token ids.",
        examples=[[0, 255]],
    )
    optional: bool = Field(False, description="Whether a request may leave it out.")
    missing: Missing | None = Field(
        None,
        description="What stands in for an optional input where it is not there.",
        examples=[{"strategy": "mean"}],
    )


class Wire(Section):
    """The ensemble's tensor that a component's tensor is wired to, and what it is declared to hold."""

    tensor: TensorName = Field(description="Name of the tensor in the ensemble.")
    dtype: Dtype | None = Field(None, description="Element type; checked against the other end of the wire.")
    shape: Shape | None = Field(
        None,
        description="Shape of one sample, the batch dimension left out; checked like dtype.",
    )


class OutputSpec(Section):
    """A tensor that clients get."""

    labels: Path | None = Field(
        None,
        description="Text file with one class name a line; lets a client ask Triton for the top classes.",
        examples=["labels.txt"],
    )


if TYPE_CHECKING:
    OutputSpecOrNothing = OutputSpec
else:
    OutputSpecOrNothing = Annotated[
        Annotated[None, AfterValidator(lambda _: OutputSpec()), Tag("nothing")] | Annotated[OutputSpec, Tag("spec")],
        Discriminator(lambda value: "nothing" if value is None else "spec"),
    ]
