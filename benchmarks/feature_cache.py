"""What a hit of the response cache costs against a miss, for each tower of a CLIP ViT-B/32 pair, served by a Triton.

Each tower is served in FP32 and in INT8 (ONNX Runtime's dynamic quantization), its answers cached. A request that was
asked before and one that was not take turns, over one connection, so that both meet the same machine; what is compared
is the time that a client waits. The second figure is the server's own: its time for a hit over its time for computing.

    PYTHONPATH=.:benchmarks python benchmarks/feature_cache.py --json figures.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import clip_pair
import numpy as np
import numpy.typing as npt

from mmdeploy.core.artifact import DTYPE_BY_NUMPY, Artifact, TensorSpec
from mmdeploy.triton import server as triton_server
from mmdeploy.triton.config import ServedComponent, ServedEnsemble
from mmdeploy.triton.http import ask_json
from mmdeploy.triton.options import ResponseCache, Serving
from mmdeploy.triton.repository import stage
from mmdeploy.triton.response_cache import answer_bytes, cached, settings_of

Feed = dict[str, npt.NDArray[Any]]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40, help="a hit and a miss each")
    parser.add_argument("--threads", type=int, default=1, help="of each session")
    parser.add_argument("--tiny", action="store_true", help="towers that a test can afford")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    sizes = clip_pair.TINY if options.tiny else None
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), sizes, rounds=options.rounds, threads=options.threads)
    print(f"{'tower':12} {'hit, ms':>9} {'miss, ms':>9} {'miss / hit':>11} {'in the server':>14} {'an answer':>10}")
    for name, one in figures.items():
        print(
            f"{name:12} {one['hit_ms']:9.2f} {one['miss_ms']:9.2f} {one['ratio']:11.1f} {one['server_ratio']:14.0f} "
            f"{one['answer_bytes']:8} B"
        )
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def measure(folder: Path, sizes: dict[str, Any] | None, *, rounds: int, threads: int) -> dict[str, dict[str, float]]:
    """Serve the towers, ask in turns, and return the figures of each."""
    parts = tuple(_parts(folder, sizes, threads))
    inputs = tuple(
        TensorSpec(part.inputs[spec.name], spec.dtype, spec.shape) for part in parts for spec in part.artifact.inputs
    )
    outputs = tuple(
        TensorSpec(part.outputs[spec.name], spec.dtype, spec.shape) for part in parts for spec in part.artifact.outputs
    )
    ensemble = cached(ServedEnsemble("towers", inputs, outputs, parts), ResponseCache(size_mib=64))
    repository = folder / "repository"
    stage(repository, ensemble)
    found = {}
    size = settings_of([repository]).bytes
    with triton_server.start([repository], log=folder / "triton.log", response_cache_bytes=size) as running:
        for part in parts:
            tower = part.name.partition("_")[0]
            feeds = [clip_pair.feed(tower, 1, seed, sizes) for seed in range(rounds + 1)]
            found[part.name] = _in_turns(running, part.name, feeds) | {
                "answer_bytes": answer_bytes(part.artifact.outputs, 1) or 0
            }
    return found


def _in_turns(running: triton_server.Server, model: str, feeds: list[Feed]) -> dict[str, float]:
    known, *fresh = feeds
    hits, misses = list[float](), list[float]()
    with running.runner(model) as runner:
        runner.infer(known)
        before = _statistics(running, model)
        for feed in fresh:
            for asked, times in ((known, hits), (feed, misses)):
                began = time.perf_counter()
                runner.infer(asked)
                times.append(1e3 * (time.perf_counter() - began))
        after = _statistics(running, model)
    counts = {what: after[what][0] - before[what][0] for what in after}
    assert counts == dict.fromkeys(counts, len(fresh)), f"{model}: {counts} are no {len(fresh)} of each"
    mean_ns = {what: (after[what][1] - before[what][1]) / counts[what] for what in after}
    hit_ms, miss_ms = float(np.median(hits)), float(np.median(misses))
    return {
        "hit_ms": hit_ms,
        "miss_ms": miss_ms,
        "ratio": miss_ms / hit_ms,
        "server_hit_ms": mean_ns["cache_hit"] / 1e6,
        "server_ratio": mean_ns["compute_infer"] / mean_ns["cache_hit"],
    }


def _statistics(running: triton_server.Server, model: str) -> dict[str, tuple[int, int]]:
    """Return how often and how long, in ns, the server answered from the cache and computed."""
    (stats,) = ask_json(f"{running.http_url}/v2/models/{model}/stats")["model_stats"]
    found = stats["inference_stats"]
    return {what: (int(found[what]["count"]), int(found[what]["ns"])) for what in ("cache_hit", "compute_infer")}


def _parts(folder: Path, sizes: dict[str, Any] | None, threads: int) -> list[ServedComponent]:
    import torch
    from onnxruntime.quantization import quantize_dynamic

    model, parts = clip_pair.build(sizes).eval(), []
    for tower, (taken, given) in clip_pair.TOWERS.items():
        feed = clip_pair.feed(tower, 2, 0, sizes)
        with torch.inference_mode():
            answer = model[tower](torch.from_numpy(feed[taken])).numpy()
        exact, coarse = folder / f"{tower}_fp32.onnx", folder / f"{tower}_int8.onnx"
        torch.onnx.export(
            model[tower], (torch.from_numpy(feed[taken]),), exact, dynamo=True, external_data=False, verbose=False,
            input_names=[taken], output_names=[given], dynamic_shapes=({0: torch.export.Dim("batch")},),
        )  # fmt: skip
        quantize_dynamic(exact, coarse)
        specs = [
            (TensorSpec(name, DTYPE_BY_NUMPY[array.dtype.name], array.shape[1:]),)
            for name, array in ((taken, feed[taken]), (given, answer))
        ]
        for path in (exact, coarse):
            name = path.stem
            parts.append(
                ServedComponent(
                    name=name,
                    backend="onnxruntime",
                    filename="model.onnx",
                    artifact=Artifact("onnxruntime", path, "", specs[0], specs[1], "benchmark"),
                    inputs={taken: f"{name}_in"},
                    outputs={given: f"{name}_out"},
                    serving=Serving(max_batch_size=4, response_cache=True),
                    parameters={"intra_op_thread_count": str(threads), "session.intra_op.allow_spinning": "0"},
                    sample={taken: feed[taken][0]},
                )
            )
    return parts


if __name__ == "__main__":
    main()
