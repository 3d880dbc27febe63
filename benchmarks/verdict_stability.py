"""Which verdicts the latency and throughput gates come to on real servers, with and without an injected slowdown.

Run it as ``python benchmarks/verdict_stability.py [--trials 20] [--in-process] [--json FILE]``. A small ensemble of
three components is served twice by real Tritons, as candidate and as reference (or, with ``--in-process``, by ONNX
Runtime sessions in this process), and the gates' own code judges it again and again. ``equal`` asks for at most 1.1
of the reference's time: it must not fail. ``equal, limit 1.0`` asks for exactly what equals reach: no verdict is right.
``slowed`` waits a fifth of each request's own time before it hands the answer on: it must not pass a limit of 1.1. The
exit code is 1 when more than 1 of 20 verdicts are false; how many are open is shown beside it. Error rates are measured
by ``verdict_errors.py``, which simulates, since some twenty judgements say little about a rate of 1 %.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from mmdeploy.core.artifact import Artifact, TensorSpec, file_sha256
from mmdeploy.core.contracts import (
    Array,
    Deployment,
    Evidence,
    FeedDict,
    MethodOptions,
    Runner,
    Verdict,
    WiredComponent,
)
from mmdeploy.core.sessions import SessionRunner, open_session
from mmdeploy.core.target import this_hardware, usable_cores
from mmdeploy.gates import METHODS, latency, throughput
from mmdeploy.gates.in_process import InProcessDeployment

WIDTH, DEPTH, SAMPLES = 256, 6, 64
LIMIT, SLOWDOWN = 1.1, 1.2
PARAMETERS = {"intra_op_thread_count": "1", "session.intra_op.allow_spinning": "0"}
COMPONENTS = (
    WiredComponent("left", {"a": "image"}, {"y": "left_embedding"}),
    WiredComponent("right", {"a": "audio"}, {"y": "right_embedding"}),
    WiredComponent("head", {"a": "left_embedding", "b": "right_embedding"}, {"y": "logits"}),
)


@dataclass(frozen=True)
class Slowed:
    """A deployment whose every answer is held back for a share of the time that it took."""

    inner: Deployment
    share: float

    def runner(self, model: str | None = None) -> Runner:
        """Open a slowed connection."""
        return _SlowedRunner(self.inner.runner(model), self.share)

    def memory_bytes(self) -> int:
        """Return the inner deployment's resident set."""
        return self.inner.memory_bytes()

    def size_bytes(self) -> Mapping[str, int]:
        """Return the inner deployment's sizes."""
        return self.inner.size_bytes()


class _SlowedRunner:
    def __init__(self, inner: Runner, share: float) -> None:
        self._inner, self._share = inner, share
        self.inputs, self.outputs = inner.inputs, inner.outputs

    def infer(self, feed_dict: FeedDict) -> dict[str, Array]:
        began = time.perf_counter()
        answer = self._inner.infer(feed_dict)
        until = time.perf_counter() + self._share * (time.perf_counter() - began)
        while time.perf_counter() < until:
            pass
        return answer

    def close(self) -> None:
        self._inner.close()


