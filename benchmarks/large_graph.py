"""A component above protobuf's 2 GiB, from PyTorch to what Triton serves: does it build, how long, how much memory?

Its weights lie outside the graph, in ``model.onnx.data``, in every step and in the release. Needs about 16 GiB of
memory and of disk: both the candidate and the FP32 reference are built, staged and served. Run it as
``python benchmarks/large_graph.py [--gib 2.2] [--workdir FOLDER] [--quantize]``; it prints one row.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

MODEL = """
import torch
from torch import nn

class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4096, 4096) for _ in range({layers}))

    def forward(self, x):
        for layer in self.layers:
            x = x + torch.relu(layer(x))
        return x[:, :16]

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = Encoder()

def build():
    torch.manual_seed(0)
    return Model()
"""
DATA = """
import numpy as np

def calibration():
    random = np.random.default_rng(1)
    return ({"x": random.standard_normal(4096).astype(np.float32)} for _ in range(8))

def evaluation():
    random = np.random.default_rng(2)
    return ({"x": random.standard_normal(4096).astype(np.float32)} for _ in range(16))
"""
RECIPE = """
schema_version: 1
name: large
target: cpu
model: {factory: model.py:build}
data: {calibration: data.py:calibration, evaluation: data.py:evaluation}
inputs: {x: {dtype: FP32, shape: [4096]}}
components:
  encoder: {module: encoder, inputs: {x: x}, outputs: {y: y}QUANTIZE}
outputs: {y: {}}
gates: [{method: parity, min_cosine: 0.98}]
"""
_INT8 = ", quantize: {method: dynamic}, keep: always"
_LAYER_BYTES = 4 * (4096 * 4096 + 4096)


class PeakMemory:
    """The largest memory of this process's children together, in bytes, sampled while it is open."""

    def __init__(self) -> None:
        """Start at nothing."""
        self.peak_bytes, self._ended = 0, threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def _sample(self) -> None:
        while not self._ended.wait(0.2):
            total = 0
            for process in psutil.Process().children(recursive=True):
                try:
                    total += process.memory_full_info().pss
                except psutil.Error:
                    continue
            self.peak_bytes = max(self.peak_bytes, total)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._thread.join()


def main() -> int:
    """Build the recipe and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gib", type=float, default=2.2, help="size of the weights")
    parser.add_argument("--workdir", type=Path, help="where to build; a temporary folder without it")
    parser.add_argument("--quantize", action="store_true", help="to INT8, dynamic")
    arguments = parser.parse_args()
    layers = round(arguments.gib * 2**30 / _LAYER_BYTES)
    with tempfile.TemporaryDirectory(dir=arguments.workdir, prefix="large-") as name:
        folder = Path(name)
        (folder / "model.py").write_text(MODEL.replace("{layers}", str(layers)))
        (folder / "data.py").write_text(DATA)
        (folder / "recipe.yaml").write_text(RECIPE.replace("QUANTIZE", _INT8 if arguments.quantize else ""))
        started = time.perf_counter()
        with PeakMemory() as memory:
            command = [sys.executable, "-m", "mmdeploy", "build", ".", "--workdir", "work", "--output", "out"]
            code = subprocess.run(command, cwd=folder, check=False).returncode
        seconds = time.perf_counter() - started
        published = sum(path.stat().st_size for path in folder.glob("out/.releases/**/*") if path.is_file())
    what = "dynamic INT8" if arguments.quantize else "FP32"
    print(
        f"| {layers * _LAYER_BYTES / 2**30:.2f} GiB of weights, {what} | exit {code} | {seconds:.0f} s "
        f"| {memory.peak_bytes / 2**30:.1f} GiB at once | {published / 2**30:.2f} GiB published |"
    )
    return code


if __name__ == "__main__":
    sys.exit(main())
