"""How long ``mmdeploy --help`` and ``mmdeploy validate`` take to start, against an empty Python.

    python benchmarks/startup.py [--runs 15] [RECIPE]

Prints for each, measured interleaved in one run: the fastest wall-clock time, the least processor time (user and
system; what the wall clock comes to on an idle machine), and its ratio to ``python -c pass``. The limit of 0.4 s is
judged on the processor time, so that a busy machine does not decide. Bytecode is cached, as pip leaves it: compiling
the package anew at every start, which PYTHONDONTWRITEBYTECODE brings about in a checkout, takes 0.1 s more.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

LIMIT_S = 0.4
RECIPE = Path(__file__).parents[1] / "recipes/spoken_digits/recipe.yaml"
START = "from mmdeploy.cli import main; main()"


def main() -> int:
    """Measure, print, and return 1 when a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", type=Path, default=RECIPE)
    parser.add_argument("--runs", type=int, default=15)
    arguments = parser.parse_args()
    commands = {
        "python -c pass": ["-c", "pass"],
        "import numpy": ["-c", "import numpy"],
        "mmdeploy --help": ["-c", START, "--help"],
        "mmdeploy validate": ["-c", START, "validate", str(arguments.recipe)],
    }
    wall_s: dict[str, list[float]] = {name: [] for name in commands}
    cpu_s: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(arguments.runs + 1):  # the first run fills the caches and is dropped
        for name, command in commands.items():
            wall, cpu = _run(command)
            wall_s[name].append(wall)
            cpu_s[name].append(cpu)
    least = {name: min(times[1:]) for name, times in cpu_s.items()}
    print(f"{'command':20} {'wall s':>8} {'processor s':>12} {'ratio to pass':>14}")
    for name in commands:
        ratio = least[name] / least["python -c pass"]
        print(f"{name:20} {min(wall_s[name][1:]):8.3f} {least[name]:12.3f} {ratio:14.1f}")
    late = [name for name in commands if name.startswith("mmdeploy") and least[name] >= LIMIT_S]
    print(f"limit {LIMIT_S} s: " + (f"missed by {', '.join(late)}" if late else "kept"))
    return 1 if late else 0


def _run(command: list[str]) -> tuple[float, float]:
    """Return the wall-clock and the processor seconds of a Python process."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *command], stdout=subprocess.DEVNULL, check=True, env=environment)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    sys.exit(main())
