"""Asks a server for popular requests before its clients do, so that their answers are in its cache.

Popular by `mmdeploy.caching.value`: as often and as lately as they were asked for in a trace. The best come last, since
what was asked for last is dropped last.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmdeploy.caching.contents import Contents
from mmdeploy.caching.replay import AskedModel
from mmdeploy.caching.trace import Request, read_trace
from mmdeploy.caching.value import half_life, worths
from mmdeploy.core.contracts import Runner
from mmdeploy.core.errors import InferenceError, UsageError
from mmdeploy.triton.config import SyntaxProblem, try_parse


@dataclass(frozen=True)
class WarmedUp:
    """What a warm-up came to.

    Attributes:
        asked: Requests that were asked.
        left_out: Requests of the trace that only have hashes, whose bytes nobody has here.
        refused: What the server said of those that it refused.
    """

    asked: int
    left_out: int
    refused: tuple[str, ...]


def most_popular(requests: Sequence[Request], inputs: Iterable[str], most: int) -> list[Request]:
    """Return the most popular different requests of a trace, the best last."""
    whole = AskedModel("", tuple(inputs), header_bytes=0, row_bytes=0, input_bytes=0, compute_ms=1.0)
    ranked = sorted(worths(whole, requests, half_life(requests)), key=lambda one: -one.value_ms)
    return [one.request for one in reversed(ranked[:most])]


def warm_up(runner: Runner, trace: Path, *, most: int) -> WarmedUp:
    """Ask for the most popular requests of a trace that refers to files beside it.

    Args:
        runner: Connected to the ensemble.
        trace: The file.
        most: How many requests to ask at most.

    Raises:
        UsageError: If the trace cannot be read, or no request of it can be asked.
    """
    requests = read_trace(trace, [spec.name for spec in runner.inputs])
    askable = [one for one in requests if all(row.kind == "file" for rows in one.inputs.values() for row in rows)]
    if not askable:
        raise UsageError(
            f"{trace}: no request names files, so there is nothing to warm up with",
            hint='name the files of popular requests: {"image": {"file": "cat.npy"}}',
        )
    contents, refused, asked = Contents(runner.inputs, folder=trace.parent), list[str](), 0
    for request in most_popular(askable, [spec.name for spec in runner.inputs], most):
        try:
            runner.infer(contents.feeds(request))
            asked += 1
        except InferenceError as error:
            refused.append(error.message)
    return WarmedUp(asked, len(requests) - len(askable), tuple(refused))


def only_ensemble(repositories: Iterable[Path]) -> str:
    """Return the name of the one ensemble that repositories serve.

    Raises:
        UsageError: If there is none, or several.
    """
    paths = [path for repository in repositories for path in sorted(repository.glob("*/config.pbtxt"))]
    configs = {path.parent.name: try_parse(path.read_text("utf-8")) for path in paths}
    found = [
        name
        for name, config in configs.items()
        if not isinstance(config, SyntaxProblem) and config.platform == "ensemble"
    ]
    if len(found) != 1:
        raise UsageError(
            f"a warm-up trace is for one ensemble, and this serves {', '.join(found) or 'none'}",
            hint="name the repository of one: mmdeploy serve model_repository/NAME --warm-trace requests.jsonl",
        )
    return found[0]
