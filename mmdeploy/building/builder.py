"""The build: run or reuse each step of the plan, stage, serve, judge, publish; and always leave a report.

Everything of one build lies in a folder of its own, ``<workdir>/runs/<recipe>/<time>-<id>``: logs, the staged
repository, the reports. A build changes nothing else but the store, until every gate has passed; then one
atomic publish makes the release live.
"""

from __future__ import annotations

import logging
import secrets
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mmdeploy.building import plain_recipe
from mmdeploy.building.against_baseline import AgainstBaseline
from mmdeploy.building.bucket_lengths import require_cut_back
from mmdeploy.building.cache_notes import cache_notes
from mmdeploy.building.endings import exit_code, exit_code_of, failure, may_publish, placed, unfinished
from mmdeploy.building.environment import require_environment
from mmdeploy.building.figures import costs, latencies, sizes, stages
from mmdeploy.building.foreseen import foreseen_notes, told_again
from mmdeploy.building.label_counts import require_label_counts
from mmdeploy.building.layout_choice import STEP as LAYOUT
from mmdeploy.building.layout_choice import Layout, layout_of
from mmdeploy.building.live_plan import LivePlan
from mmdeploy.building.outcome import Outcome
from mmdeploy.building.provenance import Made
from mmdeploy.building.publishing import publish_made
from mmdeploy.building.revision import recipe_record
from mmdeploy.building.run_folder import run_folder
from mmdeploy.building.run_state import RunState
from mmdeploy.building.sample_notes import sample_notes
from mmdeploy.building.served_ensemble import candidate_ensemble, reference_ensemble, substitute_ensemble
from mmdeploy.building.served_stream import require_states, telling_exports
from mmdeploy.building.settings import Settings
from mmdeploy.building.staged import Staged, staged
from mmdeploy.building.turns import next_with_model, startable
from mmdeploy.building.uploads import Uploads
from mmdeploy.building.wired import noise_notes, wired
from mmdeploy.core.artifact import Artifact
from mmdeploy.core.contracts import Verdict, method_of
from mmdeploy.core.room import require_room
from mmdeploy.core.store import Store
from mmdeploy.core.target import this_hardware
from mmdeploy.data.sample_sets import SampleSet
from mmdeploy.planning.recipe_inputs import unseen_notes
from mmdeploy.planning.steps import DATA_SETS, ORIGINAL, Decision, Goal, Step, Wanted, explain
from mmdeploy.recipe.plausible import doubts
from mmdeploy.recipe.schema import Recipe
from mmdeploy.record.build_report import BuildReport, StepRecord, gate_record
from mmdeploy.record.observer import Observer
from mmdeploy.triton.golden import GOLDEN
from mmdeploy.triton.signing import check_key
from mmdeploy.worker.step_process import log_of
from mmdeploy.worker.task import Task

if TYPE_CHECKING:
    from mmdeploy.building.judge import EvaluationRecord

__all__ = ["Outcome", "run_build"]

logger = logging.getLogger(__name__)


def run_build(
    recipe: Recipe,
    settings: Settings,
    observer: Observer,
    *,
    goal: Goal = "build",
    upto: Wanted | None = None,
) -> Outcome:
    """Build a recipe; whatever happens, the outcome holds a report.

    Args:
        recipe: What to build.
        settings: How.
        observer: Who watches.
        goal: What the plan is for.
        upto: Gives the ids of the only steps that are wanted; what they need comes with them. Only a whole build is
            staged, judged and published.

    Raises:
        UsageError: If there is no step of the id.
        StoreError: If the run's folder cannot be made: then there is no place for a report.
    """
    run = _Run(recipe, settings, observer, goal, upto)
    error: BaseException | None = None
    with run.store.in_use():
        try:
            run.make_steps()
            if goal == "build" and upto is None:
                run.choose_layout()
                run.write_plain_recipe()
                run.stage_and_judge()
                run.publish()
        except (Exception, KeyboardInterrupt) as caught:
            logger.debug("the build stopped", exc_info=True)
            error = placed(caught, run.folder)
        run.live.settle(run.state.artifacts)
        run.state.notes.extend(run.uploads.finish(run.live.plan, interrupted=isinstance(error, KeyboardInterrupt)))
        run.store.facts.save()
        run.store.sweep()  # steps beside one that failed were ended in the middle
    report = run.report(error)
    return Outcome(report, run.folder, run.live.plan, run.state.artifacts, error)


