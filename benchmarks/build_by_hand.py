"""The library calls of a build, made one after the other in one process: what `build.py` measures builds against.

    python benchmarks/build_by_hand.py recipes/spoken_digits/recipe.yaml OUT [--only image_encoder]

Written as a person would in a notebook, with `torch.onnx`, ONNX Runtime and its quantizer, and nothing of mmdeploy:
export, check, compare with PyTorch at three batch sizes, find ranges on the calibration samples by the same two
runs over them, quantize with the same options, run the INT8 graph against the FP32 graph, open the session that
serves it. For recipes like spoken_digits: one input or output name is one tensor, inputs come first.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import shutil
import sys
import time
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml

BINS, PERCENTILE, CALIBRATION_BATCH, PARITY_BATCHES = 2048, 99.99, 8, (1, 2, 5)
QUANTIZED = ("MatMul", "Gemm", "Conv")


def main() -> None:
    """Build every component, or one, and print what each part took as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", help="one component; those upstream are run in FP32")
    parser.add_argument("--stop-after", choices=("export", "quantize", "engine"), default="engine")
    arguments = parser.parse_args()
    started = time.perf_counter()
    bench = Notebook(arguments.recipe, arguments.out)
    seconds = {"imports and model": time.perf_counter() - started}
    for name in [arguments.only] if arguments.only else bench.components:
        for part in ("export", "quantize", "engine"):
            start = time.perf_counter()
            getattr(bench, part)(name)
            seconds[f"{name}/{part}"] = time.perf_counter() - start
            if part == arguments.stop_after:
                break
    print(json.dumps({"seconds": seconds, "total_s": time.perf_counter() - started}))


