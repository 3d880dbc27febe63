"""The narrow seam to everything that answers: an engine in process, or a served model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from mmdeploy.core.artifact import Array, TensorSpec

FeedDict = Mapping[str, Array]


class Runner(Protocol):
    """Something that answers feed dicts: an engine in process, or a served model."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The tensors it takes."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The tensors it gives."""

    def infer(self, feed_dict: FeedDict) -> dict[str, Array]:
        """Answer one request; every array has the batch as axis 0.

        Raises:
            InferenceError: If the model refuses the request.
        """

    def close(self) -> None:
        """Give back what it holds; calling it twice is fine."""
