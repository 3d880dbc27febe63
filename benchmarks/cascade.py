"""What a cascade saves: its release, and the same models as a plain ensemble beside it, on one Triton, asked in turns.

    python benchmarks/cascade.py RELEASE --recipe RECIPE [--samples 800] [--instances 1] [--json FIGURES.json]

``RELEASE`` is a published cascade, such as that of ``recipes/spoken_digits/variants/cascade.yaml``, and ``RECIPE`` says
whose evaluation samples are asked. Every sample is asked of both, one after the other, in an order that alternates;
ratios are cascade over plain within this run. Then eight clients ask each for a while, in alternating blocks: samples a
second.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

import mmdeploy
from mmdeploy.core.contracts import FeedDict
from mmdeploy.core.errors import StepError
from mmdeploy.core.target import this_hardware
from mmdeploy.model.sources import importing_from, resolve_callable
from mmdeploy.triton import server as triton_server
from mmdeploy.triton.config import parse, to_text

WARM_UP = 20
CLIENTS, BLOCK_S, BLOCKS = 8, 4.0, 6


def samples(recipe: Path, most: int) -> tuple[list[FeedDict], list[int]]:
    """Return evaluation samples of a recipe, as requests of one row, and their labels."""
    loaded = mmdeploy.load_recipe(recipe)
    with importing_from(loaded.root):
        given = list(resolve_callable(str(loaded.data.evaluation), loaded.root, error=StepError)())
    chosen = [given[at] for at in np.random.default_rng(0).permutation(len(given))[:most]]
    feeds: list[FeedDict] = [{name: np.asarray(array)[None] for name, array in feed.items()} for feed, _ in chosen]
    return feeds, [int(label) for _, label in chosen]


def in_turns(server: triton_server.Server, names: list[str], feeds: list[FeedDict]) -> dict[str, Any]:
    """Ask every sample of both ensembles; return seconds [samples] and answers by ensemble."""
    runners = {name: server.runner(name) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for turn, feed in enumerate([*feeds[:WARM_UP], *feeds]):
        for name in names if turn % 2 else names[::-1]:
            since = time.perf_counter()
            answer = runners[name].infer(feed)
            taken = time.perf_counter() - since
            if turn >= WARM_UP:
                seconds[name].append(taken)
                answers[name].append({key: array.copy() for key, array in answer.items()})
    for runner in runners.values():
        runner.close()
    return {"seconds": {name: np.array(found) for name, found in seconds.items()}, "answers": answers}


def throughput(server: triton_server.Server, names: list[str], feeds: list[FeedDict]) -> dict[str, float]:
    """Return samples a second of each ensemble under eight clients, in alternating blocks."""
    done = dict.fromkeys(names, 0)

    def client(name: str, first: int, until: float) -> None:
        count = 0
        with server.runner(name) as runner:
            while time.perf_counter() < until:
                runner.infer(feeds[(first + count) % len(feeds)])
                count += 1
        with lock:
            done[name] += count

    lock = threading.Lock()
    for block in range(BLOCKS):
        for name in names if block % 2 else names[::-1]:
            until = time.perf_counter() + BLOCK_S
            threads = [threading.Thread(target=client, args=(name, 97 * at, until)) for at in range(CLIENTS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    return {name: count / (BLOCKS * BLOCK_S) for name, count in done.items()}


def with_plain(release: Path, folder: Path, instances: int) -> list[str]:
    """Copy a release and add the ensemble whose every row runs all; return both names, the cascade's first."""
    shutil.copytree(release, folder, ignore=shutil.ignore_patterns("manifest.json", "__pycache__"))
    name = next(path.parent.name.removesuffix(".cascade") for path in folder.glob("*.cascade/config.pbtxt"))
    paths = {part: folder / f"{name}{part}" / "config.pbtxt" for part in ("", ".rest", ".cascade")}
    whole, rest, step = (parse(path.read_text(), str(path)) for path in paths.values())
    step.instance_group[0].count = instances
    paths[".cascade"].write_text(to_text(step))
    steps = [one for one in whole.ensemble_scheduling.step if one.model_name != step.name]
    steps += rest.ensemble_scheduling.step
    wanted = {tensor.name for tensor in rest.output}
    while len(used := [one for one in steps if wanted & {*one.output_map.values()}]) and not all(
        {*one.input_map.values()} <= wanted for one in used
    ):
        wanted |= {tensor for one in used for tensor in one.input_map.values()}
    plain = f"{name}_plain"
    whole.name = plain
    del whole.ensemble_scheduling.step[:], whole.output[:]
    whole.ensemble_scheduling.step.extend(used)
    whole.output.extend(rest.output)
    (folder / plain / "1").mkdir(parents=True)
    (folder / plain / "1" / "README.txt").write_text("an ensemble")
    (folder / plain / "config.pbtxt").write_text(to_text(whole))
    return [name, plain]


def figures(release: Path, instances: int, feeds: list[FeedDict], labels: list[int]) -> dict[str, Any]:
    """Serve both ensembles and measure them."""
    with tempfile.TemporaryDirectory() as folder:
        names = with_plain(release.resolve(), Path(folder) / "models", instances)
        with triton_server.start([Path(folder) / "models"], log=Path(folder) / "log") as server:
            found, rates = in_turns(server, names, feeds), throughput(server, names, feeds)
    ours, theirs = (found["seconds"][name] for name in names)
    output = next(name for name in found["answers"][names[1]][0])
    best = {name: np.array([int(one[output].argmax()) for one in found["answers"][name]]) for name in names}
    left = np.array([bool(one["left_early"].all()) for one in found["answers"][names[0]]])
    accuracy = {name: float((best[name] == np.array(labels)).mean()) for name in names}
    return {
        "samples": len(feeds), "instances": instances, "left_early": float(left.mean()),
        "top1": {"cascade": accuracy[names[0]], "plain": accuracy[names[1]]},
        "ms": {
            side: {"mean": float(1e3 * one.mean()), **{f"p{p}": float(1e3 * np.percentile(one, p)) for p in (50, 95)}}
            for side, one in (("cascade", ours), ("plain", theirs))
        },
        "ratio": {
            "mean": float(ours.mean() / theirs.mean()),
            **{f"p{p}": float(np.percentile(ours, p) / np.percentile(theirs, p)) for p in (50, 95)},
            "mean of those that left early": float(ours[left].mean() / theirs[left].mean()),
            "mean of the others": float(ours[~left].mean() / theirs[~left].mean()),
            "samples a second, 8 clients": rates[names[0]] / rates[names[1]],
        },
        "hardware": this_hardware().to_json(),
    }  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("release", type=Path)
    parser.add_argument("--recipe", type=Path, required=True, help="whose evaluation samples are asked")
    parser.add_argument("--samples", type=int, default=800)
    parser.add_argument("--instances", type=int, default=1, help="processes of the step that decides")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    recipe = arguments.recipe / "recipe.yaml" if arguments.recipe.is_dir() else arguments.recipe
    found = figures(arguments.release, arguments.instances, *samples(recipe, arguments.samples))
    print(json.dumps(found, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
