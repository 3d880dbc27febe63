"""Realistic reports for the tests; ``python report_samples.py FOLDER`` writes them to look at."""

import os
import sys
from datetime import UTC, datetime
from pathlib import Path

from choice_records import chosen_metadata, measured

from mmdeploy.choice.record import Measurement
from mmdeploy.core.contracts import Check, GateResult, ReviewTable, Verdict
from mmdeploy.core.target import Hardware, Target
from mmdeploy.gates import advising
from mmdeploy.record.build_report import (
    BuildReport,
    CostRecord,
    Failure,
    LatencyRecord,
    ModuleCosts,
    RecipeRecord,
    SizeRecord,
    Stage,
    StageSeries,
    StepRecord,
    gate_record,
)

PASS, FAIL, INCONCLUSIVE = Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE
INF = float("inf")

HARDWARE = Hardware(
    cpu="Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz",
    cores=2,
    isa=("amx_bf16", "amx_int8", "avx2", "avx512_bf16", "avx512_vnni", "avx512f", "avx_vnni"),
    memory_bytes=16 * 2**30,
    gpus=(),
)
RUN = Path(".mmdeploy/runs/spoken_digits/20260314-092653-3f9a3f")
COMMON = {
    "mmdeploy_version": "0.1.0",
    "recipe": RecipeRecord(
        name="spoken_digits",
        path=Path("recipes/spoken_digits/recipe.yaml"),
        sha256="3f9a" * 16,
        revision="7d1c" * 10 + " with 2 files changed",
    ),
    "target": Target.CPU,
    "started_at": datetime(2026, 3, 14, 9, 26, 53, tzinfo=UTC),
    "staged": RUN / "staged",
    "log": RUN / "logs",
    "hardware": HARDWARE,
    "libraries": {
        "numpy": "1.26.4",
        "onnx": "1.21.0",
        "onnxruntime": "1.31.1",
        "nvidia-pytriton": "0.7.0",
        "tensorrt-rtx": "1.7.1.29",
        "torch": "2.13.0",
    },
    "server_version": "2.51.0",
    "seed": 0,
}
COMPONENTS = ("image_encoder", "audio_encoder", "fusion")
_FP32 = {"image_encoder": 1_271_208, "audio_encoder": 2_214_533, "fusion": 423_911}
_INT8 = {"image_encoder": 371_402, "audio_encoder": 655_123, "fusion": 168_222}
_SQNR = {"image_encoder": (31.2, 31.1), "audio_encoder": (27.8, 27.8), "fusion": (24.6, 22.9)}


def _parity(scale: float) -> dict[str, object]:
    return {str(batch): {"max_abs_error": scale * (1 + batch / 10), "cosine": 1.0} for batch in (1, 2, 8)}


def _steps(component: str, seconds: tuple[float, ...]) -> tuple[StepRecord, ...]:
    fp32, int8 = _FP32[component], _INT8[component]
    reused = seconds[0] == 0
    return (
        StepRecord(
            id=f"{component}/export",
            component=component,
            kind="export",
            method="onnx",
            status="reused" if reused else "ran",
            why="nothing changed" if reused else "first build",
            seconds=seconds[0],
            key="9c1f2e" * 10 + "abcd",
            size_before_bytes=fp32 - 20_000,
            size_after_bytes=fp32,
            metadata={"opset": 20, "parity": _parity(3.1e-7), "nodes": 214},
        ),
        StepRecord(
            id=f"{component}/quantize",
            component=component,
            kind="quantize",
            method="static",
            status="ran",
            why="options changed: samples 128 → 256",
            seconds=seconds[1],
            key="77a0b3" * 10 + "ef01",
            log=RUN / "logs" / f"{component}.quantize.log",
            size_before_bytes=fp32,
            size_after_bytes=int8,
            metadata={
                "calibrator": "entropy",
                "samples": 256,
                "sqnr_db": _SQNR[component][0],
                "quantized_nodes": 18,
                "excluded_nodes": ["/attention/MatMul", "/attention/MatMul_1"],
            },
        ),
        StepRecord(
            id=f"{component}/engine",
            component=component,
            kind="engine",
            method="onnxruntime",
            status="ran",
            why="input changed: image_encoder/quantize".replace("image_encoder", component),
            seconds=seconds[2],
            key="d41d8c" * 10 + "9000",
            size_before_bytes=int8,
            size_after_bytes=int8,
            metadata={"warnings": ["2 Q/DQ pairs were not fused into an integer kernel"]},
        ),
    )


