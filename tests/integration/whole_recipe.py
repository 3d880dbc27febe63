"""A recipe from its file to a Triton that serves what was published: what tests of whole recipes begin with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from settled_counts import settled

import mmdeploy
from mmdeploy.building.builder import Outcome, run_build
from mmdeploy.building.settings import Settings
from mmdeploy.record.observer import Silent
from mmdeploy.triton import server as triton_server
from mmdeploy.triton.http import ask_json
from mmdeploy.triton.repository import resolve
from mmdeploy.triton.response_cache import settings_of
from mmdeploy.triton.server import Server


def built(recipe: Path, folder: Path, overrides: Sequence[str] = ()) -> Outcome:
    """Build a recipe in a folder and publish it there; what went wrong is raised."""
    loaded = mmdeploy.load_recipe(recipe, overrides)
    outcome = run_build(loaded, Settings(workdir=folder / "work", destination=folder / "published"), Silent())
    if outcome.error is not None:
        raise outcome.error
    assert outcome.report.published is not None, outcome.report.gates
    return outcome


@contextmanager
def served(outcome: Outcome, folder: Path) -> Iterator[Server]:
    """Serve what was published, with the cache that it asks for."""
    assert outcome.report.published is not None
    repositories = resolve(outcome.report.published)
    cache_bytes = settings_of(repositories).bytes
    with triton_server.start(repositories, log=folder / "triton.log", response_cache_bytes=cache_bytes) as running:
        yield running


def executions(server: Server, recipe: str, models: Sequence[str]) -> dict[str, int]:
    """Return how often Triton has run models of a recipe, by their names in it."""

    def read() -> dict[str, int]:
        statistics = ask_json(f"{server.http_url}/v2/models/stats")["model_stats"]
        return {one["name"].removeprefix(f"{recipe}."): int(one["execution_count"]) for one in statistics}

    counts = settled(read)
    return {name: counts[name] for name in models}
