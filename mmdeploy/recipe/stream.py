"""A recipe's section for streams: a client sends a sample in chunks, and the server keeps what was remembered."""

from __future__ import annotations

from pydantic import Field

from mmdeploy.recipe.declared import Section, SizeName


class Stream(Section):
    """A sample comes in chunks, in their order; recurrent layers go on where the chunk before left them."""

    over: SizeName = Field(
        description="The size, of `sizes`, along which samples are cut: each request of a sequence brings a piece.",
        examples=["frames"],
    )
    keep: tuple[str, ...] = Field(
        min_length=1,
        description="Components whose recurrent layers (GRU, LSTM, RNN, forwards) begin with the state that they had "
        "at the end of the chunk before; zeros in the first. All others see each chunk alone.",
        examples=[["memory"]],
    )
    chunk: int = Field(
        ge=1,
        description="Length of the chunks that gates, probes and mmdeploy's own client cut whole samples into. Other "
        "clients may send any length that the size allows.",
    )
    max_idle_s: float = Field(
        60.0,
        ge=0.001,
        le=86400,
        allow_inf_nan=False,
        description="A sequence that nothing was sent of for so long is forgotten.",
    )
    max_sequences: int = Field(
        64, ge=1, le=65536, description="Sequences that one instance of a component has open; others wait."
    )
