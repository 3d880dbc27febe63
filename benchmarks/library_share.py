"""Where the processor time of a build goes: libraries, the recipe's own code, or mmdeploy. `build.py` uses it.

A ``sitecustomize`` on PYTHONPATH puts a profiling timer into every Python process of the build, forked ones
included. Every 20 ms of processor time (all threads) it looks at the main thread's stack and charges what was spent
since the last look: to the libraries when one of them is anywhere on the stack, their imports included; else to the
recipe when its code is; else to other libraries (matplotlib, pydantic, rich) or to mmdeploy itself.
A timer's signal waits until native code returns, so a long native call is charged whole to whoever made it.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

LIBRARIES = ("torch", "onnx", "onnxruntime", "onnxscript", "onnx_ir", "safetensors", "tensorrt_rtx", "tritonclient")
_SITECUSTOMIZE = """
import atexit, os, signal, time

LIBRARIES = tuple(f"/site-packages/{name}/" for name in os.environ["LIBRARY_SHARE_NAMES"].split(","))
RECIPE = os.environ["LIBRARY_SHARE_RECIPE"]
LEDGER = os.open(os.environ["LIBRARY_SHARE_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
last = 0.0

def look(signum, frame):
    global last
    now, owner, place = time.process_time(), "mmdeploy", ""
    while frame is not None:
        file = frame.f_code.co_filename
        if any(name in file for name in LIBRARIES):
            owner = "library"
            break
        if file.startswith(RECIPE):
            owner = "recipe"
        elif "/site-packages/" in file and owner == "mmdeploy":
            owner = "other libraries"
        if not place and "/mmdeploy/" in file:
            place = f"{file.partition('/mmdeploy/')[2]}:{frame.f_code.co_name}"
        frame = frame.f_back
    os.write(LEDGER, f"{owner}\\t{now - last}\\t{place}\\n".encode())
    last = now

def begin():
    global last
    last = time.process_time()
    signal.signal(signal.SIGPROF, look)
    signal.siginterrupt(signal.SIGPROF, False)
    signal.setitimer(signal.ITIMER_PROF, 0.02, 0.02)

os.register_at_fork(after_in_child=begin)
atexit.register(signal.setitimer, signal.ITIMER_PROF, 0)  # Python's handlers go before the process does
begin()
last = 0.0
"""


def measure(run: Callable[[Mapping[str, str]], object], recipe_folder: Path) -> tuple[Counter[str], Counter[str]]:
    """Run a build under the timer.

    Args:
        run: Runs the build with the given environment and returns when all its processes have ended.
        recipe_folder: Where the recipe's own code lies.

    Returns:
        Processor seconds by owner (``library``, ``recipe``, ``other libraries``, ``mmdeploy``), and those that are
        not the libraries' by mmdeploy's innermost function.
    """
    with tempfile.TemporaryDirectory(prefix="library-share-") as folder:
        ledger = Path(folder) / "ledger"
        (Path(folder) / "sitecustomize.py").write_text(_SITECUSTOMIZE)
        inherited = os.environ.get("PYTHONPATH")
        run(
            {
                "PYTHONPATH": os.pathsep.join([folder, *([inherited] if inherited else [])]),
                "LIBRARY_SHARE_NAMES": ",".join(LIBRARIES),
                "LIBRARY_SHARE_RECIPE": str(recipe_folder),
                "LIBRARY_SHARE_LEDGER": str(ledger),
            }
        )
        owners: Counter[str] = Counter()
        places: Counter[str] = Counter()
        for line in ledger.read_text().splitlines():
            owner, seconds, place = line.split("\t")
            owners[owner] += float(seconds)  # type: ignore[assignment]
            if owner != "library":
                places[place or "imports, before and after"] += float(seconds)  # type: ignore[assignment]
    return owners, places
