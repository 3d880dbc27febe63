"""What mmdeploy adds to the libraries' own calls in a large build: a CLIP ViT-B/32 pair, drawn weights, 32 samples.

    PYTHONPATH=.:benchmarks python benchmarks/build_clip.py --work DIR [--only quantize peers build auto] [--json FILE]

- ``quantize``: mmdeploy's pass against ONNX Runtime's `quantize_static`, each in a process of its own, in turns, on the
  same exported graph with the same settings (see `build_clip_by_hand.py`); ``peers``: NNCF and Olive beside them.
- ``build``: whole builds of `clip_auto/` with one engine and ``minmax``, before the gates: the head's export, a rebuild
  with nothing changed, with a store in a folder and one by ``file://``, two jobs against one in turns, memory in a
  build of its own, and the share of processor time outside library calls.
- ``auto``: the same recipe with ``engine: auto``.

Pieces may be measured at different times: figures in ``--json`` are kept, and the table is of all that are there.
Memory is each process's own largest, where there is one; of a build the sum of PSS over its processes, looked at twice
a second. Ratios of processor time are what other people's load disturbs least; the clock's stand beside them.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.metadata
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import library_share
import psutil

HERE = Path(__file__).parent
RECIPE = HERE / "clip_auto/recipe.yaml"
TOWERS, CALIBRATORS = ("image", "text"), ("minmax", "percentile")
TOOLS = ("onnxruntime", "mmdeploy")
PEERS = {"nncf": "nncf", "olive": "olive-ai"}
PARTS = ("quantize", "peers", "build", "auto")
_PR_SET_CHILD_SUBREAPER = 36
MMDEPLOY = "from mmdeploy.cli import main; main()"
#: Of `clip_auto`: static INT8 by ``minmax``, and the same for `engine: auto`. ``null`` takes the key away, so that
#: equalization is tried, as by default: a sixth of the time of the build.
STATIC = [f"components.{tower}.quantize.{key}" for tower in TOWERS for key in ("calibrator=minmax", "equalize=null")]
ONE_ENGINE = [
    f"components.{tower}.{key}" for tower in TOWERS for key in ("engine={method: onnxruntime}", "keep=always")
]


def main() -> int:
    """Measure, print a table, and return 1 when a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="exported graphs are kept there and used again")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--towers", nargs="+", choices=TOWERS, default=TOWERS, help="of the part `quantize`")
    parser.add_argument(
        "--rounds", type=int, default=1, help="of `quantize`, where the best counts, and `build`, the middle"
    )
    parser.add_argument("--json", type=Path, help="write the figures there, beside those that are there already")
    arguments = parser.parse_args()
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # so that the fork server's time is ours to read
    figures = json.loads(arguments.json.read_text()) if arguments.json and arguments.json.exists() else {}
    figures["environment"] = environment()
    for part in arguments.only:
        before = os.getloadavg()[0]
        measured = globals()[part](arguments)
        if part in figures and "runs" in measured:
            measured["runs"] = {**figures[part]["runs"], **measured["runs"]}
        figures[part] = {**measured, "load": [before, os.getloadavg()[0]]}
        if arguments.json:
            arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    rows = list(table(figures))
    print("\n".join(["", figures["environment"], "", "| what | measured | aim | | |", "|---|---|---|---|---|"]))
    print("\n".join(f"| {' | '.join(row)} |" for row in rows))
    return 1 if any(row[3] == "missed" for row in rows) else 0


def quantize(arguments: argparse.Namespace) -> dict[str, Any]:
    """Quantize both towers with both tools by both calibrators, in turns."""
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(arguments.rounds):
        for tower in arguments.towers:
            for calibrator in CALIBRATORS:
                for tool in TOOLS:
                    name = f"{tower} {calibrator} {tool}"
                    found.setdefault(name, []).append(by_hand(tool, tower, calibrator, arguments.work))
                    told(name, found[name][-1])
    return {"runs": found}


