"""What checks of requests in the graph cost (``serving: {guard: graph}``): sessions with and without them, in turns.

    python benchmarks/request_guard.py [--rounds 200] [--out FIGURES.json]

Each row is an input as encoders have it in front of a graph of a known cost: a convolution of the image, an
embedding of the ids. The ratio is the median over the rounds of the time with checks over the time without, one
request each, one thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper, parser

from mmdeploy.core.artifact import TensorSpec
from mmdeploy.core.target import this_hardware
from mmdeploy.triton.guard import Guard, write_guards

HEAD = '<ir_version: 10, opset_import: ["" : 20]> '
IMAGE = (
    HEAD
    + """g (float[N,3,224,224] x) => (float[N,64] y) {
    a = Conv <kernel_shape = [7, 7], strides = [2, 2], pads = [3, 3, 3, 3]> (x, w)
    b = Relu(a)  c = GlobalAveragePool(b)  y = Flatten(c) }"""
)
AUDIO = HEAD + "g (float[N,16000] x) => (float[N,512] y) { y = MatMul(x, w) }"
TEXT = HEAD + "g (int64[N,77] x) => (float[N,512] y) { a = Gather(w, x)  y = ReduceMean <keepdims = 0> (a, axis) }"
ROWS = {
    "image [3, 224, 224], FP32": (IMAGE, TensorSpec("x", "FP32", (3, 224, 224)), None, (64, 3, 7, 7)),
    "image in a range": (IMAGE, TensorSpec("x", "FP32", (3, 224, 224)), (-3.0, 3.0), (64, 3, 7, 7)),
    "audio [16000], FP32": (AUDIO, TensorSpec("x", "FP32", (16000,)), None, (16000, 512)),
    "ids [77] in a range": (TEXT, TensorSpec("x", "INT64", (77,)), (0, 999), (1000, 512)),
}


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    """Open a graph on one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def pair(
    text: str, spec: TensorSpec, span: tuple[float, float] | None, weight: tuple[int, ...]
) -> list[ort.InferenceSession]:
    """Open a graph without checks and with them."""
    generator = np.random.default_rng(0)
    sessions = []
    for guards in ([], [Guard(spec, "x", span)]):
        model = parser.parse_model(text)
        values = generator.standard_normal(weight).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, "w"))
        if "axis" in text:
            model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "axis"))
        write_guards(model, guards)
        sessions.append(session(model))
    return sessions


def main() -> None:
    """Measure and print; the figures go to a file where one is named."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=200)
    options.add_argument("--out", type=Path)
    given = options.parse_args()
    figures = {}
    for name, (text, spec, span, weight) in ROWS.items():
        sessions = pair(text, spec, span, weight)
        shape = (1, *spec.shape)
        feed = np.ones(shape, np.int64) if spec.dtype == "INT64" else np.random.default_rng(1).random(shape, np.float32)
        times: list[list[float]] = [[], []]
        for turn in range(given.rounds):
            for index in (0, 1) if turn % 2 else (1, 0):
                start = time.perf_counter()
                sessions[index].run(None, {"x": feed})
                times[index].append(time.perf_counter() - start)
        plain, guarded = (statistics.median(one) for one in times)
        figures[name] = {"plain_ms": plain * 1e3, "guarded_ms": guarded * 1e3, "added_ms": (guarded - plain) * 1e3}
        added = (guarded - plain) * 1e3
        print(f"{name:28} {plain * 1e3:8.3f} ms  with checks {guarded * 1e3:8.3f} ms  +{added:.3f} ms")
    if given.out is not None:
        given.out.write_text(json.dumps({"hardware": this_hardware().cpu, "rows": figures}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
