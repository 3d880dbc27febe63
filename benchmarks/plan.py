"""How long ``mmdeploy plan`` takes on a recipe with 2 GB of model files, and a rebuild in which nothing changed.

    python benchmarks/plan.py [--gib 2] [--runs 5]

The model's files are written for it, real bytes in a temporary folder, half as the recipe's weights and half named in
``model.files``, and removed. Printed are the first plan, which reads every byte, the fastest of those that follow, in
which nothing changed, whether any of them imported torch, and a build of the tests' small recipe without gates, made
once before and timed as far as gates would run. Limits: 1 s each for a plan and for a rebuild when nothing changed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT_S = 1.0
TINY = Path(__file__).parents[1] / "tests/tiny_recipe"
START = """
import sys
from mmdeploy.cli import commands
from mmdeploy.cli.outcome import run
code = run(commands, sys.argv[1:])
print("torch" in sys.modules, file=sys.stderr)
sys.exit(code)
"""
#: A build as far as the gates: steps, the staged repository, its release; without the reports.
BUILD = """
import sys
from pathlib import Path
from mmdeploy.building.builder import run_build
from mmdeploy.building.settings import Settings
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.record.observer import Silent
if __name__ == "__main__":
    outcome = run_build(load_recipe(Path(sys.argv[1]) / "recipe.yaml", ["gates=[]"]), Settings(), Silent())
    sys.exit(str(outcome.error) if outcome.error else 0)
"""
CHUNK = 2**24
GIB = 2**30


def main() -> int:
    """Measure, print, and return 1 when a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=2.0)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mmdeploy-plan-") as folder:
        recipe = Path(folder) / "recipe"
        shutil.copytree(TINY, recipe, ignore=shutil.ignore_patterns("__pycache__"))
        half = int(arguments.gib * GIB / 2)
        _write_weights(recipe / "weights.safetensors", half)
        _write_bytes(recipe / "checkpoint.bin", half, mode="xb")
        named = ["--set", "model.weights=weights.safetensors", "--set", "model.files=['checkpoint.bin']"]
        first, _ = _run(folder, "plan", str(recipe), *named)
        again = [_run(folder, "plan", str(recipe), *named) for _ in range(arguments.runs)]
        _run(folder, str(recipe), code=BUILD)
        rebuilt = min(_run(folder, str(recipe), code=BUILD)[0] for _ in range(arguments.runs))
    plan = min(seconds for seconds, _ in again)
    imported = any(torch for _, torch in again)
    print(f"first plan, {arguments.gib:g} GiB of model files    {first:6.2f} s")
    print(f"plan, nothing changed                {plan:6.2f} s   torch imported: {imported}")
    print(f"rebuild up to gates, nothing changed  {rebuilt:5.2f} s")
    return int(plan > LIMIT_S or rebuilt > LIMIT_S or imported)


def _run(folder: str, *command: str, code: str = START) -> tuple[float, bool]:
    """Run a command as a user does; return its wall-clock time and whether its process imported torch."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, *command], cwd=folder, capture_output=True, text=True, check=True
    )
    return time.perf_counter() - start, done.stderr.strip().endswith("True")


def _write_weights(path: Path, size: int) -> None:
    """Write a safetensors file: 8 bytes of length, a JSON header, the tensors' bytes."""
    count, names = size // 16 // 4, [f"left.layer{number}.weight" for number in range(16)]
    header = {
        name: {"dtype": "F32", "shape": [count], "data_offsets": [number * count * 4, (number + 1) * count * 4]}
        for number, name in enumerate(names)
    }
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    _write_bytes(path, count * 4 * 16, mode="ab")


def _write_bytes(path: Path, size: int, *, mode: str) -> None:
    with path.open(mode) as stream:
        while size > 0:
            size -= stream.write(os.urandom(min(CHUNK, size)))


if __name__ == "__main__":
    sys.exit(main())