STEPS = (
    *_steps("image_encoder", (0, 14.2, 0.41)),
    *_steps("audio_encoder", (0, 31.7, 0.63)),
    *_steps("fusion", (2.81, 5.4, 0.22)),
)
STAGES = (
    StageSeries(
        component=None,
        metric="top1",
        stages=(
            Stage(label="PyTorch FP32", value=0.9742, interval=(0.9651, 0.9822)),
            Stage(label="ONNX FP32", value=0.9742, interval=(0.9651, 0.9822)),
            Stage(label="INT8", value=0.9708, interval=(0.9611, 0.9793)),
            Stage(label="served", value=0.9708, interval=(0.9611, 0.9793)),
        ),
    ),
    *(
        StageSeries(
            component=name,
            metric="SQNR",
            unit="dB",
            stages=(
                Stage(label="ONNX FP32", value=118.4 if name != "fusion" else INF),
                Stage(label="INT8", value=_SQNR[name][0]),
                Stage(label="served", value=_SQNR[name][1]),
            ),
        )
        for name in COMPONENTS
    ),
    *(
        StageSeries(
            component=name,
            metric="cosine",
            stages=(
                Stage(label="ONNX FP32", value=1.0),
                Stage(label="INT8", value=cosine),
                Stage(label="served", value=cosine),
            ),
        )
        for name, cosine in zip(COMPONENTS, (0.99962, 0.99917, 0.99743), strict=True)
    ),
)
SIZES = tuple(
    SizeRecord(component=name, reference_bytes=_FP32[name], candidate_bytes=_INT8[name]) for name in COMPONENTS
)


def _latency(component: str | None, statistic: str, reference: float, candidate: float) -> LatencyRecord:
    spread = 0.02 if statistic == "p50" else 0.06
    return LatencyRecord(
        component=component,
        statistic=statistic,
        batch_size=1,
        concurrency=1,
        reference_ms=reference,
        candidate_ms=candidate,
        reference_interval_ms=(reference * (1 - spread), reference * (1 + spread)),
        candidate_interval_ms=(candidate * (1 - spread), candidate * (1 + spread)),
    )


LATENCIES = (
    _latency(None, "p50", 4.121, 2.873),
    _latency(None, "p95", 5.204, 3.611),
    _latency("image_encoder", "p50", 1.312, 0.842),
    _latency("image_encoder", "p95", 1.733, 1.101),
    _latency("audio_encoder", "p50", 2.604, 1.731),
    _latency("audio_encoder", "p95", 3.322, 2.240),
    _latency("fusion", "p50", 0.441, 0.402),
    _latency("fusion", "p95", 0.603, 0.561),
)

