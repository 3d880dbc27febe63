"""Does Optuna find a better front than a grid by hand, or chance, at equal builds?

    python benchmarks/sweep.py --work /tmp/sweep-benchmark --json benchmarks/results/sweep-cpu.json

Every point of a space is built once, by ``mmdeploy sweep`` itself: a network half of whose hidden units are idle,
pruned by other shares and calibrated in other ways, scored as it is served. Then each sampler searches that space with
the code of the sweep, many times with other seeds, and is told what the real builds came to. What is compared is the
hypervolume of the front (drop of top1, bytes), as a share of that of all points, after as many builds. The grid is the
one that a person lays: as many ratios, evenly spread, as the builds are enough for, times all calibrators.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from mmdeploy.core.target import this_hardware
from mmdeploy.studies.found import Found
from mmdeploy.studies.objectives import Figure
from mmdeploy.studies.proposals import Proposals, Sampler
from mmdeploy.studies.space import Point, Space, read_space
from mmdeploy.studies.study import locked, open_study
from mmdeploy.studies.sweep import SweepSettings, run_sweep
from mmdeploy.studies.trial import Trial

REDUNDANT = Path(__file__).parents[1] / "tests" / "redundant_recipe"
OBJECTIVES = ("accuracy", "bytes")
OPTIONS = ("prune.ratio=0.1..0.9:0.1", "quantize.calibrator=minmax,mse,percentile")
RECIPE = """schema_version: 1
name: redundant
target: cpu
model: {factory: "model.py:build"}
data: {calibration: "data.py:calibration", evaluation: "data.py:evaluation"}
inputs: {values: {dtype: FP32, shape: [16]}}
components:
  tower:
    module: tower
    inputs: {values: values}
    outputs: {embedding: embedding}
    prune: {method: structured, ratio: 0.25, round_to: 1}
    quantize: {method: static, samples: 64}
    keep: always
  head: {module: head, inputs: {embedding: embedding}, outputs: {logits: logits}}
outputs: {logits: {}}
gates:
  - {method: accuracy, metric: top1, max_drop: 0.3}
"""
#: All trials by their points.
Table: TypeAlias = "Mapping[tuple[tuple[str, str], ...], Trial]"
BUDGETS = (6, 9, 12, 15)


def main() -> None:
    """Build all points, replay the searches, and write a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="Folder of the builds; a later call goes on.")
    parser.add_argument("--builds", type=int, default=27, help="Stop building after so many.")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    space, found = built(options.work, options.builds)
    if len(found.counted) < (space.size or 0):
        print(f"{len(found.counted)} of {space.size} points are built: call it again")
        return
    table = {tuple(one.point.items()): one for one in found.counted}
    rows = compared(space, table, options.seeds)
    print(f"{space.size} points on {this_hardware()}; front of {len(found.front)}; {options.seeds} seeds")
    print("builds  sampler  share of the hypervolume of all points: median (worst to best)")
    for row in rows:
        print(
            f"{row['builds']:6}  {row['sampler']:7}  {row['median']:.3f} ({row['worst']:.3f} to {row['best']:.3f})"
            f"  found whole in {row['whole']} of {row['runs']}"
        )
    if options.json:
        points = [{"point": one.point, "status": one.status, **_values(one)} for one in found.counted]
        content = {"machine": str(this_hardware()), "options": OPTIONS, "points": points, "rows": rows}
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def built(work: Path, builds: int) -> tuple[Space, Found]:
    """Build points of the space, or go on; return what is there."""
    folder = work / "recipe"
    if not folder.is_dir():
        shutil.copytree(REDUNDANT, folder, ignore=shutil.ignore_patterns("__pycache__"))
        model = (folder / "model.py").read_text(encoding="utf-8").replace("WIDTH = 64", "WIDTH = 256")
        (folder / "model.py").write_text(model, encoding="utf-8")
        data = (folder / "data.py").read_text(encoding="utf-8").replace("_labelled(3, 128)", "_labelled(3, 1024)")
        (folder / "data.py").write_text(data, encoding="utf-8")
        (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    space, recipe = read_space(OPTIONS, folder / "recipe.yaml")
    settings = SweepSettings(work / "work", budget=builds, sampler="random")
    return space, run_sweep(recipe, space, OBJECTIVES, settings, lambda one, count: print(count, dict(one.point)))


def compared(space: Space, table: Table, seeds: int) -> list[dict[str, object]]:
    """Search the space with each sampler at each budget."""
    whole = hypervolume([*table.values()], table)
    rows = []
    for budget in BUDGETS:
        searches: dict[str, Callable[[int], list[Trial]]] = {
            name: lambda seed, name=name, budget=budget: _searched(space, table, name, budget, seed)  # type: ignore[misc]
            for name in ("tpe", "nsga2", "random")
        }
        searches["grid"] = lambda seed, budget=budget: _by_hand(space, table, budget)  # type: ignore[misc]
        for name, search in searches.items():
            runs = 1 if name == "grid" else seeds
            shares = [hypervolume(search(seed), table) / whole for seed in range(runs)]
            rows.append(
                {
                    "builds": budget, "sampler": name, "median": statistics.median(shares), "worst": min(shares),
                    "best": max(shares), "whole": sum(share > 0.9999 for share in shares), "runs": runs,
                }
            )  # fmt: skip
    return rows


def _searched(space: Space, table: Table, sampler: Sampler, budget: int, seed: int) -> list[Trial]:
    with tempfile.TemporaryDirectory() as name, locked(Path(name)):
        study = open_study(Path(name), {}, OBJECTIVES, anew=False)
        proposals = Proposals(study, space, sampler, seed, budget)
        while study.built < budget and (proposed := proposals.next()) is not None:
            asked, point = proposed
            study.close(asked, _renumbered(table[tuple(point.items())], study.built))
        return [trial for trial in study.trials if trial.built]


def _by_hand(space: Space, table: Table, budget: int) -> list[Trial]:
    calibrators = 3
    points: list[Point] = [*space.grid(max(2, budget // calibrators))]
    return [table[tuple(point.items())] for point in points[:budget]]


def _renumbered(trial: Trial, number: int) -> Trial:
    return Trial(number, trial.point, trial.status, trial.reason, trial.figures)


def hypervolume(trials: Sequence[Trial], table: Table) -> float:
    """Return the area between the trials that passed and the worst of all, each objective scaled to 1."""
    spans = {}
    for name in OBJECTIVES:
        values = [_value(one, name) for one in table.values() if one.status == "passed"]
        spans[name] = (min(values), max(values))
    points = sorted(
        (*((_value(one, name) - low) / (high - low) for name, (low, high) in spans.items()),)
        for one in trials
        if one.status == "passed"
    )
    area, height = 0.0, 1.0
    for across, up in points:
        if up < height:
            area += (1.0 - across) * (height - up)
            height = up
    return area


def _value(trial: Trial, name: str) -> float:
    figure: Figure = trial.figures[name]
    return figure.value


def _values(trial: Trial) -> dict[str, float]:
    return {name: figure.value for name, figure in trial.figures.items()}


if __name__ == "__main__":
    main()
