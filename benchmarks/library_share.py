"""Where the processor time of a build goes: libraries, the recipe's own code, or mmdeploy. `build.py` uses it.

`processor_timer.py` is put as ``sitecustomize`` on PYTHONPATH, and so into every Python process of the build, forked
ones included. Every 10 ms of processor time (all threads) it looks at the main thread's stack and charges what was
spent since the last look to the innermost frame that is not Python's own library:

- ``library``: what does the work, `LIBRARIES`, with what they import or call in turn, and whoever calls them: a script
  written by hand makes those calls too. Importing `transformers` and building the model is among it, but what the
  build does twice (a library's import in two processes, a graph written again) is not taken out.
- ``recipe``: the recipe's own Python.
- ``other libraries``: what only mmdeploy brings in, such as pydantic, rich, Matplotlib.
- ``mmdeploy``: everything else: its own Python, also where a library calls it back (hooks, subclasses); Python's
  standard library as it uses it (hashes, files, JSON, `ast`); starting Python.

*Outside library calls* is all but the first. A timer's signal waits until native code returns, so a long native call
is charged whole to whoever made it. Where mmdeploy calls native code of a library itself there is no frame of that
library: a call of more than two periods, right behind which the signal is seen, goes to the library when its callee
can be told (a plain dotted name that is no Python function and whose module is one of `LIBRARIES`), such as
``proto.SerializeToString()``. Shorter ones stay mmdeploy's, though some of that time is the libraries'.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

LIBRARIES = (
    "torch", "torchvision", "transformers", "tokenizers", "safetensors", "onnx", "onnxruntime", "onnxscript", "onnx_ir",
    "openvino", "tensorrt_rtx", "tritonclient", "numpy", "google",  # protobuf
)  # fmt: skip
_OURS = Path(__file__).parents[1] / "mmdeploy"


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
        shutil.copyfile(Path(__file__).with_name("processor_timer.py"), Path(folder) / "sitecustomize.py")
        inherited = os.environ.get("PYTHONPATH")
        run(
            {
                "PYTHONPATH": os.pathsep.join([folder, *([inherited] if inherited else [])]),
                "LIBRARY_SHARE_NAMES": ",".join(LIBRARIES),
                "LIBRARY_SHARE_OURS": f"{_OURS}/",
                "LIBRARY_SHARE_RECIPE": f"{recipe_folder}/",
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