PARITY = GateResult(
    "parity",
    (
        Check("image_encoder: cosine", 0.99962, ">= 0.995", PASS),
        Check("audio_encoder: cosine", 0.99917, ">= 0.995", PASS),
        Check("fusion: cosine", 0.99743, ">= 0.995", PASS),
        Check("end to end: SQNR", 22.91, ">= 20 dB", PASS, unit="dB"),
    ),
    {"end_to_end": {"cosine": 0.99743, "sqnr_db": 22.91, "max_abs_error": 0.4182}},
)
ACCURACY = GateResult(
    "accuracy",
    (
        Check(
            "top1 drop",
            0.0034,
            "<= 0.01",
            PASS,
            interval=(-0.0011, 0.0079),
            note="paired on 1187 samples, McNemar p = 0.22",
            samples=1187,
        ),
    ),
    {
        "candidate": 0.9708,
        "reference": 0.9742,
        "samples": 1187,
        "metric": "top1",
        "confidence": 0.95,
        "smallest_effect": 0.00661,
    },
    tables=(
        ReviewTable(
            "recall per class",
            ("class", "samples", "original", "candidate", "change"),
            (("zero", 120, 0.9917, 0.975, -0.0167), ("one", 118, 0.9661, 0.9661, 0.0), ("two", 0, None, None, None)),
        ),
        ReviewTable(
            "samples whose answer changed",
            ("sample", "label", "original", "candidate", "outcome"),
            (
                (17, "zero", "zero", "six", "lost"),
                (871, "nine", "nine", "four", "lost"),
                (4, "one", "two", "one", "won"),
            ),
            "3 of 9 shown: all are in report.json",
        ),
    ),
)
LATENCY = GateResult(
    "latency",
    (Check("p95 ratio (batch 1, concurrency 1)", 0.6939, "<= 0.8 of FP32", PASS, interval=(0.6612, 0.7288)),),
    {"rounds": 400},
)
THROUGHPUT = GateResult(
    "throughput",
    (Check("ratio (batch 8, concurrency 8)", 1.62, ">= 1.2 of FP32", PASS, interval=(1.55, 1.70)),),
)
SIZE = GateResult("size", (Check("ratio", 0.3056, "<= 0.35 of FP32", PASS),), {"bytes": dict(_INT8)})
MEMORY = GateResult("memory", (Check("resident set", 611_319_808.0, "<= 805306368 bytes", PASS, unit="bytes"),))


def _report(**fields: object) -> BuildReport:
    defaults: dict[str, object] = {
        "seconds": 192.4,
        "steps": STEPS,
        "stages": STAGES,
        "sizes": SIZES,
        "latencies": LATENCIES,
        "published": None,
    }
    return BuildReport(**(COMMON | defaults | fields))


def passed() -> BuildReport:
    results = (PARITY, ACCURACY, LATENCY, THROUGHPUT, SIZE, MEMORY)
    return _report(
        verdict=PASS,
        exit_code=0,
        published=Path("model_repository"),
        gates=tuple(gate_record(result, seconds=4.2) for result in results),
    )


def _candidate(
    label: str, p50_ms: float | None, ratio: float | None, *, drop: float | None = None, why: str | None = None
) -> Measurement:
    compressed = "INT8" in label
    return measured(
        label,
        engine=label.split()[0],
        graph="quantized" if compressed else "float",
        compressed=compressed,
        p50_ms=p50_ms,
        ratio=ratio,
        ratio_interval=None if ratio in (None, 1.0) else (ratio * 0.96, ratio * 1.05),
        metric=None if drop is None else 0.9742 - drop,
        drop=drop,
        drop_interval=None if drop is None else (drop - 0.004, drop + 0.006),
        bytes=371_402 if compressed else 1_271_208,
        out_because=why,
    )


def chosen() -> BuildReport:
    """A build with two select steps: INT8 pays in one component and not in the other."""
    ort, ov = "onnxruntime FP32", "openvino BF16"
    slower = "slower than openvino INT8 int8_symmetric"
    image = chosen_metadata(
        "openvino INT8 int8_symmetric",
        _candidate(ort, 1.312, 1.0, drop=0.0, why=slower),
        _candidate("onnxruntime INT8 uint8_asymmetric", 0.41, 0.312, why=slower),
        _candidate(ov, 0.59, 0.45, why=slower),
        _candidate("openvino INT8 int8_symmetric", 0.31, 0.238, drop=0.0034),
        _candidate("openvino INT8 uint8_asymmetric, BF16", 0.27, 0.21, drop=0.0412, why="loses 0.0412, over 0.01"),
        metric="top1",
        max_drop=0.01,
        decisions=(
            "openvino INT8 int8_symmetric ships: 0.238 [0.228, 0.250] of the latency of onnxruntime FP32; top1 0.9708,"
            " 0.0034 below the FP32 original",
        ),
    )
    fusion = chosen_metadata(
        ort,
        _candidate(ort, 0.0412, 1.0),
        _candidate("onnxruntime INT8 uint8_asymmetric", 0.041, 0.993, why=f"not surely faster than {ort}"),
        _candidate(ov, None, None, why="the engine's process died: signal SIGILL"),
        decisions=(
            f"{ort} ships: nothing else is surely faster",
            "compression does not pay: the fastest compressed candidate, onnxruntime INT8 uint8_asymmetric, takes"
            f" 0.993 [0.953, 1.043] of the latency of {ort}; it is out: not surely faster than {ort}",
            "accuracy was not looked at here: the gates judge it",
        ),
        left_out={
            "openvino INT8 int8_symmetric, BF16": "this CPU has no bfloat16 (amx_bf16 or avx512_bf16)",
            "openvino INT8 uint8_asymmetric, BF16": "this CPU has no bfloat16 (amx_bf16 or avx512_bf16)",
        },
    )
    selects = tuple(
        StepRecord(
            id=f"{component}/select", component=component, kind="select", method=method, status="ran",
            why="never built", seconds=12.3, size_after_bytes=371_402, metadata=metadata,
        )
        for component, method, metadata in (("image_encoder", "auto", image), ("fusion", "must_pay", fusion))
    )  # fmt: skip
    results = (PARITY, ACCURACY, LATENCY)
    return _report(
        verdict=PASS,
        exit_code=0,
        published=Path("model_repository"),
        gates=tuple(gate_record(result, seconds=4.2) for result in results),
        steps=(*STEPS, *selects),
    )