class _Run:
    """One build from its folder to its report."""

    def __init__(self, recipe: Recipe, settings: Settings, observer: Observer, goal: Goal, upto: Wanted | None) -> None:
        self.recipe, self.settings, self.observer, self.goal = recipe, settings, observer, goal
        self.started_at, self._started = datetime.now(UTC), time.monotonic()
        self.id = f"{self.started_at:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
        self.store = Store(settings.workdir / "store", settings.shared)
        self.uploads = Uploads(recipe, self.store, observer)
        self.live = LivePlan(recipe, self.store, goal, upto)
        runs = recipe.name if goal == "build" else f"{recipe.name}.{goal}"
        self.folder = run_folder(settings.runs_in or settings.workdir, runs, self.id)
        self.recipe_record = recipe_record(recipe)
        self.staged_folder = self.folder / "staged"
        self.state = RunState()
        self.candidate: Staged | None = None
        self.layout = Layout()
        self.baseline = AgainstBaseline(recipe, wanted=goal == "build" and upto is None)

    def make_steps(self) -> None:
        """Reuse what the store has; run the rest side by side, each step as soon as its inputs are there."""
        self.baseline.require(self.report(None))
        waiting = self._left_to_do({})
        self.uploads.begin(work=bool(waiting))
        judged = self.recipe if self.goal == "build" else self.recipe.model_copy(update={"gates": ()})
        require_environment(judged, [one.step for one in waiting])
        if self.settings.sign_key is not None:
            check_key(self.settings.sign_key)
        if waiting or judged.gates:
            require_room()
        self.store.facts.save()
        if waiting:
            self._run_steps(waiting)
        self.state.notes.extend(f"{doubt}." for doubt in doubts(self.recipe) if self.goal == "build")
        self.state.notes.extend(unseen_notes(self.live.fingerprints.inputs))

    def _run_steps(self, waiting: list[Decision]) -> None:
        from mmdeploy.building.crew import crew_of

        running: dict[str, Decision] = {}
        first = telling_exports(self.recipe)
        with crew_of(
            self.recipe, self.settings, self.store, self.live.fingerprints, [one.step for one in waiting],
            logs=self.folder / "logs", progress=self.observer.progress, notes=self.state.notes,
        ) as crew:  # fmt: skip
            while waiting or len(crew):
                crew.foresee(one.step for one in waiting)
                starting = crew.admitted(startable(waiting, self.state.artifacts, running, first), running)
                beside = len(running) + len(starting) - 1
                for decision in starting:
                    waiting.remove(decision)
                    step = decision.step
                    running[step.key] = decision
                    self.state.started[step.id] = time.monotonic()
                    self.observer.step_started(step.id)
                    crew.start(self._task(step, threads=crew.threads(step, beside)))
                if ahead := next_with_model(waiting, self.state.artifacts, running):
                    crew.prepare(self._task(replace(ahead, needs=()), threads=1), running)
                finished = crew.wait()
                del self.state.started[finished.step_id]
                learned = self.live.learn(finished.step_id)
                under_way = {one.step.id: replace(one, step=self.live.step(one.step.id)) for one in running.values()}
                done = under_way.pop(finished.step_id)
                running = {one.step.key: one for one in under_way.values()}
                waiting = [replace(one, step=self.live.step(one.step.id)) for one in waiting]
                why = done.why if finished.made else "made by another build meanwhile"
                self._record(done.step, finished.artifact, made=finished.made, why=why, seconds=finished.seconds)
                for twin in [one for one in waiting if one.step.key == done.step.key]:
                    waiting.remove(twin)
                    self._record(twin.step, finished.artifact, made=False, why=f"the same as {done.step.id}")
                if learned:
                    waiting = self._left_to_do(running)

    def choose_layout(self) -> None:
        """Decide whether components are served as steps or as one model."""
        record = self._evaluation_record() if self.recipe.gates else None
        unrunnable = self.live.fingerprints.unrunnable
        self.layout = layout_of(
            self.recipe, self.state.artifacts, None if unrunnable else record, self.folder, self.observer
        )
        self.state.notes.extend([self.layout.note] if self.layout.note else [])

    def write_plain_recipe(self) -> None:
        """Write down what was found by searching and measuring, so that it can be built without."""
        single = self.layout.single
        self.state.plain_recipe = plain_recipe.write(self.recipe, self.state.artifacts, self.folder, single=single)

    def stage_and_judge(self) -> None:
        """Write both repositories, serve them and run the gates."""
        recipe, artifacts = self.recipe, self.state.artifacts
        unrunnable = self.live.fingerprints.unrunnable
        single = self.layout.single
        ensemble, facts = candidate_ensemble(recipe, artifacts, single=single), self.store.facts
        self.candidate = staged(self.staged_folder, ensemble, facts, whole=bool(recipe.gates))
        self.state.notes.extend(cache_notes(self.staged_folder, self.candidate.ensemble))
        components = wired(recipe, self.candidate.ensemble, artifacts)
        self.state.notes.extend(noise_notes(components, [method_of(gate) for gate in recipe.gates]))
        if not recipe.gates:
            self.state.notes.append("The recipe has no gates: nothing was served or judged.")
            return
        from mmdeploy.building.bucket_gain import STEP as BUCKETS
        from mmdeploy.building.bucket_gain import BucketGain
        from mmdeploy.building.golden_requests import GoldenRequests
        from mmdeploy.building.judge import judge

        served, substitute = self.candidate, None
        if unrunnable:
            served = staged(self.folder / "substitute", substitute_ensemble(recipe, artifacts, unrunnable), facts)
            substitute = "; ".join(f"{name}: {why}" for name, why in unrunnable.items())
        compared = reference_ensemble(recipe, artifacts, unrunnable, single=single)
        reference = staged(self.folder / "reference", compared, facts)
        record = self._evaluation_record()
        self.state.notes.extend(sample_notes(record.samples, self._sample_set("calibration")))
        self.state.judgement = judge(
            recipe,
            served,
            reference,
            record,
            components=components,
            published=self.candidate,
            logs=self.folder / "logs",
            substitute=substitute,
            observer=self.observer,
            besides=GoldenRequests(
                self.folder / GOLDEN, recipe.name, then=BucketGain(recipe, artifacts, self.folder, self.observer)
            ),
        )
        self.state.judgement = self.baseline.added_to(self.state.judgement, self.report(None), self.observer)
        results = self.state.judgement.results
        warned = [(one.gate, one.details["warning"]) for one in results if "warning" in one.details]
        told = told_again(recipe, results)
        self.state.notes = [note for note in self.state.notes if note not in told]
        self.state.notes.extend(f"{gate}: {warning}." for gate, warning in warned)
        self.state.notes.extend(self.state.judgement.notes)
        for folder in ("reference", "substitute", BUCKETS, LAYOUT):  # measured; what would be published stays
            shutil.rmtree(self.folder / folder, ignore_errors=True)

    def publish(self) -> None:
        """Make the staged repository live if the verdict allows it and it is not live already."""
        if self.candidate is None:
            return
        settings, judgement = self.settings, self.state.judgement
        made = Made(
            self.id,
            self.recipe,
            self.live.fingerprints.inputs,
            self.report(None),
            self.candidate.repository,
            self.state.artifacts,
            self.store.facts,
            judgement.confidence if judgement else {},
        )
        allowed = settings.publishes and may_publish(judgement, unverified=settings.publish_unverified)
        publish_made(made, settings, self.state, self.folder, allowed=allowed)

    def report(self, error: BaseException | None) -> BuildReport:
        """Write down what the run came to so far."""
        judgement = self.state.judgement
        seconds = judgement.seconds if judgement else ()
        results = judgement.results if judgement else ()
        verdict = Verdict.FAIL if error else (judgement.verdict if judgement else Verdict.PASS)
        steps, done, now = self.live.plan.steps, self.state.records, time.monotonic()
        under_way = {step_id: now - since for step_id, since in self.state.started.items()}
        records = tuple(done.get(step.id) or unfinished(step, error, under_way) for step in steps)
        gate_records = tuple(gate_record(result, seconds=taken) for result, taken in zip(results, seconds, strict=True))
        return BuildReport(
            recipe=self.recipe_record,
            target=self.recipe.target,
            started_at=self.started_at,
            seconds=time.monotonic() - self._started,
            verdict=verdict,
            exit_code=exit_code(error) if error else exit_code_of(verdict),
            published=self.state.published,
            release=self.state.release,
            staged=self.staged_folder,
            log=self.folder / "logs",
            substitute=judgement.substitute if judgement else None,
            hardware=this_hardware(),
            libraries={name: version for name, version in sorted(self.live.fingerprints.versions.items()) if version},
            server_version=judgement.server_version if judgement else None,
            seed=self.recipe.seed,
            steps=records,
            gates=gate_records,
            stages=stages(self.recipe, self.state.artifacts, results),
            sizes=sizes(self.recipe, self.state.artifacts),
            costs=costs(self.recipe, self.state.artifacts),
            latencies=latencies(results),
            plain_recipe=self.state.plain_recipe,
            notes=tuple(self.state.notes),
            failure=failure(error, self.folder / "logs", under_way, self.state.published) if error else None,
        )

    def _left_to_do(self, running: Mapping[str, Decision]) -> list[Decision]:
        """Take from the store what it has; return the steps that are neither done nor running, twins of those too."""
        left, under_way = [], {one.step.id for one in running.values()}
        for step_id in self.live.settle(self.state.artifacts):
            self.state.records[step_id] = self.state.records[step_id].model_copy(
                update={"key": self.live.step(step_id).key}
            )
        decisions = explain(self.live.plan, self.store, fresh=self.settings.fresh)
        self.uploads.fetch(decisions)
        for decision in decisions:
            step, known = decision.step, self.state.records.get(decision.step.id)
            if step.id in under_way or (known is not None and known.key == step.key):
                continue
            for gone in (self.state.artifacts, self.state.records):  # of another key: made of damaged samples
                gone.pop(step.id, None)
            if not decision.reuse:
                left.append(decision)
            elif not self._reused(decision):
                left.append(replace(decision, reuse=False, why="its artifact was damaged"))
        return left

    def _reused(self, decision: Decision) -> bool:
        """Take a step's artifact from the store if it is there and whole."""
        artifact = self.store.get(decision.step.key)
        if artifact is not None:
            self._record(decision.step, artifact, made=False, why=decision.why)
        return artifact is not None

    def _record(self, step: Step, artifact: Artifact, *, made: bool, why: str, seconds: float = 0.0) -> None:
        self.state.artifacts[step.id] = artifact
        self.live.remember(step)
        self.uploads.add(artifact.path.parent.name, replace=made and self.settings.fresh and self.settings.on is None)
        require_label_counts(self.recipe, step.component, artifact)
        require_cut_back(self.recipe, step.component, artifact)
        require_states(self.recipe, step.component, artifact)
        source = self.state.artifacts.get(step.source) if step.source else None
        record = StepRecord(
            id=step.id,
            component=step.component,
            kind=step.kind,
            method=step.method,
            status="ran" if made else "reused",
            why=why,
            seconds=seconds,
            key=step.key,
            size_before_bytes=source.size_bytes if source else None,
            size_after_bytes=artifact.size_bytes,
            metadata=dict(artifact.metadata),
            log=log_of(self.folder / "logs", step.id) if made else None,
        )
        self.state.records[step.id] = record
        self.observer.step_finished(record)
        if step.id == DATA_SETS["evaluation"]:
            self.baseline.require(self.report(None))
        for told in foreseen_notes(self.recipe, step, artifact) if self.goal == "build" else ():
            if told not in self.state.notes:
                self.state.notes.append(told)
                self.observer.work_finished("gates", told)

    def _evaluation_record(self) -> EvaluationRecord:
        from mmdeploy.building.judge import EvaluationRecord

        samples = self._sample_set("evaluation")
        assert samples is not None  # a recipe with gates has evaluation data
        return EvaluationRecord(samples, self.state.artifacts[ORIGINAL])

    def _sample_set(self, name: str) -> SampleSet | None:
        """Open a recorded set; None where none was needed."""
        artifact = self.state.artifacts.get(DATA_SETS[name])
        return None if artifact is None else SampleSet.open(artifact.path.parent, str(getattr(self.recipe.data, name)))

    def _task(self, step: Step, threads: int) -> Task:
        needed = {step_id: self.state.artifacts[step_id] for step_id in step.needs}
        return Task(
            step,
            self.recipe,
            self.store.root,
            needed,
            threads,
            processes=self.settings.processes,
            inputs=self.live.fingerprints.inputs,
            fresh=self.settings.fresh,
        )