def peers(arguments: argparse.Namespace) -> dict[str, Any]:
    """Quantize both towers with what else is installed."""
    found: dict[str, Any] = {}
    for tool, distribution in PEERS.items():
        try:
            version = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            found[tool] = f"{distribution} is not installed"
            continue
        try:
            found[tool] = {tower: by_hand(tool, tower, "minmax", arguments.work) for tower in TOWERS}
            found[tool]["version"] = version
        except RuntimeError as error:
            found[tool] = f"{distribution} {version} fails: {str(error).splitlines()[-1]}"
        print(tool, found[tool], file=sys.stderr, flush=True)
    return {"tools": found}


def by_hand(tool: str, tower: str, calibrator: str, work: Path) -> dict[str, float]:
    """Run one tool in a process of its own.

    Raises:
        RuntimeError: With what it said, where it fails.
    """
    exported(tower, work)
    command = [sys.executable, str(HERE / "build_clip_by_hand.py"), tool, tower, calibrator, str(work)]
    done = subprocess.run(command, env=paths(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip() or f"exit status {done.returncode}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def exported(tower: str, work: Path) -> None:
    """Export a tower, unless it is there."""
    if (work / tower / "artifact.json").exists():
        return
    script = (
        "import sys, clip_towers\nfrom pathlib import Path\n"
        "tower, folder = sys.argv[1], Path(sys.argv[2])\n"
        "made = clip_towers.exported(tower, folder, as_exported=False)\n"
        "(folder / 'artifact.json').write_text(made.to_json())\n"
    )
    subprocess.run([sys.executable, "-c", script, tower, str(work / tower)], env=paths(), check=True)


def build(arguments: argparse.Namespace) -> dict[str, Any]:
    """Build with one job and with two, build again, measure memory, and see who spends the time."""
    rounds = [round_of_builds(arguments.work, first=("one", "two")[number % 2]) for number in range(arguments.rounds)]
    rounds.sort(key=lambda one: one["runs"]["two jobs"]["wall_s"] / one["runs"]["one job"]["wall_s"])
    middle = rounds[(len(rounds) - 1) // 2]
    runs = middle["runs"]
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        two, shared = (Path(folder) / name for name in ("two", "shared"))
        runs["two jobs, watched"] = mmdeploy(two, "--jobs", "2", sample=True)  # looking at memory takes time of it
        store = ("--store", f"file://{shared}")
        mmdeploy(two, *store)  # uploads what the local store has
        runs["nothing changed, by file://"] = mmdeploy(two, *store)
        owners, places = library_share.measure(
            lambda more: mmdeploy(Path(folder) / "share", "--jobs", "1", more=more), RECIPE.parent
        )
    for name, run in runs.items():
        told(name, run)
    walls = {name: [one["runs"][name]["wall_s"] for one in rounds] for name in rounds[0]["runs"]}
    return {
        "runs": runs,
        "steps": middle["steps"],
        "walls_s": walls,
        "processor_s_by_owner": owners,
        "places": dict(places.most_common(20)),
    }


def round_of_builds(work: Path, *, first: str) -> dict[str, Any]:
    """Build with one job and with two, one after the other, and again with nothing changed."""
    runs: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(dir=work) as folder:
        for jobs in ("one", "two") if first == "one" else ("two", "one"):
            words = f"{jobs} job{'s' * (jobs == 'two')}"
            runs[words] = mmdeploy(Path(folder) / jobs, "--jobs", {"one": "1", "two": "2"}[jobs])
        steps = seconds_of_steps(Path(folder) / "one")
        runs["nothing changed"] = mmdeploy(Path(folder) / "one", "--jobs", "1")
    return {"runs": runs, "steps": steps}


def auto(arguments: argparse.Namespace) -> dict[str, Any]:
    """Build with `engine: auto`, beside a static build."""
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        runs = {
            "static": mmdeploy(Path(folder) / "static", "--jobs", "2"),
            "auto": mmdeploy(Path(folder) / "auto", "--jobs", "2", one_engine=False),
        }
        steps = {name: seconds_of_steps(Path(folder) / name) for name in runs}
    for name, run in runs.items():
        told(name, run)
    return {"runs": runs, "steps": steps}


def mmdeploy(folder: Path, *options: str, more: Mapping[str, str] | None = None, sample: bool = False,
             one_engine: bool = True) -> dict[str, float]:  # fmt: skip
    """Build before the gates, in a store of the folder."""
    command = [sys.executable, "-c", MMDEPLOY, "build", str(RECIPE)]
    command += ["--workdir", str(folder / "work"), "--output", str(folder / "published"), *options]
    for change in [*STATIC, *(ONE_ENGINE if one_engine else []), "gates=[]"]:
        command += ["--set", change]
    before, started = children_s(), time.perf_counter()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, env=paths(more or {}), stdout=said, stderr=subprocess.STDOUT)
        peaks: list[int] = []
        watcher = threading.Thread(target=watch, args=(process, peaks)) if sample else None
        if watcher:
            watcher.start()
        process.wait()
        wall = time.perf_counter() - started
        if watcher:
            watcher.join()
        reap()
        if process.returncode:
            said.seek(0)
            sys.exit(f"{' '.join(command)} ended with {process.returncode}\n{said.read()}")
    return {"wall_s": wall, "processor_s": children_s() - before, "peak_bytes": max(peaks, default=0)}


def reap() -> None:
    """Wait for what a build left to us, such as its fork server: its time counts when it has ended."""
    while True:
        try:
            os.wait()
        except ChildProcessError:
            return


def watch(process: subprocess.Popen[bytes], peaks: list[int]) -> None:
    """Note the sum of PSS of a process and all below it, twice a second."""
    root = psutil.Process(process.pid)
    while process.poll() is None:
        total = 0
        try:
            for member in [root, *root.children(recursive=True)]:
                total += member.memory_full_info().pss
        except psutil.Error:
            continue
        finally:
            peaks.append(total)
            time.sleep(0.5)


def children_s() -> float:
    """Return the processor seconds of all processes that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def seconds_of_steps(folder: Path) -> dict[str, float]:
    """Return the seconds of each step, from the report of a build."""
    report = next((folder / "published").rglob("report.json"))
    return {step["id"]: step["seconds"] for step in json.loads(report.read_text())["steps"]}


def table(figures: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Give the rows: what, measured, aim, verdict, note."""
    if "quantize" in figures:
        yield from quantize_rows(figures["quantize"]["runs"])
    for tool, found in figures.get("peers", {}).get("tools", {}).items():
        if isinstance(found, str):
            yield tool, "", "", "", found
            continue
        for tower in TOWERS:
            one = found[tower]
            took = f"{one['wall_s']:.1f} s, {one['processor_s']:.1f} s of the processor"
            yield f"{tool} {found['version']}, {tower}", took, "", "", f"{mib(one)}, cosine {one['cosine']:.5f}"
    if "build" in figures:
        yield from build_rows(figures)
    if "auto" in figures:
        runs = figures["auto"]["runs"]
        yield ratio("engine: auto / one static build", runs["auto"], runs["static"], 3.0, by="wall_s")


def quantize_rows(runs: Mapping[str, list[dict[str, float]]]) -> Iterator[tuple[str, ...]]:
    """Give the rows of mmdeploy's pass against ONNX Runtime's call."""
    towers = [tower for tower in TOWERS if any(name.startswith(tower) for name in runs)]
    for calibrator in CALIBRATORS:
        pair = {tool: total([best(runs[f"{tower} {calibrator} {tool}"]) for tower in towers]) for tool in TOOLS}
        yield ratio(
            f"static INT8 of {' and '.join(towers)}, {calibrator} / quantize_static",
            pair["mmdeploy"],
            pair["onnxruntime"],
            1.15,
        )
        for tower in towers:
            ours, theirs = (best(runs[f"{tower} {calibrator} {tool}"]) for tool in ("mmdeploy", "onnxruntime"))
            what, measured, _, _, note = ratio(f"- {tower}", ours, theirs, 1.15)
            yield what, measured, "", "", f"{note}; cosine {ours['cosine']:.5f} / {theirs['cosine']:.5f}"
        ours, theirs = pair["mmdeploy"], pair["onnxruntime"]
        value = ours["peak_bytes"] / theirs["peak_bytes"]
        yield verdict(f"memory, {calibrator} / quantize_static", value, 0.5, f"{mib(ours)} / {mib(theirs)}")


def build_rows(figures: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Give the rows of whole builds."""
    build = figures["build"]
    runs, owners = build["runs"], build["processor_s_by_owner"]
    yield verdict("head's export", build["steps"]["head/export"], 3.0, "by the clock, one job", unit=" s")
    name, *measured, note = ratio("two jobs / one", runs["two jobs"], runs["one job"], 0.7, by="wall_s")
    walls = build["walls_s"]
    every = ", ".join(f"{two / one:.2f}" for two, one in zip(walls["two jobs"], walls["one job"], strict=True))
    yield name, *measured, f"{note}; rounds {every}"
    for name in ("nothing changed", "nothing changed, by file://"):
        note = f"{runs[name]['processor_s']:.2f} s of the processor"
        yield verdict(f"rebuild, {name}", runs[name]["wall_s"], 1.0, note, unit=" s")
    outside = sum(owners.values()) - owners["library"]
    shares = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in sorted(owners.items()))
    yield verdict("outside library calls", outside / sum(owners.values()), 0.08, shares)
    if "quantize" in figures:
        hungriest = max(
            (run for name, some in figures["quantize"]["runs"].items() if "onnxruntime" in name for run in some),
            key=lambda run: run["peak_bytes"],
        )
        watched = runs["two jobs, watched"]
        value = watched["peak_bytes"] / hungriest["peak_bytes"]
        yield verdict("memory, two jobs / the hungriest call", value, 1.3, f"{mib(watched)} / {mib(hungriest)}")


def ratio(
    what: str, ours: Mapping[str, float], theirs: Mapping[str, float], aim: float, by: str = "processor_s"
) -> tuple[str, ...]:
    """Return a row of one run against another, by processor time or by the clock."""
    other = "wall_s" if by == "processor_s" else "processor_s"
    words = {"wall_s": "by the clock", "processor_s": "processor time"}
    note = f"{words[by]} {ours[by]:.1f} / {theirs[by]:.1f} s; {words[other]} {ours[other] / theirs[other]:.2f}"
    return verdict(what, ours[by] / theirs[by], aim, note)


def verdict(what: str, value: float, aim: float, note: str, unit: str = "") -> tuple[str, ...]:
    """Return a row."""
    return what, f"{value:.2f}{unit}", f"≤ {aim:g}{unit}", "met" if value <= aim else "missed", note


def best(runs: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the run of least processor time: others' load only adds."""
    return min(runs, key=lambda run: run["processor_s"])


def total(runs: Sequence[dict[str, float]]) -> dict[str, float]:
    """Add up what two processes took one after the other; memory is that of the larger."""
    added = {key: sum(run[key] for run in runs) for key in ("wall_s", "processor_s")}
    return {**added, "peak_bytes": max(run["peak_bytes"] for run in runs)}


def mib(run: Mapping[str, float]) -> str:
    """Return the memory of a run in words."""
    return f"{run['peak_bytes'] / 2**20:.0f} MiB"


def told(name: str, run: Mapping[str, float]) -> None:
    """Say on stderr what was measured."""
    print(f"{name}: {run['wall_s']:.1f} s, {run['processor_s']:.1f} s of the processor", file=sys.stderr, flush=True)


def paths(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a process that imports mmdeploy and what lies beside this file, with its bytecode."""
    more = dict(more or {})
    given = [more.pop("PYTHONPATH", os.environ.get("PYTHONPATH", "")), str(HERE.parent), str(HERE)]
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, **more, "PYTHONPATH": os.pathsep.join(filter(None, given))}


def environment() -> str:
    """Return the machine and the versions."""
    cpu = next(
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    )
    names = ("torch", "transformers", "onnx", "onnxruntime", "onnx-ir")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    memory = psutil.virtual_memory().total / 2**30
    return f"{cpu}, {os.cpu_count()} cores, {memory:.0f} GiB; Python {sys.version.split()[0]}, {versions}."


if __name__ == "__main__":
    sys.exit(main())
