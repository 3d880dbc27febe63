"""The tiny recipe behind ``mmdeploy serve``, with a small response cache, and clients that ask it all the time."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import mmdeploy
from mmdeploy.building.settings import Settings

REPOSITORY = Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY / "benchmarks"))

from malformed_senders import model_of  # noqa: E402
from soak import GoodClients, Served, Weather, known_answers  # noqa: E402


def publish_cached(root: Path, workdir: Path) -> None:
    """Build the recipe, with a response cache in front of both encoders, and publish it."""
    cached = [f"components.{name}.serving.response_cache=true" for name in ("left", "right")]
    recipe = mmdeploy.load_recipe(REPOSITORY / "tests" / "tiny_recipe" / "recipe.yaml", ["gates=[]", *cached])
    mmdeploy.build(recipe, Settings(workdir=workdir, destination=root))


@contextlib.contextmanager
def serving(root: Path, folder: Path) -> Iterator[Weather]:
    """Serve what was published; good clients ask it until the end."""
    source = np.random.default_rng(0)
    feeds = [{name: source.standard_normal((1, 8)).astype(np.float32) for name in "ab"} for _ in range(16)]
    with Served.start(root / "two_towers", folder, "--cache-mib", 1, "--restarts", 20) as served:
        model = model_of(served.grpc, "two_towers", feeds[0])
        with GoodClients(served, "two_towers", feeds, known_answers(served, "two_towers", feeds)) as clients:
            yield Weather(served, model, clients)
