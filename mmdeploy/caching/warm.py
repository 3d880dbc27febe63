"""Asks a server for popular requests before its clients do, so that their answers are in its cache.

Popular by `mmdeploy.caching.value`: as often and as lately as they were asked for in a trace. The best come last, since
what was asked for last is dropped last.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmdeploy.caching.contents import Contents
from mmdeploy.caching.layout import specs_of
from mmdeploy.caching.replay import AskedModel
from mmdeploy.caching.trace import Request, read_trace
from mmdeploy.caching.value import half_life, worths
from mmdeploy.core.contracts import Runner
from mmdeploy.core.errors import InferenceError, UsageError
from mmdeploy.triton.outer_ensembles import outer_ensembles

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig


@dataclass(frozen=True)
class WarmUp:
    """Popular requests that can be asked.

    Attributes:
        ensemble: Whom they are for.
        requests: The best last.
        contents: Finds their arrays.
        left_out: How many requests of the trace only have hashes or samples, whose bytes nobody has here.
    """

    ensemble: str
    requests: tuple[Request, ...]
    contents: Contents
    left_out: int

    def ask(self, runner: Runner) -> list[str]:
        """Ask them; return what the server said of those that it refused."""
        refused = []
        for request in self.requests:
            try:
                runner.infer(self.contents.feeds(request))
            except InferenceError as error:
                refused.append(f"{self.contents.place(request)}: {error.message}")
        return refused


def most_popular(requests: Sequence[Request], inputs: Iterable[str], most: int) -> list[Request]:
    """Return the most popular different requests of a trace, the best last."""
    whole = AskedModel("", tuple(inputs), header_bytes=0, row_bytes=0, input_bytes=0, compute_ms=1.0)
    ranked = sorted(worths(whole, requests, half_life(requests)), key=lambda one: -one.value_ms)
    return [one.request for one in reversed(ranked[:most])]


def warm_up_of(repositories: Iterable[Path], trace: Path, *, most: int) -> WarmUp:
    """Take the most popular requests of a trace that refers to files beside it, and see that each can be asked.

    Args:
        repositories: What is served: one ensemble.
        trace: The file.
        most: How many requests to ask at most.

    Raises:
        UsageError: If there is no one ensemble, the trace or a file that it names cannot be read, or no request of it
            can be asked.
    """
    config = _only_ensemble(repositories)
    specs = tuple(specs_of(config.input, config))
    optional = {tensor.name for tensor in config.input if tensor.optional}
    names = [spec.name for spec in specs]
    requests = read_trace(trace, names, optional=optional, most_rows=max(1, config.max_batch_size))
    askable = [one for one in requests if all(row.kind == "file" for rows in one.inputs.values() for row in rows)]
    if not askable:
        raise UsageError(
            f"{trace}: no request names files alone, so nothing could be asked to warm up with",
            hint='name the files of popular requests: {"image": {"file": "cat.npy"}}',
        )
    contents = Contents(specs, trace=trace)
    popular = tuple(most_popular(askable, names, most))
    contents.known_by_bytes(popular)  # before a server is started in vain
    return WarmUp(config.name, popular, contents, len(requests) - len(askable))


def _only_ensemble(repositories: Iterable[Path]) -> ModelConfig:
    """Return the configuration of the one ensemble that repositories serve."""
    asked = outer_ensembles(repositories)
    if len(asked) != 1:
        raise UsageError(
            f"a warm-up trace is for one ensemble, and this serves {', '.join(one.name for one in asked) or 'none'}",
            hint="name the repository of one: mmdeploy serve model_repository/NAME --warm-trace requests.jsonl",
        )
    return asked[0]
