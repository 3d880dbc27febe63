"""Peak memory of calibration against the number of samples: mmdeploy's passes and ONNX Runtime's own.

Run it as ``python benchmarks/calibration_memory.py [--json FILE]``. Every variant runs in a process of its own
on the same graph, a tower of 8 MLP blocks of width 96 over 64 tokens (about 2 MB of activations a sample), on
samples made on the fly. Reported is the growth of the peak resident set (VmHWM) over what the process held
with its libraries imported: graph, session, arena and activations included.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

TOKENS, WIDTH, HIDDEN, BLOCKS = 64, 96, 384, 8
BATCH = 8
CALIBRATORS = ("minmax", "entropy", "percentile")


def main() -> None:
    """Run every variant and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--json", type=Path, help="write the figures there too")
    parser.add_argument(
        "--worker", nargs=4, metavar=("SOURCE", "CALIBRATOR", "SAMPLES", "GRAPH"), help=argparse.SUPPRESS
    )
    arguments = parser.parse_args()
    if arguments.worker:
        source, calibrator, samples, graph = arguments.worker
        print(json.dumps(measure(source, calibrator, int(samples), Path(graph))))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "tower.onnx"
        write_tower(graph)
        print(f"{'peak growth, MiB':<28}" + "".join(f"{count:>10}" for count in arguments.samples) + "   samples")
        for source in ("mmdeploy", "onnxruntime"):
            for calibrator in CALIBRATORS:
                figures = [run_worker(source, calibrator, count, graph) for count in arguments.samples]
                rows += [
                    {"source": source, "calibrator": calibrator, "samples": count, **figure}
                    for count, figure in zip(arguments.samples, figures, strict=True)
                ]
                name = f"{source} {calibrator}"
                print(f"{name:<28}" + "".join(f"{figure['peak_growth_mib']:>10.0f}" for figure in figures), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"batch_size": BATCH, "rows": rows}, indent=1))


def run_worker(source: str, calibrator: str, samples: int, graph: Path) -> dict[str, float]:
    """Measure one variant in a new process."""
    command = [sys.executable, __file__, "--worker", source, calibrator, str(samples), str(graph)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{source} {calibrator} with {samples} samples failed:\n{done.stderr}")
    figure: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figure


def measure(source: str, calibrator: str, samples: int, graph: Path) -> dict[str, float]:
    """Calibrate in this process.

    Returns:
        ``peak_growth_mib`` over the libraries alone, ``peak_mib`` of the whole process, and ``seconds``.
    """
    import time

    calibrate = by_mmdeploy if source == "mmdeploy" else by_onnxruntime
    with contextlib.redirect_stdout(io.StringIO()):
        for name in ("mmdeploy.quantize.ranges", "onnxruntime.quantization", "onnx"):
            importlib.import_module(name)
        before, start = status_kib("VmRSS"), time.perf_counter()
        reset_peak()
        calibrate(calibrator, samples, graph)
    seconds = time.perf_counter() - start
    peak = status_kib("VmHWM")
    return {"peak_growth_mib": (peak - before) / 1024, "peak_mib": peak / 1024, "seconds": seconds}


def feeds(samples: int) -> Iterator[dict[str, object]]:
    """Yield batches that nobody else holds."""
    import numpy as np

    for start in range(0, samples, BATCH):
        random = np.random.default_rng(start)
        size = min(BATCH, samples - start)
        yield {"x": random.standard_normal((size, TOKENS, WIDTH), dtype=np.float32)}


def by_mmdeploy(calibrator: str, samples: int, graph: Path) -> None:
    """Find ranges as the static quantization pass does."""
    from mmdeploy.quantize import graphs, ranges, selection
    from mmdeploy.quantize.scheme import Scheme

    model = graphs.load(graph)
    chosen = selection.choose(model, Scheme())
    how = ranges.Calibration(calibrator=calibrator, threads=1)  # type: ignore[arg-type]
    ranges.find(model, chosen.tensors, lambda: feeds(samples), how)  # type: ignore[arg-type, return-value]


def by_onnxruntime(calibrator: str, samples: int, graph: Path) -> None:
    """Find ranges as ``onnxruntime.quantization.quantize_static`` does, with its default number of bins."""
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, create_calibrator

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = feeds(samples)

        def get_next(self) -> dict[str, object] | None:
            return next(self.left, None)

    method = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}[calibrator]
    with tempfile.TemporaryDirectory() as folder:
        calibration = create_calibrator(
            graph,
            ["MatMul", "Gemm", "Conv"],
            augmented_model_path=str(Path(folder) / "augmented.onnx"),
            calibrate_method=CalibrationMethod[method],
        )
        calibration.collect_data(Reader())
        calibration.compute_data()


def write_tower(path: Path) -> None:
    """Write the float graph: blocks of product, GELU, product, residual, normalization."""
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    random = np.random.default_rng(0)
    nodes, weights, tensor = [], [], "x"
    for block in range(BLOCKS):
        shapes = {"up": (WIDTH, HIDDEN), "down": (HIDDEN, WIDTH), "scale": (WIDTH,)}
        for name, shape in shapes.items():
            values = random.standard_normal(shape, dtype=np.float32) / np.sqrt(shape[0])
            weights.append(numpy_helper.from_array(values, f"{name}.{block}"))
        ends = (f"h{block}", f"g{block}", f"d{block}", f"r{block}", f"n{block}")
        nodes += [
            helper.make_node("MatMul", [tensor, f"up.{block}"], [ends[0]], f"{block}/up"),
            helper.make_node("Gelu", [ends[0]], [ends[1]], f"{block}/gelu"),
            helper.make_node("MatMul", [ends[1], f"down.{block}"], [ends[2]], f"{block}/down"),
            helper.make_node("Add", [tensor, ends[2]], [ends[3]], f"{block}/add"),
            helper.make_node("LayerNormalization", [ends[3], f"scale.{block}"], [ends[4]], f"{block}/norm"),
        ]
        tensor = ends[4]
    sizes = ["batch", TOKENS, WIDTH]
    graph = helper.make_graph(
        nodes,
        "tower",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, sizes)],
        [helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, sizes)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(onnx.shape_inference.infer_shapes(model), path)


def status_kib(field: str) -> int:
    """Return a figure of /proc/self/status in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def reset_peak() -> None:
    """Set VmHWM back to what is resident now (Linux, proc(5))."""
    Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    main()
