"""Build every variant of a recipe, serve them side by side, and say what each one costs and keeps.

    python benchmarks/variants.py [--work FOLDER] [--only pruned auto] [--out benchmarks/results/NAME] [--readme FILE]

FP32 is the recipe with every ``quantize`` taken away; ``static`` is the recipe itself; the others are
``recipes/spoken_digits/variants/*.yaml``. Each is built through the public API into a store of its own, so that the
build time is that of a cold build; a variant that the folder already holds is not built again. Then all of them are
served by one Triton and asked in turns. Accuracy is what the accuracy gate measured on the served ensemble; component
latencies are what the build measured when it chose what ships, interleaved, each engine in a process of its own.

Writes NAME.json, NAME.md and NAME.svg, the tables into the readme between its two marks, and to standard output.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from variants_plot import draw
from variants_rows import Component, Row
from variants_serving import Load, Served, side_by_side
from variants_table import markdown

import mmdeploy
from mmdeploy.choice.record import EngineChoice
from mmdeploy.core.facts import find
from mmdeploy.core.target import this_hardware
from mmdeploy.data import samples as data
from mmdeploy.record.build_report import BuildReport
from mmdeploy.record.report_file import read_report
from mmdeploy.report.display import BuildDisplay
from mmdeploy.worker.feeds import ensemble_inputs

FOLDER = Path(__file__).parents[1] / "recipes" / "spoken_digits"
REFERENCE = "FP32"
VARIANTS = ("qat", "pruned", "sparse", "auto")
REQUESTS = 400
MARKS = ("<!-- benchmarks/variants.py: begin -->", "<!-- benchmarks/variants.py: end -->")
LIBRARIES = ("torch", "onnxruntime", "openvino", "nvidia-modelopt", "torch-pruning")
LOADS = {"latency": 1, "throughput": 8}


@dataclass(frozen=True)
class Variant:
    """A recipe to build.

    Attributes:
        label: In the table.
        path: The recipe.
        overrides: Laid over it.
    """

    label: str
    path: Path
    overrides: tuple[str, ...] = ()


def main() -> int:
    """Build, serve, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder of the stores and reports; a temporary one by default")
    parser.add_argument("--only", nargs="+", help="variants besides FP32, instead of all")
    parser.add_argument("--rounds", type=int, default=60, help="blocks of each variant under each load")
    parser.add_argument("--out", type=Path, help="where to write, without a suffix")
    parser.add_argument("--readme", type=Path, help="file whose text between the two marks is replaced by the tables")
    arguments = parser.parse_args()
    chosen = [one for one in variants() if one.label == REFERENCE or one.label in (arguments.only or [one.label])]
    load_before = os.getloadavg()[0]
    with ExitStack() as stack:
        work = arguments.work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mmdeploy-variants-")))
        reports = {one.label: built(one, work.absolute() / one.label) for one in chosen}
        served = _served(chosen, reports, work, arguments.rounds)
        rows = [_row(label, report, served[label]) for label, report in reports.items()]
    facts = _facts(load_before, arguments.rounds, next(iter(reports.values())))
    text = markdown(rows, facts)
    print(text)
    if arguments.readme:
        before, _, rest = arguments.readme.read_text().partition(MARKS[0])
        arguments.readme.write_text(f"{before}{MARKS[0]}\n{text}{MARKS[1]}{rest.partition(MARKS[1])[2]}")
    if arguments.out:
        content = {"facts": facts, "variants": [asdict(row) for row in rows]}
        arguments.out.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")
        arguments.out.with_suffix(".md").write_text(f"# The variants of spoken_digits\n\n{text}")
        draw(rows, arguments.out.with_suffix(".svg"))
    return 0


def variants() -> list[Variant]:
    """Return what is compared, the reference first."""
    recipe = FOLDER / "recipe.yaml"
    parts = mmdeploy.load_recipe(recipe).components
    gate = "gates=[{method: accuracy, metric: top1, min: 0.96}]"
    plain = ("name=spoken_digits_fp32", gate, *(f"components.{name}.quantize=null" for name in parts))
    return [
        Variant(REFERENCE, recipe, plain),
        Variant("static", recipe),
        *(Variant(name, FOLDER / "variants" / f"{name}.yaml") for name in VARIANTS),
    ]


