"""Judge what is really served: stage the candidate and its FP32 reference, start a Triton on each, run the gates.

The two servers stand side by side and are asked in turns, so that both meet the same machine. The reference is
the same ensemble with the FP32 export of every component in the same kind of engine. While the gates run, the
response cache is too small to keep an answer: what is timed is inference.

An engine that cannot run on this machine is judged by a substitute: the very graph that it was built from,
served by ONNX Runtime. `Judgement.substitute` says so, and no latency is claimed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmdeploy import engines, gates
from mmdeploy.building.wired import shipped_engine
from mmdeploy.core.artifact import Artifact, TensorSpec, file_sha256
from mmdeploy.core.contracts import Array, Evidence, GateResult, MethodOptions, Verdict, WiredComponent
from mmdeploy.core.errors import MmdeployError
from mmdeploy.core.target import Target, this_hardware, usable_cores
from mmdeploy.data.sample_sets import SampleSet
from mmdeploy.engines.built_from import graph_path
from mmdeploy.planning.chains import candidates, original_graph
from mmdeploy.planning.kinds import EXPORT
from mmdeploy.recipe.wiring import topological_order
from mmdeploy.record.build_report import gate_record
from mmdeploy.record.observer import Observer
from mmdeploy.triton import server as triton_server
from mmdeploy.triton.client import GrpcRunner
from mmdeploy.triton.config import ServedComponent, ServedEnsemble
from mmdeploy.triton.install import stand_in_of
from mmdeploy.triton.options import InstanceGroup, Serving
from mmdeploy.triton.repository import StagedRepository, stage
from mmdeploy.triton.scalars import ScalarRunner
from mmdeploy.worker.examples import kept_example

if TYPE_CHECKING:
    from mmdeploy.recipe.schema import Recipe
    from mmdeploy.triton.server import Server

_NO_CACHE_BYTES = 1024


@dataclass(frozen=True)
class Judgement:
    """What the gates came to.

    Attributes:
        results: One a gate, in the recipe's order.
        verdict: The worst of them; inconclusive when a substitute was judged.
        seconds: Time of each gate.
        server_version: Of the Triton that served.
        substitute: Why the candidate was a stand-in, or None.
    """

    results: tuple[GateResult, ...]
    verdict: Verdict
    seconds: tuple[float, ...]
    server_version: str
    substitute: str | None


@dataclass(frozen=True)
class EvaluationRecord:
    """What was recorded before anything was served.

    Attributes:
        samples: The evaluation set.
        original: Artifact of the ``original/outputs`` step: ``index.json`` beside one ``.npy`` a tensor.
    """

    samples: SampleSet
    original: Artifact

    def answers(self) -> dict[str, Array]:
        """Open what the PyTorch model answered, memory-mapped, by ensemble tensor."""
        folder, index = self.original.path.parent, json.loads(self.original.path.read_text(encoding="utf-8"))
        return {name: np.load(folder / file, mmap_mode="r", allow_pickle=False) for name, file in index.items()}


class ServedDeployment:
    """An ensemble on a running Triton; a `contracts.Deployment`."""

    def __init__(self, server: Server, ensemble: ServedEnsemble, *, published: ServedEnsemble | None = None) -> None:
        """Take a server that serves the ensemble.

        Args:
            server: Up and ready.
            ensemble: What it serves.
            published: What the ensemble stands in for; None where it is that itself.
        """
        self._server = server
        self._ensemble = ensemble
        self._published = published or ensemble

    def runner(self, model: str | None = None) -> GrpcRunner:
        """Open a connection to a composing model, or to the ensemble."""
        served = model_name(self._ensemble.name, model) if model else self._ensemble.name
        parts = {part.name: part.artifact for part in self._ensemble.components}
        specs = parts.get(served, self._ensemble)
        return ScalarRunner(self._server.grpc_url, served, inputs=specs.inputs, outputs=specs.outputs)

    def memory_bytes(self) -> int:
        """Return the resident set of the server and its children in bytes."""
        return self._server.memory_bytes()

    def size_bytes(self) -> dict[str, int]:
        """Return the bytes on disk of each component's engine, as it would be published: not those of a stand-in."""
        prefix = len(model_name(self._published.name, ""))
        return {part.name[prefix:]: part.artifact.size_bytes for part in self._published.components}


@dataclass(frozen=True)
class Staged:
    """A model repository on disk and the ensemble that it was written from."""

    repository: StagedRepository
    ensemble: ServedEnsemble


def staged(folder: Path, ensemble: ServedEnsemble) -> Staged:
    """Write an ensemble's model repository into an empty folder."""
    return Staged(stage(folder, ensemble), ensemble)


