"""Build what is missing of a component, compare its forms in a process of their own, and write down what was found."""

from __future__ import annotations

import logging
import multiprocessing
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from mmdeploy.building.builder import Outcome, run_build
from mmdeploy.building.scheduler import interrupts_held
from mmdeploy.building.settings import Settings
from mmdeploy.core.contracts import no_progress
from mmdeploy.core.errors import EnvironmentUnfitError, MmdeployError, StepError, UsageError, did_you_mean
from mmdeploy.core.store import translated
from mmdeploy.core.target import usable_cores
from mmdeploy.debugging.figures import Tolerance
from mmdeploy.debugging.findings import DebugReport
from mmdeploy.debugging.page import markdown
from mmdeploy.debugging.work import DebugWork
from mmdeploy.planning.kinds import SELECT
from mmdeploy.recipe.sharing import callers
from mmdeploy.worker.step_process import WorkerBugError, redirect

if TYPE_CHECKING:
    from mmdeploy.planning.steps import Plan, Step
    from mmdeploy.recipe.schema import Recipe
    from mmdeploy.record.observer import Observer

logger = logging.getLogger(__name__)

JSON, MARKDOWN, LOG = "debug.json", "debug.md", "debug.log"
#: Versions that tell what was compared, of those that a build records.
_LIBRARIES = ("onnx", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "torch")


@dataclass(frozen=True)
class DebugSettings:
    """How to compare.

    Attributes:
        samples: Samples to compare on, the first of the recipe's data.
        tolerance: What a tensor may differ by; None for what suits each form (see `mmdeploy.debugging.tolerances`).
        folder: Where reports and reproductions are written; None for the run's folder.
    """

    samples: int = 16
    tolerance: Tolerance | None = None
    folder: Path | None = None


def run_debug(
    recipe: Recipe, component: str, settings: Settings, observer: Observer, how: DebugSettings
) -> tuple[DebugReport, Path]:
    """Compare the forms of a component, those that are missing built first.

    A step that fails is no obstacle: what was made before it is compared, and the graph that it refused too.

    Returns:
        What was found, and the folder where it was written.

    Raises:
        UsageError: If the recipe has no such component.
        EnvironmentUnfitError: If Polygraphy is missing.
        MmdeployError: If a step that is not the component's failed, or nothing can be compared.
    """
    if component not in recipe.components:
        raise UsageError(f"no component is called {component!r}; {did_you_mean(component, recipe.components)}")
    if find_spec("polygraphy") is None:
        raise EnvironmentUnfitError(
            "the distribution polygraphy is not installed, which compares tensors",
            hint="pip install 'multimodal-deploy[build]'",
        )

    def graphs_and_engines(plan: Plan) -> list[str]:
        return [step.id for step in plan.steps if step.component == component and step.sort is not SELECT]

    built = run_build(recipe, settings, observer, goal="debug", upto=graphs_and_engines)
    renamed = _Renamed(callers(recipe.components, component)[0], component)
    failed = _failed(built, renamed)
    folder = (how.folder or built.folder).absolute()
    with translated(folder):
        folder.mkdir(parents=True, exist_ok=True)
    work = DebugWork(
        recipe=recipe,
        component=component,
        steps=renamed.steps(built.plan),
        artifacts=built.artifacts,
        store=(settings.workdir / "store").absolute(),
        folder=folder,
        failed=failed,
        samples=how.samples,
        tolerance=how.tolerance,
        threads=usable_cores(),
    )
    observer.step_started(f"{component}/debug")
    report = _in_its_own_process(work, folder / LOG)
    libraries = {name: version for name, version in built.report.libraries.items() if name in _LIBRARIES}
    report = report.model_copy(update={"libraries": libraries})
    with translated(folder):
        (folder / JSON).write_text(report.model_dump_json(indent=1) + "\n", encoding="utf-8")
        (folder / MARKDOWN).write_text(markdown(report), encoding="utf-8")
    observer.work_finished(f"{component}/debug", f"{len(report.comparisons)} comparisons on {report.samples} samples")
    return report, folder


@dataclass(frozen=True)
class _Renamed:
    """The steps of a component, which may be those of another that calls the same module, under its own name.

    Attributes:
        built: The component whose steps are run.
        shown: The component that is asked about.
    """

    built: str
    shown: str

    def step_id(self, step_id: str) -> str:
        """Return the id of a step as that of the component that is shown."""
        own = step_id.startswith(f"{self.built}/")
        return f"{self.shown}{step_id.removeprefix(self.built)}" if own else step_id

    def steps(self, plan: Plan) -> tuple[Step, ...]:
        """Return the steps, in the order of the build, each with what it is really made of."""
        wanted = {step.id for step in plan.steps if step.component == self.shown}
        made = [step for step in plan.steps if step.component == self.built]
        return tuple(self._step(step) for step in made if self.step_id(step.id) in wanted)

    def _step(self, step: Step) -> Step:
        uses = {
            role: {self.shown if name == self.built else name: self.step_id(of) for name, of in others.items()}
            for role, others in step.uses.items()
        }
        needs = tuple(map(self.step_id, step.needs))
        return replace(step, id=self.step_id(step.id), component=self.shown, needs=needs, uses=uses)


def _failed(built: Outcome, renamed: _Renamed) -> Mapping[str, str]:
    """Return the step of the component that failed, with its message.

    Raises:
        BaseException: What stopped the build, if it was anything else.
    """
    error = built.error
    if error is None:
        return {}
    if not isinstance(error, StepError) or not error.step.startswith(f"{renamed.built}/"):
        raise error
    return {renamed.step_id(error.step): error.message}


def _in_its_own_process(work: DebugWork, log: Path) -> DebugReport:
    """Compare where a crash of an engine, or what the recipe's code does, stays outside."""
    context = multiprocessing.get_context("forkserver")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_compare, args=(work, log, sender), daemon=True)
    with interrupts_held():
        process.start()
    sender.close()
    try:
        kind, content = receiver.recv()
    except EOFError:
        raise StepError(
            f"the process that compares {work.component} died: an engine crashed, or memory ran out",
            hint="see the end of its log; --samples 1 needs the least memory",
            log=str(log),
        ) from None
    finally:  # Ctrl-C reaches this process alone
        process.terminate()
        process.join()
        receiver.close()
    if kind == "error":
        if isinstance(content, StepError):
            content.log = content.log or str(log)
        raise content
    if kind == "bug":
        summary, trace = content
        raise WorkerBugError(summary, step=f"{work.component}/debug", log=log, trace=trace)
    assert isinstance(content, DebugReport)
    return content


def _compare(work: DebugWork, log: Path, sender: Connection) -> None:
    """Run in the process: compare, and send one result."""
    from mmdeploy.debugging.stages import compare_all

    redirect(log)
    try:
        samples, comparisons = compare_all(work, no_progress)
    except MmdeployError as error:
        logger.exception("%s cannot be compared", work.component)
        sender.send(("error", error))
    except Exception as error:
        logger.exception("comparing %s failed unexpectedly", work.component)
        sender.send(("bug", (traceback.format_exception_only(error)[-1].strip(), traceback.format_exc())))
    else:
        report = DebugReport(
            recipe=work.recipe.name,
            component=work.component,
            samples=samples.count,
            source=samples.source,
            comparisons=comparisons,
            failed=dict(work.failed),
        )
        sender.send(("report", report))
