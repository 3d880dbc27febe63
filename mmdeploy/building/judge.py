"""Judge what is really served: stage the candidate and its FP32 reference, start a Triton on each, run the gates.

The two servers stand side by side and are asked in turns, so that both meet the same machine. The reference is
the same ensemble with the FP32 export of every component in the same kind of engine. While the gates run, the servers
have no response cache, whatever the recipe caches: samples are asked for many times, and what is timed is inference.

An engine that cannot run on this machine is judged by a substitute: the very graph that it was built from,
served by ONNX Runtime. `Judgement.substitute` says so, and no latency is claimed.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdeploy import gates
from mmdeploy.building.confidence import served_confidence
from mmdeploy.building.judged_modalities import evidence_subsets, mixed_rows, samples_asked
from mmdeploy.building.served_ensemble import model_name, stand_ins
from mmdeploy.building.served_stream import other_chunks
from mmdeploy.building.staged import Staged
from mmdeploy.core.artifact import Artifact
from mmdeploy.core.contracts import Array, Evidence, EvidenceCascade, GateResult, Samples, Verdict, WiredComponent
from mmdeploy.core.errors import ServerError
from mmdeploy.core.target import this_hardware, usable_cores
from mmdeploy.data.columns import load_column
from mmdeploy.data.sample_sets import SampleSet
from mmdeploy.record.build_report import gate_record
from mmdeploy.record.observer import Observer
from mmdeploy.triton.client import GrpcRunner
from mmdeploy.triton.config import ServedEnsemble
from mmdeploy.triton.scalars import ScalarRunner
from mmdeploy.triton.several import start_all
from mmdeploy.worker.original_outputs import BOUNDS, EARLY, EARLY_AT_BOUNDS, SUBSETS

if TYPE_CHECKING:
    from mmdeploy.recipe.schema import Recipe
    from mmdeploy.triton.server import Server


@dataclass(frozen=True)
class Judgement:
    """What the gates came to.

    Attributes:
        results: One a gate, in the recipe's order.
        verdict: The worst of them; inconclusive when a substitute was judged.
        seconds: Time of each gate.
        server_version: Of the Triton that served.
        substitute: Why the candidate was a stand-in, or None.
        notes: What else was measured, a sentence each.
        confidence: How sure the candidate's answers were: a histogram by output.
    """

    results: tuple[GateResult, ...]
    verdict: Verdict
    seconds: tuple[float, ...]
    server_version: str
    substitute: str | None
    notes: tuple[str, ...] = ()
    confidence: Mapping[str, Any] = field(default_factory=dict)


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
        """Open what the PyTorch model answered, memory-mapped, as columns by ensemble tensor."""
        folder, index = self.original.path.parent, json.loads(self.original.path.read_text(encoding="utf-8"))
        return {name: load_column(folder, entry) for name, entry in index.items() if name != SUBSETS}

    def bounds(self) -> tuple[Samples, dict[str, Array]] | None:
        """Open the samples that were made at bounds of sizes, and what the PyTorch model answered to them."""
        path = self.original.path.with_name(BOUNDS)
        if not path.is_file():
            return None
        index = json.loads(path.read_text(encoding="utf-8"))
        feeds, original = (
            {name: load_column(path.parent, entry) for name, entry in index[side].items()}
            for side in ("feeds", "original")
        )
        return Samples(feeds), original

    def cascade(self, left_early: str) -> EvidenceCascade:
        """Open what the PyTorch model answered early.

        Args:
            left_early: The output that says which samples left early.
        """
        folder = self.original.path.parent
        index = json.loads((folder / EARLY).read_text(encoding="utf-8"))
        bounds = folder / BOUNDS
        at_bounds = json.loads(bounds.read_text(encoding="utf-8"))[EARLY_AT_BOUNDS] if bounds.is_file() else {}
        early, made = ({name: load_column(folder, one) for name, one in side.items()} for side in (index, at_bounds))
        made.pop(left_early, None)
        return EvidenceCascade(left_early, early.pop(left_early)[:, 0], early, made)


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
        self._chunk: int | None = None

    def in_chunks(self, length: int) -> ServedDeployment:
        """Return it as a client that cuts samples into chunks of another length; what takes none is asked as before."""
        other = copy.copy(self)
        other._chunk = length
        return other

    def runner(self, model: str | None = None) -> GrpcRunner:
        """Open a connection to a composing model, or to the ensemble.

        Raises:
            ServerError: With Triton's last words, if it ended by itself.
        """
        try:
            runner = self._runner(model)
        except ServerError:
            self._server.require_running()
            raise
        if runner.cut is not None and self._chunk is not None:
            runner.cut = replace(runner.cut, chunk=self._chunk)
        return runner

    def _runner(self, model: str | None) -> GrpcRunner:
        served = model_name(self._ensemble.name, model) if model else self._ensemble.name
        for part in self._ensemble.components:
            if part.name == served:
                specs = part.artifact
                return ScalarRunner(self._server.grpc_url, served, inputs=specs.inputs, outputs=specs.outputs)
        for step in self._ensemble.steps:
            if step.name == served:
                return ScalarRunner(self._server.grpc_url, served, inputs=step.takes, outputs=step.gives)
        whole = self._ensemble
        return ScalarRunner(self._server.grpc_url, served, inputs=whole.inputs, outputs=whole.outputs)

    def memory_bytes(self) -> int:
        """Return the resident set of the server and its children in bytes."""
        return self._server.memory_bytes()

    def size_bytes(self) -> dict[str, int]:
        """Return the bytes on disk of each component's engine, as it would be published: not those of a stand-in."""
        prefix = len(model_name(self._published.name, ""))
        engines = {part.name[prefix:]: part.artifact.size_bytes for part in self._published.components}
        return engines | {step.name[prefix:]: step.size_bytes for step in self._published.steps}


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
    besides: Callable[[Evidence], tuple[str, ...]] = lambda evidence: (),
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
        besides: Measures what no gate judges, while the servers are up, and gives a sentence each; not of a stand-in.

    Raises:
        ServerError: If Triton refuses a repository or dies.
        EnvironmentUnfitError: If there is no Triton.
    """
    watch = _Watch(observer)
    observer.step_started("serve")
    with served(recipe, (candidate, reference), record, components, logs=logs, published=published) as both:
        version = both.server_version
        observer.work_finished("serve", f"Triton {version}, candidate and reference, are ready")
        evidence = replace(both.evidence, substitute=substitute, progress=watch.progress)
        results, verdict = gates.run_all(recipe.gates, evidence, started=watch.started, finished=watch.finished)
        if substitute and verdict is Verdict.PASS:
            verdict = Verdict.INCONCLUSIVE
        notes = () if substitute else besides(evidence)
        sure = served_confidence(evidence, results)
        return Judgement(results, verdict, tuple(watch.seconds), version, substitute, notes, sure)


@dataclass(frozen=True)
class Served:
    """A candidate and its reference, up and ready.

    Attributes:
        evidence: What may be asked.
        server_version: Of the Triton that serves.
    """

    evidence: Evidence
    server_version: str


@contextmanager
def served(
    recipe: Recipe,
    sides: tuple[Staged, Staged],
    record: EvaluationRecord,
    components: tuple[WiredComponent, ...],
    *,
    logs: Path,
    published: Staged | None = None,
) -> Iterator[Served]:
    """Serve a candidate and its FP32 reference side by side.

    Args:
        recipe: What both are of.
        sides: What is served for the candidate, and the reference.
        record: What was recorded before.
        components: The candidate's, as gates see them.
        logs: Folder of the servers' logs.
        published: What would be published, where the candidate stands in for it.

    Raises:
        ServerError: If Triton refuses a repository or dies.
        EnvironmentUnfitError: If there is no Triton.
    """
    candidate, reference = sides
    with ExitStack() as stack:
        paths = {"candidate": candidate.repository.path, "reference": reference.repository.path}
        servers = start_all(stack, paths, logs, stand_ins(recipe))
        deployments = (
            ServedDeployment(servers["candidate"], candidate.ensemble, published=(published or candidate).ensemble),
            ServedDeployment(servers["reference"], reference.ensemble),
        )
        evidence = _evidence(recipe, record, deployments, components, candidate.ensemble)
        yield Served(evidence, servers["candidate"].server_version)


def _evidence(
    recipe: Recipe,
    record: EvaluationRecord,
    sides: tuple[ServedDeployment, ServedDeployment],
    components: tuple[WiredComponent, ...],
    ensemble: ServedEnsemble,
) -> Evidence:
    """Put together what the gates may ask; ``ensemble`` is what the first side serves."""
    feeds = record.samples.feeds()
    asked = samples_asked(recipe, feeds)
    answers, subsets = record.answers(), evidence_subsets(recipe, feeds, record.original)
    return Evidence(
        candidate=sides[0],
        reference=sides[1],
        components=tuple(replace(one, samples=asked.get(one.name)) for one in components),
        ensemble_outputs=tuple(recipe.outputs),
        feeds=feeds.sending(tuple(recipe.inputs)),
        labels=record.samples.labels,
        original=answers | {name: feeds[name] for name in recipe.sources() if name not in recipe.inputs},
        hardware=this_hardware(),
        max_batch_size=min(part.serving.max_batch_size for part in ensemble.components),
        seed=recipe.seed,
        cores=usable_cores(),
        root=recipe.root,
        sizes={spec.name: spec.sizes for spec in (*recipe.input_specs, *recipe.source_specs) if spec.sizes},
        bounds=record.bounds(),
        subsets=subsets,
        mixed=mixed_rows(recipe, feeds, answers, subsets),
        cascade=None if recipe.cascade is None else record.cascade(recipe.cascade.left_early),
        recut={f"chunks of {length}": sides[0].in_chunks(length) for length in other_chunks(recipe)},
    )


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