def _course(metric: tuple[float | None, ...], losses: tuple[float | None, ...], *, best: int) -> dict[str, object]:
    before, kept, last = metric[0], metric[best], len(metric) - 1
    note = f"top1 {before} before training, {kept} after epoch {best} of {last} (stopped early)"
    if best == 0:
        note = f"no epoch was better than before training (top1 {before}): weights unchanged"
    epochs = [
        {
            "epoch": number, "metric": value, "validation_loss": loss,
            "training_loss": None if number == 0 or loss is None else loss * 0.8, "learning_rate": 3e-4 / (number + 1),
            "seconds": 4.1,
        }
        for number, (value, loss) in enumerate(zip(metric, losses, strict=True))
    ]  # fmt: skip
    return {
        "metric": "top1", "larger_is_better": True, "steps_per_epoch": 38, "batch_size": 32, "processes": 1,
        "parameters": 124_416, "epochs": epochs, "stopped_early": best > 0, "best_epoch": best, "improved": best > 0,
        "note": note,
    }  # fmt: skip


def trained() -> BuildReport:
    """A build that pruned, recovered and trained for INT8; one training improved nothing, and one component paid."""

    def step(component: str, kind: str, method: str, **metadata: object) -> StepRecord:
        return StepRecord(
            id=f"{component}/{kind}", component=component, kind=kind, method=method, status="ran", why="never built",
            seconds=21.5, size_before_bytes=1_270_000, size_after_bytes=501_000, metadata=metadata,
        )  # fmt: skip

    recovered = _course((0.61, 0.942, 0.966, 0.9708, 0.968), (1.92, 0.21, 0.14, 0.12, 0.13), best=3)
    useless = _course((0.9666, 0.9649, None), (0.11, 0.18, None), best=0)
    before = ModuleCosts(parameters=312_842, nonzero_parameters=312_842, flops=4_120_576, bytes=1_251_368)
    after = ModuleCosts(parameters=124_416, nonzero_parameters=124_416, flops=1_644_032, bytes=497_664)
    sparse = before.model_copy(update={"nonzero_parameters": 157_001})
    validation = StageSeries(
        component="image_encoder",
        metric="top1 in validation",
        stages=(
            Stage(label="PyTorch FP32", value=0.975, note="on validation samples"),
            Stage(label="pruned", value=0.61, note="on validation samples"),
            Stage(label="recovered", value=0.9708, note="on validation samples"),
            Stage(label="INT8, untrained", value=0.9666, note="on validation samples"),
            Stage(label="INT8, trained", value=0.9666, note="on validation samples"),
        ),
    )
    return _report(
        verdict=PASS,
        exit_code=0,
        published=Path("model_repository"),
        gates=tuple(gate_record(result, seconds=4.2) for result in (PARITY, ACCURACY, LATENCY)),
        stages=(STAGES[0], validation, *STAGES[1:]),
        steps=(
            step("image_encoder", "prune", "structured", pruning={"method": "structured", "ratio": 0.4}),
            step("image_encoder", "recover", "finetune", training=recovered),
            step("image_encoder", "train", "qat", training=useless),
            *STEPS,
        ),
        costs=(
            CostRecord(
                component="image_encoder", before=before, after=after, latency_ratio=0.238,
                latency_ratio_interval=(0.228, 0.25),
            ),
            CostRecord(component="audio_encoder", before=before, after=sparse, notes=("zeros change nothing here",)),
            CostRecord(component="fusion", before=before, latency_ratio=1.0),
        ),
        plain_recipe=Path(".mmdeploy/runs/spoken_digits/20260314-092653-3f9a3f/plain_recipe.yaml"),
    )  # fmt: skip


