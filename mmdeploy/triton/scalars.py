"""One value a sample: [N] for a model, [N, 1] on the wire, since Triton has no scalars (see config.pbtxt's reshape)."""

from __future__ import annotations

from collections.abc import Iterable

from mmdeploy.core.artifact import TensorSpec
from mmdeploy.core.contracts import Array, FeedDict
from mmdeploy.triton.client import GrpcRunner


class ScalarRunner(GrpcRunner):
    """A served model that takes and gives one value a sample as the PyTorch module does."""

    def __init__(self, url: str, model: str, *, inputs: Iterable[TensorSpec], outputs: Iterable[TensorSpec]) -> None:
        """Connect to a model.

        Args:
            url: ``host:port`` of the server's gRPC endpoint.
            model: Name of the model.
            inputs: What it takes, as it was staged: the batch left out.
            outputs: What it gives.
        """
        super().__init__(url, model)
        self._taken = {spec.name for spec in inputs if not spec.shape}
        self._given = {spec.name for spec in outputs if not spec.shape}

    def infer(self, feed_dict: FeedDict) -> dict[str, Array]:
        """Answer one request, as `GrpcRunner.infer` does."""
        sent = {name: array.reshape(-1, 1) if name in self._taken else array for name, array in feed_dict.items()}
        answers = super().infer(sent)
        return {name: array.reshape(-1) if name in self._given else array for name, array in answers.items()}
