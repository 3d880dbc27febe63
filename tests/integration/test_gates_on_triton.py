"""All gates on two real Tritons, one serving the candidate and one the reference; the test says what requests cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from set_costs import SteppedClock, TimedDeployment

from mmdeploy.building.judge import ServedDeployment
from mmdeploy.building.served_ensemble import model_name
from mmdeploy.core.artifact import Artifact, TensorSpec, file_sha256
from mmdeploy.core.contracts import Evidence, GateResult, MethodOptions, Verdict, WiredComponent, method_of
from mmdeploy.core.errors import ServerError
from mmdeploy.core.target import this_hardware
from mmdeploy.gates import METHODS, run_all
from mmdeploy.triton import server
from mmdeploy.triton.config import ServedComponent, ServedEnsemble
from mmdeploy.triton.options import Serving
from mmdeploy.triton.repository import stage

pytestmark = pytest.mark.triton

WIDTH, SAMPLES = 16, 24
COMPONENTS = (
    WiredComponent("encoder", {"x": "image"}, {"y": "embedding"}),
    WiredComponent("head", {"x": "embedding"}, {"y": "logits"}),
)
SIDES = {
    # name: (max_batch_size, error added to the head's answers)
    "reference": (8, 0.0),
    "candidate": (8, 0.0),
    "off": (8, 5.0),
    "unbatched": (0, 0.0),
}


def weights() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.25, (WIDTH, WIDTH)).astype(np.float32)


def write_graph(path: Path, error: float) -> Path:
    model = onnx.parser.parse_model(
        f"""<ir_version: 9, opset_import: ["": 17]>
        g (float[batch, {WIDTH}] x) => (float[batch, {WIDTH}] y) <float e = {{{error}}}> {{
            product = MatMul(x, w)
            odd = Mul(x, e)
            y = Add(product, odd)
        }}"""
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights(), "w"))
    path.parent.mkdir(parents=True)
    onnx.save(model, path)
    return path


def ensemble(folder: Path, side: str) -> ServedEnsemble:
    max_batch_size, error = SIDES[side]
    specs = {name: TensorSpec(name, "FP32", (WIDTH,)) for name in ("x", "y", "image", "logits")}
    parts = []
    for part in COMPONENTS:
        path = write_graph(folder / part.name / "model.onnx", error if part.name == "head" else 0.0)
        parts.append(
            ServedComponent(
                name=model_name("gated", part.name),
                backend="onnxruntime",
                filename="model.onnx",
                artifact=Artifact("onnxruntime", path, file_sha256(path), (specs["x"],), (specs["y"],), "test"),
                inputs=part.inputs,
                outputs=part.outputs,
                serving=Serving(max_batch_size=max_batch_size),
                parameters={"intra_op_thread_count": "1"},
            )
        )
    return ServedEnsemble("gated", (specs["image"],), (specs["logits"],), tuple(parts))


@pytest.fixture(scope="module")
def deployments(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], ServedDeployment]]:
    """Serve each side when it is first asked for."""
    served: dict[str, ServedDeployment] = {}
    with ExitStack() as stack:

        def serve(side: str) -> ServedDeployment:
            if side not in served:
                folder = tmp_path_factory.mktemp(side)
                described = ensemble(folder / "graphs", side)
                repository = stage(folder / "repository", described)
                running = stack.enter_context(server.start([repository.path], log=folder / "triton.log"))
                served[side] = ServedDeployment(running, described)
            return served[side]

        yield serve


def evidence(candidate: ServedDeployment, reference: ServedDeployment, max_batch_size: int = 8) -> Evidence:
    image = np.random.default_rng(1).normal(size=(SAMPLES, WIDTH)).astype(np.float32)
    embedding = image @ weights()
    logits = embedding @ weights()
    return Evidence(
        candidate=candidate,
        reference=reference,
        components=COMPONENTS,
        ensemble_outputs=("logits",),
        feeds={"image": image},
        labels=logits.argmax(axis=1),
        original={"embedding": embedding, "logits": logits},
        hardware=this_hardware(),
        max_batch_size=max_batch_size,
    )


def timed(options: MethodOptions, given: Evidence, *, candidate_ms: float, reference_ms: float) -> GateResult:
    """Check a gate of speed: the servers answer, and their requests cost what is given."""
    clock = SteppedClock()
    sides = {
        "candidate": TimedDeployment(given.candidate, clock, lambda: candidate_ms / 1e3),
        "reference": TimedDeployment(given.reference, clock, lambda: reference_ms / 1e3),
    }
    return METHODS[method_of(options)].check(options, replace(given, **sides), clock=clock)  # type: ignore[call-arg]


def test_an_equal_candidate_passes_every_gate(deployments):
    gates = [
        METHODS["parity"].Options(min_cosine=0.99999, min_sqnr_db=90),
        METHODS["accuracy"].Options(metric="top1", min=1.0, max_drop=0.0),
        METHODS["size"].Options(max_ratio_to_reference=1.0),
        METHODS["memory"].Options(max_ratio_to_reference=2.0, max_bytes=2**34, seconds=0.5),
    ]
    given = evidence(deployments("candidate"), deployments("reference"))
    results, verdict = run_all(gates, given)
    assert verdict is Verdict.PASS, [check for result in results for check in result.checks]
    assert results[3].details["candidate_bytes"] > 2**24  # a server, and not this process's idea of it


def test_a_candidate_that_takes_half_the_time_passes_the_gates_of_speed(deployments):
    given = evidence(deployments("candidate"), deployments("reference"))
    latency = timed(METHODS["latency"].Options(max_ratio_to_reference=0.6), given, candidate_ms=1, reference_ms=2)
    assert latency.verdict is Verdict.PASS, latency.checks
    assert latency.checks[0].measured == pytest.approx(0.5)
    assert set(latency.details["components"]) == {"encoder", "head"}
    assert latency.details["components"]["head"]["candidate_ms"]["p50"] == pytest.approx(1)
    wanted = METHODS["throughput"].Options(concurrency=2, min_ratio_to_reference=1.5)
    throughput = timed(wanted, given, candidate_ms=1, reference_ms=2)
    assert throughput.verdict is Verdict.PASS, throughput.checks


def test_a_component_that_is_off_is_named_and_a_limit_out_of_reach_fails(deployments):
    given = evidence(deployments("off"), deployments("reference"))
    parity = METHODS["parity"].check(METHODS["parity"].Options(min_cosine=0.99), given)
    failed = {check.name.partition(":")[0] for check in parity.checks if check.verdict is Verdict.FAIL}
    assert failed == {"head", "end to end"}
    accuracy = METHODS["accuracy"].check(METHODS["accuracy"].Options(metric="top1", max_drop=0.1), given)
    assert accuracy.verdict is Verdict.FAIL
    assert accuracy.details["scores"]["reference"] == 1.0 > accuracy.details["scores"]["candidate"]
    latency = METHODS["latency"].Options(max_ratio_to_reference=0.2, per_component=False)
    assert timed(latency, given, candidate_ms=2, reference_ms=2).verdict is Verdict.FAIL


def test_an_ensemble_that_does_not_batch_is_judged(deployments):
    given = evidence(deployments("unbatched"), deployments("unbatched"), max_batch_size=0)
    gates = [METHODS["parity"].Options(min_cosine=0.99999), METHODS["accuracy"].Options(metric="top1", min=1.0)]
    results, verdict = run_all(gates, given)
    assert verdict is Verdict.PASS, [check for result in results for check in result.checks]
    latency = timed(METHODS["latency"].Options(max_ratio_to_reference=1.1), given, candidate_ms=2, reference_ms=2)
    assert latency.verdict is Verdict.PASS, latency.checks
    assert all("problem" not in figures for figures in latency.details["components"].values())


@pytest.mark.parametrize("name", ["parity", "accuracy", "latency"])
def test_what_triton_refuses_is_a_failed_check_with_its_reason(name, deployments):
    given = evidence(deployments("candidate"), deployments("reference"), max_batch_size=16)  # it takes 8
    limits = {
        "parity": {"min_cosine": 0.9},
        "accuracy": {"metric": "top1", "min": 0.5},
        "latency": {"max_ratio_to_reference": 3.0, "batch": 16},
    }
    result = METHODS[name].check(METHODS[name].Options(**limits[name]), given)
    assert result.verdict is Verdict.FAIL
    assert "<= 8" in result.checks[0].note


def test_a_server_that_died_is_an_exception_and_not_a_verdict(tmp_path, deployments):
    described = ensemble(tmp_path / "graphs", "candidate")
    repository = stage(tmp_path / "repository", described)
    with server.start([repository.path], log=tmp_path / "triton.log") as running:
        dead = ServedDeployment(running, described)
    given = replace(evidence(deployments("candidate"), deployments("reference")), candidate=dead)
    with pytest.raises(ServerError, match="Triton ended"):
        METHODS["parity"].check(METHODS["parity"].Options(min_cosine=0.9), given)
