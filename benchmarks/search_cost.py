"""What sensitivity and the search cost, against the evaluations that they need.

Run it as ``python benchmarks/search_cost.py [RECIPE] [--component NAME] [--json FILE]``. The recipe needs
``data.validation``. For each component the layer groups are measured (``mmdeploy sensitivity``) and then searched
(``quantize: {method: auto}``), in an empty store, one step at a time; exports are not counted.

*By hand* is what the evaluations cannot do without, as a loop over ONNX Runtime and nothing else: for each of them a
session opened on the component's float graph, run over the validation samples (a search: half of them) with what
follows it, in the same batches; and once the whole ensemble in FP32, which gives what all of them start from and are
compared with. It is timed between the two steps, and again after the search. *Ratio* is the step's time without its
timing of engines over that. What is above 1 is calibration, writing and opening graphs, scoring, libraries that are
loaded. The time that a search spends on measuring engines is its own figure: it is bounded by rounds and not by
samples.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]
RECIPE = REPOSITORY / "recipes/spoken_digits/variants/auto.yaml"
BATCH = 32
COLUMNS = ("groups", "evaluations", "by hand, s", "evaluations, s", "engines, s", "step, s", "ratio")


def main() -> None:
    """Measure each component and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", type=Path, default=RECIPE)
    parser.add_argument("--component", action="append", help="only this one; repeatable")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()
    from mmdeploy.recipe.loader import load_recipe

    names = arguments.component or list(load_recipe(arguments.recipe).components)
    rows = []
    print(f"{'component':<16}{'step':<14}" + "".join(f"{name:>16}" for name in COLUMNS))
    for name in names:
        for row in measured(arguments.recipe, name):
            rows.append(row)
            figures = "".join(f"{row[column]:>16.4g}" for column in COLUMNS)
            print(f"{row['component']:<16}{row['step']:<14}{figures}", flush=True)
    if arguments.json:
        load = os.getloadavg()
        arguments.json.write_text(json.dumps({"cores": os.cpu_count(), "load": load, "rows": rows}, indent=1) + "\n")


def measured(path: Path, component: str) -> list[dict[str, Any]]:
    """Return the figures of a component's sensitivity and of its search."""
    from mmdeploy import api
    from mmdeploy.building.builder import run_build
    from mmdeploy.building.settings import Settings
    from mmdeploy.recipe.loader import load_recipe
    from mmdeploy.record.observer import Silent

    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(workdir=Path(folder) / "work", destination=Path(folder) / "out", jobs=1)
        recipe = load_recipe(path, [*alone(load_recipe(path), component), "gates=[]"])
        found = api.sensitivity(recipe, settings, component=component).report
        before = by_hand(recipe, component, settings.workdir, found)
        outcome = run_build(recipe, settings, Silent(), upto=f"{component}/quantize")
        if outcome.error is not None:
            sys.exit(f"{component}: {outcome.error}")
        after = by_hand(recipe, component, settings.workdir, found)
        once, each = ((one + other) / 2 for one, other in zip(before, after, strict=True))
        search = step_of(outcome.report, f"{component}/quantize")
        return [
            figures(component, "sensitivity", step_of(found, f"{component}/sensitivity"), before),
            figures(component, "search", search, (once, each / 2)),
        ]


def alone(recipe: Any, component: str) -> list[str]:
    """Return overrides that search this component, generously, and leave the others in FP32 in the default engine."""
    others = [name for name in recipe.components if name != component]
    section = recipe.components[component].quantize
    kept = section.model_dump(include={"samples", "exclude"}) if section else {}
    wanted = {
        "method": "auto",
        "max_drop": 0.01,
        **{key: list(v) if isinstance(v, tuple) else v for key, v in kept.items()},
    }
    return [
        f"components.{component}.quantize={json.dumps(wanted)}",
        *(f"components.{name}.quantize=null" for name in others),
        *(f"components.{name}.engine=null" for name in recipe.components),
    ]


def step_of(report: Any, step: str) -> dict[str, Any]:
    """Return the metadata of a step."""
    found: dict[str, Any] = next(record.metadata for record in report.steps if record.id == step)
    return found


def by_hand(recipe: Any, component: str, workdir: Path, report: Any) -> tuple[float, float]:
    """Return the seconds of the whole ensemble in FP32, and of one evaluation: the median of three."""
    from mmdeploy.core.sessions import open_session
    from mmdeploy.core.store import Store
    from mmdeploy.data.sample_sets import SampleSet
    from mmdeploy.recipe.wiring import topological_order, upstream

    store = Store(workdir / "store")
    (recorded,) = (record.key for record in report.steps if record.id == "data/validation")
    feeds = SampleSet.open(store.entry(recorded), str(recipe.data.validation)).feeds()
    keys = {record.component: record.key for record in report.steps if record.kind == "export"}
    paths = {name: store.get(key).path for name, key in keys.items()}  # type: ignore[union-attr]
    threads = {"intra_op_thread_count": str(len(os.sched_getaffinity(0)))}
    order = topological_order(recipe.components)
    after = [name for name in order if component in upstream(recipe.components, name)]
    total = len(next(iter(feeds.values())))

    def run(names: list[str], sessions: dict[str, Any], tensors: dict[str, Any]) -> dict[str, Any]:
        for name in names:
            part = recipe.components[name]
            given = {key: tensors[wire.tensor] for key, wire in part.inputs.items()}
            answers = sessions[name].run(list(part.outputs), given)
            tensors |= dict(zip((wire.tensor for wire in part.outputs.values()), answers, strict=True))
        return tensors

    started = time.perf_counter()
    sessions = {name: open_session(path, threads) for name, path in paths.items()}
    batches = [
        run(
            [name for name in order if name != component and name not in after], sessions,
            {name: array[start : start + BATCH] for name, array in feeds.items()},
        )
        for start in range(0, total, BATCH)
    ]  # fmt: skip
    before = time.perf_counter() - started
    taken = []
    for _ in range(3):
        started = time.perf_counter()
        sessions[component] = open_session(paths[component], threads)
        for batch in batches:
            run([component, *after], sessions, dict(batch))
        taken.append(time.perf_counter() - started)
    each = statistics.median(taken)
    return before + each, each


def figures(component: str, step: str, metadata: dict[str, Any], hand: tuple[float, float]) -> dict[str, Any]:
    """Put a step's own figures beside what its evaluations take by hand."""
    engines = float(metadata.get("timing_seconds", 0.0))
    once, each = hand
    by_evaluations = once + metadata["evaluations"] * each
    return {
        "component": component,
        "step": step,
        "groups": len(metadata["sensitivity"]),
        "evaluations": metadata["evaluations"],
        "by hand, s": by_evaluations,
        "evaluations, s": metadata["evaluation_seconds"],
        "engines, s": engines,
        "step, s": metadata["seconds"],
        "ratio": (metadata["seconds"] - engines) / by_evaluations,
    }


if __name__ == "__main__":
    main()