def _group(name: str, drop: float, sqnr_db: float | None, weights: int = 36_864) -> dict[str, object]:
    return {
        "group": name, "nodes": [f"{name}/MatMul"], "globs": [f"{name}/*"], "weights": weights,
        "metric": 0.9742 - drop, "drop": drop, "drop_interval": [drop - 0.006, drop + 0.006], "sqnr_db": sqnr_db,
        "cosine": 0.9991, "samples": 500,
    }  # fmt: skip


def searched() -> BuildReport:
    """A build that searched for layer groups in INT8, and for a pruning ratio; one component was analysed before."""
    slower = "its INT8 is not measurably faster on the component's engine"
    broken = "the budget is broken on the samples searched"
    fusion = {
        "sensitivity": [_group("gate", 0.231, 7.1), _group("attention", 0.004, 31.0), _group("head", 0.0, None, 640)],
        "metric": "top1", "max_drop": 0.01, "held_back": _group("", 0.006, 28.4), "evaluations": 9,
        "int8_groups": ["attention"], "float_groups": ["gate", "head"],
        "plain": {"method": "static", "exclude": ["gate/*", "head/*"]},
        "decisions": [
            {
                "what": "head back to FP32", "why": slower, "gain": "the accuracy that its INT8 costs",
                "cost": "1.01 times the latency without its INT8 (0.97 to 1.05)",
            },
            {
                "what": "gate back to FP32", "why": broken, "gain": "drop 0.238 → 0.006",
                "cost": "1.12 times the latency without its INT8 (1.08 to 1.16)",
            },
        ],
    }  # fmt: skip
    image = {
        "metric": "top1", "max_drop": 0.01, "held_back": _group("", 0.002, 24.0), "evaluations": 8,
        "result": "structured pruning with ratio 0.4", "plain": {"method": "structured", "ratio": 0.4},
        "decisions": [
            {
                "what": "ratio 0.4 taken", "why": "fewest FLOPs of those that keep the budget",
                "gain": "0.6 of the FLOPs", "cost": "drop 0.002 (-0.004 to 0.008)",
            }
        ],
    }  # fmt: skip
    audio = {
        "metric": "top1", "sensitivity": [_group("convolutions", 0.012, 18.2), _group("blocks", -0.002, 36.6)],
        "whole": _group("", 0.014, 17.9),
    }  # fmt: skip
    steps = tuple(
        StepRecord(
            id=f"{component}/{kind}", component=component, kind=kind, method=method, status="ran",
            why="never built", seconds=61.5, key="d41d8c" * 10 + "abcd", metadata=metadata,
        )
        for component, kind, method, metadata in (
            ("image_encoder", "prune", "auto", image),
            ("audio_encoder", "sensitivity", "sensitivity", audio),
            ("fusion", "quantize", "auto", fusion),
        )
    )  # fmt: skip
    return _report(verdict=PASS, exit_code=0, gates=(gate_record(SIZE, seconds=0.1),), steps=steps)


_ADVICE = advising.lose_less(GateResult("parity", (), {"passes": {"fusion": ["quantize static"]}}))


