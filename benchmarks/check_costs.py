"""What the checks and searches of a cold build cost, next to all of it: processor time before the gates.

    python benchmarks/check_costs.py [--recipe recipes/spoken_digits/recipe.yaml] [--rounds 3] [--json FIGURES.json]

A ``sitecustomize`` on PYTHONPATH wraps the functions below as their modules are imported, in every process of the
build. Each call is charged with the processor time of its process (all threads, and whatever it imports) while it
lasts; a call inside of another is that one's. Processor time, for on a machine that others use wall-clock time says
nothing; with nothing else running and two jobs on two cores the shares are those of the time.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import statistics
import sys
import tempfile
from collections import Counter
from pathlib import Path

from build import ROOT, Bench

#: By what is checked: functions that only check, and would not run without it.
CHECKS: dict[str, tuple[str, ...]] = {
    "graphs are valid, and the same to onnx.reference": ("mmdeploy.engines.conformance:handed_over",),
    "engines answer as their own graphs": (
        "mmdeploy.engines.own_graph:question",
        "mmdeploy.engines.own_graph:Question.expected",
        "mmdeploy.engines.own_graph:Expectation.apart",
    ),
    "modules keep no state, samples do not meet": (
        "mmdeploy.export.demands:require_no_memory",
        "mmdeploy.export.demands:require_own_answers",
    ),
    "INT8 graphs against float ones, and as written": ("mmdeploy.quantize.fidelity:compare",),
    "worst nodes, for advice": ("mmdeploy.quantize.giving_back:worst_nodes",),
    "search of defaults: equalization, calibrator": ("mmdeploy.quantize.settle:settle",),
    "INT8 tables of embeddings": ("mmdeploy.quantize.embeddings:settle",),
}
LIMIT = 0.10
_SITECUSTOMIZE = """
import functools, importlib.abc, importlib.machinery, json, os, sys, time

WATCHED = json.loads(os.environ["CHECK_COSTS_WATCHED"])
LEDGER = os.open(os.environ["CHECK_COSTS_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
running = []

def charged(function, name):
    @functools.wraps(function)
    def call(*given, **named):
        if running:
            return function(*given, **named)
        running.append(name)
        before = time.process_time()
        try:
            return function(*given, **named)
        finally:
            running.pop()
            os.write(LEDGER, f"{name}\\t{time.process_time() - before}\\n".encode())
    return call

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name not in WATCHED:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module
        def exec_module(module):
            execute(module)
            for inner in WATCHED[name]:
                *owners, last = inner.split(".")
                owner = functools.reduce(getattr, owners, module)
                setattr(owner, last, charged(getattr(owner, last), f"{name}:{inner}"))
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Finder())
"""


def main() -> int:
    """Measure, print a table, and return 1 when all checks together cost more than the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes/spoken_digits/recipe.yaml")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # a subreaper: the fork server's time is ours to read
    rounds = []
    with tempfile.TemporaryDirectory(prefix="check-costs-") as folder:
        bench = Bench(arguments.recipe.absolute(), Path(folder))
        for number in range(arguments.rounds):
            rounds.append(_measured(bench, Path(folder) / f"hook{number}"))
            print(f"round {number + 1}: {rounds[-1]['all']:.1f} s of processor time", file=sys.stderr, flush=True)
    rows = {name: [one.get(name, 0.0) for one in rounds] for name in ("all", *CHECKS)}
    share = statistics.median(sum(one[name] for name in CHECKS) / one["all"] for one in rounds)
    print("\n".join(_table(rows, share)))
    if arguments.json:
        arguments.json.write_text(json.dumps({"processor_s": rows, "share": share, "limit": LIMIT}, indent=1) + "\n")
    return 1 if share > LIMIT else 0


def _measured(bench: Bench, hook: Path) -> Counter[str]:
    """Build once, cold; return processor seconds by what is checked, and of ``all``."""
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(_SITECUSTOMIZE)
    watched: dict[str, list[str]] = {}
    for place in (place for places in CHECKS.values() for place in places):
        module, _, name = place.partition(":")
        watched.setdefault(module, []).append(name)
    ledger, inherited = hook / "ledger", os.environ.get("PYTHONPATH")
    more = {
        "PYTHONPATH": os.pathsep.join([str(hook), *([inherited] if inherited else [])]),
        "CHECK_COSTS_WATCHED": json.dumps(watched),
        "CHECK_COSTS_LEDGER": str(ledger),
    }
    found: Counter[str] = Counter()
    found["all"] = bench.build("whole", more=more).processor_s  # type: ignore[assignment]
    owners = {place: name for name, places in CHECKS.items() for place in places}
    for line in ledger.read_text().splitlines():
        place, seconds = line.split("\t")
        found[owners[place]] += float(seconds)  # type: ignore[assignment]
    return found


def _table(rows: dict[str, list[float]], share: float) -> list[str]:
    whole = statistics.median(rows["all"])
    lines = ["| checks | processor s, by round | share of the build |", "|---|---|---|"]
    for name, seconds in rows.items():
        part = "" if name == "all" else f"{statistics.median(seconds) / whole:.1%}"
        lines.append(f"| {name} | {', '.join(f'{one:.2f}' for one in seconds)} | {part} |")
    return [*lines, f"| all checks together | | {share:.1%} (limit {LIMIT:.0%}) |"]


if __name__ == "__main__":
    sys.exit(main())
