"""That the timing behind `engine: auto` sees a difference that is there: a tenth of the work takes less time.

Run it as ``python benchmarks/engine_race.py``. Chains of 60 and of 6 layers are built by each CPU engine and timed as a
search times graphs: in processes of their own, in turns. Prints the ratio with its interval for each engine. The exit
code is 1 when an interval reaches 1. Tests set what requests cost, so that no processor decides whether they pass;
this is where real ones are compared.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx

from mmdeploy import engines
from mmdeploy.choice.graphs import timed
from mmdeploy.core.contracts import Encoding, StepContext
from mmdeploy.core.target import Target

WIDTH, LONG, SHORT = 192, 60, 6


def main() -> int:
    """Measure, print, and return 1 where the shorter chain is not surely faster."""
    blurred = []
    with tempfile.TemporaryDirectory() as folder:
        graphs = {f"{layers} layers": _chain(Path(folder), layers) for layers in (LONG, SHORT)}
        for name in ("onnxruntime", "openvino"):
            found = timed(graphs, engines.METHODS[name].Options(), _context(Path(folder)))
            long, short = found.values()
            low, high = short.ratio_interval
            interval = f"{short.ratio:.3f} ({low:.3f} to {high:.3f})"
            print(f"{name:12} {long.median_ms:.3f} ms, {short.median_ms:.3f} ms: {interval}")
            blurred += [name] if high >= 1.0 else []
    print("told apart: " + (f"not by {', '.join(blurred)}" if blurred else "yes"))
    return 1 if blurred else 0


def _chain(folder: Path, layers: int) -> Path:
    random, path = np.random.default_rng(0), folder / f"{layers}.onnx"
    body = "\n".join(f"h{at} = MatMul(t{at}, w{at}) t{at + 1} = Tanh(h{at})" for at in range(layers))
    model = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["": 20]>
        chain (float[batch, {WIDTH}] t0) => (float[batch, {WIDTH}] t{layers}) {{ {body} }}"""
    )
    for at in range(layers):
        weight = random.normal(size=(WIDTH, WIDTH)).astype(np.float32) / WIDTH**0.5
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight, f"w{at}"))
    onnx.save(model, path)
    return path


def _context(folder: Path) -> StepContext:
    return StepContext(
        component="chain", workdir=folder, target=Target.CPU, encoding=Encoding.UINT8_ASYMMETRIC, max_batch_size=1,
        seed=0, threads=1,
        examples=lambda batch: {"t0": np.random.default_rng(3).normal(size=(batch, WIDTH)).astype(np.float32)},
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