def model_name(recipe: str, component: str) -> str:
    """Return the name of a component's model in Triton; the recipe's name keeps two recipes served at once apart."""
    return f"{recipe}.{component}"


def candidate_ensemble(recipe: Recipe, artifacts: Mapping[str, Artifact]) -> ServedEnsemble:
    """Describe what would be published: the engines of the ``<component>/engine`` steps."""
    built = {name: artifacts[f"{name}/engine"] for name in recipe.components}
    return _ensemble(recipe, built, _samples(artifacts, built), lambda name: shipped_engine(recipe, name, built[name]))


def reference_ensemble(
    recipe: Recipe, artifacts: Mapping[str, Artifact], unrunnable: Mapping[str, str]
) -> ServedEnsemble:
    """Describe the FP32 reference: the same kind of engine, or the FP32 graph where that cannot run here."""
    built = {
        name: artifacts[original_graph(recipe, name) if name in unrunnable else f"{name}/reference"]
        for name in recipe.components
    }
    samples = _samples(artifacts, built)
    return _ensemble(recipe, built, samples, _engine_or_substitute(recipe, unrunnable), substituted=unrunnable)


def substitute_ensemble(
    recipe: Recipe, artifacts: Mapping[str, Artifact], unrunnable: Mapping[str, str]
) -> ServedEnsemble:
    """Describe the stand-in: the graph that each engine was built from, through ONNX Runtime."""
    built = {}
    for name in recipe.components:
        engine = artifacts[f"{name}/engine"]
        built[name] = _graph_of(engine) if name in unrunnable else engine
    onnxruntime = engines.DEFAULT_BY_TARGET[Target.CPU]
    return _ensemble(
        recipe,
        built,
        _samples(artifacts, built),
        lambda name: onnxruntime if name in unrunnable else shipped_engine(recipe, name, built[name]),
        substituted=unrunnable,
    )


def _graph_of(engine: Artifact) -> Artifact:
    path = graph_path(engine)
    return replace(engine, format="onnx", path=path, sha256=file_sha256(path), beside=())


def _engine_or_substitute(recipe: Recipe, unrunnable: Mapping[str, str]) -> Callable[[str], MethodOptions]:
    onnxruntime: MethodOptions = engines.DEFAULT_BY_TARGET[Target.CPU]
    return lambda name: onnxruntime if name in unrunnable else recipe.engine_options(name)


def _samples(artifacts: Mapping[str, Artifact], names: Iterable[str]) -> dict[str, dict[str, Array]]:
    """Return one sample of each component's inputs, as its export kept it."""
    return {name: kept_example(artifacts[f"{name}/{EXPORT.name}"]) for name in names}


def _ensemble(
    recipe: Recipe,
    built: Mapping[str, Artifact],
    samples: Mapping[str, Mapping[str, Array]],
    engine_of: Callable[[str], MethodOptions],
    substituted: Collection[str] = (),
) -> ServedEnsemble:
    components = tuple(
        replace(
            _component(recipe, name, built[name], engine_of(name), substitute=name in substituted),
            sample=samples[name],
        )
        for name in topological_order(recipe.components)
    )
    specs = {
        tensor: replace(spec, name=tensor)
        for part in components
        for spec in part.artifact.outputs
        for tensor in [part.outputs[spec.name]]
    }
    return ServedEnsemble(
        name=recipe.name,
        inputs=tuple(TensorSpec(name, spec.dtype, tuple(spec.shape)) for name, spec in recipe.inputs.items()),
        outputs=tuple(specs[name] for name in recipe.outputs),
        components=components,
    )


def _component(
    recipe: Recipe, name: str, artifact: Artifact, engine: MethodOptions, *, substitute: bool
) -> ServedComponent:
    component, module = recipe.components[name], engines.METHODS.of(engine)
    inputs = {key: wire.tensor for key, wire in component.inputs.items()}
    outputs = {key: wire.tensor for key, wire in component.outputs.items()}
    return ServedComponent(
        name=model_name(recipe.name, name),
        backend=module.BACKEND,
        filename=module.FILENAME,
        artifact=artifact,
        inputs=inputs,
        outputs=outputs,
        serving=_with_instances(component.serving, substitute=substitute),
        parameters=module.serving(engine),
        input_rules=_input_rules(recipe, inputs),
        labels={key: recipe.root / file for key, file in _labels(recipe, outputs)},
    )


