"""How often a build calls the recipe's data callables, and what share of its steps' time that is.

Run it as ``python benchmarks/sample_reads.py [RECIPE] [--set PATH=VALUE]… [--json FILE]``. The recipe is built once,
in an empty store, one step at a time, without gates unless ``--gates`` is given. Each data callable is wrapped in one
that notes, in a file, when it is called and how long it takes to give its samples: what the recipe's own code costs,
not what is done with the samples. The share is of the seconds of the steps that read samples.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).parents[1]
RECIPE = REPOSITORY / "benchmarks/clip_auto/recipe.yaml"
#: Without searches and measurements: what is left is exports, quantization and engines.
PLAIN = [
    f"components.{name}.{key}" for name in ("image", "text") for key in ("engine={method: onnxruntime}", "keep=always")
]
SETS = ("calibration", "validation", "evaluation", "training")
WRAPPER = """
import json, os, time
from {module} import {names}


def _noted(name, make, *arguments):
    started, seconds, count = time.time(), 0.0, 0
    before = time.perf_counter()
    try:
        for sample in make(*arguments):
            seconds += time.perf_counter() - before
            count += 1
            yield sample
            before = time.perf_counter()
    finally:
        with open({notes!r}, "a") as stream:
            note = {{"set": name, "started": started, "seconds": seconds, "samples": count, "pid": os.getpid()}}
            stream.write(json.dumps(note) + chr(10))
"""
ONE = """

def noted_{name}():
    return _noted({name!r}, {name})
"""


def main() -> None:
    """Build, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", type=Path, default=RECIPE)
    parser.add_argument("--set", action="append", dest="overrides", help="override of the recipe; repeatable")
    parser.add_argument("--gates", action="store_true", help="serve and judge, too")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()
    overrides = arguments.overrides or (PLAIN if arguments.recipe == RECIPE else [])
    with tempfile.TemporaryDirectory() as folder:
        notes, steps = build(arguments.recipe, [*overrides, *([] if arguments.gates else ["gates=[]"])], Path(folder))
    figures = told(notes, steps)
    if arguments.json:
        arguments.json.write_text(json.dumps({"load": os.getloadavg(), **figures}, indent=1) + "\n")


def build(recipe: Path, overrides: list[str], folder: Path) -> tuple[list[dict[str, Any]], list[Any]]:
    """Build a recipe with its data callables wrapped; return what they noted, and the records of the steps."""
    import mmdeploy

    tree = yaml.safe_load(recipe.read_text())
    named = {key: reference for key, reference in tree["data"].items() if key in SETS}
    module = next(iter(named.values())).partition(".py:")[0]
    notes = folder / "notes"
    names = ", ".join(reference.partition(":")[2] for reference in named.values())
    wrapper = WRAPPER.format(module=module, names=names, notes=str(notes))
    wrapper += "".join(ONE.format(name=reference.partition(":")[2]) for reference in named.values())
    (folder / "noted_samples.py").write_text(wrapper)
    place = f"{folder / 'noted_samples.py'}:noted_"
    tree["data"] |= {key: place + reference.partition(":")[2] for key, reference in named.items()}
    tree["folder"] = str((recipe.parent / tree.get("folder", ".")).resolve())
    (folder / "recipe.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    settings = mmdeploy.Settings(workdir=folder / "work", destination=folder / "out", jobs=1)
    outcome = mmdeploy.build(mmdeploy.load_recipe(folder / "recipe.yaml", overrides), settings)
    return [json.loads(line) for line in notes.read_text().splitlines()], list(outcome.report.steps)


def told(notes: list[dict[str, Any]], steps: list[Any]) -> dict[str, Any]:
    """Print the calls by set and the steps' seconds; return all figures."""
    by_set: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for note in notes:
        by_set[note["set"]].append(note)
    print(f"{'set':<24}{'calls':>8}{'samples':>10}{'seconds':>10}")
    for name, calls in by_set.items():
        samples, seconds = sum(one["samples"] for one in calls), sum(one["seconds"] for one in calls)
        print(f"{name:<24}{len(calls):>8}{samples:>10}{seconds:>10.2f}")
    kinds = ("samples", "quantize", "sensitivity", "outputs", "select", "prune", "recover", "train")
    reading = {step.id: step.seconds for step in steps if step.kind in kinds}
    print(f"\n{'step':<48}{'seconds':>10}")
    for step_id, seconds in reading.items():
        print(f"{step_id:<48}{seconds:>10.2f}")
    inside, total = sum(note["seconds"] for note in notes), sum(reading.values())
    print(f"\nin the recipe's data code: {inside:.2f} s of {total:.2f} s, {inside / total:.0%}")
    return {"calls": by_set, "steps": reading, "inside_seconds": inside, "seconds": total}


if __name__ == "__main__":
    sys.exit(main())
