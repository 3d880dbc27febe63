"""What mmdeploy adds to the library calls of a build: time, memory, and what it saves by reuse and side-by-side work.

    python benchmarks/build.py [--recipe recipes/spoken_digits/recipe.yaml] [--rounds 3] [--out FIGURES.json]

Everything before the gates (``--set gates=[]``), each build a new process with a store of its own; the variants
take turns within a round, and the medians over the rounds of wall-clock seconds make the ratios. "By hand" is
`build_by_hand.py`: the same library calls one after the other in one process. Memory is the largest sum of PSS
(proportional set size: shared pages count once) over the build's processes, sampled 20 times a second, against the
same of a process that does nothing but the hungriest library call, the export of a component.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import library_share
import psutil
import yaml

ROOT = Path(__file__).parents[1]
BY_HAND = Path(__file__).with_name("build_by_hand.py")
MMDEPLOY = "from mmdeploy.cli import main; main()"
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Run:
    """One process with all that it started: wall-clock and processor seconds, the peak of the summed PSS."""

    wall_s: float
    processor_s: float
    peak_bytes: int = 0


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    what: str
    measured: float
    limit: float
    unit: str = ""
    note: str = ""


def main() -> int:
    """Measure, print a table, and return 1 when a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes/spoken_digits/recipe.yaml")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write every single figure there as JSON")
    arguments = parser.parse_args()
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # so that the fork server's time is ours to read
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="build-benchmark-") as folder:
        bench = Bench(arguments.recipe.absolute(), Path(folder))
        runs = _rounds(bench, arguments.rounds)
        owners, places = library_share.measure(lambda more: bench.build("whole", jobs=1, more=more), bench.folder)
        memory = bench.memory()
    rows = _rows(runs, owners, memory)
    print("\n".join(["", *_environment(arguments.rounds, load_before), "", *_table(rows), "", *_details(runs, places)]))
    if arguments.out:
        figures = {
            "rows": [asdict(row) for row in rows],
            "runs": {name: [asdict(run) for run in some] for name, some in runs.items()},
            "processor_s_by_owner": owners,
            "processor_s_of_mmdeploy": dict(places.most_common(30)),
            "peak_bytes": memory,
            "environment": _environment(arguments.rounds, load_before),
        }
        arguments.out.write_text(json.dumps(figures, indent=1))
    return 1 if any(row.measured > row.limit for row in rows) else 0


class Bench:
    """The recipe and its parts, copied to where stores may be made and thrown away."""

    def __init__(self, recipe: Path, folder: Path) -> None:
        """Write the recipe's variants: whole, two independent components, one of those alone."""
        self.folder = folder / "recipe"
        shutil.copytree(recipe.parent, self.folder)
        whole = yaml.safe_load(recipe.read_text())
        independent = [name for name, part in whole["components"].items() if _reads_only_inputs(part, whole)]
        if len(independent) < 2:
            sys.exit(f"{recipe} has fewer than two components that read nothing but the ensemble's inputs")
        self.components, self.changed = list(whole["components"]), independent[1]
        for name, chosen in (("whole", self.components), ("pair", independent[:2]), ("single", independent[1:2])):
            part = _only(whole, chosen)
            part["data"]["calibration"] = self._calibration_of(name, list(part["inputs"]), whole["data"]["calibration"])
            (self.folder / f"{name}.yaml").write_text(yaml.safe_dump(part, sort_keys=False))

    def _calibration_of(self, variant: str, inputs: list[str], reference: str) -> str:
        """Write a data callable that gives samples with these inputs only; return its reference."""
        module, _, name = reference.partition(":")
        (self.folder / f"{variant}_samples.py").write_text(
            f"from {module.removesuffix('.py')} import {name} as everything\n\n\n"
            "def calibration():\n"
            "    for sample in everything():\n"
            "        feed = sample[0] if isinstance(sample, tuple) else sample\n"
            f"        yield {{name: feed[name] for name in {inputs!r}}}\n"
        )
        return f"{variant}_samples.py:calibration"

    def build(self, variant: str, *, jobs: int | None = None, warm: Path | None = None, change: str = "",
              more: Mapping[str, str] | None = None, sample: bool = False) -> Run:  # fmt: skip
        """Build a variant, cold unless it is given the folder of an earlier build."""
        with tempfile.TemporaryDirectory(dir=self.folder.parent) as cold:
            work = warm or Path(cold)
            command = [sys.executable, "-c", MMDEPLOY, "build", str(self.folder / f"{variant}.yaml")]
            command += ["--workdir", str(work / "work"), "--output", str(work / "published"), "--set", "gates=[]"]
            command += ["--jobs", str(jobs)] if jobs else []
            command += ["--set", change] if change else []
            return run(command, more=more, sample=sample)

    def by_hand(self, *more: str, sample: bool = False) -> Run:
        """Make the library calls by hand."""
        with tempfile.TemporaryDirectory(dir=self.folder.parent) as out:
            return run([sys.executable, str(BY_HAND), str(self.folder / "whole.yaml"), out, *more], sample=sample)

    def memory(self) -> dict[str, int]:
        """Return peaks in bytes of builds and of the exports, each alone in a process."""
        peaks = {
            f"export of {name} by hand": self.by_hand("--only", name, "--stop-after", "export", sample=True).peak_bytes
            for name in self.components
            if name in (self.changed, self.components[0])
        }
        peaks["build, --jobs 1"] = self.build("whole", jobs=1, sample=True).peak_bytes
        peaks["build, default jobs"] = self.build("whole", sample=True).peak_bytes
        return peaks