def main() -> None:
    """Judge again and again, print a table, and exit with 1 when a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--percentile", choices=("p50", "p90", "p95", "p99"), default="p50")
    parser.add_argument("--max-seconds", type=float, default=60.0, help="for each verdict, as in a recipe")
    parser.add_argument("--in-process", action="store_true", help="ONNX Runtime sessions instead of Tritons")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        graphs = {part.name: write_graph(Path(folder), part) for part in COMPONENTS}
        if arguments.in_process:
            candidate: Deployment = in_process(graphs)
            reference: Deployment = candidate
        else:
            candidate = stack.enter_context(triton(graphs, Path(folder) / "candidate"))
            reference = stack.enter_context(triton(graphs, Path(folder) / "reference"))
        evidence = Evidence(
            candidate=candidate, reference=reference, components=COMPONENTS, ensemble_outputs=("logits",),
            feeds=feeds(), labels=None, original={}, hardware=this_hardware(), max_batch_size=8, cores=usable_cores(),
        )  # fmt: skip
        rows = list(run_cases(evidence, arguments))
    broken = [row for row in rows if not row["kept"]]
    if arguments.json:
        figures = {"served_by": "process" if arguments.in_process else "triton", "hardware": str(this_hardware())}
        arguments.json.write_text(json.dumps(figures | {"trials": arguments.trials, "rows": rows}, indent=1))
    sys.exit(1 if broken else 0)


def run_cases(evidence: Evidence, arguments: argparse.Namespace) -> Iterator[dict[str, object]]:
    """Run every case and print a line each."""
    shared = {"max_seconds": arguments.max_seconds}
    timing = {"percentile": arguments.percentile, "per_component": False, **shared}
    loose = latency.Options(**timing, max_ratio_to_reference=LIMIT)
    strict = latency.Options(**timing, max_ratio_to_reference=1.0)
    rate = throughput.Options(**shared, concurrency=1, min_ratio_to_reference=1 / LIMIT)
    slowed = Slowed(evidence.candidate, SLOWDOWN - 1.0)
    few = arguments.trials // 20
    cases: list[tuple[str, MethodOptions, Deployment, Callable[[Counter[str]], bool]]] = [
        ("latency, equal", loose, evidence.candidate, lambda found: found["fail"] <= few),
        ("latency, equal, limit 1.0", strict, evidence.candidate, lambda found: found["fail"] + found["pass"] <= few),
        ("latency, slowed", loose, slowed, lambda found: found["pass"] <= few),
        ("throughput, equal", rate, evidence.candidate, lambda found: found["fail"] <= few),
        ("throughput, slowed", rate, slowed, lambda found: found["pass"] <= few),
    ]
    print(f"{'':<28}{'pass':>6}{'fail':>6}{'open':>6}{'ratio, spread over trials':>28}{'requests':>10}{'s each':>8}")
    for name, options, candidate, keeps in cases:
        yield run_case(name, options, candidate, evidence, arguments.trials, keeps)


def run_case(
    name: str, options: MethodOptions, candidate: Deployment, evidence: Evidence, trials: int,
    keeps: Callable[[Counter[str]], bool],
) -> dict[str, object]:  # fmt: skip
    """Judge one candidate ``trials`` times, each with a seed of its own."""
    found, ratios, requests, began = Counter[str](), [], [], time.perf_counter()
    for seed in range(trials):
        fields = dict(evidence.__dict__) | {"candidate": candidate, "seed": seed}
        method = options.model_dump()["method"]
        result = METHODS[method].check(options, Evidence(**fields))
        found[str(result.verdict)] += 1
        ratios.append(result.checks[0].measured or float("nan"))
        requests.append(result.details["requests"])
    seconds, kept = (time.perf_counter() - began) / trials, keeps(found)
    counts = [found[str(verdict)] for verdict in (Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE)]
    spread = f"{min(ratios):.3f} {np.median(ratios):.3f} {max(ratios):.3f}"
    columns = "".join(f"{count:>6}" for count in counts)
    print(f"{name:<28}{columns}{spread:>28}{np.median(requests):>10.0f}{seconds:>8.1f}{'' if kept else '  BROKEN'}")
    sys.stdout.flush()
    return {
        "case": name, "verdicts": dict(found), "ratios": ratios, "requests": requests, "seconds_each": seconds,
        "kept": kept,
    }  # fmt: skip


def feeds() -> dict[str, Array]:
    """Make the evaluation inputs."""
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=(SAMPLES, WIDTH)).astype(np.float32) for name in ("image", "audio")}


def write_graph(folder: Path, component: WiredComponent) -> Path:
    """Write an MLP over the sum of the component's inputs."""
    inputs = ", ".join(f"float[batch, {WIDTH}] {name}" for name in component.inputs)
    layers = "".join(f"p{k} = MatMul(r{k}, w{k}) r{k + 1} = Tanh(p{k})\n" for k in range(DEPTH))
    text = f"""<ir_version: 9, opset_import: ["": 17]>
    mlp ({inputs}) => (float[batch, {WIDTH}] y) {{
        r0 = Sum({", ".join(component.inputs)})
        {layers} y = Identity(r{DEPTH})
    }}"""
    model, rng = onnx.parser.parse_model(text), np.random.default_rng(1)
    for k in range(DEPTH):
        weights = rng.normal(0, WIDTH**-0.5, (WIDTH, WIDTH)).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weights, f"w{k}"))
    path = folder / component.name / "model.onnx"
    path.parent.mkdir()
    onnx.save(model, path)
    return path


def in_process(graphs: Mapping[str, Path]) -> InProcessDeployment:
    """Wire the graphs in this process."""

    def opener(path: Path) -> Callable[[], Runner]:
        return lambda: SessionRunner(open_session(path, PARAMETERS))

    openers = {name: opener(path) for name, path in graphs.items()}
    return InProcessDeployment(COMPONENTS, openers, ("logits",), {})


@contextmanager
def triton(graphs: Mapping[str, Path], folder: Path) -> Iterator[Deployment]:
    """Serve the graphs as an ensemble by a Triton of its own."""
    from mmdeploy.building.judge import ServedDeployment
    from mmdeploy.building.served_ensemble import model_name
    from mmdeploy.triton import server
    from mmdeploy.triton.config import ServedComponent, ServedEnsemble
    from mmdeploy.triton.options import InstanceGroup, Serving
    from mmdeploy.triton.repository import stage

    def spec(name: str) -> TensorSpec:
        return TensorSpec(name, "FP32", (WIDTH,))

    def served(part: WiredComponent) -> ServedComponent:
        path = graphs[part.name]
        specs = [tuple(spec(name) for name in side) for side in (part.inputs, part.outputs)]
        return ServedComponent(
            name=model_name("ensemble", part.name),
            backend="onnxruntime",
            filename="model.onnx",
            artifact=Artifact("onnxruntime", path, file_sha256(path), specs[0], specs[1], "benchmark"),
            inputs=part.inputs,
            outputs=part.outputs,
            serving=Serving(max_batch_size=8, instance_group=InstanceGroup(count=1)),
            parameters=PARAMETERS,
        )

    parts = tuple(served(part) for part in COMPONENTS)
    ensemble = ServedEnsemble("ensemble", (spec("image"), spec("audio")), (spec("logits"),), parts)
    repository = stage(folder, ensemble)
    with server.start([repository.path], log=folder.with_suffix(".log")) as running:
        yield ServedDeployment(running, ensemble)


if __name__ == "__main__":
    main()
