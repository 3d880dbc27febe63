"""One tower of the CLIP pair quantized in this process, by one tool: what `build_clip.py` measures against each other.

    python benchmarks/build_clip_by_hand.py onnxruntime text minmax WORK

Tools: ``mmdeploy`` (the pass of a build's quantize step), ``onnxruntime`` (`quantize_static`, as in a notebook, with
the same operators, data types, batches and percentile, attention's products left in float), ``nncf`` and ``olive``.
Imports come first and are not measured: a build makes them once for all its steps, a notebook once for all its cells.
Prints a line of JSON: seconds by the clock, of the processor, the largest memory of the process in bytes, and the
cosine to the float graph on 16 samples that nothing was fitted to.
"""

from __future__ import annotations

import importlib
import json
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SAMPLES, BATCH = 32, 4
IMPORTS = {
    "mmdeploy": ("onnx", "onnxruntime.quantization", "mmdeploy.quantize.static"),
    "onnxruntime": ("onnx", "onnxruntime.quantization"),
    "nncf": ("nncf", "openvino"),
    "olive": ("olive.workflows",),
}


def main() -> None:
    """Quantize, and tell what it took."""
    tool, tower, calibrator, work = *sys.argv[1:4], Path(sys.argv[4])
    import clip_pair

    for name in IMPORTS[tool]:
        importlib.import_module(name)
    samples = clip_pair.feed(tower, SAMPLES, seed=1)
    out = work / "quantized" / f"{tower}-{calibrator}-{tool}"
    out.mkdir(parents=True, exist_ok=True)
    wall, processor = time.perf_counter(), time.process_time()
    made = globals()[f"by_{tool}"](work / tower, out, samples, calibrator)
    figures = {"wall_s": time.perf_counter() - wall, "processor_s": time.process_time() - processor}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    cosine = likeness(work / tower / "model.onnx", made, clip_pair.feed(tower, 16, seed=2))
    print(json.dumps({**figures, "peak_bytes": peak, "cosine": cosine}))


def batches(samples: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the samples in batches."""
    for start in range(0, SAMPLES, BATCH):
        yield {name: array[start : start + BATCH] for name, array in samples.items()}


def by_mmdeploy(source: Path, out: Path, samples: dict[str, Any], calibrator: str) -> Path:
    """Run mmdeploy's pass as a step does."""
    import os

    from mmdeploy.core.artifact import Artifact
    from mmdeploy.core.contracts import Encoding, StepContext
    from mmdeploy.core.target import Target
    from mmdeploy.quantize import static

    context = StepContext(
        component=source.name, workdir=out, target=Target.CPU, encoding=Encoding.UINT8_ASYMMETRIC, max_batch_size=4,
        seed=0, threads=os.cpu_count() or 1, calibration=lambda: batches(samples), calibration_batches=SAMPLES // BATCH,
        examples=lambda batch: {name: array[:batch] for name, array in samples.items()},
    )  # fmt: skip
    options = static.Options(samples=SAMPLES, batch_size=BATCH, calibrator=calibrator, equalize=None)  # type: ignore[arg-type]
    graph = Artifact.from_json((source / "artifact.json").read_text(), source)
    return static.run(graph, options, context).path


def by_onnxruntime(source: Path, out: Path, samples: dict[str, Any], calibrator: str) -> Path:
    """Call ONNX Runtime's `quantize_static` with the settings of mmdeploy's pass."""
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches = batches(samples)

        def get_next(self) -> dict[str, Any] | None:
            return next(self._batches, None)

    graph = onnx.load(source / "model.onnx").graph
    weights = {weight.name for weight in graph.initializer}
    products = [node.name for node in graph.node if node.op_type == "MatMul" and not weights & set(node.input)]
    methods = {"minmax": CalibrationMethod.MinMax, "percentile": CalibrationMethod.Percentile}
    more = {"CalibPercentile": 99.99} if calibrator == "percentile" else {}
    path = out / "model.onnx"
    quantize_static(
        str(source / "model.onnx"),
        str(path),
        Reader(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["MatMul", "Gemm", "Conv"],
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=products,
        calibrate_method=methods[calibrator],
        extra_options={
            "WeightSymmetric": True, "OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"], **more
        },
    )  # fmt: skip
    return path


def by_nncf(source: Path, out: Path, samples: dict[str, Any], calibrator: str) -> Path:
    """Quantize with NNCF for transformers, as it is set by default; it knows no calibrator by mmdeploy's names."""
    import nncf
    import openvino

    data = [{name: array[index : index + 1] for name, array in samples.items()} for index in range(SAMPLES)]
    model = openvino.Core().read_model(source / "model.onnx")
    quantized = nncf.quantize(
        model, nncf.Dataset(data), model_type=nncf.ModelType.TRANSFORMER, subset_size=SAMPLES
    )  # fmt: skip
    openvino.save_model(quantized, out / "model.xml", compress_to_fp16=False)
    return out / "model.xml"


def by_olive(source: Path, out: Path, samples: dict[str, Any], calibrator: str) -> Path:
    """Quantize with Olive's pass for static INT8, by the calibrator of that name."""
    import contextlib
    import io

    import numpy as np
    from olive.workflows import run

    data = str(out / "samples.npz")
    np.savez(data, **samples)
    (out / "olive_samples.py").write_text(
        "import numpy as np\nfrom olive.data.registry import Registry\n\n\n"
        "class Samples:\n    def __init__(self, file):\n        self.arrays = dict(np.load(file))\n\n"
        "    def __len__(self):\n        return len(next(iter(self.arrays.values())))\n\n"
        "    def __getitem__(self, index):\n"
        "        return {name: array[index] for name, array in self.arrays.items()}, 0\n\n\n"
        "@Registry.register_dataset()\ndef clip_samples(data_dir=None, **kwargs):\n    return Samples(data_dir)\n"
    )
    settings = {"minmax": "MinMax", "percentile": "Percentile"}
    with contextlib.redirect_stdout(io.StringIO()):
        run(
            {
                "input_model": {"type": "ONNXModel", "model_path": str(source / "model.onnx")},
                "data_configs": [
                    {
                        "name": "samples", "type": "DataContainer", "user_script": str(out / "olive_samples.py"),
                        "load_dataset_config": {"type": "clip_samples", "params": {"data_dir": data}},
                        "dataloader_config": {"batch_size": BATCH},
                    }
                ],
                "passes": {
                    "quantize": {
                        "type": "OnnxStaticQuantization", "data_config": "samples", "quant_format": "QDQ",
                        "calibrate_method": settings[calibrator], "quant_preprocess": False, "per_channel": True,
                    }
                },
                "output_dir": str(out / "olive"),
                "cache_dir": str(out / "cache"),
                "log_severity_level": 3,
            }
        )  # fmt: skip
    return next((out / "olive").rglob("*.onnx"))


def likeness(source: Path, made: Path, samples: dict[str, Any]) -> float:
    """Return the mean cosine of a quantized graph's answers to the float graph's."""
    import numpy as np

    wanted, given = answered(source, samples), answered(made, samples)
    norms = np.linalg.norm(wanted, axis=1) * np.linalg.norm(given, axis=1)
    return float(np.mean((wanted * given).sum(axis=1) / norms))


def answered(path: Path, samples: dict[str, Any]) -> Any:
    """Return the first output of a graph of ONNX or of OpenVINO."""
    if path.suffix == ".xml":
        import openvino

        return openvino.Core().compile_model(path, "CPU")(samples)[0]
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, samples)[0]


if __name__ == "__main__":
    main()