def _with_instances(serving: Serving, *, substitute: bool) -> Serving:
    """Write one instance out: left open, Triton's backends choose differently (two for onnxruntime on a CPU).

    A substitute runs where it can: the GPU that the recipe may ask for is the one that is missing here.
    """
    asked = serving.instance_group
    if asked is not None and not substitute:
        return serving
    group = InstanceGroup(count=1 if asked is None else asked.count)
    return serving.model_copy(update={"instance_group": group})


def _input_rules(recipe: Recipe, inputs: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Say what requests must keep, and what clients call a component's inputs."""
    rules: dict[str, dict[str, Any]] = {}
    for key, tensor in inputs.items():
        rules[key] = {} if key == tensor else {"tensor": tensor}
        if tensor in recipe.inputs and (span := recipe.inputs[tensor].range) is not None:
            rules[key]["range"] = list(span)
    return {key: rule for key, rule in rules.items() if rule}


def _labels(recipe: Recipe, outputs: Mapping[str, str]) -> Iterator[tuple[str, Path]]:
    for key, tensor in outputs.items():
        labels = recipe.outputs[tensor].labels if tensor in recipe.outputs else None
        if labels is not None:
            yield key, labels


def stand_ins(recipe: Recipe) -> dict[str, Path]:
    """Return the Python-based backends that a recipe's engines bring for a server without their own."""
    used = [recipe.engine_options(name) for name in recipe.components]
    used += [variant.options for name in recipe.components for variant in candidates(recipe, name)]
    found: dict[str, Path] = {}
    for options in used:
        found |= stand_in_of(engines.METHODS.of(options))
    return found


def judge(
    recipe: Recipe,
    candidate: Staged,
    reference: Staged,
    record: EvaluationRecord,
    *,
    components: tuple[WiredComponent, ...],
    published: Staged,
    logs: Path,
    substitute: str | None,
    observer: Observer,
) -> Judgement:
    """Serve both repositories and run every gate of the recipe.

    Args:
        recipe: Its gates.
        candidate: What is served for the candidate.
        reference: The FP32 reference.
        record: What was recorded before.
        components: The candidate's, as gates see them.
        published: What would be published: the candidate, or what it stands in for.
        logs: Folder of the servers' logs.
        substitute: Why the candidate is a stand-in, or None.
        observer: Who watches.

    Raises:
        ServerError: If Triton refuses a repository or dies.
        EnvironmentUnfitError: If there is no Triton.
    """
    watch = _Watch(observer)
    observer.step_started("serve")
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(2))
        starting = [
            pool.submit(
                triton_server.start,
                [staged.repository.path],
                log=logs / f"triton-{role}.log",
                response_cache_bytes=_NO_CACHE_BYTES,
                stand_ins=stand_ins(recipe),
            )
            for role, staged in (("candidate", candidate), ("reference", reference))
        ]
        servers = _entered(stack, starting)
        observer.work_finished("serve", f"Triton {servers[0].server_version}, candidate and reference, are ready")
        evidence = Evidence(
            candidate=ServedDeployment(servers[0], candidate.ensemble, published=published.ensemble),
            reference=ServedDeployment(servers[1], reference.ensemble),
            components=components,
            ensemble_outputs=tuple(recipe.outputs),
            feeds=record.samples.feeds(),
            labels=record.samples.labels,
            original=record.answers(),
            hardware=this_hardware(),
            max_batch_size=min(part.serving.max_batch_size for part in candidate.ensemble.components),
            substitute=substitute,
            seed=recipe.seed,
            cores=usable_cores(),
            progress=watch.progress,
            root=recipe.root,
        )
        results, verdict = gates.run_all(recipe.gates, evidence, started=watch.started, finished=watch.finished)
        if substitute and verdict is Verdict.PASS:
            verdict = Verdict.INCONCLUSIVE
        return Judgement(results, verdict, tuple(watch.seconds), servers[0].server_version, substitute)


def _entered(stack: ExitStack, starting: Sequence[Future[Server]]) -> list[Server]:
    """Wait for every server, so that one that came up is stopped even when its neighbour did not."""
    servers, errors = [], []
    for future in starting:
        try:
            servers.append(stack.enter_context(future.result()))
        except MmdeployError as error:
            errors.append(error)
    if errors:
        raise errors[0]
    return servers


class _Watch:
    """Passes on to an observer what the gates do, each under its own name."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._gate = "gates"
        self.seconds: list[float] = []

    def started(self, method: str) -> None:
        self._gate = f"gates/{method}"
        self._observer.step_started(self._gate)

    def progress(self, done: int, total: int | None, what: str) -> None:
        self._observer.progress(self._gate, done, total, what)

    def finished(self, result: GateResult, seconds: float) -> None:
        self.seconds.append(seconds)
        self._observer.gate_finished(gate_record(result, seconds=seconds))