def run(command: list[str], *, more: Mapping[str, str] | None = None, sample: bool = False) -> Run:
    """Run a command to its end and to the end of what it left running."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before, start = _children_s(), time.perf_counter()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            command, env=environment | dict(more or {}), stdout=said, stderr=subprocess.STDOUT, text=True
        )
        peak = _peak(process) if sample else 0
        process.wait()
        wall = time.perf_counter() - start
        if process.returncode:
            said.seek(0)
            sys.exit(f"{' '.join(command)} ended with {process.returncode}\n{said.read()}")
    while True:  # adopted children: the fork server ends a moment after the build
        try:
            os.wait()
        except ChildProcessError:
            break
    return Run(wall, _children_s() - before, peak)


def _peak(process: subprocess.Popen[str]) -> int:
    peak, root = 0, psutil.Process(process.pid)
    while process.poll() is None:
        total = 0
        for member in _tree(root):
            try:
                total += member.memory_full_info().pss
            except psutil.Error:
                continue
        peak = max(peak, total)
        time.sleep(0.05)
    return peak


def _tree(root: psutil.Process) -> list[psutil.Process]:
    try:
        return [root, *root.children(recursive=True)]
    except psutil.Error:
        return []


def _children_s() -> float:
    times = os.times()
    return times.children_user + times.children_system


def _rounds(bench: Bench, rounds: int) -> dict[str, list[Run]]:
    runs: dict[str, list[Run]] = {}
    for number in range(rounds):
        with tempfile.TemporaryDirectory(dir=bench.folder.parent) as whole, \
             tempfile.TemporaryDirectory(dir=bench.folder.parent) as pair:  # fmt: skip
            change = f"components.{bench.changed}.export.rtol=0.002"
            variants: dict[str, Callable[[], Run]] = {
                "by hand": bench.by_hand,
                "cold": partial(bench.build, "whole", warm=Path(whole)),
                "rebuild": partial(bench.build, "whole", warm=Path(whole)),
                "one after the other": partial(bench.build, "pair", jobs=1),
                "side by side": partial(bench.build, "pair", jobs=2, warm=Path(pair)),
                "one alone": partial(bench.build, "single"),
                "one changed": partial(bench.build, "pair", warm=Path(pair), change=change),
            }
            for name, measure in variants.items():
                runs.setdefault(name, []).append(measure())
                print(f"round {number + 1}: {name} {runs[name][-1].wall_s:.1f} s", file=sys.stderr, flush=True)
    return runs


def _rows(runs: Mapping[str, list[Run]], owners: Mapping[str, float], memory: Mapping[str, int]) -> list[Row]:
    wall = {name: statistics.median(one.wall_s for one in some) for name, some in runs.items()}
    processor = {name: statistics.median(one.processor_s for one in some) for name, some in runs.items()}

    def ratio(this: str, that: str) -> tuple[float, str]:
        pairs = [a.wall_s / b.wall_s for a, b in zip(runs[this], runs[that], strict=True)]
        return wall[this] / wall[that], f"rounds {', '.join(f'{pair:.2f}' for pair in pairs)}; processor time " + (
            f"{processor[this] / processor[that]:.2f}"
        )

    hungriest = max(peak for name, peak in memory.items() if "by hand" in name)
    outside = sum(owners.values()) - owners["library"]
    shares = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in sorted(owners.items()))
    jobs = {name: peak / hungriest for name, peak in memory.items() if "by hand" not in name}
    cold, pair, changed = (
        ratio("cold", "by hand"), ratio("side by side", "one after the other"), ratio("one changed", "one alone"),
    )  # fmt: skip
    return [
        Row("rebuild, nothing changed", wall["rebuild"], 1.0, "s", f"processor {processor['rebuild']:.2f} s"),
        Row("outside library calls", outside / sum(owners.values()), 0.08, "", f"processor time: {shares}"),
        Row("cold build / by hand", cold[0], 1.15, "", cold[1]),
        Row("two components side by side / one after the other", pair[0], 0.75, "", pair[1]),
        Row("one component changed / that component alone", changed[0], 1.2, "", changed[1]),
        *(
            Row(f"peak memory, {name} / hungriest call", value, 1.3, "", f"{memory[name] / 2**20:.0f} MiB / "
                f"{hungriest / 2**20:.0f} MiB")
            for name, value in jobs.items()
        ),
    ]  # fmt: skip


def _table(rows: list[Row]) -> list[str]:
    return [
        "| what | measured | limit | | |",
        "|---|---|---|---|---|",
        *(
            f"| {row.what} | {row.measured:.2f}{row.unit and ' ' + row.unit} | {row.limit:.2f}"
            f"{row.unit and ' ' + row.unit} | {'met' if row.measured <= row.limit else 'missed'} | {row.note} |"
            for row in rows
        ),
    ]


def _details(runs: Mapping[str, list[Run]], places: Any) -> list[str]:
    lines = ["| run | wall-clock s, by round | processor s, by round |", "|---|---|---|"]
    for name, some in runs.items():
        walls, processors = (
            ", ".join(f"{getattr(one, field):.1f}" for one in some) for field in ("wall_s", "processor_s")
        )
        lines.append(f"| {name} | {walls} | {processors} |")
    spent = ", ".join(f"{place} {seconds:.2f}" for place, seconds in places.most_common(12))
    return [*lines, "", f"Processor seconds outside library calls, by mmdeploy's innermost function: {spent}."]


def _environment(rounds: int, load_before: float) -> list[str]:
    model = next(
        (line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
         if line.startswith("model name")), platform.machine(),
    )  # fmt: skip
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "onnx", "onnxruntime"))
    return [
        f"{model}, {len(os.sched_getaffinity(0))} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB; "
        f"Python {platform.python_version()}, {versions}.",
        f"{rounds} rounds; load average {load_before:.1f} before, {os.getloadavg()[0]:.1f} after.",
    ]


def _reads_only_inputs(part: Mapping[str, Any], recipe: Mapping[str, Any]) -> bool:
    return all(_tensor(wire) in recipe["inputs"] for wire in part["inputs"].values())


def _only(recipe: Mapping[str, Any], chosen: list[str]) -> dict[str, Any]:
    """Return the recipe with some of its components; what they write and nobody reads becomes an output."""
    parts = {name: recipe["components"][name] for name in chosen}
    read = {_tensor(wire) for part in parts.values() for wire in part["inputs"].values()}
    written = [_tensor(wire) for part in parts.values() for wire in part["outputs"].values()]
    return {
        **recipe,
        "data": {**recipe["data"]},
        "inputs": {name: spec for name, spec in recipe["inputs"].items() if name in read},
        "components": parts,
        "outputs": {name: {} for name in written if name not in read},
        "gates": [],
    }


def _tensor(wire: Any) -> str:
    return str(wire if isinstance(wire, str) else wire["tensor"])


if __name__ == "__main__":
    sys.exit(main())
