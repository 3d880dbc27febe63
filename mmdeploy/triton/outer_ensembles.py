"""The ensembles of model repositories that clients ask: those that are no part of another."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from mmdeploy.triton.config import SyntaxProblem, try_parse

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig


def outer_ensembles(repositories: Iterable[Path]) -> list[ModelConfig]:
    """Return the configurations of ensembles that are no part of another: an optional input's branch is one, too."""
    paths = [path for repository in repositories for path in sorted(repository.glob("*/config.pbtxt"))]
    parsed = (try_parse(path.read_text("utf-8")) for path in paths)
    found = [config for config in parsed if not isinstance(config, SyntaxProblem) and config.platform == "ensemble"]
    names = [one.name for one in found]
    return [one for one in found if not any(one.name.startswith(f"{name}.") for name in names)]
