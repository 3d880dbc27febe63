"""Releases to package: one for a CPU, one with an engine of TensorRT; always the same bytes."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from onnx import parser

from mmdeploy.core.artifact import Artifact, TensorSpec
from mmdeploy.core.contracts import Check, GateResult, Verdict
from mmdeploy.core.target import Hardware, Target
from mmdeploy.record.build_report import BuildReport, LatencyRecord, RecipeRecord, gate_record
from mmdeploy.triton.config import ServedComponent, ServedEnsemble
from mmdeploy.triton.options import DynamicBatching, Serving
from mmdeploy.triton.repository import publish, stage

RELEASE_ID = "20260314-092653-3f9a3f"
GRAPH = '<ir_version: 10, opset_import: ["" : 20]> g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }'
#: The head of an engine of TensorRT 11.2.1.2.
PLAN = b"ftrt" + bytes(20) + bytes((11, 2, 1, 2)) + bytes(100)
PEAK_BYTES = 400 * 2**20


def release(folder: Path, backend: str = "onnxruntime", *, cached: bool = False, **beside: str) -> Path:
    """Publish an ensemble ``two_towers`` of one component below a folder; return the live path."""
    filename = "model.onnx" if backend == "onnxruntime" else "model.plan"
    made = folder / "made" / filename
    made.parent.mkdir(parents=True)
    made.write_bytes(parser.parse_model(GRAPH).SerializeToString() if backend == "onnxruntime" else PLAN)
    spec_in, spec_out = TensorSpec("x", "FP32", (4,)), TensorSpec("y", "FP32", (4,))
    encoder = ServedComponent(
        name="two_towers.encoder", backend=backend, filename=filename,
        artifact=Artifact(backend, made, "", (spec_in,), (spec_out,), "test"),
        inputs={"x": "image"}, outputs={"y": "embedding"},
        serving=Serving(response_cache=cached, dynamic_batching=DynamicBatching(max_queue_delay_us=2000)),
        parameters={"intra_op_thread_count": "2"} if backend == "onnxruntime" else {},
    )  # fmt: skip
    image, embedding = TensorSpec("image", "FP32", (4,)), TensorSpec("embedding", "FP32", (4,))
    ensemble = ServedEnsemble("two_towers", (image,), (embedding,), (encoder,))
    staged = stage(folder / "staged", ensemble)
    files = {
        "report.json": report().to_json(),
        "sample_request.json": '{"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 4], '
        '"data": [0.0, 1.0, 2.0, 3.0]}]}',
        "sample_request.headers": "Content-Type: application/json\n",
        **beside,
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    extra = {name: folder / name for name in files}
    return publish(staged.path, folder / "models", "two_towers", release_id=RELEASE_ID, extra_files=extra)


def report() -> BuildReport:
    """A report of a build whose memory and latency were measured."""
    check = Check("peak memory", float(PEAK_BYTES), "<= 1000000000 bytes", Verdict.PASS, unit="bytes")
    memory = GateResult("memory", (check,), {"candidate_bytes": PEAK_BYTES, "reference_bytes": 2 * PEAK_BYTES})
    return BuildReport(
        mmdeploy_version="0.1.0",
        recipe=RecipeRecord(name="two_towers", path=Path("recipe.yaml"), sha256="3f9a" * 16),
        target=Target.CPU,
        started_at=datetime(2026, 3, 14, 9, 26, 53, tzinfo=UTC),
        seconds=1.0,
        verdict=Verdict.PASS,
        exit_code=0,
        published=Path("model_repository/two_towers"),
        staged=Path("staged"),
        log=Path("logs"),
        hardware=Hardware(cpu="a CPU", cores=2, isa=("avx2",), memory_bytes=16 * 2**30, gpus=()),
        libraries={"onnxruntime": "1.32.0"},
        server_version="2.51.0",
        seed=0,
        gates=(gate_record(memory, seconds=1.0),),
        latencies=(_latency(),),
    )


def _latency() -> LatencyRecord:
    return LatencyRecord(
        component=None, statistic="p95", batch_size=1, concurrency=1, reference_ms=8.0, candidate_ms=6.25
    )