class Notebook:
    """The cells of the notebook, and what they left behind."""

    def __init__(self, recipe: Path, out: Path) -> None:
        """Import the libraries, build the model, load its weights and the calibration samples."""
        import safetensors.torch
        import torch

        self.recipe: dict[str, Any] = yaml.safe_load(recipe.read_text())
        self.components: dict[str, dict[str, Any]] = self.recipe["components"]
        self.folder = recipe.absolute().parent
        self.out = out
        sys.path.insert(0, str(self.folder))
        module, _, factory = self.recipe["model"]["factory"].partition(":")
        self.model: torch.nn.Module = getattr(importlib.import_module(module.removesuffix(".py")), factory)()
        self.model.load_state_dict(safetensors.torch.load_file(self.folder / self.recipe["model"]["weights"]))
        self.model.eval()
        module, _, factory = self.recipe["data"]["calibration"].partition(":")
        limit = max(part["quantize"]["samples"] for part in self.components.values())
        samples = getattr(importlib.import_module(module.removesuffix(".py")), factory)()
        self.samples = [feed for feed, *_ in map(_as_pair, itertools.islice(samples, limit))]

    def export(self, name: str) -> None:
        """Export with the dynamo exporter, check the graph, compare it with PyTorch."""
        import numpy as np
        import onnx
        import torch

        part = self.components[name]
        module = self.model.get_submodule(part["module"])
        feed = self._examples(name, 2)
        module(**{key: torch.from_numpy(value) for key, value in feed.items()})
        batch = torch.export.Dim("batch")
        program = torch.export.export(
            module,
            (),
            {key: torch.from_numpy(value) for key, value in feed.items()},
            dynamic_shapes={key: {0: batch} for key in feed},
            strict=False,
        )
        exported = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            opset_version=20,
            input_names=list(feed),
            output_names=[*part["outputs"]],
        )
        assert exported is not None
        path = self._path(name, "fp32")
        onnx.save_model(exported.model_proto, path)
        onnx.checker.check_model(str(path), full_check=True)
        session = _session(path)
        for size in PARITY_BATCHES:
            feed = self._examples(name, size)
            with torch.inference_mode():
                expected = module(**{key: torch.from_numpy(value) for key, value in feed.items()})
            np.testing.assert_allclose(session.run(None, feed)[0], expected.numpy(), atol=1e-4, rtol=1e-3)

    def quantize(self, name: str) -> None:
        """Find ranges, write Q/DQ pairs, compare the INT8 graph with the FP32 graph."""
        import numpy as np
        import onnx
        from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType, TensorData, TensorsData

        model = onnx.load(self._path(name, "fp32"))
        nodes = self._nodes(model, self.components[name]["quantize"].get("exclude", []))
        convolutions = [node for node in nodes if node.op_type == "Conv"]
        tensors = {node.input[0] for node in nodes} | {node.output[0] for node in convolutions}
        feeds = list(self._calibration(name))
        ranges = self._ranges(model, name, tensors, feeds)
        quantizer = QDQQuantizer(
            model,
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=TensorsData(
                CalibrationMethod.MinMax,
                {
                    key: TensorData(lowest=np.array(low, np.float32), highest=np.array(high, np.float32))
                    for key, (low, high) in ranges.items()
                },
            ),
            nodes_to_quantize=[node.name for node in nodes],
            nodes_to_exclude=[],
            op_types_to_quantize=sorted({node.op_type for node in nodes}),
            extra_options={"WeightSymmetric": True, "OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]},
        )
        quantizer.quantize_model()
        onnx.save_model(quantizer.model.model, self._path(name, "int8"))
        reference, shipped = _session(self._path(name, "fp32")), _session(self._path(name, "int8"))
        plain = _session(self._path(name, "int8"), optimized=False)
        for feed in feeds[:4]:
            expected, answer = reference.run(None, feed)[0].ravel(), shipped.run(None, feed)[0].ravel()
            assert expected @ answer > 0.9 * np.linalg.norm(expected) * np.linalg.norm(answer)
        plain.run(None, feeds[0])

    def engine(self, name: str) -> None:
        """Copy the graph to where it is served from, open its session, answer one request."""
        folder = self.out / "repository" / name / "1"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(self._path(name, "int8"), folder / "model.onnx")
        _session(folder / "model.onnx").run(None, self._examples(name, 1))

    def _path(self, name: str, kind: str) -> Path:
        self.out.mkdir(parents=True, exist_ok=True)
        return self.out / f"{name}.{kind}.onnx"

    def _examples(self, name: str, batch: int) -> dict[str, Any]:
        return next(self._along_the_chain(name, batch, shipped=False))

    def _calibration(self, name: str) -> Iterator[dict[str, Any]]:
        return self._along_the_chain(name, CALIBRATION_BATCH, shipped=True)

    def _along_the_chain(self, name: str, batch: int, *, shipped: bool) -> Iterator[dict[str, Any]]:
        """Give batches of a component's inputs; what comes from other components from their graphs, or PyTorch."""
        import numpy as np
        import torch

        wires: dict[str, str] = self.components[name]["inputs"]
        writers = {_tensor(wire): (other, key) for other in self.components
                   for key, wire in self.components[other]["outputs"].items()}  # fmt: skip
        upstream = {writers[wire][0] for wire in wires.values() if wire in writers}
        sessions = {other: _session(self._path(other, "int8")) for other in upstream if shipped}
        for start in range(0, len(self.samples), batch):
            rows = self.samples[start : start + batch]
            tensors = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
            for other in upstream:
                part = self.components[other]
                given = {key: tensors[wire] for key, wire in part["inputs"].items()}
                if shipped:
                    answer = sessions[other].run(None, given)[0]
                else:
                    with torch.inference_mode():
                        module = self.model.get_submodule(part["module"])
                        answer = module(**{key: torch.from_numpy(value) for key, value in given.items()}).numpy()
                tensors[_tensor(next(iter(part["outputs"].values())))] = answer
            yield {key: tensors[wire] for key, wire in wires.items()}

    def _nodes(self, model: Any, exclude: list[str]) -> list[Any]:
        """Return the products and convolutions with constant weights, but for those of excluded modules."""
        weights = {weight.name for weight in model.graph.initializer}
        modules = {node.name: _module_of(node) for node in model.graph.node}
        return [
            node
            for node in model.graph.node
            if node.op_type in QUANTIZED
            and node.input[1] in weights
            and node.input[0] not in weights
            and not any(fnmatch(f"{modules[node.name]}/{node.op_type}", glob) for glob in exclude)
        ]

    def _ranges(self, model: Any, name: str, tensors: set[str], feeds: list[Any]) -> dict[str, tuple[float, float]]:
        """Run the graph twice over the samples: extremes first, then histograms over them."""
        import numpy as np
        import onnx
        from onnxruntime.quantization.calibrate import HistogramCollector

        watched = onnx.shape_inference.infer_shapes(model)
        computed = sorted(tensors - {value.name for value in watched.graph.input})
        values = {value.name: value for value in (*watched.graph.value_info, *watched.graph.output)}
        del watched.graph.output[:]
        watched.graph.output.extend(values[key] for key in computed)
        path = self._path(name, "watched")
        onnx.save_model(watched, path)
        session = _session(path)

        def activations() -> Iterator[tuple[str, Any]]:
            for feed in feeds:
                yield from ((key, value) for key, value in feed.items() if key in tensors)
                yield from zip(computed, session.run(computed, feed), strict=True)

        extremes: dict[str, tuple[float, float]] = {}
        for key, array in activations():
            low, high = extremes.get(key, (np.inf, -np.inf))
            extremes[key] = (min(low, float(array.min())), max(high, float(array.max())))
        collector = HistogramCollector(
            method="percentile", symmetric=False, num_bins=BINS, num_quantized_bins=128,
            percentile=PERCENTILE, scenario="same",
        )  # fmt: skip
        for key, (low, high) in extremes.items():
            limit = np.float32(max(abs(low), abs(high)))
            edges = np.linspace(-limit, limit, BINS + 1, dtype=np.float32)
            collector.histogram_dict[key] = (
                np.zeros(BINS, np.int64), edges, np.float32(low), np.float32(high), limit,
            )  # fmt: skip
        for key, array in activations():
            collector.collect_value({key: array})
        return {key: (float(low), float(high)) for key, (low, high, *_) in collector.compute_percentile().items()}


def _as_pair(sample: Any) -> tuple[Any, ...]:
    return sample if isinstance(sample, tuple) else (sample,)


def _tensor(wire: Any) -> str:
    return str(wire if isinstance(wire, str) else wire["tensor"])


def _module_of(node: Any) -> str:
    """Return the attribute path of the module that made a node, as the exporter recorded it."""
    import ast

    scopes = next((p.value for p in node.metadata_props if p.key == "pkg.torch.onnx.name_scopes"), "[]")
    names = [scope for scope in ast.literal_eval(scopes) if scope]
    return str(names[-2]) if len(names) > 1 else ""


def _session(path: Path, *, optimized: bool = True) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    main()