def built(variant: Variant, work: Path) -> BuildReport:
    """Build a variant, or read the report of its cold build where the folder has it."""
    recipe = mmdeploy.load_recipe(variant.path, variant.overrides)
    kept = work / "report.json"
    if kept.exists() and (report := read_report(kept)).recipe.sha256 == recipe.origin.sha256:
        return report
    cold = not (work / "work").exists()
    settings = mmdeploy.Settings(workdir=work / "work", destination=work / "published")
    with BuildDisplay(Console(stderr=True), live=False) as display:
        outcome = mmdeploy.build(recipe, settings, display)
    if cold:
        kept.write_text(outcome.report.to_json())
    return outcome.report


def _served(
    chosen: list[Variant], reports: Mapping[str, BuildReport], work: Path, rounds: int
) -> dict[str, dict[str, Served]]:
    """Serve what was published, or staged where a gate said no, and measure every load."""
    recipe = mmdeploy.load_recipe(chosen[0].path)
    assert recipe.data.evaluation is not None
    specs, ranges = ensemble_inputs(recipe)
    samples = data.stream(recipe.data.evaluation, root=recipe.root, specs=specs, ranges=ranges, limit=REQUESTS)
    requests = [{name: array[None] for name, array in feed.items()} for feed, _ in samples]
    measured = side_by_side(
        {label: report.published or report.staged for label, report in reports.items()},
        {label: report.recipe.name for label, report in reports.items()},
        requests,
        [Load(concurrency, rounds) for concurrency in LOADS.values()],
        log=work / "triton.log",
    )
    return {label: {name: one[label] for name, one in zip(LOADS, measured, strict=True)} for label in reports}


def _row(label: str, report: BuildReport, served: Mapping[str, Served]) -> Row:
    checks = {check.name: check for gate in report.gates if gate.gate == "accuracy" for check in gate.checks}
    accuracy, drop = checks["top1"], checks.get("top1 drop")
    assert accuracy.measured is not None and accuracy.interval is not None
    chosen = {step.component: step.metadata for step in report.steps if step.id == f"{step.component}/engine"}
    components = {name: _component(metadata) for name, metadata in chosen.items()}
    costs = [
        record.after if record.after and components[record.component].compressed else record.before
        for record in report.costs
    ]
    return Row(
        label=label,
        verdict=report.verdict,
        accuracy=(accuracy.measured, *accuracy.interval),
        drop=(drop.measured, *drop.interval) if drop and drop.measured is not None and drop.interval else None,
        bytes=sum(size.candidate_bytes or 0 for size in report.sizes),
        parameters=sum(one.parameters for one in costs),
        nonzero_parameters=sum(one.nonzero_parameters for one in costs),
        flops=sum(one.flops for one in costs),
        build_seconds=report.seconds,
        components=components,
        served=served,
    )


def _component(metadata: Mapping[str, Any]) -> Component:
    """Read what was chosen and how it was measured; what was not measured is the FP32 original."""
    choice = find(EngineChoice, metadata)
    if choice is None:
        return Component("onnxruntime FP32", False, None, None, None, None)
    one, reference = choice.winner, choice.of(choice.reference)
    return Component(one.label, one.compressed, one.p50_ms, reference.p50_ms, one.ratio, one.ratio_interval)


def _facts(load_before: float, rounds: int, report: BuildReport) -> dict[str, Any]:
    hardware = this_hardware()
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "command": "python benchmarks/variants.py",
        "cpu": hardware.cpu,
        "isa": list(hardware.isa),
        "cores": len(os.sched_getaffinity(0)),
        "server": report.server_version,
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
        "rounds": rounds,
        "load_average": [load_before, os.getloadavg()[0]],
    }


if __name__ == "__main__":
    sys.exit(main())
