"""How near ``mmdeploy cache-plan`` reckons the share of hits to what a real Triton counts, on traces drawn at random.

    python benchmarks/cache_estimate.py [--traces 10] [--json figures.json]

Two ensembles are built: two towers with a head, and three senses of which any may be left out. Each trace is drawn by a
seed: how many contents an input has, how unevenly they are asked for (Zipf's law with an exponent from 0 to 1.5), how
often inputs are popular together, how many rows requests have, what they leave out, whether contents are hashes or
samples of the recipe; which models are cached, the ensemble as a whole among them; and the size of the cache, from room
for two answers to room for all. The release is served with that cache and asked every request; told is, for each model,
the share of hits by Triton's counters and as reckoned, and how many points of a hundred they are apart.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import mmdeploy
from mmdeploy.building.builder import Settings, run_build
from mmdeploy.caching.contents import Contents, samples_for
from mmdeploy.caching.layout import asked_ensemble, known_of
from mmdeploy.caching.replay import AskedEnsemble, replay
from mmdeploy.caching.trace import Request
from mmdeploy.caching.verify import MOST_POINTS, verify
from mmdeploy.caching.zipf import Popularity, zipf_trace
from mmdeploy.record.observer import Silent
from mmdeploy.triton.response_cache import RESERVED_BYTES

if TYPE_CHECKING:
    from mmdeploy.recipe.schema import Recipe

RECIPES = ("tests/tiny_recipe", "tests/missing_recipe")
_ROOT = Path(__file__).parents[1]


def main() -> int:
    """Measure, print, and return 1 where a share of hits is further away than is promised."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=int, default=10)
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        built = [_built(recipe, Path(folder)) for recipe in RECIPES]
        figures = [
            _one(*built[seed % len(built)], seed, arguments.requests, Path(folder)) for seed in range(arguments.traces)
        ]
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    worst = max(model["points"] for trace in figures for model in trace["models"])
    print(f"the furthest: {worst:.2f} points; promised: {MOST_POINTS:g}")
    return 1 if worst > MOST_POINTS else 0


def _built(recipe: str, folder: Path) -> tuple[Recipe, Path]:
    """Return a recipe and its release, unjudged."""
    loaded = mmdeploy.load_recipe(_ROOT / recipe / "recipe.yaml", ["gates=[]"])
    outcome = run_build(loaded, Settings(workdir=folder / "work", destination=folder / "pub"), Silent())
    if outcome.error is not None:
        raise outcome.error
    assert outcome.report.published is not None
    return loaded, outcome.report.published


def _one(recipe: Recipe, release: Path, seed: int, requests: int, folder: Path) -> dict[str, Any]:
    """Draw a trace and a cache, ask a real Triton, and return what both say."""
    random = np.random.default_rng(seed)
    ensemble = asked_ensemble(recipe, known_of(recipe, release, None, {}))
    trace, told = _trace(recipe, random, requests)
    names = [*ensemble.models]
    cached = tuple(name for name in names if random.random() < 0.6) or (names[0],)
    endless = replay(ensemble, trace, cached, 2**40)
    size = int(_room(ensemble, cached, endless.most_bytes, random))
    contents = Contents(recipe.input_specs, trace=folder / "trace.jsonl", samples=samples_for(recipe, trace))
    found = verify(
        release, ensemble, trace, contents, cached=cached, size_bytes=size, log=folder / f"triton-{seed}.log"
    )
    print(f"trace {seed}: {recipe.name}, {told}; cache {size} of {endless.most_bytes} bytes")
    for one in found.models:
        print(
            f"  {one.model:14} {one.lookups:5} lookups, hits {one.measured:6.1%}, reckoned {one.reckoned:6.1%}, "
            f"{one.points:.2f} points apart"
        )
    models = [asdict(one) | {"points": one.points} for one in found.models]
    shape = {"seed": seed, "recipe": recipe.name, "trace": told, "size_bytes": size, "endless": endless.most_bytes}
    return {**shape, "models": models}


def _trace(recipe: Recipe, random: np.random.Generator, requests: int) -> tuple[list[Request], str]:
    """Draw a trace and say what it is like."""
    popular = {
        name: Popularity(
            contents=int(np.exp(random.uniform(np.log(5), np.log(300)))),
            exponent=float(random.uniform(0, 1.5)),
            samples=bool(random.random() < 0.3),
        )
        for name in recipe.inputs
    }
    popular = {
        name: replace(one, contents=min(one.contents, 60)) if one.samples else one for name, one in popular.items()
    }
    together = float(random.choice([0.0, 0.5, 0.9]))
    left_out = float(random.choice([0.0, 0.2, 0.5])) if any(spec.optional for spec in recipe.inputs.values()) else 0.0
    most_rows = int(random.choice([1, 1, 3]))
    single = zipf_trace(popular, requests * most_rows, seed=int(random.integers(2**31)), together=together)
    found, at = list[Request](), 0
    while at < len(single) and len(found) < requests:
        rows = single[at : at + int(random.integers(1, most_rows + 1))]
        at += len(rows)
        inputs = {name: tuple(row.inputs[name][0] for row in rows) for name in recipe.inputs}
        kept = {
            name: one for name, one in inputs.items() if not recipe.inputs[name].optional or random.random() >= left_out
        }
        found.append(replace(rows[0], inputs=kept or {next(iter(inputs)): next(iter(inputs.values()))}))
    contents = ", ".join(f"{one.contents} {name} at {one.exponent:.1f}" for name, one in popular.items())
    return found, f"{contents}; together {together:g}, left out {left_out:g}, up to {most_rows} rows"


def _room(ensemble: AskedEnsemble, cached: tuple[str, ...], most: int, random: np.random.Generator) -> float:
    """Draw the size of a cache: from two answers to all, small ones as often as large ones."""
    least = RESERVED_BYTES + 2 * max(ensemble.models[name].entry(3) for name in cached)
    return float(np.exp(random.uniform(np.log(least), np.log(max(least, 1.2 * most)))))


if __name__ == "__main__":
    raise SystemExit(main())