def failed() -> BuildReport:
    parity = GateResult(
        "parity",
        (
            *PARITY.checks[:2],
            Check("fusion: cosine", 0.994961, ">= 0.995", FAIL, note="worst sample 871: cosine 0.913"),
            PARITY.checks[3],
        ),
        {"tensors": {}},
        _ADVICE,
    )
    accuracy = GateResult(
        "accuracy",
        (
            Check(
                "top1 drop",
                0.0219,
                "<= 0.01",
                FAIL,
                interval=(0.0134, 0.0311),
                note="paired on 1187 samples, McNemar p = 2e-06",
                samples=1187,
            ),
        ),
        {"scores": {}},
        _ADVICE,
        ACCURACY.tables,
    )
    return _report(
        verdict=FAIL,
        exit_code=1,
        gates=tuple(gate_record(result) for result in (parity, accuracy, LATENCY, SIZE)),
        notes=("fusion ships in FP32: INT8 was not faster there (1.04 of FP32).",),
        stages=(
            StageSeries(
                component=None,
                metric="top1",
                stages=(
                    Stage(label="PyTorch FP32", value=0.9742, interval=(0.9651, 0.9822)),
                    Stage(label="ONNX FP32", value=0.9742, interval=(0.9651, 0.9822)),
                    Stage(label="INT8", value=0.9523, interval=(0.9402, 0.9637)),
                    Stage(label="served", value=0.9523, interval=(0.9402, 0.9637)),
                ),
            ),
            *STAGES[1:],
        ),
    )


def inconclusive() -> BuildReport:
    why = "no NVIDIA driver on this machine: TensorRT-RTX engines cannot be run here"
    latency = GateResult(
        "latency",
        (
            Check(
                "p95 ratio (batch 1, concurrency 1)",
                None,
                "<= 0.8 of FP32",
                INCONCLUSIVE,
                note="not measured: a substitute's latency says nothing about the engine",
            ),
        ),
    )
    return _report(
        target=Target.TENSORRT_RTX,
        verdict=INCONCLUSIVE,
        exit_code=5,
        substitute=why,
        gates=tuple(gate_record(result) for result in (PARITY, ACCURACY, latency, SIZE)),
        latencies=(),
    )


def stopped() -> BuildReport:
    failed_step = StepRecord(
        id="audio_encoder/quantize",
        component="audio_encoder",
        kind="quantize",
        method="static",
        status="failed",
        why="options changed: samples 128 → 256",
        seconds=0.8,
        size_before_bytes=_FP32["audio_encoder"],
    )
    skipped = [
        step.model_copy(
            update={
                "status": "skipped",
                "why": "audio_encoder/quantize failed",
                "seconds": 0.0,
                "size_before_bytes": None,
                "size_after_bytes": None,
                "metadata": {},
                "key": "",
            }
        )
        for step in STEPS[5:]
    ]
    return _report(
        seconds=15.9,
        verdict=FAIL,
        exit_code=3,
        server_version=None,
        steps=(*STEPS[:4], failed_step, *skipped),
        stages=(),
        sizes=(),
        latencies=(),
        failure=Failure(
            step="audio_encoder/quantize",
            message="calibration sample 41 of input 'waveform' holds 3 NaN (first at [1207])",
            hint="remove the sample in data.py:calibration, or clean it before it is given",
            log=RUN / "logs" / "audio_encoder.quantize.log",
        ),
    )


def golden(name: str, text: str) -> None:
    """Compare with a golden file; ``UPDATE_GOLDEN=1 pytest`` writes it: read the difference then."""
    path = Path(__file__).parents[1] / "golden" / "report" / name
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


SAMPLES = {
    "passed": passed, "failed": failed, "inconclusive": inconclusive, "stopped": stopped, "chosen": chosen,
    "trained": trained, "searched": searched,
}  # fmt: skip


def main() -> None:
    from rich.console import Console

    from mmdeploy.report import write_all
    from mmdeploy.report.terminal import Summary

    folder = Path(sys.argv[1])
    for name, make in SAMPLES.items():
        files = write_all(make(), folder / name)
        Console(legacy_windows=False).print(Summary(make(), files))


if __name__ == "__main__":
    main()
